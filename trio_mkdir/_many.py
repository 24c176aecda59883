"""One call for many paths: a plan, and as many tasks as it takes to carry it out side by side."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterable, Sized
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from ._errors import MkdirError, as_mkdir_error, explain
from ._events import Recorder
from ._lane import Lane
from ._paths import Target, absolute, checked, is_dot, parent_of, working_directory
from ._plan import Plan
from ._registry import registry
from ._rollback import Rollback
from ._transaction import Transaction
from ._util import ungrouped
from ._visit import SLICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from ._entries import Holder
    from ._events import Report
    from ._mounts import Mount
    from ._paths import AnyPath, StrOrBytesPath
    from ._plan import Bundle
    from ._policy import Policy
    from ._workers import Workers

    Paths: TypeAlias = Iterable[StrOrBytesPath] | AsyncIterable[StrOrBytesPath]
    Progress: TypeAlias = Callable[[int, int | None], object]

_AT_ONCE: Final = 8192
"""How many paths are planned together at the most: a plan needs no more memory than that."""
_PATIENCE: Final = 0.050
"""Seconds after which no more is waited for once another path has come; and between two reports of
progress."""
_FIRST_SLICE: Final = 0.001
"""Seconds after which the first task looks how fast the filesystem is."""
_SLOW: Final = 0.0005
"""Seconds for one directory from which on it is waiting that takes the time, so that as many tasks
as are allowed make them."""
_WORK: Final = 0.000_05
"""Seconds from which on it is the kernel's work, as on a disk with a journal: then as many tasks as
there are processors. Below that it is Python's, and only one thread at a time can do that."""


@attrs.frozen(kw_only=True)
class Order:
    """What is asked for each path."""

    mode: int
    parent_mode: int
    exist_ok: bool
    concurrency: int
    progress: Progress | None


class ManyCall:
    """Makes many paths, all or nothing. ``make`` it once."""

    def __init__(
        self, paths: Paths, order: Order, policy: Policy, outer: tuple[Holder, ...] = ()
    ) -> None:
        self._began = trio.current_time()
        self._total = len(paths) if isinstance(paths, Sized) else None
        self._order = order
        self.policy = policy
        self.filesystem = filesystem = policy.filesystem or registry.operating_system
        self.recorder = Recorder(policy.observers)
        self.plan = plan = Plan(self.workers_in)
        self._paths = _Incoming(paths, plan.take_for_granted)
        self.transaction = Transaction(
            registry, None, filesystem, self.recorder, policy, plan.paths, outer
        )
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
        self._each: float | None = None
        """Seconds for one directory, as far as is known."""
        self._failure: BaseException | None = None
        self._told = self._began

    @trio.lowlevel.enable_ki_protection
    async def make(self) -> Report:
        """Make them; on any exception undo it first."""
        registry.tree.begin(self.transaction.holder)
        try:
            await trio.lowlevel.checkpoint()
            while paths := await self._paths.some():
                self.plan.add(paths, again=self._counts_as_not_made)
                await self._carry_out()
            await self._settle()
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
        """``path`` alone."""
        return _OneOfMany(
            self.as_given(path),
            path,
            self.mode(path),
            self._order.parent_mode,
            self._order.exist_ok or not self.plan.is_wanted(path),
            parents=True,
            added=self._paths.added_to(path),
            modes=self.mode,
        )

    def mode(self, path: AnyPath) -> int:
        """That of ``path``."""
        return self._order.mode if self.plan.is_wanted(path) else self._order.parent_mode

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
            await self._go_on(lane, bundle, _FIRST_SLICE if self._each is None else SLICE)
            if self._width() > 1 and not self.plan.finished:
                await self._side_by_side()
        await trio.lowlevel.checkpoint()

    async def _go_on(self, lane: Lane, bundle: Bundle, seconds: float = SLICE) -> None:
        began, before = time.monotonic(), lane.count
        await lane.carry_out(bundle, seconds)
        each = (time.monotonic() - began) / max(1, lane.count - before)
        # Not each one's alone: now and then this process was busy with something else.
        self._each = (each + 3 * (self._each or 0.0)) / 4
        self._tell_progress()

    def _width(self) -> int:
        """How many tasks are worth while."""
        each, most = self._each or 0.0, self._order.concurrency
        return most if each > _SLOW else min(most, _processors()) if each > _WORK else 1

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
        lane = Lane(self)
        self._lanes.append(lane)
        return lane

    async def _settle(self) -> None:  # noqa: ASYNC910 - its visits are
        alone = registry.tree.alone(self.transaction.holder)
        if self.mounts and (self.provisional or not alone):
            await self._new_lane().settle()

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


def _processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - not Linux


class _Incoming:
    """The paths, checked and absolute, as many at once as are there."""

    def __init__(self, paths: Paths, take_for_granted: Callable[[AnyPath], object]) -> None:
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"paths must be an iterable of paths, not the path {paths!r}")
        self._later: AsyncIterator[StrOrBytesPath] | None = None
        self._now: Iterator[StrOrBytesPath] = iter(())
        if isinstance(paths, AsyncIterable):
            self._later = aiter(paths)
        else:
            self._now = iter(paths)
        self._take_for_granted = take_for_granted
        self._here: dict[type, AnyPath] = {}
        self.given: dict[AnyPath, AnyPath] = {}
        """Those that are not as the caller wrote them, as he did."""

    def added_to(self, path: AnyPath) -> int:
        """How much of ``path`` is the working directory that the caller did not write."""
        given = self.given.get(path, path)
        if given[:1] in ("/", b"/", "", b""):
            return 0
        return len(absolute(given, self._here[type(given)])) - len(given)

    async def some(self) -> list[AnyPath]:
        """Some more; none if there are no more. A checkpoint."""
        found = [
            path
            # By far the most are whole already; to ask here costs half as much as to call.
            if type(path) is str
            and path[:1] == "/"
            and path[-1] not in "./"
            and "\0" not in path
            and path.isascii()
            else self._full(path)
            for path in itertools.islice(self._now, _AT_ONCE)
        ]
        until = trio.current_time() + _PATIENCE
        while self._later is not None and len(found) < _AT_ONCE:
            try:
                path = await anext(self._later)
            except StopAsyncIteration:
                self._later = None
                break
            found.append(self._full(path))
            if trio.current_time() >= until:
                break
        await trio.lowlevel.checkpoint()
        return found

    def _full(self, path: StrOrBytesPath) -> AnyPath:
        given, is_full = checked(path)
        full = given
        if not is_full:
            full = absolute(given, self._working_directory(given))
            added = len(full) - len(given)
            above: AnyPath | None = full
            while above is not None and len(above) > added and above not in self.given:
                self.given[above] = above[added:]
                above = parent_of(above)
        while is_dot(full):  # as os.makedirs has it: "new/." is there as soon as "new" is
            full = parent_of(full) or "/"
        plain = full.rstrip("/") if isinstance(full, str) else full.rstrip(b"/")
        if plain and plain != full:  # one directory has one name here, with or without the slash
            full, shown = plain, self.given.get(full, full)
            self.given[full] = shown
        return full

    def _working_directory(self, path: AnyPath) -> AnyPath:
        here = self._here.get(type(path))
        if here is None:
            try:
                here = self._here[type(path)] = working_directory(path)
            except OSError as error:
                raise as_mkdir_error(error) from None
            self._take_for_granted(here)  # it is never made, also not when it has vanished
        return here


@attrs.define(eq=False)
class _OneOfMany(Target):
    """One of them; what is above it may have been asked for, too."""

    modes: Callable[[AnyPath], int] = attrs.field(kw_only=True)

    def mode_of(self, path: AnyPath) -> int:
        """What to make ``path`` with."""
        return self.modes(path)
