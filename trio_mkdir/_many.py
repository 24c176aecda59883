"""One call for many paths: a plan, and as many tasks as it takes to carry it out side by side."""

from __future__ import annotations

import itertools
import os
import re
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
from ._visit import SLICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from ._entries import Holder
    from ._events import Report
    from ._paths import AnyPath, StrOrBytesPath
    from ._plan import Bundle
    from ._policy import Policy
    from ._workers import Workers

    Paths: TypeAlias = Iterable[StrOrBytesPath] | AsyncIterable[StrOrBytesPath]
    Progress: TypeAlias = Callable[[int, int | None], object]

_AT_ONCE: Final = 8192
"""How many paths are planned together at the most: a plan needs no more memory than that."""
_ODD: Final = re.compile(r"\0|[./]\Z").search
_PATIENCE: Final = 0.050
"""Seconds after which those that have come by then are made, while others are still to come; and
between two reports of progress."""
_FIRST_SLICE: Final = 0.001
"""Seconds after which the first task looks how fast the filesystem is."""
_SLOW: Final = 0.0005
"""Seconds for one directory from which on several tasks make them. Below that the threads would be
in each other's way: a change of threads alone takes some 0.1 ms."""


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
        self._paths = _Incoming(paths)
        self._order = order
        self.policy = policy
        self.filesystem = filesystem = policy.filesystem or registry.operating_system
        self.recorder = Recorder(policy.observers)
        self.plan = plan = Plan(self._workers_on)
        self.transaction = Transaction(
            registry, None, filesystem, self.recorder, policy, plan.paths, outer
        )
        self.provisional = bool(outer)
        """Whether what it made is not final when it succeeds."""
        self.mounts: dict[Workers, None] = {}
        """Where it has made something, or may have."""
        self.mine: set[AnyPath] = set()
        """What it has made and not met since."""
        self.sprints = filesystem.turn is None and not self.recorder.listening
        """Whether nobody wants to know of each system call."""
        self._lanes: list[Lane] = []
        self._working = 0
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
        given = self.as_given(path)
        wanted = self.plan.is_wanted(path)
        return Target(
            given,
            path,
            self.mode(path),
            self._order.parent_mode,
            self._order.exist_ok or not wanted,
            parents=True,
            added=len(path) - len(given),
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

    def _workers_on(self, path: AnyPath) -> Workers:
        workers = registry.workers.on(self.filesystem.mount(path))
        self.mounts[workers] = None
        return workers

    # Carrying it out

    async def _carry_out(self) -> None:
        """With one task as long as the filesystem is fast, otherwise with many."""
        lane = self._new_lane()
        seconds = _FIRST_SLICE
        while (bundle := self.plan.take()) is not None:
            began, before = time.monotonic(), lane.count
            await lane.carry_out(bundle, seconds)
            self._tell_progress()
            seconds = SLICE
            slow = time.monotonic() - began > _SLOW * (lane.count - before)
            if slow and not self.plan.finished:
                await self._side_by_side()
        await trio.lowlevel.checkpoint()

    async def _side_by_side(self) -> None:
        async with trio.open_nursery() as nursery:
            self._start_lanes(nursery)
        if self._failure is not None:
            raise self._failure
        await trio.lowlevel.checkpoint()  # whoever was cancelled in there has kept it to himself

    def _start_lanes(self, nursery: trio.Nursery) -> None:
        while self._working < self._order.concurrency:
            bundle = self.plan.take()
            if bundle is None:
                return
            self._working += 1
            nursery.start_soon(self._work_along, self._new_lane(), bundle, nursery)

    async def _work_along(  # noqa: ASYNC910
        self, lane: Lane, first: Bundle, nursery: trio.Nursery
    ) -> None:
        bundle: Bundle | None = first
        try:
            while bundle is not None:
                await lane.carry_out(bundle)
                self._tell_progress()
                bundle = self.plan.take()
                self._start_lanes(nursery)
            self._lanes.remove(lane)
        except trio.Cancelled:  # noqa: ASYNC103 - raised by who waits
            pass
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

    async def _settle(self) -> None:  # noqa: ASYNC910
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
                await rollback.undo(self.mounts)
            await rollback.wait()
        finally:
            rollback.leave(abandoned)

    # Telling

    def report(self) -> Report:
        """What happened; ``path`` is empty, as there are many."""
        self.transaction.tell_batches()
        return self.recorder.report("", self.as_given, trio.current_time() - self._began)


class _Incoming:
    """The paths, checked and absolute, as many at once as are there."""

    def __init__(self, paths: Paths) -> None:
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"paths must be an iterable of paths, not the path {paths!r}")
        self._later: AsyncIterator[StrOrBytesPath] | None = None
        self._now: Iterator[StrOrBytesPath] = iter(())
        if isinstance(paths, AsyncIterable):
            self._later = aiter(paths)
        else:
            self._now = iter(paths)
        self._here: dict[type, AnyPath] = {}
        self.given: dict[AnyPath, AnyPath] = {}
        """The relative ones, as the caller wrote them."""

    async def some(self) -> list[AnyPath]:
        """Some more; none if there are no more. A checkpoint."""
        found = [self._full(path) for path in itertools.islice(self._now, _AT_ONCE)]
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
        if type(path) is str and path[:1] == "/" and path.isascii() and not _ODD(path):
            return path  # by far the most
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
        return full

    def _working_directory(self, path: AnyPath) -> AnyPath:
        here = self._here.get(type(path))
        if here is None:
            try:
                here = self._here[type(path)] = working_directory(path)
            except OSError as error:
                raise as_mkdir_error(error) from None
        return here
