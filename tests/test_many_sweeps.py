"""Many paths beneath a root, cancelled and refused at every operation: whole, or nothing is left.

In memory, where only the text of a path tells whether it leads out, and on the real filesystem.
"""

from __future__ import annotations

import errno
import itertools
import os
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock
from worlds import (
    PASSING,
    RealWorld,
    Scenario,
    World,
    cancel_everywhere,
    disturb_everywhere,
    each_in_its_own,
    each_scenario,
    name_of,
)

import trio_mkdir
from trio_mkdir import MkdirError, makedirs_many
from trio_mkdir._beneath import Beneath
from trio_mkdir._os import Confined
from trio_mkdir._paths import AnyPath, Root
from trio_mkdir._registry import registry
from trio_mkdir.testing import FaultyFilesystem


def _nothing_there() -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


class Fenced:
    """A filesystem double from a root down, by the text of paths: there are no links in it."""

    def __init__(self, filesystem: FaultyFilesystem, root: AnyPath) -> None:
        self._filesystem = filesystem
        self.root = root
        self.closed = False
        self.turn = None if filesystem.turn is None else self._take_turn
        self.sleep = filesystem.sleep
        self.mount = filesystem.mount

    @property
    def anchor(self) -> object:
        return self.root

    def holds(self, path: AnyPath) -> bool:
        return os.fsdecode(path).startswith(f"{os.fsdecode(self.root)}/")

    def close(self) -> None:
        self.closed = True

    def _leads_out(self, path: AnyPath) -> bool:
        root = os.fsdecode(self.root)
        return os.path.commonpath([root, os.path.normpath(os.fsdecode(path))]) != root

    async def _take_turn(self, announced: tuple[str, AnyPath] | None) -> None:
        turn = self._filesystem.turn
        assert turn is not None
        # What leads out never gets as far as the filesystem.
        await turn(None if announced and self._leads_out(announced[1]) else announced)

    def _run(self, name: str, path: AnyPath, *args: Any) -> Any:
        if self._leads_out(path):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if self.closed:  # others may still know it
            return self._filesystem._operations.carry_out(name, path, _nothing_there)
        return getattr(self._filesystem, name)(path, *args)

    def mkdir(self, path: AnyPath, mode: int) -> None:
        self._run("mkdir", path, mode)

    def rmdir(self, path: AnyPath) -> None:
        self._run("rmdir", path)

    def stat(self, path: AnyPath) -> os.stat_result:
        result: os.stat_result = self._run("stat", path)
        return result

    def lstat(self, path: AnyPath) -> os.stat_result:
        result: os.stat_result = self._run("lstat", path)
        return result

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        result: os.statvfs_result = self._run("statvfs", path)
        return result


class Real(Fenced):
    """The real filesystem from a root down, by descriptors, as the script has it."""

    def __init__(self, filesystem: FaultyFilesystem, root: Root) -> None:
        super().__init__(filesystem, root.text)
        self._beneath = Beneath(root, registry.operating_system.mount)

    def close(self) -> None:
        self._beneath.close()

    @property
    def anchor(self) -> object:
        return self._beneath.anchor

    def _run(self, name: str, path: AnyPath, *args: Any) -> Any:
        do = partial(getattr(self._beneath, name), path, *args)
        return self._filesystem._operations.carry_out(name, path, do)


class Fencing(FaultyFilesystem):
    """A double whose calls can stay beneath a root."""

    real = False

    def beneath(self, root: Root) -> Confined:
        return Real(self, root) if self.real else Fenced(self, root.text)


class Rooted(World):
    """Where many paths are made beneath a root."""

    def __init__(self, *, delay: float = 0.0, **options: object) -> None:
        self.filesystem = Fencing(threads=False)
        self.root = "/srv"
        self.filesystem.memory.add_directory("/srv/there")
        self.filesystem.memory.add_file("/srv/file")
        if delay:
            self.filesystem.delay("*", "*", delay, when="after")
        self._begin(filesystem=self.filesystem, **options)

    async def makedirs_many(self, *names: str, exist_ok: bool = True) -> None:
        options: Any = {"exist_ok": exist_ok, "concurrency": 3, "policy": self.policy}
        await makedirs_many(names, beneath=self.root, **options)
        self.succeed(*(os.path.normpath(name) for name in names))


class RootedOnDisk(RealWorld, Rooted):
    """The same on the real filesystem, with worker threads."""

    def __init__(self, root: Path, seconds: float, *, observed: bool) -> None:
        self.filesystem = filesystem = Fencing.wrap()
        assert isinstance(filesystem, Fencing)
        filesystem.real = True
        self.settle_in(root, seconds)
        self._begin(filesystem=self.filesystem)
        if not observed:  # then many are made in one go
            self.policy = trio_mkdir.Policy(filesystem=self.filesystem, budget=None)


async def many(world: World) -> None:
    await world.makedirs_many("a/b/c", "a/b/i", "a/e", "there/a", "j", "./a/b/k/.")


async def many_that_wind(world: World) -> None:
    await world.makedirs_many("a/b", "there/../a/c/d", "a/c/../e", "a/f", "there/../g", "h")


async def many_that_fail(world: World) -> None:
    await world.makedirs_many("a/b", "a/c", "file/in/the/way")


async def many_that_lead_out(world: World) -> None:
    await world.makedirs_many("a/b", "a/c", "there/../../out")


async def many_beside_others(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.makedirs_many, "a/b/c", "a/b/d", "a/e")
        nursery.start_soon(world.makedirs_many, "a/b/f", "there/../a/e/g")
        nursery.start_soon(partial(world.makedirs, "a/b/h", exist_ok=True))


async def many_in_nested_nurseries(world: World) -> None:
    async with world.nursery() as outer:
        await outer.makedirs_many(["a/b", "a/c/d"], beneath=world.root)
        async with world.nursery() as inner:
            inner.start_soon(
                partial(inner.makedirs_many, ["a/b/e", "there/../f/g"], beneath=world.root)
            )
        async with world.nursery() as undone:
            await undone.makedirs_many(["a/h", "f/i/j"], beneath=world.root)
            undone.cancel_scope.cancel()
    world.succeed("a/b/e", "a/c/d", "f/g")


SCENARIOS: list[Scenario] = [
    many,
    many_that_wind,
    many_that_fail,
    many_that_lead_out,
    many_beside_others,
    many_in_nested_nurseries,
]


def expected(scenario: Scenario) -> tuple[type[Exception], ...]:
    return (MkdirError,) if scenario in {many_that_fail, many_that_lead_out} else ()


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("scenario", "delay"),
    [*((scenario, 0.0) for scenario in SCENARIOS), (many, 0.1), (many_that_wind, 0.1)],
    ids=name_of,
)
async def test_cancelled_at_any_point_it_is_whole_or_nothing(
    scenario: Scenario, delay: float, autojump_clock: MockClock
) -> None:
    summary = await cancel_everywhere(
        scenario, partial(Rooted, delay=delay, rollback_timeout=100.0), expected=expected(scenario)
    )
    assert summary.cancelled > 3


@pytest.mark.sweep
@each_scenario([many, many_that_wind, many_that_lead_out, many_beside_others])
@pytest.mark.parametrize("observed", [False, True], ids=["in one go", "observed"])
async def test_cancelled_at_any_point_with_threads_on_the_real_filesystem(
    scenario: Scenario, observed: bool, tmp_path: Path
) -> None:
    setup = each_in_its_own(tmp_path, lambda root: RootedOnDisk(root, 0.002, observed=observed))

    summary = await cancel_everywhere(scenario, setup, expected=expected(scenario))
    assert summary.cancelled > 1


@pytest.mark.sweep
@each_scenario(SCENARIOS)
@pytest.mark.parametrize(
    ("number", "lost_reply"),
    [(errno.EACCES, False), *itertools.product(PASSING, [False, True])],
)
async def test_a_fault_at_any_operation_leaves_it_whole_or_nothing(
    scenario: Scenario, number: int, lost_reply: bool, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number, Rooted, lost_reply=lost_reply)


@pytest.mark.sweep
@each_scenario([many, many_that_wind, many_in_nested_nurseries])
@pytest.mark.parametrize("number", [errno.EBUSY, errno.EIO], ids=errno.errorcode.get)
async def test_a_fault_at_any_operation_with_threads_on_the_real_filesystem(
    scenario: Scenario, number: int, tmp_path: Path
) -> None:
    setup = each_in_its_own(tmp_path, lambda root: RootedOnDisk(root, 0.0, observed=True))

    await disturb_everywhere(scenario, number, setup)
