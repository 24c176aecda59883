"""Step after step on one way: each is waited for in time, and tried again as the policy says."""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from . import _step
from ._causes import RootCause
from ._diagnosis import statistics_on
from ._errors import MountStalled, StepTimeout, mkdir_error
from ._events import RetryScheduled, StepAnswered, StepTimedOut
from ._paths import parent_of
from ._preview import asking
from ._registry import registry
from ._retries import Retries
from ._visit import Sliced
from ._walk import Failed

if TYPE_CHECKING:
    from ._entries import BeingRemoved
    from ._errors import MkdirError
    from ._events import Recorder
    from ._mounts import Mount
    from ._os import Filesystem
    from ._paths import AnyPath
    from ._policy import Policy
    from ._statistics import MountStatistics
    from ._transaction import Transaction
    from ._visit import Visit, Work
    from ._walk import Program
    from ._workers import Workers

_LACK_OF_SPACE: Final = {RootCause.NO_SPACE, RootCause.NO_QUOTA}
_NAMES_MOUNT: Final = {RootCause.NOT_PERMITTED, RootCause.READ_ONLY, RootCause.DISCONNECTED}


class Attempts:
    """What a call, or one of the tasks that work for it, sends to threads and hears from them."""

    policy: Policy
    filesystem: Filesystem
    workers: Workers
    mount: Mount
    """The one on which it began."""
    retries: Retries | None = None
    unanswered: Visit | None = None
    """The visit that has not been answered."""
    troubled = False
    """Whether something did not go well, so that the mount table has to be looked at."""

    # What there is to do, as far as it matters here

    @property
    @abstractmethod
    def transaction(self) -> Transaction:
        """The undo log of the call."""
        ...

    @property
    @abstractmethod
    def plain(self) -> bool:
        """Whether there is no undo log yet."""
        ...

    @property
    @abstractmethod
    def place(self) -> AnyPath:
        """The path that it is about, absolute."""
        ...

    @property
    @abstractmethod
    def progress(self) -> int:
        """More than before, if it has got on."""
        ...

    @abstractmethod
    def as_given(self, path: AnyPath) -> AnyPath:
        """``path`` as the caller wrote it."""
        ...

    @abstractmethod
    def another(self, work: Work) -> Visit:
        """A visit to do ``work``."""
        ...

    @abstractmethod
    def begin_anew(self, failure: Failed | None = None) -> None:
        """Whatever was under way is over, because of ``failure``."""
        ...

    @property
    def others_stuck(self) -> int:
        """How many workers are stuck on its mount, but for those of the same call."""
        return self.workers.stuck

    @property
    def recorder(self) -> Recorder:
        """What happened."""
        return self.transaction.recorder

    # Steps

    async def step(self, visit: Visit) -> bool:
        """Send a worker on ``visit`` and wait for it as often as the policy allows."""
        policy = self.policy
        stuck = self.others_stuck
        if stuck and stuck >= min(policy.stall_after, policy.workers):
            await trio.lowlevel.checkpoint()
            stalled = Failed(errno.ETIMEDOUT, self.place, RootCause.TIMED_OUT)
            raise self.error(stalled, MountStalled)
        if not self.plain:
            self.transaction.join(visit)
            self.recorder.step(self.place)
        self.unanswered = visit
        try:
            answered = await _step.start(visit, workers=policy.workers, seconds=policy.step_timeout)
        except RuntimeError as error:
            # threading says "can't start new thread" for the EAGAIN of pthread_create(3).
            visit.leave()
            cause = RootCause.NO_RESOURCES
            raise Failed(errno.EAGAIN, self.place, cause, str(error)) from None
        while not answered:
            await self._timed_out(visit)
            answered = await _step.wait(visit, seconds=policy.step_timeout)
        self.unanswered = None
        failure = visit.failure
        if not self.plain and self.recorder.listening:
            number = failure.number if isinstance(failure, Failed) else None
            self.recorder.tell(StepAnswered, self.place, number)
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
        path = self.place if operation is None else operation[1]
        self.recorder.tell(StepTimedOut, path, self.policy.step_timeout)
        late = Failed(errno.ETIMEDOUT, path, RootCause.TIMED_OUT)
        if operation is not None:
            late.operation = operation[0]
        await self.try_again(late, StepTimeout)

    async def wait_removed(self, removal: BeingRemoved) -> None:
        """Another call is removing a directory on our path; look again when it has."""
        self.troubled = True
        with trio.move_on_after(self.policy.step_timeout) as scope:
            await _step.until(partial(registry.tree.when_removed, removal.entry))
        self.begin_anew()
        if scope.cancelled_caught:
            self.recorder.tell(StepTimedOut, removal.path, self.policy.step_timeout)
            await self.try_again(
                Failed(errno.ETIMEDOUT, removal.path, RootCause.TIMED_OUT), StepTimeout
            )

    # Trying again

    async def try_again(self, failure: Failed, kind: type[MkdirError] | None = None) -> None:  # noqa: ASYNC910 - the visits around it are
        """Return when it is time for the next attempt; raise if there is none."""
        self.troubled = True
        self.check_mount(failure, kind)
        if self.retries is None:
            self.retries = Retries(self.policy, registry.random, trio.current_time)
        delay = self.retries.next_delay(failure.cause, self.progress)
        if delay is None:
            raise self.error(failure, kind) from None
        self.recorder.tell(RetryScheduled, failure.path, failure.cause, failure.number, delay)
        if failure.cause in _LACK_OF_SPACE and self.policy.reclaim is not None:
            snapshot = await self._statvfs(parent_of(failure.path) or failure.path)
            if isinstance(snapshot, Failed):
                if snapshot.cause in self.policy.retries:
                    await self.try_again(snapshot)
                    return
                failure.note = f"statvfs of {snapshot.path!r}: {os.strerror(snapshot.number)}"
                raise self.error(failure, kind) from None
            await self.policy.reclaim(self.as_given(failure.path), failure.cause, snapshot)
        if kind is None:
            self.begin_anew(failure)
        if delay:
            await trio.sleep(delay)
        # Once more: what matters is what the next attempt meets.
        self.check_mount(failure, kind)

    async def _statvfs(self, path: AnyPath) -> os.statvfs_result | Failed:
        found: list[os.statvfs_result] = []

        def look() -> Program:
            yield asking(self.filesystem, "statvfs", path)
            try:
                found.append(self.filesystem.statvfs(path))
            except OSError as error:
                raise Failed(error.errno or errno.EIO, path) from None

        try:
            await self.step(self.another(Sliced(look(), self.transaction.enter)))
        except Failed as failure:
            return failure  # noqa: ASYNC910 - the step was one
        return found[0]

    def check_mount(self, failure: Failed, kind: type[MkdirError] | None = None) -> None:
        """After trouble, never go on where the mount that it began on is gone."""
        mount = self.filesystem.mount(self.place)
        if mount.is_mounted_by(self.mount):
            self.mount = mount  # our own first system call has asked for it
        if mount != self.mount:
            raise self.disconnected(failure, mount, kind) from None

    def disconnected(
        self, failure: Failed, now: Mount, kind: type[MkdirError] | None
    ) -> MkdirError:
        """What to raise after ``failure`` where the mount is gone; ``now`` it is another one."""
        failure.cause = RootCause.DISCONNECTED
        failure.note = f"it began on the mount {self.mount} and the path is now on {now}"
        return self.error(failure, kind)

    def error(self, failure: Failed, kind: type[MkdirError] | None = None) -> MkdirError:
        """What to raise for ``failure``."""
        path = self.as_given(failure.path)
        error = mkdir_error(failure.number, path, failure.cause, self.mount, kind=kind)
        error.operation = failure.operation
        where: Mount | MountStatistics = self.mount
        if isinstance(error, (StepTimeout, MountStalled)):
            error.statistics = where = statistics_on(self.workers, self.mount)
        if failure.cause in _NAMES_MOUNT or kind is not None:
            error.add_note(f"on the mount {where}")
        if failure.note:
            error.add_note(failure.note)
        return error
