"""What the sweeps of calls are carried out in, and how: whatever is swept has to leave it whole.

Once everything has settled, the tree is exactly what stood before plus the whole path of every call
that succeeded, and nothing is leaked.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

import trio_mkdir
from trio_mkdir import Kept, Policy, RollbackNursery, makedirs, makedirs_many, mkdir
from trio_mkdir.testing import (
    FaultyFilesystem,
    Outcome,
    SweepSummary,
    assert_nothing_leaked,
    sweep_cancellations,
    sweep_faults,
)
from trio_mkdir.testing._script import When

T = TypeVar("T")

PASSING = [errno.EBUSY, errno.EIO, errno.ESTALE, errno.ETIMEDOUT]
"""What is answered where a reply was lost, and perhaps where none was."""
WHENS: list[When] = ["before", "inside", "after"]


class World:
    """A tree, what was asked for in it, and what became of that."""

    def __init__(self, *, threads: bool = False, **options: object) -> None:
        self.filesystem = FaultyFilesystem(threads=threads)
        self.root = "/srv"
        self.filesystem.memory.add_directory("/srv/there")
        self.filesystem.memory.add_file("/srv/file")
        self._begin(filesystem=self.filesystem, **options)

    def _begin(self, **options: object) -> None:
        # Without a budget, which many runs would use up together.
        self.policy = Policy(observers=[self._observe], budget=None, **options)  # type: ignore[arg-type]
        self.before = self.tree()
        self.succeeded: set[str] = set()
        self.refused: set[str] = set()
        """What could not be undone because the filesystem said no, and so is told of."""

    def _observe(self, event: trio_mkdir.Event) -> None:
        if isinstance(event, Kept) and (event.errno is not None or "may be ours" in event.why):
            self.refused.add(os.fsdecode(event.path))

    def tree(self) -> set[str]:
        return set(self.filesystem.memory.paths())

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    async def makedirs(self, name: str, *, exist_ok: bool = False) -> None:
        await makedirs(self.path(name), exist_ok=exist_ok, policy=self.policy)
        self.succeeded.add(self.path(name))

    async def makedirs_many(self, *names: str, exist_ok: bool = False) -> None:
        paths = [self.path(name) for name in names]
        await makedirs_many(paths, exist_ok=exist_ok, concurrency=3, policy=self.policy)
        self.succeed(*names)

    async def mkdir(self, name: str) -> None:
        await mkdir(self.path(name), policy=self.policy)
        self.succeeded.add(self.path(name))

    def nursery(self) -> AbstractAsyncContextManager[RollbackNursery]:
        return trio_mkdir.open_rollback_nursery(policy=self.policy)

    def succeed(self, *names: str) -> None:
        self.succeeded |= {self.path(name) for name in names}

    def check(self) -> None:
        """What stood before plus the whole path of every success, and what was refused."""
        tree = self.tree()
        promised = self.before | self._with_those_above(self.succeeded)
        assert promised <= tree, f"gone: {promised - tree}"
        excused = self._with_those_above(self.refused)
        assert tree <= promised | excused, f"left: {tree - promised - excused}"

    def _with_those_above(self, paths: set[str]) -> set[str]:
        found = set()
        for path in paths:
            above = path
            while above != self.root:
                found.add(above)
                above = os.path.dirname(above)
        return found


class RealWorld(World):
    """The same on the real filesystem, with worker threads."""

    def __init__(self, root: Path, seconds: float) -> None:
        self.filesystem = FaultyFilesystem.wrap()
        self.settle_in(root, seconds)
        if seconds:
            self._begin(filesystem=self.filesystem)
        else:
            self._begin()

    def settle_in(self, root: Path, seconds: float) -> None:
        """What stands before, on a disk that takes so many ``seconds`` for everything."""
        self.root = str(root)
        (root / "there").mkdir()
        (root / "file").touch()
        if seconds:
            self.filesystem.delay("*", "*", seconds, when="after")

    def tree(self) -> set[str]:
        return {str(path) for path in Path(self.root).rglob("*")}


class Unobserved(World):
    """Nobody wants to know of each system call, so that many directories are made in one go.

    What could not be undone is known from the log.
    """

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(threads=True)
        if root is not None:
            self.filesystem = FaultyFilesystem.wrap()
            self.root = str(root)
            (root / "there").mkdir()
            (root / "file").touch()
        self.policy = Policy(filesystem=self.filesystem, budget=None)
        self.before = self.tree()

    def tree(self) -> set[str]:
        if self.root == "/srv":
            return super().tree()
        return {str(path) for path in Path(self.root).rglob("*")}

    def hear(self, caplog: pytest.LogCaptureFixture) -> None:
        for record in caplog.records:
            told = vars(record)
            why = str(told.get("trio_mkdir_why", ""))
            if told.get("trio_mkdir_errno") is not None or "may be ours" in why:
                self.refused.add(os.fsdecode(told["trio_mkdir_path"]))
        caplog.clear()


Scenario = Callable[[World], Awaitable[object]]


def name_of(value: object) -> object:
    return getattr(value, "__name__", value)


def each_scenario(scenarios: Iterable[object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scenario", scenarios, ids=name_of)


async def run_and_leave_nothing(scenario: Scenario, world: World) -> None:
    async with assert_nothing_leaked(patience=100):
        await scenario(world)


def check(outcome: Outcome[World]) -> None:
    outcome.state.check()


def check_whole(outcome: Outcome[World]) -> None:
    assert not outcome.state.refused
    outcome.state.check()


def filesystem_of(world: World) -> FaultyFilesystem:
    return world.filesystem


def each_in_its_own(directory: Path, make: Callable[[Path], T]) -> Callable[[], T]:
    """A setup that makes a world in a new directory each time."""
    numbers = itertools.count()

    def setup() -> T:
        root = directory / str(next(numbers))
        root.mkdir()
        return make(root)

    return setup


async def cancel_everywhere(
    scenario: Any,
    setup: Callable[[], Any] = World,
    *,
    check: Callable[[Outcome[Any]], object] = check_whole,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    seed: int = 0,
) -> SweepSummary:
    """Sweep the cancellations of ``scenario``, which leaves nothing, wherever it ends."""
    return await sweep_cancellations(
        partial(run_and_leave_nothing, scenario),
        setup=setup,
        check=check,
        expected=expected,
        seed=seed,
    )


async def disturb_everywhere(
    scenario: Any,
    number: int,
    setup: Callable[[], Any] = World,
    *,
    lost_reply: bool = False,
    operations: set[str] | None = None,
    check: Callable[[Outcome[Any]], object] = check,
    faults: int = 1,
) -> SweepSummary:
    """Sweep the faults of ``scenario``: each of its operations is answered ``number`` once."""
    return await sweep_faults(
        partial(run_and_leave_nothing, scenario),
        filesystem_of,
        errno=number,
        lost_reply=lost_reply,
        operations=operations,
        setup=setup,
        check=check,
        faults=faults,
    )
