"""Who is measured: the ways to make a path that a program has today."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal

import attrs
import trio

import trio_mkdir
from _loops import Call, Loop, Loops, timed

OURS: Final = "trio_mkdir.makedirs"
TRIO_PATH: Final = "trio.Path.mkdir"
TRIO_THREAD: Final = "trio.to_thread + os.makedirs"
ASYNCIO_THREAD: Final = "asyncio.to_thread + os.makedirs"
PLAIN: Final = "os.makedirs, no thread"
LIMIT: Final = "the limit"
"""One visit to a thread that calls ``os.mkdir`` for each directory and does nothing else: no
implementation on threads can be quicker."""


@attrs.frozen
class Task:
    """A path to make, and which directories on it are missing."""

    path: str
    missing: tuple[str, ...]
    """From the top to ``path`` itself; empty if it is there."""
    exist_ok: bool = False


Prepare = Callable[[Task], Callable[[], Any]]
"""Makes the call for a task. What is done here is not timed: a path object is made once and used
often."""


@attrs.frozen
class Peer:
    """One way to make a path."""

    name: str
    on: Literal["trio", "asyncio", "no loop"]
    prepare: Prepare
    needs: str = ""
    """The package that it comes from."""

    @property
    def is_here(self) -> bool:
        """Whether that is installed."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    async def timed(self, loops: Loops, task: Task) -> float:
        """The seconds that it takes for one task, on its own loop."""
        call = self.prepare(task)
        if self.on == "no loop":
            return _timed_plain([call])
        return await self._on_loop(loops, call)

    async def timed_together(self, loops: Loops, tasks: Sequence[Task]) -> float:
        """The seconds that it takes for all of them, begun at once."""
        calls = [self.prepare(task) for task in tasks]
        if self.on == "no loop":
            return _timed_plain(calls)
        return await self._on_loop(loops, partial(self.loop(loops).together, calls))

    def loop(self, loops: Loops) -> Loop:
        """The one that it runs on."""
        return loops.asyncio if self.on == "asyncio" else loops.trio

    async def _on_loop(self, loops: Loops, call: Call) -> float:
        if self.on == "asyncio":
            return loops.run_asyncio(timed(call))
        return await timed(call)


def _timed_plain(calls: Sequence[Callable[[], object]]) -> float:
    began = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - began


def _ours(task: Task) -> Call:
    return partial(trio_mkdir.makedirs, task.path, exist_ok=task.exist_ok)


def ours_with(policy: trio_mkdir.Policy) -> Prepare:
    """What this project does, with other options."""
    return lambda task: partial(
        trio_mkdir.makedirs, task.path, exist_ok=task.exist_ok, policy=policy
    )


def _trio_path(task: Task) -> Call:
    return partial(trio.Path(task.path).mkdir, parents=True, exist_ok=task.exist_ok)


def _os_makedirs(task: Task) -> Callable[[], None]:
    return partial(os.makedirs, task.path, exist_ok=task.exist_ok)


def _trio_thread(task: Task) -> Call:
    return partial(trio.to_thread.run_sync, _os_makedirs(task))


def abandoned_thread(task: Task) -> Call:
    """The same, but left alone when it is cancelled."""
    return partial(trio.to_thread.run_sync, _os_makedirs(task), abandon_on_cancel=True)


def _asyncio_thread(task: Task) -> Call:
    return partial(asyncio.to_thread, os.makedirs, task.path, exist_ok=task.exist_ok)


def _anyio_path(task: Task) -> Call:
    import anyio  # noqa: PLC0415 - it may not be here

    return partial(anyio.Path(task.path).mkdir, parents=True, exist_ok=task.exist_ok)


def _aiofiles(task: Task) -> Call:
    import aiofiles.os  # noqa: PLC0415 - it may not be here

    return partial(aiofiles.os.makedirs, task.path, exist_ok=task.exist_ok)


def bare_mkdirs(task: Task) -> None:
    """Only the system calls that cannot be done without."""
    for directory in task.missing:
        os.mkdir(directory)
    if not task.missing:
        with suppress(FileExistsError):
            os.mkdir(task.path)


def _limit(task: Task) -> Call:
    return partial(trio.to_thread.run_sync, partial(bare_mkdirs, task))


_ALL: Final = (
    Peer(OURS, "trio", _ours),
    Peer(TRIO_PATH, "trio", _trio_path),
    Peer(TRIO_THREAD, "trio", _trio_thread),
    Peer("anyio.Path.mkdir on trio", "trio", _anyio_path, "anyio"),
    Peer("anyio.Path.mkdir on asyncio", "asyncio", _anyio_path, "anyio"),
    Peer("aiofiles.os.makedirs", "asyncio", _aiofiles, "aiofiles"),
    Peer(ASYNCIO_THREAD, "asyncio", _asyncio_thread),
    Peer(PLAIN, "no loop", _os_makedirs),
    Peer(LIMIT, "trio", _limit),
)

PEERS: Final = {peer.name: peer for peer in _ALL if peer.is_here}
"""Those that are installed, by name. The first is ours."""


def who_may_hang(*, all_of_them: bool) -> list[Peer]:
    """The others that do not block the event loop anyway; or one for each loop."""
    return [
        peer
        for name, peer in PEERS.items()
        if name not in {OURS, LIMIT}
        and peer.on != "no loop"
        and (all_of_them or name in {TRIO_PATH, ASYNCIO_THREAD})
    ]


NOT_HERE: Final = tuple(peer.name for peer in _ALL if not peer.is_here)
