"""How an operation of a `FaultyFilesystem` goes: what it waits for, which locks it has, its effect.

One operation is a small program that yields whatever it has to wait for, so that a worker thread
can block there and a task can await there: what happens is the same.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio

from trio_mkdir._paths import parent_of

from ._locks import Claim, DirectoryLocks
from ._memory import MemoryFilesystem
from ._script import ELABORATE, OPERATIONS, Answer, Script

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from trio_mkdir._os import Filesystem
    from trio_mkdir._paths import AnyPath

    from ._news import News
    from ._script import Picked, Wait

T = TypeVar("T")

_ANY_MODE: Final = 0o777
_BY_DESCRIPTOR: Final = {*ELABORATE} - {"rename"}


@attrs.frozen
class OperationRecord:
    """One operation that was asked of a `FaultyFilesystem`."""

    operation: str
    """``"mkdir"``, ``"rmdir"``, ``"stat"``, ``"lstat"``, ``"statvfs"``, ``"open"``, ``"rename"``;
    ``"fstat"``, ``"chmod"``, ``"chown"``, ``"fsync"``, ``"listxattr"``, ``"getxattr"``,
    ``"setxattr"``, ``"removexattr"`` on an open directory; ``"getpwnam"``, ``"getgrnam"`` for what
    is to be made; or a name given to `FaultyFilesystem.perform`."""
    path: AnyPath
    """As it was asked for."""
    errno: int | None = None
    """What was answered; None for success, and as long as it is not answered."""
    answered: bool = True
    """Whether it has returned."""


class OperationCall:
    """One operation on its way."""

    def __init__(self, operation: str, path: AnyPath, picked: Picked) -> None:
        self.operation = operation
        self.path = path
        self.picked = picked
        self.at_once = False
        """Whether nobody can wait any more, so that no locks are asked for either."""
        self.steps: Iterator[Wait] = iter(())
        self.claim: Claim | None = None
        """The locks that it has."""
        self.any_mode = False
        """Whether it makes a directory with `_ANY_MODE`, as nobody knows the right one yet."""
        self.done = False
        """Whether it has taken effect, or been refused."""
        self.value: object = None
        self.error: OSError | None = None
        self.answered = False

    @property
    def record(self) -> OperationRecord:
        number = self.error.errno if self.error is not None and self.answered else None
        return OperationRecord(self.operation, self.path, number, self.answered)

    def carry_out(self, do: Callable[[], object]) -> None:
        """Have the effect, or be refused, as the script says."""
        answer = self.picked.answer
        if answer is None or answer.lost_reply:
            try:
                self.value = do()
            except OSError as error:
                self.error = error
        self.done = True
        self.obey(answer)

    def obey(self, answer: Answer | None) -> None:
        """Have the errno that the script says, if it says one."""
        if answer is not None:
            self.error = OSError(answer.errno, os.strerror(answer.errno), self.path)

    def answer(self) -> object:
        """Return or raise what was answered."""
        self.answered = True
        if self.error is not None:
            if self.error.filename is None:
                self.error.filename = self.path
            raise self.error
        return self.value


class Operations:
    """Those of one filesystem, in the order in which they were begun."""

    def __init__(self, backing: Filesystem, *, threads: bool) -> None:
        self.script = Script()
        self._backing = backing
        self._threads = threads
        self._lock = threading.Lock()
        self._calls: list[OperationCall] = []
        self._locks = DirectoryLocks()
        self._announced: dict[trio.lowlevel.Task, OperationCall] = {}
        self._owed_sleep: dict[trio.lowlevel.Task, float] = {}

    @property
    def records(self) -> tuple[OperationRecord, ...]:
        """Every operation so far."""
        with self._lock:
            return tuple([call.record for call in self._calls])

    def begin(self, operation: str, path: AnyPath) -> OperationCall:
        """The script's word on the next operation, and its place in the record."""
        call = OperationCall(operation, path, self.script.pick(operation, path))
        with self._lock:
            self._calls.append(call)
        return call

    async def take_turn(self, announced: tuple[str, AnyPath] | None) -> None:
        """Wait as the operation that was announced would, up to its effect or to its answer."""
        task = trio.lowlevel.current_task()
        seconds = self._owed_sleep.pop(task, 0.0)
        if seconds:
            await trio.sleep(seconds)
        if announced is None or announced[0] not in OPERATIONS + ELABORATE:
            await trio.lowlevel.checkpoint()
            return
        operation, path = announced
        self._announced[task] = call = self.begin(operation, path)
        # The mode of a mkdir is not announced; `_correct` sees to it when it is known.
        call.any_mode = operation == "mkdir"
        do = None
        if operation in OPERATIONS:
            arguments = (path, _ANY_MODE) if call.any_mode else (path,)
            do = partial(getattr(self._backing, operation), *arguments)
        call.steps = self._steps(call, do)
        await trio.lowlevel.checkpoint()
        for wait in call.steps:
            await wait.wait()

    def sleep(self, seconds: float) -> None:
        """Have the running task sleep before its next operation; only without threads."""
        task = _task()
        if task is not None:
            self._owed_sleep[task] = self._owed_sleep.get(task, 0.0) + seconds

    def carry_out(
        self, operation: str, path: AnyPath, do: Callable[[], T], mode: int | None = None
    ) -> T:
        """The result of ``do()``, as the script has it."""
        call = self._taken(operation, path)
        if call is None:
            call = self.begin(operation, path)
            call.steps = self._steps(call, do)
        call.at_once = not self._threads
        try:
            for wait in call.steps:
                if not call.at_once:
                    wait.block()
            if not call.done:
                call.carry_out(do)
            elif call.any_mode and mode is not None and mode != _ANY_MODE and call.error is None:
                with suppress(FileNotFoundError):  # somebody was quicker
                    self._correct(path, mode)
        finally:
            if call.claim is not None:
                self._locks.release(call.claim)
        return call.answer()  # type: ignore[return-value]  # what `do` gave

    def _taken(self, operation: str, path: AnyPath) -> OperationCall | None:
        """The call that this very task has announced and waited for."""
        task = None if self._threads else _task()
        if task is not None:
            call = self._announced.pop(task, None)
            if call is not None and (call.operation, call.path) == (operation, path):
                return call
        return None

    def _steps(self, call: OperationCall, do: Callable[[], object] | None) -> Iterator[Wait]:
        """What ``call`` has to wait for; it takes effect only if something comes after that."""
        picked = call.picked
        yield from picked.waits("before")
        picked.interfere("before")
        if not call.at_once and not self._enter(call):
            yield _Entrance(self._locks.news, partial(self._enter, call))
        yield from picked.waits("inside")
        picked.interfere("inside")
        if picked.after:
            if do is not None:
                call.carry_out(do)
            yield from picked.waits("after")
            picked.interfere("after")

    def _enter(self, call: OperationCall) -> bool:
        # Asked each time: what stands at its path can have changed while it waited.
        claim = self._claim(call.operation, call.path)
        if not self._locks.acquire(claim):
            return False
        call.claim = claim
        return True

    def _claim(self, operation: str, path: AnyPath) -> Claim:
        above = parent_of(path)
        inside = None if above is None else self._locate(above)
        parent: frozenset[Hashable] = frozenset() if inside is None else frozenset([inside])
        if operation in {"mkdir", "rename"}:  # the library renames within one directory
            return Claim(exclusive=parent)
        if operation in _BY_DESCRIPTOR:
            return Claim()  # nothing is looked up
        if operation == "rmdir":
            itself = self._locate(path)
            return Claim(exclusive=parent if itself is None else parent | {itself})
        return Claim(shared=parent)

    def _locate(self, directory: AnyPath) -> Hashable | None:
        """What stands for ``directory``, however it is called."""
        if isinstance(self._backing, MemoryFilesystem):
            return self._backing.locate(directory)
        return os.path.realpath(os.fsdecode(directory))

    def _correct(self, path: AnyPath, mode: int) -> None:
        """Give a directory that was made with `_ANY_MODE` the mode that was asked for."""
        made = self._backing.stat(path).st_mode
        # What the umask has left of 0o777 tells what it leaves of any mode.
        wanted = made & (mode | stat.S_ISGID) & 0o7777 | mode & stat.S_ISVTX
        chmod = self._backing.chmod if isinstance(self._backing, MemoryFilesystem) else os.chmod
        chmod(path, wanted)


class _Entrance:
    """Where an operation waits until it may go in."""

    def __init__(self, news: News, enter: Callable[[], bool]) -> None:
        self._news = news
        self._enter = enter

    def block(self) -> None:
        self._news.block_until(self._enter)

    async def wait(self) -> None:
        await self._news.wait_until(self._enter)


def _task() -> trio.lowlevel.Task | None:
    """The task that is running, if one is."""
    try:
        return trio.lowlevel.current_task()
    except RuntimeError:
        return None
