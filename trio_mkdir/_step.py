"""A step: one visit to a worker thread, waited for no longer than its time.

The only place that calls `trio.to_thread.run_sync`.
"""

from __future__ import annotations

import contextlib
import math
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._handshake import as_asked
from ._workers import limiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._handshake import Operation
    from ._visit import Visit


class _Loan:
    """A worker of the mount's own limiter, taken already and handed to `trio.to_thread.run_sync`.

    Waiting for a worker is cancellable and no part of a step's time, so it comes before the step's
    scope; run_sync then gives the worker back when the thread has ended, however late.
    """

    __slots__ = ("_limiter", "_visit", "expires", "taken")

    def __init__(self, limiter: trio.CapacityLimiter, visit: Visit) -> None:
        self._limiter = limiter
        self._visit = visit
        self.taken = False
        self.expires: trio.CancelScope | None = None

    async def acquire_on_behalf_of(self, _: object) -> None:  # noqa: ASYNC910 - run_sync never waits here
        self.taken = self._visit.sent = True
        if self.expires is not None:
            # run_sync starts the thread right after this, without another checkpoint.
            self.expires.deadline = -math.inf

    def release_on_behalf_of(self, _: object) -> None:
        self._limiter.release_on_behalf_of(self._visit)


async def start(visit: Visit, *, workers: int, seconds: float, patience: float = math.inf) -> bool:
    """Send ``visit`` to a worker thread; whether it is done within ``seconds``.

    0 sends it and does not wait. Raises RuntimeError if no thread could be started,
    and `trio.TooSlowError` if none of the mount's ``workers`` was free within ``patience`` seconds.
    **Cancellation** goes through at once; the thread goes on, and the caller must leave it.
    """
    if visit.filesystem.turn is not None:
        start_without_thread(visit)
        return await wait(visit, seconds=seconds)
    tokens = limiter(visit.workers, workers)
    try:
        tokens.acquire_on_behalf_of_nowait(visit)
    except trio.WouldBlock:
        with trio.fail_after(patience):
            await tokens.acquire_on_behalf_of(visit)
    loan = _Loan(tokens, visit)
    try:
        with trio.move_on_after(seconds or math.inf) as scope:
            if not seconds:
                loan.expires = scope
            await trio.to_thread.run_sync(
                visit.run,
                abandon_on_cancel=True,
                thread_name="trio_mkdir",  # else trio makes a name of the task's for every visit
                limiter=loan,  # type: ignore[arg-type]  # documented as anything with these methods
            )
    except RuntimeError:  # no thread, after all
        visit.sent = False
        raise
    finally:
        if not loan.taken:
            loan.release_on_behalf_of(visit)
    return visit.answered


def start_without_thread(visit: Visit) -> None:
    """Carry out ``visit`` in a system task, which outlives its caller as a thread does."""
    turn = visit.filesystem.turn
    assert turn is not None  # noqa: S101 - for the type checker
    visit.sent = True
    trio.lowlevel.spawn_system_task(_without_thread, visit, turn)


async def _without_thread(  # noqa: ASYNC910 - a system task
    visit: Visit, turn: Callable[[Operation | None], Awaitable[object]]
) -> None:
    """What a thread does, with `Filesystem.turn` awaited where the thread would block.

    When the run ends, it carries out the rest at once.
    """
    operations = visit.program()
    with contextlib.suppress(trio.Cancelled):
        for operation in operations:
            await turn(as_asked(operation))
        await turn(None)
    for _ in operations:
        pass


async def wait(visit: Visit, *, seconds: float) -> bool:
    """Wait once more for the same thread; whether it is done within ``seconds``."""
    with trio.move_on_after(seconds):
        await until(visit.wake_with)
    return visit.answered


async def until(call_back: Callable[[Callable[[], object]], bool]) -> None:
    """Sleep until another thread calls what ``call_back`` is given; not at all if it is False.

    A checkpoint in any case.
    """
    event = trio.Event()
    if not call_back(partial(_call_soon, trio.lowlevel.current_trio_token(), event.set)):
        event.set()
    await event.wait()


def _call_soon(token: trio.lowlevel.TrioToken, fn: Callable[[], object]) -> None:
    with contextlib.suppress(trio.RunFinishedError):  # then nobody waits any more
        token.run_sync_soon(fn)
