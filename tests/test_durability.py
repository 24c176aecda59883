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
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from filesystems import faults
from filesystems.fuse import FuseMount, fuse
from filesystems.needs import needs_reachable
from filesystems.power import KINDS, Disk, Kind, disk
from filesystems.processes import AnotherUser
from trio.testing import MockClock
from volatile import Forgetful, Volatile
from worlds import World, cancel_everywhere, check, disturb_everywhere

from trio_mkdir import (
    Event,
    MkdirError,
    Mount,
    Policy,
    RollbackError,
    RootCause,
    StepTimeout,
    Unsynced,
    _first_visit,
    _visit,
    makedirs,
    mkdir,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._durability import sync_above, sync_made
from trio_mkdir._items import Item
from trio_mkdir._paths import AnyPath
from trio_mkdir._sync_log import write
from trio_mkdir.testing import (
    FaultyFilesystem,
    MemoryFilesystem,
    Outcome,
    assert_nothing_leaked,
)
from trio_mkdir.testing._script import When

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
    async def attempt(cut: Disk) -> bool:
        path = cut.new_directory()
        policy = Policy(filesystem=Forgetful(path / "a/b/c"))
        await makedirs(path / "a/b/c", durable=True, policy=policy)
        return cut.after_power_cut(path) == ["a", "a/b"]

    for kind in KINDS:
        if not kind.journals:
            with disk(scratch, kind) as cut_off:
                await at_some_time(partial(attempt, cut_off))


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


# To the letter of fsync(2)


@pytest.fixture
def volatile() -> Volatile:
    """A filesystem with ``/srv/there`` on its disk."""
    filesystem = Volatile()
    filesystem.add_directory("/srv/there")
    filesystem.write_all()
    return filesystem


def new(volatile: Volatile) -> list[str]:
    """What is new when the power is back."""
    return sorted(volatile.after_power_cut() - {"/srv", "/srv/there"})


def written(filesystem: FaultyFilesystem) -> list[str]:
    """Which directories were written, in order."""
    return [os.fsdecode(each.path) for each in filesystem.operations if each.operation == "fsync"]


def within(filesystem: object, **options: object) -> Policy:
    return Policy(filesystem=filesystem, budget=None, **options)  # type: ignore[arg-type]


async def test_every_new_directory_is_written_and_the_one_above(volatile: Volatile) -> None:
    await makedirs("/srv/there/a/b/c", durable=True, policy=within(volatile))
    assert new(volatile) == ["/srv/there/a", "/srv/there/a/b", "/srv/there/a/b/c"]


@pytest.mark.parametrize(
    ("forgotten", "left"),
    [
        ("/srv/there", []),
        ("/srv/there/a", []),
        ("/srv/there/a/b", ["/srv/there/a"]),
        ("/srv/there/a/b/c", ["/srv/there/a", "/srv/there/a/b"]),
    ],
)
async def test_if_one_of_them_is_not_written_something_is_lost(
    volatile: Volatile, forgotten: str, left: list[str]
) -> None:
    policy = within(Forgetful(forgotten, volatile))
    await makedirs("/srv/there/a/b/c", durable=True, policy=policy)
    assert new(volatile) == left


async def test_what_another_call_has_made_and_not_said_yet_is_written_too(
    volatile: Volatile,
) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    policy = within(filesystem)
    hold = filesystem.hold("mkdir", "/srv/a/x/y")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, "/srv/a/x/y", policy=policy))
        await hold.wait_arrived()
        await makedirs("/srv/a/b", durable=True, policy=policy)
        assert new(volatile) == ["/srv/a", "/srv/a/b"]
        hold.release()
    assert new(volatile) == ["/srv/a", "/srv/a/b"]


async def test_a_directory_that_nobody_has_called_his_need_not_be_readable(
    volatile: Volatile,
) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    policy = within(filesystem)
    hold = filesystem.hold("mkdir", "/srv/other/x")
    filesystem.fail("fsync", "/srv", errno.EACCES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, "/srv/other/x", policy=policy))
        await hold.wait_arrived()
        await makedirs("/srv/there/b", durable=True, policy=policy)
        hold.release()
    assert new(volatile) == ["/srv/there/b"]


async def test_if_it_fails_otherwise_so_does_the_call(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    policy = within(filesystem)
    hold = filesystem.hold("mkdir", "/srv/other/x")
    filesystem.fail("fsync", "/srv", errno.EIO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, "/srv/other/x", policy=policy))
        await hold.wait_arrived()
        with pytest.raises(MkdirError, match="'/srv'") as caught:
            await makedirs("/srv/there/b", durable=True, policy=policy)
        hold.release()
    assert caught.value.operation == "fsync"
    assert new(volatile) == []


async def test_what_a_block_has_not_committed_has_to_be_readable(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    policy = within(filesystem)
    async with open_rollback_nursery(policy=policy) as nursery:
        await nursery.makedirs("/srv/a/b")
        filesystem.fail("fsync", "/srv/a", errno.EACCES)
        with pytest.raises(PermissionError, match="'/srv/a'"):
            await makedirs("/srv/a/b/c", durable=True, policy=policy)
    assert "/srv/a/b/c" not in volatile.paths()


@pytest.mark.parametrize("lost", ["/srv/a", "/srv/a/b", "/srv/a/b/c"])
async def test_what_may_be_its_own_after_a_lost_reply_is_written_too(
    volatile: Volatile, lost: str
) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    # On its way up the walk is answered ENOENT, and on its way down it makes them.
    for path in ("/srv/a/b/c", "/srv/a/b"):
        if path == lost:
            filesystem.fail("mkdir", path, errno.ENOENT)
    filesystem.lose_reply("mkdir", lost, errno.EIO)
    policy = within(filesystem)
    await makedirs("/srv/a/b/c", exist_ok=True, durable=True, policy=policy)
    assert new(volatile) == ["/srv/a", "/srv/a/b", "/srv/a/b/c"]


# Once each


@pytest.fixture
def _at_leisure(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, no call is interrupted, to say what it has made."""
    monkeypatch.setattr(_visit, "SLICE", math.inf)
    monkeypatch.setattr(_first_visit, "SLICE", math.inf)


@pytest.mark.usefixtures("_at_leisure")
async def test_each_is_written_once_after_all_is_made() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/srv")
    await makedirs("/srv/a/b/c", durable=True, policy=within(filesystem))
    names = [each.operation for each in filesystem.operations]
    assert names == ["mkdir"] * 3 + ["lstat", "mkdir"] * 2 + ["open", "fsync"] * 4
    assert written(filesystem) == ["/srv", "/srv/a", "/srv/a/b", "/srv/a/b/c"]


async def test_calls_of_one_block_write_what_they_made_and_rely_on() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/mnt/srv")
    async with open_rollback_nursery(policy=within(filesystem)) as nursery:
        await nursery.makedirs("/mnt/srv/a")
        assert written(filesystem) == []
        await nursery.makedirs("/mnt/srv/a/b/c", durable=True)
        assert written(filesystem) == [
            *("/mnt/srv/a", "/mnt/srv/a/b", "/mnt/srv/a/b/c"),
            "/mnt/srv",
        ]
        await nursery.mkdir("/mnt/srv/d", durable=True)
        assert written(filesystem)[4:] == ["/mnt/srv", "/mnt/srv/d"]


async def test_nothing_is_written_for_what_stood_before() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/srv/a")
    await makedirs("/srv/a", exist_ok=True, durable=True, policy=within(filesystem))
    assert written(filesystem) == []


async def test_what_is_above_a_root_is_left_to_who_made_it(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem.wrap()
    root = tmp_path / "root"
    root.mkdir()
    hold = filesystem.hold("mkdir", str(tmp_path / "other/x"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, tmp_path / "other/x", policy=within(filesystem)))
        await hold.wait_arrived()
        await makedirs("a", beneath=root, durable=True)
        hold.release()
    assert os.listdir(root) == ["a"]


async def test_a_link_above_is_followed() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/srv")
    filesystem.memory.add_symlink("/link", "srv")
    for path in ("/link/a", b"/link/b"):
        await mkdir(path, durable=True, policy=within(filesystem))
    assert written(filesystem) == ["/link/.", "/link/a", "/link/.", "/link/b"]


def test_an_atomic_call_can_write_what_it_made_and_what_is_above_apart() -> None:
    filesystem = FaultyFilesystem()
    for path in ("/srv/a/b", "/srv/c"):
        filesystem.memory.add_directory(path)
    transaction: Any = SimpleNamespace(filesystem=filesystem, confined=None)
    made = [Item(path, None, made=True) for path in ("/srv/a", "/srv/a/b", "/srv/c")]
    steps = list(sync_made(made, transaction))
    assert [path for name, path in steps if name == "fsync"] == ["/srv/a", "/srv/a/b", "/srv/c"]
    assert written(filesystem) == ["/srv/a", "/srv/a/b", "/srv/c"]
    list(sync_above([*made, Item("/", None, made=True)], transaction))
    assert written(filesystem)[3:] == ["/srv"]


@pytest.mark.usefixtures("_at_leisure")
async def test_without_it_no_system_call_more_is_made() -> None:
    records = []
    choices: list[dict[str, Any]] = [{}, {"durable": False, "on_mount": None}, {"on_mount": "/"}]
    for options in choices:
        filesystem = FaultyFilesystem()
        filesystem.memory.add_directory("/srv")
        policy = within(filesystem)
        await makedirs("/srv/a/b", policy=policy, **options)
        async with open_rollback_nursery(policy=policy) as nursery:
            await nursery.makedirs("/srv/a/c", **options)
            nursery.cancel_scope.cancel()
        records.append([(each.operation, each.path) for each in filesystem.operations])
    assert records[0] == records[1] == records[2]
    assert records[0] == [
        *(("mkdir", "/srv/a/b"), ("mkdir", "/srv/a")),
        *(("lstat", "/srv/a"), ("mkdir", "/srv/a/b"), ("mkdir", "/srv/a/c")),
        *(("lstat", "/srv/a/c"), ("lstat", "/srv/a/c"), ("rmdir", "/srv/a/c")),
    ]


# Undoing


async def test_what_is_undone_does_not_come_back(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    with pytest.RaisesGroup(Failure):
        async with open_rollback_nursery(policy=within(filesystem)) as nursery:
            for path in ("/srv/a/b", "/srv/a/c/d", "/srv/there/e", "/srv/f"):
                await nursery.makedirs(path, durable=True)
            before = len(written(filesystem))
            assert len(new(volatile)) == 6
            raise Failure
    assert new(volatile) == []
    # Each directory once that is still there, after all is removed from it.
    assert sorted(written(filesystem)[before:]) == ["/srv", "/srv/there"]
    names = [each.operation for each in filesystem.operations]
    assert names[-4:] == ["open", "fsync"] * 2


async def test_if_the_one_above_is_not_written_then_it_comes_back(volatile: Volatile) -> None:
    filesystem = Forgetful(below=volatile)
    async with open_rollback_nursery(policy=within(filesystem)) as nursery:
        await nursery.makedirs("/srv/a/b", durable=True)
        filesystem.forgets = "/srv"
        nursery.cancel_scope.cancel()
    assert volatile.paths() == ["/srv", "/srv/there"]
    assert new(volatile) == ["/srv/a", "/srv/a/b"]


async def test_what_a_block_keeps_for_others_is_written_without_the_rest(
    volatile: Volatile,
) -> None:
    policy = within(volatile)
    async with open_rollback_nursery(policy=policy) as nursery:
        await nursery.makedirs("/srv/a/b/c", durable=True)
        await nursery.makedirs("/srv/a/d/e", durable=True)
        await makedirs("/srv/a/d/f", policy=policy)
        nursery.cancel_scope.cancel()
    assert new(volatile) == ["/srv/a", "/srv/a/d"]


async def test_what_is_not_durable_is_undone_without_a_word_to_the_disk() -> None:
    filesystem = FaultyFilesystem()
    async with open_rollback_nursery(policy=within(filesystem)) as nursery:
        await nursery.makedirs("/a/b")
        nursery.cancel_scope.cancel()
    assert written(filesystem) == []


async def test_a_block_in_a_block_hands_on_what_is_durable(volatile: Volatile) -> None:
    policy = within(volatile)
    async with open_rollback_nursery(policy=policy) as outer:
        async with open_rollback_nursery(policy=policy) as inner:
            await inner.makedirs("/srv/a/b", durable=True)
        outer.cancel_scope.cancel()
    assert new(volatile) == []


async def test_what_another_made_is_undone_durably_by_whoever_does_it(volatile: Volatile) -> None:
    # Somebody who asked for it had it written, so it is on the disk, and his call has failed.
    policy = within(volatile)
    async with open_rollback_nursery(policy=policy) as maker:
        await maker.makedirs("/srv/a")
        async with open_rollback_nursery(policy=policy) as finder:
            await finder.makedirs("/srv/a/b", durable=True)
            assert new(volatile) == ["/srv/a", "/srv/a/b"]
            finder.cancel_scope.cancel()
        assert new(volatile) == ["/srv/a"]
        maker.cancel_scope.cancel()
    assert new(volatile) == []


async def test_what_a_durable_call_made_is_undone_durably_by_whoever_does_it(
    volatile: Volatile,
) -> None:
    policy = within(volatile)
    end = trio.Event()

    async def make(*, task_status: trio.TaskStatus[None]) -> None:
        async with open_rollback_nursery(policy=policy) as maker:
            await maker.makedirs("/srv/a", durable=True)
            task_status.started()
            await end.wait()
            maker.cancel_scope.cancel()

    async with trio.open_nursery() as nursery, open_rollback_nursery(policy=policy) as finder:
        await nursery.start(make)
        await finder.makedirs("/srv/a/b")
        end.set()
        while nursery.child_tasks:
            await trio.testing.wait_all_tasks_blocked()
        assert new(volatile) == ["/srv/a"]
        finder.cancel_scope.cancel()
    assert volatile.paths() == ["/srv", "/srv/there"]
    assert new(volatile) == []


async def test_what_others_have_removed_is_written_too(volatile: Volatile) -> None:
    async with open_rollback_nursery(policy=within(volatile)) as nursery:
        await nursery.makedirs("/srv/a/b", durable=True)
        volatile.remove("/srv/a")
        nursery.cancel_scope.cancel()
    assert new(volatile) == []


async def test_what_others_have_removed_before_it_was_looked_at_is_written_too(
    volatile: Volatile,
) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    filesystem.lose_reply("fsync", "/srv/a", errno.EIO)
    filesystem.interfere("fsync", "/srv/a", partial(volatile.remove, "/srv/a"), when="after")
    with pytest.raises(MkdirError, match="Input/output error"):
        await mkdir("/srv/a", durable=True, policy=within(filesystem))
    assert new(volatile) == []


async def test_nothing_is_written_where_all_is_gone(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    async with open_rollback_nursery(policy=within(filesystem)) as nursery:
        await nursery.makedirs("/srv/there/a", durable=True)
        volatile.remove("/srv/there")
        nursery.cancel_scope.cancel()
    assert nursery.report.unsynced == ()


async def test_what_is_relied_on_no_more_is_undone_durably(volatile: Volatile) -> None:
    # Its maker has left it to a call whose way leads elsewhere when that looks again.
    filesystem = FaultyFilesystem.wrap(volatile)
    policy = within(filesystem)
    volatile.add_directory("/srv/one")
    volatile.add_directory("/srv/two/a")
    volatile.add_symlink("/srv/link", "one")
    volatile.write_all()
    before = volatile.after_power_cut()
    hold = filesystem.hold("fsync", "/srv/link/a", when="after")
    filesystem.lose_reply("fsync", "/srv/link/a", errno.EBUSY)
    async with trio.open_nursery() as nursery:
        async with open_rollback_nursery(policy=policy) as maker:
            await maker.makedirs("/srv/one/a")
            finder = partial(makedirs, exist_ok=True, durable=True, policy=policy)
            nursery.start_soon(finder, "/srv/link/a")
            await hold.wait_arrived()
            assert volatile.after_power_cut() - before == {"/srv/one/a"}
            maker.cancel_scope.cancel()
        assert "/srv/one/a" in volatile.paths()
        volatile.remove("/srv/link")
        volatile.add_symlink("/srv/link", "two")
        hold.release()
    assert "/srv/one/a" not in volatile.paths()
    assert volatile.after_power_cut() == before


async def test_that_it_could_not_be_written_is_told(
    volatile: Volatile, caplog: pytest.LogCaptureFixture
) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    told: list[Event] = []
    filesystem.fail("fsync", "/srv", errno.EIO, times=2)  # for the call, and for its undoing
    with pytest.raises(MkdirError, match="'/srv'") as caught:
        await makedirs("/srv/a/b", durable=True, policy=within(filesystem, observers=[told.append]))
    assert volatile.paths() == ["/srv", "/srv/there"]
    (event,) = caught.value.report.unsynced
    assert (event.path, event.why, event.errno) == (
        "/srv",
        "fsync: Input/output error",
        errno.EIO,
    )
    assert event in told
    assert (
        "a power cut may bring back what was in '/srv': fsync: Input/output error"
        in caught.value.__notes__
    )
    assert [record.message for record in caplog.records] == [
        f"Unsynced '/srv' (why='fsync: Input/output error', errno={errno.EIO})"
    ]


async def test_that_it_could_not_be_written_stops_no_other_undoing(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    async with open_rollback_nursery(policy=within(filesystem)) as nursery:
        await nursery.makedirs("/srv/there/a", durable=True)
        await nursery.makedirs("/srv/b", durable=True)
        filesystem.fail("fsync", "/srv/there", errno.EIO)
        nursery.cancel_scope.cancel()
    assert volatile.paths() == ["/srv", "/srv/there"]
    assert new(volatile) == ["/srv/there/a"]
    assert [event.path for event in nursery.report.unsynced] == ["/srv/there"]


async def test_it_is_tried_again_as_everything_that_is_undone(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    async with open_rollback_nursery(policy=within(filesystem)) as nursery:
        await nursery.makedirs("/srv/a", durable=True)
        filesystem.fail("fsync", "/srv", errno.EBUSY, times=2)
        nursery.cancel_scope.cancel()
    assert new(volatile) == []
    assert nursery.report.unsynced == ()


# Failures


async def test_a_failure_to_write_is_one_of_the_call(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    filesystem.fail("fsync", "/srv/a/b", errno.EIO)
    with pytest.raises(MkdirError, match="Input/output error: '/srv/a/b'") as caught:
        await makedirs("/srv/a/b/c", durable=True, policy=within(filesystem))
    assert caught.value.root_cause is RootCause.DISCONNECTED
    note = "it could not be written to the disk, by fsync(2), as durable= asks for"
    assert note in caught.value.__notes__
    assert caught.value.report.removed == ("/srv/a/b/c", "/srv/a/b", "/srv/a")
    assert caught.value.report.unsynced == ()
    assert volatile.paths() == ["/srv", "/srv/there"]
    assert new(volatile) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EBUSY])
@pytest.mark.parametrize("operation", ["open", "fsync"])
async def test_it_is_tried_again_as_the_policy_says(
    volatile: Volatile, operation: str, number: int
) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    filesystem.fail(operation, "/srv/a", number, times=2)
    report = await makedirs("/srv/a/b", durable=True, policy=within(filesystem))
    assert [(each.errno, each.path) for each in report.retries] == [(number, "/srv/a")] * 2
    assert new(volatile) == ["/srv/a", "/srv/a/b"]


async def test_a_filesystem_that_cannot_write_a_directory_is_told_of(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    filesystem.fail("fsync", "/srv", errno.EINVAL)
    with pytest.raises(MkdirError) as caught:
        await mkdir("/srv/a", durable=True, policy=within(filesystem))
    assert (caught.value.errno, caught.value.root_cause) == (errno.EINVAL, RootCause.OTHER)
    assert any("its filesystem has no such thing" in note for note in caught.value.__notes__)
    assert volatile.paths() == ["/srv", "/srv/there"]


@pytest.mark.parametrize("gone", ["/srv/a", "/srv/a/b"])
async def test_what_vanishes_before_it_is_written_is_made_again(
    volatile: Volatile, gone: str
) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    filesystem.interfere("open", gone, partial(volatile.remove, gone))
    report = await makedirs("/srv/a/b", durable=True, policy=within(filesystem))
    assert [each.cause for each in report.retries] == [RootCause.VANISHED]
    assert new(volatile) == ["/srv/a", "/srv/a/b"]


async def test_a_control_group_cannot_be_written(
    no_descendants: faults.ControlGroup,
) -> None:
    no_descendants.allow("max")
    with pytest.raises(MkdirError) as caught:
        await mkdir(no_descendants.path / "a", durable=True)
    assert caught.value.errno == errno.EINVAL
    assert not (no_descendants.path / "a").exists()


async def test_a_file_that_takes_its_place_is_in_the_way(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)

    def replace() -> None:
        volatile.remove("/srv/a")
        volatile.add_file("/srv/a")

    filesystem.interfere("open", "/srv/a", replace)
    with pytest.raises(NotADirectoryError) as caught:
        await mkdir("/srv/a", durable=True, policy=within(filesystem))
    assert caught.value.filename == "/srv/a"


async def test_if_it_cannot_be_told_who_may_read_that_is_told(volatile: Volatile) -> None:
    filesystem = FaultyFilesystem.wrap(volatile)
    filesystem.fail("fsync", "/srv/a", errno.EACCES)
    filesystem.fail("stat", "/srv/a", errno.EIO)
    with pytest.raises(PermissionError) as caught:
        await mkdir("/srv/a", durable=True, policy=within(filesystem))
    told = "\n".join(caught.value.__notes__)
    assert "its permissions cannot be told: Input/output error" in told


ATTEMPT = """
async def main():
    path, mode, parent_mode = sys.argv[1:]
    try:
        await trio_mkdir.makedirs(path, int(mode, 8), parent_mode=int(parent_mode, 8), durable=True)
    except trio_mkdir.MkdirError as error:
        unsynced = [event.path for event in error.report.unsynced]
        print(json.dumps([error.errno, error.filename, error.__notes__, unsynced]))
    else:
        print("null")

os.umask(0)
trio.run(main)
"""


@pytest.mark.parametrize(
    ("above", "parent_mode", "mode", "where"),
    [
        ("777", "777", "000", "above/a/b"),
        ("777", "777", "333", "above/a/b"),
        ("777", "333", "777", "above/a"),
        ("333", "777", "777", "above"),
    ],
)
def test_what_may_not_be_read_cannot_be_written_to_the_disk(
    scratch: Path, as_user: AnotherUser, above: str, parent_mode: str, mode: str, where: str
) -> None:
    needs_reachable(scratch)
    place = scratch / "above"
    place.mkdir()
    try:
        place.chmod(int(above, 8))
        said = json.loads(as_user.run(ATTEMPT, str(place / "a/b"), mode, parent_mode))
        assert os.listdir(place) == []
    finally:
        place.rmdir()
    number, path, notes, unsynced = said
    assert (number, path) == (errno.EACCES, str(scratch / where))
    (note,) = [note for note in notes if "fsync" in note and not note.startswith("a power cut")]
    assert "that needs permission to read" in note
    modes = {"above": above, "above/a": parent_mode, "above/a/b": mode}
    assert f"{str(scratch / where)!r} has mode 0{modes[where]}" in note
    assert f"this process has uid {as_user.uid}" in note
    # It is not known to be on the disk; but whether it is, nobody can tell.
    assert unsynced == ([str(place)] if where == "above" else [])


async def test_a_filesystem_that_opens_no_directories_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="cannot open directories"):
        await mkdir("/srv", durable=True, policy=within(Closed()))
    with pytest.raises(OSError, match="not supported"):
        next(write("/srv", Closed()))  # type: ignore[arg-type]


class Closed:
    """A filesystem that cannot open directories."""

    turn = None

    def mount(self, path: AnyPath) -> Mount:
        return MemoryFilesystem().mount(path)


# Hangs


def without_threads(volatile: Volatile) -> FaultyFilesystem:
    return FaultyFilesystem.wrap(volatile, threads=False)


def owed() -> list[tuple[str, object]]:
    return [(debt.operation, debt.path) for debt in pending_rollbacks()]


@pytest.mark.parametrize("when", ["inside", "after"])
async def test_it_is_waited_for_no_longer_than_any_system_call(
    volatile: Volatile, when: When, autojump_clock: MockClock
) -> None:
    filesystem = without_threads(volatile)
    hold = filesystem.hold("fsync", "/srv/a/b", when=when)
    async with assert_nothing_leaked():
        with pytest.raises(StepTimeout) as caught:
            await makedirs("/srv/a/b", durable=True, policy=within(filesystem, retries={}))
        assert caught.value.filename == "/srv/a/b"
        notes = [note for note in caught.value.__notes__ if "when it does" in note]
        assert [note.rpartition("; it is ")[2] for note in notes] == [
            "written to the disk when it does",
            *["undone when it does"] * 2,
        ]
        assert trio.current_time() == pytest.approx(5 + 1)
        assert owed() == [("fsync", "/srv/a/b"), ("undo", "/srv/a/b"), ("undo", "/srv/a")]
        hold.release()
        await wait_settled()
    assert volatile.paths() == ["/srv", "/srv/there"]
    assert new(volatile) == []


async def test_a_call_that_is_cancelled_in_it_ends_in_time(
    volatile: Volatile, autojump_clock: MockClock
) -> None:
    filesystem = without_threads(volatile)
    hold = filesystem.hold("fsync", "/srv")
    async with assert_nothing_leaked():
        with trio.move_on_after(3) as scope:
            await makedirs("/srv/a/b", durable=True, policy=within(filesystem))
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(3 + 1)
        # What is in there cannot be removed: its lock is the same. What is below that can.
        assert owed() == [("fsync", "/srv"), ("undo", "/srv/a"), ("fsync", "/srv/a")]
        assert volatile.paths() == ["/srv", "/srv/a", "/srv/there"]
        names = [each.operation for each in filesystem.operations if each.path == "/srv/a"]
        assert names == ["mkdir", "lstat"]
        hold.release()
        await wait_settled()
    assert volatile.paths() == ["/srv", "/srv/there"]
    assert new(volatile) == []


async def test_an_undoing_that_hangs_in_it_is_owed(
    volatile: Volatile, autojump_clock: MockClock
) -> None:
    filesystem = without_threads(volatile)
    async with assert_nothing_leaked():
        async with open_rollback_nursery(policy=within(filesystem)) as nursery:
            await nursery.makedirs("/srv/a/b", durable=True)
            hold = filesystem.hold("fsync", "/srv")
            nursery.cancel_scope.cancel()
        assert volatile.paths() == ["/srv", "/srv/there"]
        assert owed() == [("fsync", "/srv")]
        assert new(volatile) == ["/srv/a", "/srv/a/b"]
        hold.release()
        await wait_settled()
    assert new(volatile) == []


async def test_what_waits_to_be_written_is_owed(
    volatile: Volatile, autojump_clock: MockClock
) -> None:
    filesystem = without_threads(volatile)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as others:
            hold = filesystem.hold("mkdir", "/srv/x/y")
            async with open_rollback_nursery(policy=within(filesystem)) as nursery:
                await nursery.makedirs("/srv/x/a", durable=True)
                others.start_soon(partial(mkdir, "/srv/x/y", policy=within(filesystem)))
                await hold.wait_arrived()
                others.cancel_scope.cancel()
                await trio.sleep(2)
                nursery.cancel_scope.cancel()
        assert ("undo", "/srv/x") in owed()
        hold.release()
        await wait_settled()
    assert volatile.paths() == ["/srv", "/srv/there"]
    assert new(volatile) == []


def requests(mount: FuseMount) -> list[str]:
    return [request.path for request in mount.log("fsyncdir")]


async def test_a_fuse_server_is_asked_for_each_directory_once(fuse: FuseMount) -> None:
    await makedirs(fuse.path / "a/b", durable=True)
    assert requests(fuse) == ["/", "/a", "/a/b"]
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(fuse.path / "a/c/d", durable=True)
        await nursery.makedirs(fuse.path / "e", durable=True)
        made = len(requests(fuse))
        nursery.cancel_scope.cancel()
    assert sorted(requests(fuse)[made:]) == ["/", "/a"]


@pytest.mark.parametrize("where", ["/", "/a", "/a/b"])
async def test_a_fuse_server_that_hangs_in_it_keeps_nobody(fuse: FuseMount, where: str) -> None:
    hold = fuse.hold("fsyncdir", where)
    policy = Policy(rollback_timeout=0.1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(makedirs, fuse.path / "a/b", durable=True, policy=policy))
            await trio.to_thread.run_sync(hold.wait_arrived)
            nursery.cancel_scope.cancel()
        assert ("fsync", str(fuse.path) + where.rstrip("/")) in owed()
        hold.release()
        with trio.fail_after(10):
            await wait_settled()
    assert os.listdir(fuse.backing) == []


async def test_a_fuse_server_that_hangs_in_its_undoing_keeps_nobody(fuse: FuseMount) -> None:
    policy = Policy(rollback_timeout=0.1)
    async with assert_nothing_leaked():
        async with open_rollback_nursery(policy=policy) as nursery:
            await nursery.makedirs(fuse.path / "a/b", durable=True)
            hold = fuse.hold("fsyncdir", "/")
            nursery.cancel_scope.cancel()
        assert owed() == [("fsync", str(fuse.path))]
        hold.release()
        with trio.fail_after(10):
            await wait_settled()
    assert os.listdir(fuse.backing) == []


# Whatever happens


class DurableWorld(World):
    """All that is made is durable: a power cut takes nothing, and brings nothing back."""

    def __init__(self, **options: object) -> None:
        self.volatile = Volatile()
        self.filesystem = FaultyFilesystem.wrap(self.volatile, threads=False)
        self.root = "/srv"
        self.volatile.add_directory("/srv/there")
        self.volatile.add_file("/srv/file")
        self.volatile.write_all()
        self.unsynced: set[str] = set()
        self._begin(filesystem=self.filesystem, **options)

    def _observe(self, event: Event) -> None:
        super()._observe(event)
        if isinstance(event, Unsynced):
            self.unsynced.add(os.fsdecode(event.path))

    async def makedirs(self, name: str, *, exist_ok: bool = False) -> None:
        path = self.path(name)
        await makedirs(path, exist_ok=exist_ok, durable=True, policy=self.policy)
        self.succeeded.add(path)

    async def mkdir(self, name: str) -> None:
        await mkdir(self.path(name), durable=True, policy=self.policy)
        self.succeeded.add(self.path(name))

    def check(self) -> None:
        super().check()
        there = self.volatile.after_power_cut()
        promised = self.before | self._with_those_above(self.succeeded)
        assert promised <= there, f"lost: {promised - there}"
        excused = self._with_those_above(self.refused)
        back = {
            path
            for path in there - promised - excused
            if not any(path.startswith(f"{above}/") for above in self.unsynced)
        }
        assert not back, f"came back: {back}"


Scenario = Callable[[DurableWorld], Awaitable[object]]


async def one_call(world: DurableWorld) -> None:
    await world.makedirs("a/b/c")


async def one_call_to_where_something_stands(world: DurableWorld) -> None:
    await world.makedirs("there", exist_ok=True)
    await world.makedirs("there/a", exist_ok=True)


async def one_level(world: DurableWorld) -> None:
    await world.mkdir("a")


async def a_block(world: DurableWorld) -> None:
    async with world.nursery() as nursery:
        await nursery.makedirs(world.path("a/b"), durable=True)
        nursery.start_soon(partial(nursery.makedirs, world.path("a/c/d"), durable=True))
        nursery.start_soon(partial(nursery.mkdir, world.path("there/e"), durable=True))
        nursery.push_undo(trio.lowlevel.checkpoint)
        await nursery.mkdir(world.path("a/b/f"), durable=True)
    world.succeed("a/b", "a/c/d", "there/e", "a/b/f")


async def blocks_in_a_block(world: DurableWorld) -> None:
    async with world.nursery() as outer:
        await outer.makedirs(world.path("a/b"), durable=True)
        async with world.nursery() as inner:
            await inner.makedirs(world.path("a/b/c/d"), durable=True)
        async with world.nursery() as undone:
            await undone.makedirs(world.path("a/b/f/g"), durable=True)
            undone.cancel_scope.cancel()
        await outer.makedirs(world.path("a/b/f/h"), durable=True)
    world.succeed("a/b/c/d", "a/b/f/h")


async def a_block_that_fails(world: DurableWorld) -> None:
    async with world.nursery() as nursery:
        nursery.start_soon(partial(nursery.makedirs, world.path("a/b/c"), durable=True))
        nursery.start_soon(partial(nursery.makedirs, world.path("a/b/d"), durable=True))
        await nursery.makedirs(world.path("file/in/the/way"), durable=True)


async def calls_side_by_side(world: DurableWorld) -> None:
    async def fail(name: str) -> None:
        async with world.nursery() as nursery:
            await nursery.makedirs(world.path(name), durable=True)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, "a/b/c")
        nursery.start_soon(world.makedirs, "a/b/d")
        nursery.start_soon(fail, "a/e")


SCENARIOS: list[Scenario] = [
    one_call,
    one_call_to_where_something_stands,
    one_level,
    a_block,
    blocks_in_a_block,
    a_block_that_fails,
    calls_side_by_side,
]

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)


@pytest.mark.sweep
@each_scenario
@pytest.mark.parametrize("seed", range(2))
async def test_cancelled_at_any_point_it_is_on_the_disk_or_not(
    scenario: Scenario, seed: int, autojump_clock: MockClock
) -> None:
    def check_whole(outcome: Outcome[DurableWorld]) -> None:
        assert not outcome.state.unsynced
        outcome.state.check()

    summary = await cancel_everywhere(
        scenario,
        DurableWorld,
        check=check_whole,
        expected=(MkdirError,) if scenario is a_block_that_fails else (),
        seed=seed,
    )
    assert summary.cancelled > 3


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("scenario", "rollback_timeout"),
    [(one_call, 0), (one_call, 0.25), (a_block, 0), (calls_side_by_side, 0.25)],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
async def test_cancelled_while_a_slow_disk_writes(
    scenario: Scenario, rollback_timeout: float, autojump_clock: MockClock
) -> None:
    def setup() -> DurableWorld:
        world = DurableWorld(rollback_timeout=rollback_timeout)
        world.filesystem.delay("*", "*", 0.1, when="after")
        return world

    await cancel_everywhere(scenario, setup, check=check, expected=(MkdirError, RollbackError))


@pytest.mark.sweep
@each_scenario
@pytest.mark.parametrize(
    ("number", "lost_reply"),
    [
        (errno.EIO, False),
        (errno.EIO, True),
        (errno.EACCES, False),
        (errno.EBUSY, False),
    ],
    ids=str,
)
async def test_a_fault_at_any_operation_leaves_it_on_the_disk_or_not(
    scenario: Scenario, number: int, lost_reply: bool, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number, DurableWorld, lost_reply=lost_reply)
