"""Two event loops in one process, and turns on them in shuffled order.

trio's loop runs the whole benchmark. One of asyncio's stands still in the same thread; when it is
the turn of something that needs it, trio's task runs it until that is done. While one loop works
the other does nothing at all, and what it takes to change between them is not timed.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import sniffio
import trio

T = TypeVar("T")

Call = Callable[[], Awaitable[object]]
Turn = Callable[[int], Awaitable[float]]
"""Takes a number of its own for what it makes, returns seconds."""


class Loop(Protocol):
    """What a workload needs of an event loop, whichever it is."""

    async def sleep(self, seconds: float, /) -> object:
        """As both have it."""
        ...

    async def together(self, calls: Sequence[Call], seconds: float | None = None) -> None:
        """Run ``calls`` side by side; cancel after ``seconds`` what has not ended by then."""
        ...

    async def beside(self, background: Sequence[Call], main: Call) -> None:
        """Run ``main`` while ``background`` goes on; then wait for that."""
        ...


class TrioLoop:
    """The loop that runs us."""

    async def sleep(self, seconds: float, /) -> None:
        """By trio's clock."""
        await trio.sleep(seconds)

    async def together(self, calls: Sequence[Call], seconds: float | None = None) -> None:
        """In one nursery."""
        with trio.CancelScope(
            deadline=trio.current_time() + (float("inf") if seconds is None else seconds)
        ):
            async with trio.open_nursery() as nursery:
                for call in calls:
                    nursery.start_soon(call)

    async def beside(self, background: Sequence[Call], main: Call) -> None:
        """In one nursery, too."""
        async with trio.open_nursery() as nursery:
            for call in background:
                nursery.start_soon(call)
            await main()


class AsyncioLoop:
    """The other loop, seen from a task of its own."""

    async def sleep(self, seconds: float, /) -> None:
        """By asyncio's clock."""
        await asyncio.sleep(seconds)

    async def together(self, calls: Sequence[Call], seconds: float | None = None) -> None:
        """As tasks. What fails is raised, unless its time was up."""
        tasks = [asyncio.ensure_future(call()) for call in calls]
        done, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()

    async def beside(self, background: Sequence[Call], main: Call) -> None:
        """As tasks, too."""
        tasks = [asyncio.ensure_future(call()) for call in background]
        try:
            await main()
        finally:
            await asyncio.gather(*tasks)  # noqa: ASYNC102 - bounded by what `main` has undone


class Loops:
    """Both of them, for the trio task that has made this."""

    def __init__(self, seed: int) -> None:
        self.trio = TrioLoop()
        self.asyncio = AsyncioLoop()
        self.shuffler = random.Random(seed)  # noqa: S311 - an order, not a secret
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._main = self._loop.create_task(self._run_main())
        with suppress(RuntimeError):  # the loop is stopped before its main task is done
            self._run_until_complete(self._main)

    async def _run_main(self) -> None:
        """A task as long as the loop, which a program has.

        anyio keeps its threads until the task is done that it takes for the program's first, so
        without this each of its calls would start a thread. It looks for that task only once.
        """
        if importlib.util.find_spec("anyio") is not None:
            import anyio.to_thread  # noqa: PLC0415 - it may not be here

            await anyio.to_thread.run_sync(int)
        self._loop.stop()
        await self._over.wait()

    def run_asyncio(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Let trio stand still and asyncio run until this is done."""
        return self._run_until_complete(coroutine)

    def _run_until_complete(self, awaitable: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
        # What anyio goes by. trio sets it while a task of its own runs, and one does.
        name, sniffio.thread_local.name = sniffio.thread_local.name, None
        try:
            return self._loop.run_until_complete(awaitable)
        except BaseException:
            self._end_tasks()
            raise
        finally:
            sniffio.thread_local.name = name

    def _end_tasks(self) -> None:
        """After a Ctrl-C: let what was left in the middle thaw and remove what is its own."""
        if left := asyncio.all_tasks(self._loop) - {self._main}:
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(left))

    def close(self) -> None:
        """End asyncio's loop with its threads."""
        self._over.set()
        self._run_until_complete(self._main)
        self.run_asyncio(self._loop.shutdown_default_executor())
        self._loop.close()


@contextmanager
def open_loops(seed: int) -> Iterator[Loops]:
    """Both loops, in a trio task."""
    loops = Loops(seed)
    try:
        yield loops
    finally:
        loops.close()


async def timed(call: Call) -> float:
    """The seconds that a call takes, seen from the task that awaits it."""
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def take_turns(
    turns: Mapping[str, Turn], *, rounds: int, warm_up: int, shuffler: random.Random
) -> dict[str, list[float]]:
    """The seconds that each took in each round; all have one turn in each, in shuffled order."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    order = list(turns)
    number = 0
    gc.collect()
    for turn in range(-warm_up, rounds):
        shuffler.shuffle(order)
        for name in order:
            number += 1
            took = await turns[name](number)
            if turn >= 0:
                times[name].append(took)
    return times
