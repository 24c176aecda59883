"""Undoing a transaction from the caller's side: wait for as long as the policy says, no longer.

What takes longer is a debt: it stays with the threads, which go on with it whether or not the
caller, or even its `trio.run`, is still there.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from . import _step
from ._causes import RootCause
from ._events import DebtPaid, DebtTaken
from ._registry import registry
from ._util import ungrouped
from ._visit import UndoOn, Visit

if TYPE_CHECKING:
    from collections.abc import Collection

    from ._events import PendingRollback
    from ._paths import AnyPath
    from ._policy import Policy
    from ._transaction import Transaction
    from ._workers import Workers


_WAIT_FOR_THREAD: Final = 1.0
"""Seconds between two attempts to start a thread for what is owed."""


class Rollback:
    """The undoing of one transaction; begun when its call fails or is cancelled.

    Everything here is shielded from cancellation and bounded by ``policy.rollback_timeout``.
    """

    def __init__(self, transaction: Transaction, policy: Policy, path: AnyPath) -> None:
        self._transaction = transaction
        self._policy = policy
        self._path = path
        self._visits: list[Visit] = []
        self.deadline = trio.current_time() + policy.rollback_timeout
        registry.debts.begin(transaction)

    async def undo(self, mounts: Collection[Workers]) -> None:
        """Send one worker to each of ``mounts``, so that none has to wait for another."""
        with trio.CancelScope(shield=True):
            if len(mounts) == 1:
                await self._send(*mounts)
                return
            try:
                async with trio.open_nursery() as nursery:
                    for workers in mounts:
                        nursery.start_soon(self._send, workers)
            except BaseException as interruption:  # noqa: BLE001 - a KeyboardInterrupt, as it was
                raise ungrouped(interruption) from None  # noqa: ASYNC104 - it is this one

    def _visit(self, workers: Workers) -> Visit:
        transaction = self._transaction
        visit = Visit(transaction, workers, UndoOn(transaction, workers))
        transaction.join(visit)
        return visit

    async def _send(self, workers: Workers) -> None:
        backoff = self._policy.retries.get(RootCause.NO_RESOURCES)
        delays = backoff.delays(registry.random) if backoff else iter(())
        visit = self._visit(workers)
        self._visits.append(visit)
        self._transaction.recorder.step(self._path)
        try:
            while True:
                left = max(0.0, self.deadline - trio.current_time())
                try:
                    if not await _step.start(
                        visit, workers=self._policy.workers, seconds=left, patience=left
                    ):
                        visit.count_as_stuck()
                except RuntimeError:  # no new thread could be started
                    delay = next(delays, left)
                    if delay >= left:
                        return  # noqa: ASYNC910
                    await trio.sleep(delay)
                else:
                    return
        except trio.TooSlowError:
            return  # noqa: ASYNC910
        finally:
            # Whoever comes first does it; only the first can start it.
            if not visit.sent:
                _owe(visit)

    async def wait(self) -> None:
        """Wait until everything is undone, or the time is up."""
        with trio.CancelScope(shield=True), trio.move_on_at(self.deadline):
            await _step.until(self._transaction.when_settled)

    def leave(self, abandoned: Collection[Visit] = ()) -> None:
        """The call ends here: what is not undone by now is owed, by ``abandoned`` among others."""
        since = time.monotonic()
        for visit in [*abandoned, *self._visits]:
            visit.count_as_stuck()
        transaction = self._transaction
        # Whoever was in the way of the others may have ended just now, and not known of it.
        for workers in transaction.undoable_on():
            visit = self._visit(workers)
            visit.count_as_stuck()
            _owe(visit)

        def pending() -> list[PendingRollback]:
            return transaction.pending(since)

        debts = pending()
        registry.debts.take(transaction, pending)
        transaction.recorder.tell_all(DebtTaken, [(debt.path, debt) for debt in debts])
        settled = partial(self._settled, owed=bool(debts))
        if not transaction.when_settled(settled, finally_=True):
            settled()

    def _settled(self, *, owed: bool) -> None:
        self._transaction.close_roots()
        registry.tree.end(self._transaction.holder)
        if owed:  # before `wait_settled` returns
            self._transaction.recorder.tell(DebtPaid, self._path)
        registry.debts.paid(self._transaction)


def _owe(visit: Visit) -> None:
    """Have ``visit`` carried out by whoever can, as no worker could be had for it."""
    if visit.filesystem.turn is not None:
        _step.start_without_thread(visit)
    elif not registry.workers.owe(visit.workers, visit):
        trio.lowlevel.spawn_system_task(_keep_trying, visit.workers)


async def _keep_trying(workers: Workers) -> None:  # noqa: ASYNC910
    """Until a thread can be started for what is owed; a system task."""
    while not registry.workers.start_paying(workers):  # noqa: ASYNC110
        await trio.sleep(_WAIT_FOR_THREAD)
