"""What ``durable`` promises: a power cut takes nothing of what stands, and brings nothing back.

On real filesystems the power is cut by a copy of their image, see `filesystems.power`. There one
fsync(2) writes more than it has to, so what each of them is for is shown on a filesystem that keeps
to the letter of it (`Volatile`).
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from filesystems.fuse import FuseMount, fuse
from filesystems.needs import needs_reachable
from filesystems.power import KINDS, Disk, Kind, disk
from filesystems.processes import AnotherUser
from test_sweeps import World, run_and_leave_nothing
from trio.testing import MockClock
from volatile import Forgetful, Volatile

from trio_mkdir import (
    Event,
    MkdirError,
    Policy,
    RollbackError,
    RootCause,
    StepTimeout,
    Unsynced,
    makedirs,
    mkdir,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir.testing import (
    FaultyFilesystem,
    Outcome,
    assert_nothing_leaked,
    sweep_cancellations,
    sweep_faults,
)

__all__ = ["fuse"]


class Failure(Exception):
    """What ends a block."""


# On real disks


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def cut(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Disk]:
    """A disk whose power can be cut."""
    kind: Kind = request.param
    with disk(scratch, kind) as it:
        yield it


async def whole(path: Path) -> None:
    await makedirs(path / "a/b/c/d", durable=True)


async def whole_with_modes(path: Path) -> None:
    await makedirs(path / "a/b/c/d", 0o700, parent_mode=0o750, durable=True)


async def level_by_level(path: Path) -> None:
    for name in ("a", "a/b", "a/b/c", "a/b/c/d"):
        await mkdir(path / name, durable=True)


async def in_bytes(path: Path) -> None:
    await makedirs(os.fsencode(path / "a/b/c/d"), durable=True)


async def beneath(path: Path) -> None:
    await makedirs("a/b/c/d", beneath=path, durable=True)


async def through_a_link(path: Path) -> None:
    path.with_name(f"{path.name}-link").symlink_to(path.name)
    await makedirs(path.with_name(f"{path.name}-link") / "a/b/c/d", durable=True)


async def in_a_block(path: Path) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(path / "a/b", durable=True)
        await nursery.makedirs(path / "a/b/c/d", durable=True)


async def in_what_a_block_has_not_committed(path: Path) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(path / "a/b")
        await makedirs(path / "a/b/c/d", durable=True)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "way",
    [
        whole,
        whole_with_modes,
        level_by_level,
        in_bytes,
        beneath,
        through_a_link,
        in_a_block,
        in_what_a_block_has_not_committed,
    ],
    ids=lambda way: way.__name__,
)
async def test_what_is_durable_survives_a_power_cut(
    cut: Disk, way: Callable[[Path], Awaitable[None]]
) -> None:
    path = cut.new_directory()
    await way(path)
    assert cut.after_power_cut(path) == ["a", "a/b", "a/b/c", "a/b/c/d"]


async def test_it_is_durable_in_a_block_that_has_not_ended(cut: Disk) -> None:
    path = cut.new_directory()
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(path / "a/b", durable=True)
        assert cut.after_power_cut(path) == ["a", "a/b"]


async def at_some_time(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Somebody else on this machine may have everything written at any moment, by sync(2)."""
    for _ in range(10):
        if await attempt():
            return
    pytest.fail("a power cut never did any harm")


async def test_what_is_not_durable_does_not_survive_it(cut: Disk) -> None:
    async def attempt() -> bool:
        path = cut.new_directory()
        await makedirs(path / "a/b")
        return cut.after_power_cut(path) == []

    await at_some_time(attempt)


async def test_a_directory_that_is_not_written_itself_does_not_survive_it(scratch: Path) -> None:
    async def attempt() -> bool:
        path = cut.new_directory()
        policy = Policy(filesystem=Forgetful(path / "a/b/c"))
        await makedirs(path / "a/b/c", durable=True, policy=policy)
        return cut.after_power_cut(path) == ["a", "a/b"]

    for kind in KINDS:
        if not kind.journals:
            with disk(scratch, kind) as cut:
                await at_some_time(attempt)


async def test_what_a_failed_call_has_undone_does_not_come_back(cut: Disk) -> None:
    path = cut.new_directory()
    filesystem = FaultyFilesystem.wrap()
    filesystem.fail("fsync", path / "a/b/c", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        await makedirs(path / "a/b/c", durable=True, policy=Policy(filesystem=filesystem))
    assert cut.after_power_cut(path) == []


async def test_what_a_failed_block_has_undone_does_not_come_back(cut: Disk) -> None:
    path = cut.new_directory()
    (path / "there").mkdir()
    with pytest.RaisesGroup(Failure):
        async with open_rollback_nursery() as nursery:
            await nursery.makedirs(path / "a/b", durable=True)
            await nursery.makedirs(path / "a/c/d", durable=True)
            await nursery.mkdir(path / "there/e", durable=True)
            assert len(cut.after_power_cut(path)) == 6
            raise Failure
    assert cut.after_power_cut(path) == ["there"]


async def test_it_would_come_back_if_that_was_not_written(cut: Disk) -> None:
    async def attempt() -> bool:
        path = cut.new_directory()
        filesystem = Forgetful()
        async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
            await nursery.makedirs(path / "a/b", durable=True)
            filesystem.forgets = path
            nursery.cancel_scope.cancel()
        assert os.listdir(path) == []
        return cut.after_power_cut(path) == ["a", "a/b"]

    await at_some_time(attempt)
