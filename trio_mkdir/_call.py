"""One call: steps until the path stands, then commit; or rollback, however it ends."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from . import _step
from ._causes import RootCause
from ._entries import BeingRemoved
from ._errors import MkdirError, MountStalled, StepTimeout, mkdir_error
from ._events import Recorder, Report, RetryScheduled, StepAnswered, StepTimedOut
from ._handshake import Phase
from ._paths import parent_of
from ._registry import registry
from ._retries import Retries
from ._rollback import Rollback
from ._transaction import Transaction
from ._visit import Sliced, Visit
from ._walk import Failed, Walk

if TYPE_CHECKING:
    from ._paths import AnyPath, Target
    from ._policy import Policy
    from ._visit import Work
    from ._walk import Program

_LACK_OF_SPACE: Final = {RootCause.NO_SPACE, RootCause.NO_QUOTA}
_NAMES_MOUNT: Final = {RootCause.NOT_PERMITTED, RootCause.READ_ONLY, RootCause.DISCONNECTED}


class Call:
    """Makes one target. ``run`` it once."""

    stays_provisional = False
    """Whether what it made is not final when it succeeds."""

    def __init__(self, target: Target, policy: Policy, outer: tuple[Transaction, ...] = ()) -> None:
        self._began = trio.current_time()
        self.target = target
        self._policy = policy
        self._filesystem = filesystem = policy.filesystem or registry.operating_system
        self._mount = filesystem.mount(target.path)
        self.workers = registry.workers.on(self._mount)
        self.recorder = Recorder(policy.observers)
        self.transaction = Transaction(
            registry.workers,
            self.workers,
            registry.tree,
            filesystem,
            self.recorder,
            policy,
            registry.random,
            target.prefixes,
            outer,
        )
        self._walk = Walk(target, filesystem, self.transaction)
        self._work = self._everything()
        self._retries: Retries | None = None
        self._visit: Visit | None = None  # the one that has not been answered
        self._troubled = False

    def _everything(self) -> Sliced:
        """What is to be done, from where the walk is."""
        transaction = self.transaction
        program = transaction.forward(self._walk, provisional=self.stays_provisional)
        return Sliced(program, transaction.enter)

    def _begin_anew(self) -> None:
        self._work.close()
        self._work = self._everything()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> Report:
        """Make it; on any exception undo it first.

        Protected from KeyboardInterrupt, which then arrives like a cancellation: at a checkpoint.
        """
        registry.tree.begin(self.transaction)
        try:
            await self._make()
            self._succeed()
        except BaseException as failure:
            try:
                await self._roll_back()  # noqa: ASYNC102 - shielded and bounded inside
            finally:
                self._fail(failure)
            raise
        return self._report()

    def _succeed(self) -> None:
        self.transaction.commit()

    def _fail(self, failure: BaseException) -> None:
        if isinstance(failure, MkdirError):
            self._explain(failure)

    # Making

    async def _make(self) -> None:
        while True:
            try:
                if await self._step(self._work):
                    break
            except Failed as failure:
                await self._try_again(failure)
            except BeingRemoved as removal:
                await self._wait_removed(removal)
        if self._troubled:
            self._check_mount(Failed(errno.ENODEV, self.target.path))

    async def _step(self, work: Work) -> bool:
        """Send a worker to do ``work`` and wait for it as often as the policy allows."""
        policy, path = self._policy, self.target.path
        if self.workers.stuck >= min(policy.stall_after, policy.workers):
            await trio.lowlevel.checkpoint()
            raise self._error(Failed(errno.ETIMEDOUT, path, RootCause.TIMED_OUT), MountStalled)
        transaction, recorder = self.transaction, self.recorder
        self._visit = visit = Visit(
            transaction.lock,
            transaction,
            self.workers,
            registry.workers,
            registry.debts,
            work,
            self._walk,
        )
        transaction.join(visit)
        recorder.step(path)
        try:
            answered = await _step.start(visit, workers=policy.workers, seconds=policy.step_timeout)
        except RuntimeError as error:
            # threading says "can't start new thread" for the EAGAIN of pthread_create(3).
            visit.leave()
            raise Failed(errno.EAGAIN, path, RootCause.NO_RESOURCES, str(error)) from None
        while not answered:
            await self._timed_out(visit)
            answered = await _step.wait(visit, seconds=policy.step_timeout)
        self._visit = None
        failure = visit.failure
        if recorder.listening:
            number = failure.number if isinstance(failure, Failed) else None
            recorder.tell(StepAnswered, path, number)
        if failure is not None:
            try:
                raise failure
            finally:
                failure = visit.failure = None  # or they and this frame would know each other
        return visit.done

    async def _timed_out(self, visit: Visit) -> None:
        """Decide whether to wait for the same system call once more."""
        visit.count_as_stuck()
        operation = visit.operation
        path = self.target.path if operation is None else operation[1]
        self.recorder.tell(StepTimedOut, path, self._policy.step_timeout)
        await self._try_again(Failed(errno.ETIMEDOUT, path, RootCause.TIMED_OUT), StepTimeout)

    async def _wait_removed(self, removal: BeingRemoved) -> None:
        """Another call is removing a directory on our path; look again when it has."""
        self._troubled = True
        with trio.move_on_after(self._policy.step_timeout) as scope:
            await _step.until(partial(registry.tree.when_removed, removal.entry))
        self._begin_anew()
        if scope.cancelled_caught:
            self.recorder.tell(StepTimedOut, removal.path, self._policy.step_timeout)
            await self._try_again(
                Failed(errno.ETIMEDOUT, removal.path, RootCause.TIMED_OUT), StepTimeout
            )

    # Trying again

    async def _try_again(self, failure: Failed, kind: type[MkdirError] | None = None) -> None:  # noqa: ASYNC910 - the visits around it are
        """Return when it is time for the next attempt; raise if there is none."""
        self._troubled = True
        self._check_mount(failure, kind)
        if self._retries is None:
            self._retries = Retries(self._policy, registry.random, trio.current_time)
        delay = self._retries.next_delay(failure.cause, self._walk.progress)
        if delay is None:
            raise self._error(failure, kind) from None
        self.recorder.tell(RetryScheduled, failure.path, failure.cause, failure.number, delay)
        if failure.cause in _LACK_OF_SPACE and self._policy.reclaim is not None:
            snapshot = await self._statvfs(parent_of(failure.path) or failure.path)
            if isinstance(snapshot, Failed):
                if snapshot.cause in self._policy.retries:
                    await self._try_again(snapshot)
                    return
                failure.note = f"statvfs of {snapshot.path!r}: {os.strerror(snapshot.number)}"
                raise self._error(failure, kind) from None
            given = self.target.as_given(failure.path)
            await self._policy.reclaim(given, failure.cause, snapshot)
        if failure.cause is RootCause.VANISHED or (
            failure.cause is RootCause.STALE and not self._walk.arrived
        ):
            self._walk.restart()
        if kind is None:
            self._begin_anew()
        if delay:
            await trio.sleep(delay)
        # Once more: what matters is what the next attempt meets.
        self._check_mount(failure, kind)

    async def _statvfs(self, path: AnyPath) -> os.statvfs_result | Failed:
        found: list[os.statvfs_result] = []

        def look() -> Program:
            yield "statvfs", path
            try:
                found.append(self._filesystem.statvfs(path))
            except OSError as error:
                raise Failed(error.errno or errno.EIO, path) from None

        try:
            await self._step(Sliced(look(), self.transaction.enter))
        except Failed as failure:
            return failure  # noqa: ASYNC910 - the step was one
        return found[0]

    def _check_mount(self, failure: Failed, kind: type[MkdirError] | None = None) -> None:
        """After trouble, never go on where the mount that the call began on is gone."""
        mount = self._filesystem.mount(self.target.path)
        if mount.is_mounted_by(self._mount):
            self._mount = mount  # our own first system call has asked for it
        if mount != self._mount:
            failure.cause = RootCause.DISCONNECTED
            failure.note = f"it began on the mount {self._mount} and the path is now on {mount}"
            raise self._error(failure, kind) from None

    def _error(self, failure: Failed, kind: type[MkdirError] | None = None) -> MkdirError:
        path = self.target.as_given(failure.path)
        error = mkdir_error(failure.number, path, failure.cause, self._mount, kind=kind)
        if failure.cause in _NAMES_MOUNT or kind is not None:
            error.add_note(f"on the mount {self._mount}")
        if failure.note:
            error.add_note(failure.note)
        return error

    # Undoing

    async def _roll_back(self) -> None:
        # First the thread learns that we are gone: from here on it makes nothing more.
        visit = self._visit
        if visit is None or visit.leave() in {Phase.ANSWERED, Phase.CANCELLED}:
            self._work.close()  # no thread is in it
        transaction = self.transaction
        rollback = Rollback(transaction, self._policy, self.target.path)
        try:
            if transaction.undoable():
                await rollback.undo([self.workers])
            await rollback.wait()
        finally:
            rollback.leave(visit)

    # Telling

    def _report(self) -> Report:
        elapsed = trio.current_time() - self._began
        return self.recorder.report(self.target.given, self.target.as_given, elapsed)

    def _explain(self, error: MkdirError) -> None:
        error.report = report = self._report()
        for kept in report.kept:
            error.add_note(f"left {kept.path!r}: {kept.why}")
        for debt in report.pending:
            error.add_note(
                f"{debt.path!r} waits for a system call ({debt.operation}) that has not returned"
                f" on {debt.mount_point}; it is undone when it does"
            )
