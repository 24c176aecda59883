"""What is to happen at which operation, and how it is waited for.

Each rule applies to operations by name and path. A call takes one rule of each kind, the one
that was given first among those that still apply: so a delay, a hold and an errno add up, and
two errnos come one after the other.
"""

from __future__ import annotations

import math
import os
import threading
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, TypeVar, get_args

import attrs
import trio

from ._news import News

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trio_mkdir._paths import AnyPath, StrOrBytesPath

When: TypeAlias = Literal["before", "inside", "after"]
OPERATIONS: Final = ("mkdir", "rmdir", "stat", "lstat", "statvfs", "open")
"""Those whose effect is known from their path."""
ELABORATE: Final = (
    *("rename", "fstat", "chmod", "chown", "fsync"),
    *("listxattr", "getxattr", "setxattr", "removexattr"),
    *("getpwnam", "getgrnam"),
)
"""Those that need to be told more; `Filesystem.turn` is not, so without threads they take effect
when whatever the script has them wait for is over."""

RuleT = TypeVar("RuleT", bound="Rule")


class Wait(Protocol):
    """Something that takes a while, in a worker thread or in a task."""

    def block(self) -> None:
        """Wait in a thread."""

    async def wait(self) -> None:
        """Wait in a task; a checkpoint."""


class Rule:
    """Something that `FaultyFilesystem` was told to do at certain operations.

    Its methods may be called from any thread.
    """

    def __init__(self, operation: str, pattern: StrOrBytesPath, times: float) -> None:
        if times != math.inf and (times != int(times) or times < 1):
            raise ValueError(f"times must be a whole number, 1 or more, or math.inf, not {times!r}")
        self._operation = operation
        self._pattern = os.fsdecode(pattern)
        self._times = times
        self._hits: list[tuple[str, AnyPath]] = []

    def __repr__(self) -> str:
        of = f"{self._operation} {self._pattern!r}"
        return f"<{type(self).__name__} {of}, {len(self._hits)} of {self._times} times>"

    @property
    def hits(self) -> tuple[tuple[str, AnyPath], ...]:
        """The operations that it applied to so far, by name and path."""
        return tuple(self._hits)

    def withdraw(self) -> None:
        """It applies to nothing any more."""
        self._times = 0

    def applies(self, operation: str, path: AnyPath) -> bool:
        """Whether it would apply to this operation now."""
        return (
            len(self._hits) < self._times
            and fnmatchcase(operation, self._operation)
            and fnmatchcase(os.fsdecode(path), self._pattern)
        )

    def hit(self, operation: str, path: AnyPath) -> None:
        """It applies to this operation."""
        self._hits.append((operation, path))


class Answer(Rule):
    """An errno, before or after the effect."""

    def __init__(
        self, operation: str, pattern: StrOrBytesPath, times: float, *, errno: int, lost_reply: bool
    ) -> None:
        super().__init__(operation, pattern, times)
        self.errno = errno
        self.lost_reply = lost_reply


class Nth(Answer):
    """An errno for one operation, counted from when the rule was given."""

    def __init__(
        self, nth: int, *, operations: Collection[str] | None, errno: int, lost_reply: bool
    ) -> None:
        super().__init__("*", "*", 1, errno=errno, lost_reply=lost_reply)
        self._left = nth
        self._operations = None if operations is None else frozenset(operations)

    def applies(self, operation: str, path: AnyPath) -> bool:
        """Count this operation, and say whether it is the one."""
        if self._operations is None or operation in self._operations:
            self._left -= 1
            return self._left == 0 and super().applies(operation, path)
        return False


class Timed(Rule):
    """A rule that applies at one moment of an operation."""

    def __init__(self, operation: str, pattern: StrOrBytesPath, times: float, when: When) -> None:
        super().__init__(operation, pattern, times)
        if when not in get_args(When):
            choices = ", ".join(map(repr, get_args(When)))
            raise ValueError(f"when must be one of {choices}, not {when!r}")
        self.when = when


class Delay(Timed):
    """So many seconds."""

    seconds = 0.0

    def block(self) -> None:
        """Wait in a thread."""
        time.sleep(self.seconds)

    async def wait(self) -> None:
        """Wait in a task."""
        await trio.sleep(self.seconds)


class Interference(Timed):
    """A function that is called."""

    fn: Callable[[], object]


class Hold(Timed):
    """Operations that do not return until they are released; see `FaultyFilesystem.hold`.

    ``release``, ``withdraw`` and ``arrived`` may be used from any thread.
    """

    def __init__(self, operation: str, pattern: StrOrBytesPath, times: float, when: When) -> None:
        super().__init__(operation, pattern, times, when)
        self.news: News = News()
        self.released: bool = False
        self._arrived: list[AnyPath] = []

    @property
    def arrived(self) -> tuple[AnyPath, ...]:
        """The paths of the operations that came and were held, in order."""
        return tuple(self._arrived)

    async def wait_arrived(self, count: int = 1) -> None:
        """Wait until so many operations have come and are, or were, held here.

        **Cancellation handling**: A checkpoint, always. It may be cancelled at any time.
        """
        await self.news.wait_until(lambda: len(self._arrived) >= count)

    def release(self) -> None:
        """Let what is held go on, and hold nothing any more."""
        self.withdraw()
        self.released = True
        self.news.tell()

    def arrive(self, path: AnyPath) -> None:
        """An operation has come; whoever waits for it is told."""
        self._arrived.append(path)
        self.news.tell()


class _Held:
    """One operation at one hold."""

    def __init__(self, hold: Hold, path: AnyPath) -> None:
        self._hold = hold
        self._path = path

    def block(self) -> None:
        self._hold.arrive(self._path)
        self._hold.news.block_until(lambda: self._hold.released)

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        self._hold.arrive(self._path)
        await self._hold.news.wait_until(lambda: self._hold.released)


@attrs.define
class Picked:
    """The rules for one operation."""

    path: AnyPath
    answer: Answer | None
    delays: tuple[Delay, ...]
    holds: tuple[Hold, ...]
    interferences: tuple[Interference, ...]

    def waits(self, when: When) -> list[Wait]:
        """What to wait for at one moment: first the delay, then until it is released."""
        delays: list[Wait] = [delay for delay in self.delays if delay.when == when]
        return [*delays, *(_Held(hold, self.path) for hold in self.holds if hold.when == when)]

    def interfere(self, when: When) -> None:
        """Call what is to be called at one moment."""
        for interference in self.interferences:
            if interference.when == when:
                interference.fn()

    @property
    def after(self) -> bool:
        """Whether anything is to happen between the effect and the answer."""
        return any(
            rule.when == "after" for rule in (*self.delays, *self.holds, *self.interferences)
        )


class Script:
    """All rules; usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, rule: RuleT) -> RuleT:
        """Add ``rule`` after those that are there."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Forget ``rule``."""
        with self._lock:
            self._rules.remove(rule)

    def release_all(self) -> None:
        """Release every hold."""
        with self._lock:
            holds = [rule for rule in self._rules if isinstance(rule, Hold)]
        for hold in holds:
            hold.release()

    def pick(self, operation: str, path: AnyPath) -> Picked:
        """The rules that apply to this operation; each has one application less from now on."""
        with self._lock:
            applying = [rule for rule in self._rules if rule.applies(operation, path)]
            # The one whose turn it is comes now or never; any other applies the next time.
            answers: tuple[Answer, ...] = _first_of(Nth, applying, whens=False)
            if not answers:
                answers = _first_of(Answer, applying, whens=False)
            picked = Picked(
                path,
                answers[0] if answers else None,
                delays=_first_of(Delay, applying),
                holds=_first_of(Hold, applying),
                interferences=_first_of(Interference, applying),
            )
            for rule in (*answers, *picked.delays, *picked.holds, *picked.interferences):
                rule.hit(operation, path)
            return picked


def _first_of(
    kind: type[RuleT], rules: Collection[Rule], *, whens: bool = True
) -> tuple[RuleT, ...]:
    """The first rule of a kind, for each moment at which there is one."""
    first: dict[str | None, RuleT] = {}
    for rule in rules:
        if isinstance(rule, kind):
            first.setdefault(rule.when if whens and isinstance(rule, Timed) else None, rule)
    return tuple(first.values())
