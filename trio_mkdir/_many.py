"""One call for many paths: a plan, and as many tasks as it takes to carry it out side by side."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from ._atomic_lane import AtomicLane
from ._beneath import confine
from ._errors import MkdirError, explain
from ._events import Recorder
from ._finish import Finishing, FinishTrees, standing
from ._incoming import Incoming
from ._lane import Lane
from ._on_mount import after, before, leads_to
from ._pace import FIRST_SLICE, Pace
from ._paths import Target
from ._plan import Plan
from ._preview import preview, preview_confined
from ._registry import registry
from ._rollback import Rollback
from ._transaction import Transaction
from ._util import ungrouped
from ._visit import SLICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._demands import Demands
    from ._entries import Holder
    from ._events import Report
    from ._incoming import Paths
    from ._items import Item
    from ._mounts import Mount
    from ._paths import AnyPath, Root
    from ._plan import Bundle
    from ._policy import Policy
    from ._walk import Program
    from ._workers import Workers

    Progress: TypeAlias = Callable[[int, int | None], object]

_PATIENCE: Final = 0.050
"""Seconds between two reports of progress."""


@attrs.frozen(kw_only=True)
class Order:
    """What is asked for each path."""

    mode: int
    parent_mode: int
    exist_ok: bool
    concurrency: int
    progress: Progress | None
    root: Root | None = None
    """What the paths are relative to, and must not lead out of; None for the working directory."""
    demands: Demands | None = None
    """What else is asked for; None for nothing."""


class ManyCall:
    """Makes many paths, all or nothing. ``make`` it once."""

    def __init__(
        self, paths: Paths, order: Order, policy: Policy, outer: tuple[Holder, ...] = ()
    ) -> None:
        self._began = trio.current_time()
        self._total = len(paths) if isinstance(paths, Sized) else None
        self._order = order
        self.policy = policy
        self.recorder = Recorder(policy.observers)
        self.plan = plan = Plan(self.workers_in)
        self._paths = Incoming(paths, plan, order.root)
        self._atomic = order.demands is not None and order.demands.atomic
        filesystem = policy.filesystem or registry.operating_system
        confined = None
        if order.root is not None:
            filesystem = confined = confine(filesystem, order.root)
            if self._atomic:
                filesystem = confined = preview_confined(confined)
        elif self._atomic:
            filesystem = preview(filesystem)
        self.filesystem = filesystem
        self.transaction = Transaction(
            registry, None, filesystem, self.recorder, policy, plan.paths, outer
        )
        if confined is not None:
            self.transaction.stay_in(confined)
        self._mode, self._parent_mode = order.mode, order.parent_mode
        self.on_mount: AnyPath | None = None
        self._finishing: Finishing | None = None
        self._finished: set[Item] = set()
        if order.demands is not None:
            self._demand(order.demands)
        self.provisional = bool(outer)
        """Whether what it made is not final when it succeeds."""
        self.mounts: dict[Workers, AnyPath] = {}
        """Where it has made something, or may have: a directory on each mount."""
        self.troubled = False
        """Whether something did not go well, so that the mount table has to be looked at."""
        self.mine: set[AnyPath] = set()
        """What it has made and not met since."""
        self.sprints = filesystem.turn is None and not self.recorder.listening
        """Whether nobody wants to know of each system call."""
        self._lanes: list[Lane] = []
        self._working = 0
        self._pace = Pace()
        self._failure: BaseException | None = None
        self._told = self._began

    def _demand(self, wanted: Demands) -> None:
        self._mode, self._parent_mode = wanted.closed(self._mode), wanted.closed(self._parent_mode)
        self.on_mount = wanted.on_mount
        self.transaction.durable = wanted.durable
        if wanted.elaborate:
            kind = FinishTrees if wanted.atomic else Finishing
            self._finishing = kind(wanted, self.transaction, self._asked)

    @trio.lowlevel.enable_ki_protection
    async def make(self) -> Report:
        """Make them; on any exception undo it first."""
        registry.tree.begin(self.transaction.holder)
        try:
            await trio.lowlevel.checkpoint()
            while paths := await self._paths.some():
                self.check_on_mount(paths)
                if self._finishing is not None and not self._finishing.is_prepared:
                    await self._new_lane().prepare(paths[0])
                for plan in self._paths.turns(paths, self._counts_as_not_made, atomic=self._atomic):
                    plan()
                    await self._carry_out()
            await self._settle()
            self._check_still_on_mount()
            self._tell_progress(at_once=True)
            report = self.report()
            self._succeed()
        except BaseException as failure:
            try:
                await self._roll_back()  # noqa: ASYNC102 - shielded and bounded inside
            finally:
                self._fail(failure)
            raise
        return report

    def _succeed(self) -> None:
        self.transaction.commit()

    def _fail(self, failure: BaseException) -> None:
        if isinstance(failure, MkdirError):
            explain(failure, self.report())

    # What is asked

    def as_given(self, path: AnyPath) -> AnyPath:
        """``path`` as the caller wrote it."""
        return self._paths.given.get(path, path)

    def target(self, path: AnyPath) -> Target:
        """``path`` alone, as it is to be made."""
        return _OneOfMany(
            self.as_given(path),
            path,
            self.mode(path),
            self._order.parent_mode,
            self._order.exist_ok or not self.plan.is_wanted(path),
            parents=True,
            added=self._paths.added_to(path),
            root=self._order.root,
            modes=self.mode,
        )

    def mode(self, path: AnyPath) -> int:
        """What to make ``path`` with."""
        return self._mode if self.plan.is_wanted(path) else self._parent_mode

    def _asked(self, path: AnyPath) -> tuple[int, bool]:
        """The mode that ``path`` is to have; whether it was asked for itself."""
        wanted = self.plan.is_wanted(path)
        return (self._order.mode if wanted else self._order.parent_mode), wanted

    def passes_over(self, path: AnyPath) -> bool:
        """Whether ``path`` may be there already and need not be looked at, as more is below it."""
        may_be_there = self._order.exist_ok or not self.plan.is_wanted(path)
        return may_be_there and self.plan.is_above(path)

    def _counts_as_not_made(self, path: AnyPath) -> bool:
        return not self._order.exist_ok and path not in self.mine

    # Where it is

    def workers_in(self, directory: AnyPath) -> Workers:
        """By whose worker threads something is made in ``directory``."""
        workers = registry.workers.on(self.filesystem.mount(directory))
        self.mounts.setdefault(workers, directory)
        return workers

    def check_on_mount(self, paths: Iterable[AnyPath], *, but_above: bool = False) -> None:
        """Raise unless ``paths`` lie where they have to lie, ``but_above`` it those on the way."""
        point = self.on_mount
        if point is None:
            return
        for path in paths:
            if not (but_above and leads_to(path, point)):
                error = before(point, self.filesystem.mount(path), self.as_given(path))
                if error is not None:
                    raise error

    def _check_still_on_mount(self) -> None:
        point = self.on_mount
        if point is None:
            return
        for workers, directory in [*self.mounts.items()]:
            if not leads_to(directory, point):
                there = self.filesystem.mount(directory)
                error = after(point, there, workers.mount, self.as_given(directory))
                if error is not None:
                    raise error

    def gone(self) -> tuple[Mount, Mount] | None:
        """A mount that is not where it was, and the one that is there now."""
        for workers, directory in [*self.mounts.items()]:
            mount = self.filesystem.mount(directory)
            if mount != workers.mount and not mount.is_mounted_by(workers.mount):
                return workers.mount, mount
        return None

    def stuck(self, workers: Workers) -> int:
        """How many of those who are stuck on a mount work for this call."""
        visits = [lane.unanswered for lane in [*self._lanes]]
        return sum(visit is not None and visit.is_stuck_on(workers) for visit in visits)

    # Carrying it out

    async def _carry_out(self) -> None:
        """With one task as long as the filesystem is fast, otherwise with some, or with many."""
        lane = self._new_lane()
        while (bundle := self.plan.take()) is not None:
            await self._go_on(lane, bundle, FIRST_SLICE if self._pace.each is None else SLICE)
            if self._width() > 1 and not self.plan.finished:
                await self._side_by_side()
        await trio.lowlevel.checkpoint()

    async def _go_on(self, lane: Lane, bundle: Bundle, seconds: float = SLICE) -> None:
        await lane.carry_out(bundle, seconds)
        self._pace.took(lane.each)
        self._tell_progress()

    def _width(self) -> int:
        return self._pace.width(self._order.concurrency)

    async def _side_by_side(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._start_lanes(nursery)
        except BaseException as ended:  # noqa: BLE001, ASYNC103 - raised below
            # Only the waiting for them: a cancellation that may be theirs, or an interruption.
            ended = ungrouped(ended)
            if self._failure is None or not isinstance(ended, trio.Cancelled):
                self._failure = ended
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None  # or it and this frame would know each other
        await trio.lowlevel.checkpoint()

    def _start_lanes(self, nursery: trio.Nursery) -> None:
        while self._working < self._width():
            bundle = self.plan.take()
            if bundle is None:
                return
            self._working += 1
            nursery.start_soon(self._work_along, self._new_lane(), bundle, nursery)

    async def _work_along(self, lane: Lane, first: Bundle, nursery: trio.Nursery) -> None:  # noqa: ASYNC910 - its visits are
        bundle: Bundle | None = first
        try:
            while bundle is not None:
                await self._go_on(lane, bundle)
                bundle = self.plan.take() if self._working <= self._width() else None
                self._start_lanes(nursery)
            self._lanes.remove(lane)
        except BaseException as failure:  # noqa: BLE001, ASYNC103 - raised by who waits
            # Kept, so that it comes out as it is and in no group.
            self._failure = self._failure or failure
            nursery.cancel_scope.cancel()
        finally:
            self._working -= 1

    def _new_lane(self) -> Lane:
        lane = AtomicLane(self) if self._atomic else Lane(self)
        self._lanes.append(lane)
        return lane

    async def _settle(self) -> None:  # noqa: ASYNC910 - its visits are
        if self._finishing is not None:
            for workers, directory in [*self.mounts.items()]:
                await self._new_lane().finish(directory, workers)
        alone = registry.tree.alone(self.transaction.holder)
        if self.mounts and (self.provisional or not alone):
            await self._new_lane().settle()

    def prepare(self, path: AnyPath) -> Program:
        """Look up whatever has to be known before anything is made at ``path``."""
        if self._finishing is not None:
            yield from self._finishing.prepare(path)

    def finish(self, only: Workers | None) -> Program:
        """Do what is asked for to what was made, on one mount or on any, and is not finished."""
        if self._finishing is None:
            return
        self.mine.update(self.transaction.batched())
        made = [
            item
            for item in self.transaction.made_here()
            if only in {None, item.workers} and item not in self._finished
        ]
        if made:
            yield from self._finishing.finish(standing(made, self.mine))
            self._finished.update(made)

    def finish_hidden(self, made: Sequence[Item]) -> Program:
        """Do what is asked for to one tree, before it appears."""
        assert self._finishing is not None  # noqa: S101 - for the type checker
        return self._finishing.finish_hidden(made)

    def last(self, forward: Program) -> Program:
        """Go ``forward``, and do what has to come after that."""
        return forward if self._finishing is None else self._finishing.last(forward)

    def _tell_progress(self, *, at_once: bool = False) -> None:
        now = trio.current_time()
        if self._order.progress is not None and (at_once or now - self._told >= _PATIENCE):
            self._told = now
            self._order.progress(self.plan.done, self._total)

    # Undoing

    async def _roll_back(self) -> None:
        # First the threads learn that we are gone: from here on they make nothing more.
        abandoned = [lane.unanswered for lane in self._lanes if lane.unanswered is not None]
        for lane in self._lanes:
            lane.leave()
        rollback = Rollback(self.transaction, self.policy, "")
        try:
            if self.transaction.undoable():
                await rollback.undo([*self.mounts])  # a late thread may come to another one
            await rollback.wait()
        finally:
            rollback.leave(abandoned)

    # Telling

    def report(self) -> Report:
        """What happened; ``path`` is empty, as there are many."""
        self.transaction.tell_batches()
        return self.recorder.report("", self.as_given, trio.current_time() - self._began)


@attrs.define(eq=False)
class _OneOfMany(Target):
    """One of them; what is above it may have been asked for, too."""

    modes: Callable[[AnyPath], int] = attrs.field(kw_only=True)

    def mode_of(self, path: AnyPath) -> int:
        """What to make ``path`` with."""
        return self.modes(path)
