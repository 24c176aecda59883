"""One call: steps until the path stands, then commit; or rollback, however it ends."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio

from ._attempts import Attempts
from ._beneath import confine
from ._entries import BeingRemoved
from ._errors import MkdirError, explain
from ._events import Report, listening
from ._first_visit import FirstVisit
from ._handshake import Phase
from ._on_mount import after, before, elsewhere
from ._preview import preview, preview_confined
from ._registry import registry
from ._rollback import Rollback
from ._visit import Visit
from ._walk import Failed

if TYPE_CHECKING:
    from ._entries import Holder
    from ._mounts import Mount
    from ._os import Filesystem
    from ._paths import AnyPath, Target
    from ._policy import Policy
    from ._visit import Work
    from ._workers import Workers


class Call(FirstVisit, Attempts):
    """Makes one target: it is its own first visit to a thread. ``make`` it once."""

    filesystem: Filesystem
    policy: Policy
    workers: Workers

    on_mount: AnyPath | None = None
    """The mount point of the mount that it has to stay on."""

    def __init__(self, target: Target, policy: Policy, outer: tuple[Holder, ...] = ()) -> None:
        self._began = trio.current_time()
        filesystem = policy.filesystem or registry.operating_system
        self.mount = filesystem.mount(target.path)
        workers = registry.workers.on(self.mount)
        super().__init__(target, registry, workers, filesystem, policy, outer)
        atomic = target.demands is not None and target.demands.atomic
        if target.root is not None:
            confined = confine(filesystem, target.root)
            self.filesystem = confined = preview_confined(confined) if atomic else confined
            self.transaction.stay_in(confined)
        elif atomic:
            self.filesystem = preview(filesystem)
        elaborate = outer or target.demands or filesystem.turn is not None
        if elaborate or listening(policy.observers):
            transaction = self.transaction  # it is needed in any case
            if target.demands is not None:
                transaction.durable = target.demands.durable
                self.on_mount = target.demands.on_mount

    @trio.lowlevel.enable_ki_protection
    async def make(self) -> Report:
        """Make it; on any exception undo it first.

        Protected from KeyboardInterrupt, which then arrives like a cancellation: at a checkpoint.
        """
        visit: Visit = self
        registry.tree.begin(self)
        try:
            if self.on_mount is not None:
                await self._check_on_mount(self.on_mount)
            while True:
                try:
                    if await self.step(visit):
                        break
                except Failed as failure:
                    await self.try_again(failure)
                except BeingRemoved as removal:
                    await self.wait_removed(removal)
                visit = self.another(self.rest())
            if self.on_mount is not None:
                self._check_still_on_mount(self.on_mount)
            if self.troubled:
                self.check_mount(Failed(errno.ENODEV, self.target.path))
            report = self._report()
            self._succeed()
        except BaseException as failure:
            try:
                if self.plain and not self.sent:
                    registry.tree.end(self)  # nothing was begun
                else:
                    await self._roll_back()  # noqa: ASYNC102 - shielded and bounded inside
            finally:
                self._fail(failure)
            raise
        return report

    def _succeed(self) -> None:
        self.commit()

    def _fail(self, failure: BaseException) -> None:
        if isinstance(failure, MkdirError):
            explain(failure, self._report())

    async def _check_on_mount(self, point: AnyPath) -> None:  # noqa: ASYNC910 - the visits after it are
        error = before(point, self.mount, self.target.given)
        if error is not None:
            await trio.lowlevel.checkpoint()
            raise error

    def _check_still_on_mount(self, point: AnyPath) -> None:
        there = self.filesystem.mount(self.target.path)
        error = after(point, there, self.mount, self.target.given)
        if error is not None:
            raise error

    def disconnected(
        self, failure: Failed, now: Mount, kind: type[MkdirError] | None
    ) -> MkdirError:
        """The same; who has named the mount is told that it is not there."""
        if self.on_mount is None or kind is not None:
            return super().disconnected(failure, now, kind)
        why = f"{failure.path!r} was answered {errno.errorcode.get(failure.number, '?')}"
        return elsewhere(self.on_mount, now, self.mount, self.target.given, why)

    # What there is to do

    @property
    def mounts(self) -> tuple[Workers, ...]:
        """Where it has made something, or may have."""
        return (self.workers,)

    @property
    def place(self) -> AnyPath:
        """The path that it is about, absolute."""
        return self.target.path

    @property
    def progress(self) -> int:
        """More than before, if it has got on."""
        return self.walk.progress

    def as_given(self, path: AnyPath) -> AnyPath:
        """``path`` as the caller wrote it."""
        return self.target.as_given(path)

    def another(self, work: Work) -> Visit:
        """A visit to do ``work``."""
        return Visit(self.transaction, self.workers, work, self.walk)

    def begin_anew(self, failure: Failed | None = None) -> None:
        """Whatever was under way is over, because of ``failure``."""
        if failure is not None and failure.undoes(self.walk):
            self.walk.restart()
        self.start_over()

    # Undoing

    async def _roll_back(self) -> None:
        # First the thread learns that we are gone: from here on it makes nothing more.
        visit = self.unanswered
        # If there is none, our own was answered, or never sent, and will not be.
        gone = (visit or self).leave() in {Phase.ANSWERED, Phase.CANCELLED}
        transaction = self.transaction
        if gone:
            self.rest().close()  # no thread is in it
        rollback = Rollback(transaction, self.policy, self.target.path)
        try:
            if transaction.undoable():
                await rollback.undo(self.mounts)
            await rollback.wait()
        finally:
            rollback.leave([visit] if visit else [])

    # Telling

    def _report(self) -> Report:
        elapsed = trio.current_time() - self._began
        if self.plain:
            # By place: a Report costs half as much so.
            return Report(self.target.given, self._created(), (), (), elapsed, int(self.sent))
        return self.recorder.report(self.target.given, self.as_given, elapsed)

    def _created(self) -> tuple[AnyPath, ...]:
        as_given = self.target.as_given
        return tuple([as_given(item.path) for item in self.items])
