"""Whether something was left behind: compared before and after, once everything has settled."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio

from trio_mkdir import PendingRollback, pending_rollbacks
from trio_mkdir._registry import registry
from trio_mkdir._workers import _limiters  # pyright: ignore[reportPrivateUsage]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

KeyT = TypeVar("KeyT")

_DESCRIPTORS: Final = "/proc/self/fd"
_IDLE: Final = re.compile(r"Trio thread \d+")
"""The name of a thread that trio keeps for the next one who needs a thread. While a thread
works it has another one."""
_OURS: Final = "trio_mkdir"
"""How the names of our threads and tasks begin."""
_FIRST_STEP: Final = 0.001
"""Seconds until the second look; then each time twice as long, up to"""
_LONGEST_STEP: Final = 0.1


@attrs.frozen
class _State:
    """What could be left behind."""

    descriptors: Mapping[int, str]
    threads: Mapping[int, str]
    tasks: Mapping[trio.lowlevel.Task, str]
    tokens: int
    """Workers that are taken, of all mounts in this run."""
    stuck: int
    active: int
    entries: int
    debts: tuple[PendingRollback, ...]

    @classmethod
    def now(cls) -> _State:
        """What there is at this moment."""
        active, entries = registry.tree.statistics
        return cls(
            _descriptors(),
            {
                thread.ident: thread.name
                for thread in threading.enumerate()
                if thread.ident is not None and not _IDLE.fullmatch(thread.name)
            },
            {task: task.name for task in _tasks() if task.name.startswith(f"{_OURS}._")},
            _tokens(),
            _stuck(),
            active,
            entries,
            pending_rollbacks(),
        )

    def leaked_since(self, before: _State, *, allow_stuck: bool) -> list[str]:
        """What there is more than ``before``, a line for each."""
        stuck = self.stuck - before.stuck
        allowed = max(0, stuck)  # its thread, or task, and its token are part of its being stuck
        threads = _new(self.threads, before.threads)
        ours = [name for name in threads if _is_ours(name)]
        leaks = [
            *(f"file descriptor {what}" for what in self._new_descriptors(before)),
            *(f"thread {name!r}" for name in threads if not _is_ours(name)),
            *(f"thread {name!r}, busy" for name in ours[allowed:]),
            *(f"task {name}" for name in _new(self.tasks, before.tasks)[allowed:]),
        ]
        leaks += _more("worker token", self.tokens - before.tokens - allowed)
        if allow_stuck and stuck > 0:
            return leaks
        leaks += _more("worker stuck in a system call", stuck)
        leaks += _more("call still active in the shared tree", self.active - before.active)
        if not self.active:  # as long as a call is, the tree remembers what it may yet speak of
            what = "directory still known to the shared tree"
            leaks += _more(what, self.entries - before.entries)
        debts = Counter(self.debts) - Counter(before.debts)
        return [*leaks, *(f"debt {debt!r}" for debt in debts.elements())]

    def _new_descriptors(self, before: _State) -> Iterator[str]:
        for number, target in self.descriptors.items():
            if before.descriptors.get(number) != target:
                yield f"{number}, open on {target}"


def _is_ours(thread: str) -> bool:
    return thread == _OURS or thread.startswith(f"{_OURS} ")


def _new(now: Mapping[KeyT, str], before: Mapping[KeyT, str]) -> list[str]:
    return [name for key, name in now.items() if key not in before]


def _more(what: str, count: int) -> list[str]:
    return [f"{count} x {what}"] if count > 0 else []


def _descriptors() -> dict[int, str]:
    """What each open descriptor is open on; empty where the system does not tell."""
    found: dict[int, str] = {}
    try:
        numbers = os.listdir(_DESCRIPTORS)
    except OSError:  # pragma: no cover - not Linux
        return {}
    for number in numbers:
        try:
            found[int(number)] = os.readlink(f"{_DESCRIPTORS}/{number}")
        except OSError:
            continue  # the one that listed them
    return found


def _stuck() -> int:
    every = registry.workers._workers  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return sum(workers.stuck for workers in list(every.values()))


def _tokens() -> int:
    try:
        limiters = _limiters.get()
    except LookupError:
        return 0
    return sum(
        int(limiter.borrowed_tokens)
        for of_mount in list(limiters.values())
        for limiter in of_mount.values()
    )


def _tasks() -> Iterator[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    tasks = [] if root is None else [root]
    while tasks:
        task = tasks.pop()
        yield task
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


class _LeakCheck:
    """What `assert_nothing_leaked` returns."""

    def __init__(self, *, patience: float, allow_stuck: bool) -> None:
        self._patience = patience
        self._allow_stuck = allow_stuck

    async def __aenter__(self) -> None:
        await trio.lowlevel.checkpoint()
        self._before = _State.now()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leaks: list[str] = []
        with trio.CancelScope(shield=True):
            leaks = await self._wait_clean()
        if leaks:
            raise AssertionError("\n- ".join(["something was left behind:", *leaks]))

    async def _wait_clean(self) -> list[str]:
        """What is left after all patience."""
        by_trio = trio.current_time() + self._patience
        by_clock = time.monotonic() + self._patience
        step = _FIRST_STEP
        while True:
            await trio.lowlevel.checkpoint()
            now = _State.now()
            leaks = now.leaked_since(self._before, allow_stuck=self._allow_stuck)
            # With an autojump clock no time passes; but a thread takes real time to end.
            busy = any(_is_ours(name) for name in now.threads.values())
            late = time.monotonic() >= by_clock if busy else trio.current_time() >= by_trio
            if not leaks or late:
                return leaks
            await trio.sleep(step)  # noqa: ASYNC110 - nobody tells of the end of a thread
            step = min(2 * step, _LONGEST_STEP)


def assert_nothing_leaked(
    *, patience: float = 2.0, allow_stuck: bool = False
) -> AbstractAsyncContextManager[None]:
    """Assert that a block leaves nothing behind.

    ::

        async with assert_nothing_leaked():
            with trio.move_on_after(1):
                await upload(...)

    Compared are, before and after: open file descriptors (on Linux), threads that are
    busy, the tokens and tasks of this library in this `trio.run`, what it knows of shared
    directories, workers that are stuck in a system call, and debts. Idle threads that trio
    keeps for later are no leak. What is waited for is that everything settles.

    The whole process is looked at: other threads must not make directories meanwhile.

    Args:
      patience: Seconds to wait for everything to settle.
      allow_stuck: Whether workers may be left stuck in a system call, on a mount that still hangs,
          with what they hold; nothing else may.

    Raises:
      AssertionError: Something was left behind, and what. If the block ended with an exception,
          that is its ``__context__``.
      ValueError: ``patience`` is negative or not finite.

    **Cancellation handling**: Entering is a checkpoint, and so is leaving, which is shielded from
    cancellation for as long as its patience lasts.
    """
    if not 0 <= patience < math.inf:
        raise ValueError(f"patience must be 0 or more and finite, not {patience!r}")
    return _LeakCheck(patience=patience, allow_stuck=allow_stuck)
