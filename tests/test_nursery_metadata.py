"""Owner, mode and attributes that a rollback nursery changes, and puts back."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from acls import Whole, setfacl
from doubles import PATIENCE, World
from filesystems.frozen import FreezableMount
from filesystems.fuse import FuseMount, fuse
from filesystems.needs import needs_root
from filesystems.processes import AnotherUser
from filesystems.stuck import wait_stuck_async
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mkdir import (
    Changed,
    EscapeError,
    Kept,
    MkdirError,
    NotCopied,
    PendingRollback,
    Policy,
    Removed,
    Restored,
    RollbackError,
    RollbackNursery,
    RootCause,
    StepTimeout,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._events import Recorder
from trio_mkdir._handshake import Handshake
from trio_mkdir._metadata import Metadata
from trio_mkdir._transaction import Transaction
from trio_mkdir.testing import FaultyFilesystem, assert_nothing_leaked

__all__ = ["fuse"]

pytest_plugins = ["ownership_fixtures"]

ALICE = 1001
STAFF = 1002


def mode(path: Path) -> int:
    return Whole.of(path).mode


async def cancelled(nursery: RollbackNursery) -> None:
    nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint()


@pytest.fixture
def old(place: Path) -> Path:
    """A directory that has a bit of everything."""
    path = place / "old"
    path.mkdir()
    os.chown(path, 7, 8)
    setfacl(path, "u:2000:rwx", "g::rx", "m::rwx")
    setfacl(path, "u::rwx", "u:2000:rx", "g::rx", "o::-", default=True)
    os.setxattr(path, "user.mine", b"old")
    os.setxattr(path, "user.only", b"old")
    path.chmod(0o3775)
    return path


@pytest.fixture
def source(place: Path) -> Path:
    """Another one."""
    path = place / "source"
    path.mkdir()
    os.chown(path, ALICE, STAFF)
    setfacl(path, "g:3000:rwx")
    os.setxattr(path, "user.mine", b"new")
    os.setxattr(path, "user.more", b"new")
    path.chmod(0o751)
    return path


# What is changed


async def test_what_it_has_already_is_no_change(old: Path) -> None:
    before = Whole.of(old)
    async with open_rollback_nursery() as nursery:
        for report in (
            await nursery.chmod(old, before.mode),
            await nursery.chown(old, 7, 8),
            await nursery.copy_metadata(old, old),
        ):
            assert report.audit == ()
    assert Whole.of(old) == before
    assert nursery.report.audit == ()


async def test_a_mode_is_set_precisely(old: Path) -> None:
    for wanted in (0o755, 0o7777, 0, 0o2700):
        async with open_rollback_nursery() as nursery:
            report = await nursery.chmod(old, wanted)
        assert mode(old) == wanted
        (changed,) = report.audit
        assert isinstance(changed, Changed)
        assert (changed.path, changed.after) == (str(old), f"{wanted:04o} 7:8")
        assert report.path == str(old)
        assert report.created == ()


@pytest.mark.parametrize(
    ("owner", "group", "wanted"),
    [(ALICE, None, (ALICE, 8)), (None, STAFF, (7, STAFF)), ("root", "root", (0, 0))],
)
async def test_owner_and_group_are_set_and_nothing_else(
    old: Path, owner: int | str | None, group: int | str | None, wanted: tuple[int, int]
) -> None:
    before = Whole.of(old)
    async with open_rollback_nursery() as nursery:
        await nursery.chown(old, owner, group)
    assert Whole.of(old) == attrs.evolve(before, uid=wanted[0], gid=wanted[1])


async def test_metadata_is_copied_with_acls_and_attributes(old: Path, source: Path) -> None:
    wanted = Whole.of(source)
    async with open_rollback_nursery() as nursery:
        await nursery.copy_metadata(source, os.fsencode(old))
    assert Whole.of(source) == wanted
    attributes = {**wanted.attributes, "user.only": b"old"}  # which `source` says nothing about
    assert Whole.of(old) == attrs.evolve(wanted, attributes=attributes)


async def test_what_is_as_it_is_to_be_is_not_touched() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/a", 0o755)
    async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
        await nursery.chmod("/a", 0o755)
        await nursery.chown("/a", 0, "root")
        await nursery.copy_metadata("/a", "/a")
    asked = {record.operation for record in filesystem.operations}
    assert not asked & {"chmod", "chown", "setxattr", "removexattr"}


async def test_what_is_the_systems_and_may_not_be_set_is_told() -> None:
    filesystem = FaultyFilesystem()
    for path in ("/a", "/b"):
        filesystem.memory.add_directory(path)
    filesystem.memory.open("/a").setxattr("security.label", b"x")
    filesystem.fail("setxattr", "/b", errno.EPERM)
    async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
        report = await nursery.copy_metadata("/a", "/b")
    assert [type(event) for event in report.audit] == [Changed, NotCopied]


async def test_a_link_is_followed_and_beneath_a_root_only_inside(old: Path) -> None:
    (old.parent / "link").symlink_to("old")
    (old / "out").symlink_to("..")
    (old / "in").mkdir()
    (old / "to_in").symlink_to("in")
    async with open_rollback_nursery() as nursery:
        await nursery.chmod(old.parent / "link", 0o711)
        await nursery.chmod("to_in", 0o700, beneath=old)
        for path in ("out", "..", "/"):
            with pytest.raises(EscapeError):
                await nursery.chown(path, 0, beneath=old)
    assert (mode(old), mode(old / "in")) == (0o711, 0o700)


# What is put back


async def all_of_it(nursery: RollbackNursery, old: Path, source: Path) -> None:
    await nursery.chmod(old, 0o500)
    await nursery.chown(old, "nobody", STAFF)
    await nursery.copy_metadata(source, old)
    await nursery.chmod(old, 0o7070)


@pytest.mark.parametrize("times", [1, 3])
async def test_all_of_it_is_put_back(old: Path, source: Path, times: int) -> None:
    before, template = Whole.of(old), Whole.of(source)
    async with assert_nothing_leaked(), open_rollback_nursery() as nursery:
        for _ in range(times):
            await all_of_it(nursery, old, source)
        assert mode(old) == 0o7070
        await cancelled(nursery)
    assert (Whole.of(old), Whole.of(source)) == (before, template)
    kinds = [type(event) for event in nursery.report.audit]
    assert kinds == [Changed] * 4 * times + [Restored] * 4 * times
    assert nursery.report.kept == ()


async def test_a_failed_change_is_put_back_at_once(old: Path, source: Path) -> None:
    before = Whole.of(old)
    for operation in ("chown", "setxattr", "chmod"):
        filesystem = FaultyFilesystem.wrap()
        filesystem.fail(operation, str(old), errno.EPERM)
        async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
            with pytest.raises(PermissionError) as caught:
                await nursery.copy_metadata(source, old)
            assert Whole.of(old) == before
            assert isinstance(caught.value, MkdirError)
            assert caught.value.filename == str(old)
            assert caught.value.__notes__[-1].startswith(operation)
            assert caught.value.report.audit[-1].path == str(old)
        assert Whole.of(old) == before


async def test_what_was_before_is_not_what_a_first_attempt_left(old: Path, source: Path) -> None:
    before = Whole.of(old)
    filesystem = FaultyFilesystem.wrap()
    filesystem.fail("setxattr", str(old), errno.EINTR)
    async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
        report = await nursery.copy_metadata(source, old)
        assert [retry.errno for retry in report.retries] == [errno.EINTR]
        assert [type(event) for event in report.audit] == [Changed]
        assert Whole.of(old).uid == ALICE
        await cancelled(nursery)
    assert Whole.of(old) == before


async def test_everything_is_undone_in_one_order(old: Path) -> None:
    seen: list[tuple[str, int]] = []
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(old / "a/b")
        nursery.push_undo(lambda: seen.append(("first", mode(old))))
        await nursery.chmod(old, 0o2500)
        nursery.push_undo(lambda: seen.append(("second", mode(old))))
        await nursery.chmod(old / "a", 0)
        nursery.push_undo(lambda: seen.append(("third", mode(old / "a"))))
        await cancelled(nursery)
    assert seen == [("third", 0), ("second", 0o2500), ("first", 0o3775)]
    assert (sorted(os.listdir(old)), mode(old)) == ([], 0o3775)


async def test_an_inner_block_that_ends_well_is_put_back_with_the_outer_one(old: Path) -> None:
    before = Whole.of(old)
    async with open_rollback_nursery() as outer:
        await outer.chmod(old, 0o700)
        async with open_rollback_nursery() as inner:
            await inner.chmod(old, 0o711)
        assert mode(old) == 0o711
        await outer.chmod(old, 0o722)
        await cancelled(outer)
    assert Whole.of(old) == before


async def test_two_tasks_that_change_the_same_one_are_put_back_in_their_order(old: Path) -> None:
    before = Whole.of(old)
    filesystem = FaultyFilesystem.wrap()
    # The first one has changed it and not come back when the second one reads it.
    hold = filesystem.hold("chmod", str(old), when="after")
    async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
        nursery.start_soon(nursery.chmod, old, 0o711)
        await hold.wait_arrived()
        await nursery.chmod(old, 0o722)
        hold.release()
        await wait_all_tasks_blocked()
        while len(nursery.child_tasks):
            await trio.lowlevel.checkpoint()
        await cancelled(nursery)
    assert Whole.of(old) == before


async def test_beneath_a_root_it_is_put_back_in_the_root_wherever_that_is(old: Path) -> None:
    (old / "in").mkdir()
    before = Whole.of(old / "in")
    async with open_rollback_nursery() as nursery:
        await nursery.chmod("in", 0o700, beneath=old)
        old.rename(old.parent / "moved")
        await cancelled(nursery)
    assert Whole.of(old.parent / "moved/in") == before


def test_another_user_puts_back_what_he_may_change(place: Path, as_user: AnotherUser) -> None:
    os.chown(place, as_user.uid, STAFF)
    place.chmod(0o2755)
    snippet = """
async def main():
    async with trio_mkdir.open_rollback_nursery() as nursery:
        await nursery.makedirs(sys.argv[1] + "/a/b")
        await nursery.chmod(sys.argv[1] + "/a", 0o2500)
        await nursery.chmod(sys.argv[1], 0o2500)
        nursery.cancel_scope.cancel()
    print(oct(os.stat(sys.argv[1]).st_mode), os.listdir(sys.argv[1]))
trio.run(main)
"""
    member = attrs.evolve(as_user, groups=(STAFF,))
    assert member.run(snippet, str(place)).splitlines() == ["0o42755 []"]


def test_a_set_group_id_that_the_kernel_drops_in_silence_is_an_error(
    place: Path, as_user: AnotherUser
) -> None:
    os.chown(place, as_user.uid, STAFF)
    snippet = """
async def main():
    async with trio_mkdir.open_rollback_nursery() as nursery:
        try:
            await nursery.chmod(sys.argv[1], 0o2755)
        except PermissionError as error:
            print(error.__notes__[-1])
    print(oct(os.stat(sys.argv[1]).st_mode))
trio.run(main)
"""
    said = as_user.run(snippet, str(place)).splitlines()
    assert "set-group-ID" in said[0]
    assert said[1] == "0o40755"


async def test_an_attribute_that_is_gone_already_need_not_go(old: Path, source: Path) -> None:
    os.removexattr(source, "system.posix_acl_access")
    filesystem = FaultyFilesystem.wrap()
    filesystem.lose_reply("removexattr", str(old), errno.ENODATA)
    async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
        await nursery.copy_metadata(source, old)
    assert not {name for name in os.listxattr(old) if "acl" in name.lower()}


# What cannot be put back


async def test_what_has_taken_its_place_is_left_and_told(old: Path) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.chmod(old, 0o700)
        old.rename(old.parent / "moved")
        old.mkdir(0o711)
        await cancelled(nursery)
    assert (mode(old), mode(old.parent / "moved")) == (0o711, 0o700)
    (kept,) = nursery.report.kept
    assert (kept.path, kept.errno) == (str(old), None)
    assert kept.why == "it is not there any more, and was changed"


async def test_what_is_gone_is_told(old: Path) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.chmod(old, 0o700)
        old.rename(old.parent / "moved")
        await cancelled(nursery)
    assert [kept.path for kept in nursery.report.kept] == [str(old)]


async def test_a_change_back_that_is_refused_comes_out_beside_the_first_cause(old: Path) -> None:
    filesystem = FaultyFilesystem.wrap()
    blocks: list[RollbackNursery] = []
    with pytest.RaisesGroup(ValueError, RollbackError):
        async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
            blocks.append(nursery)
            await nursery.chmod(old, 0o700)
            filesystem.fail("chmod", str(old), errno.EPERM)
            raise ValueError
    (kept,) = blocks[0].report.kept
    assert (kept.why, kept.errno) == ("chmod to 0o3775: Operation not permitted", errno.EPERM)


async def test_a_change_back_is_tried_again_as_the_policy_says(old: Path) -> None:
    filesystem = FaultyFilesystem.wrap()
    async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
        await nursery.chmod(old, 0o700)
        filesystem.fail("chmod", str(old), errno.EINTR, times=2)
        await cancelled(nursery)
    assert mode(old) == 0o3775


# What is refused


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (lambda n, p: n.chmod(p, "755"), TypeError, "mode must be an integer, not '755'"),
        (lambda n, p: n.chmod(p, -1), ValueError, "mode must be from 0"),
        (lambda n, p: n.chown(p), ValueError, "owner and group are both None"),
        (lambda n, p: n.chown(p, ""), ValueError, "owner must be a name"),
        (lambda n, p: n.chown(p, group=1.0), TypeError, "group must be a name"),
        (lambda n, p: n.chown(p, "no-such"), LookupError, "owner: no such user: 'no-such'"),
        (lambda n, p: n.chown(p, group="no-such"), LookupError, "group: no such group"),
        (lambda n, p: n.copy_metadata("", p), ValueError, "source must be a path"),
        (lambda n, p: n.chmod(p / "none", 0), FileNotFoundError, "none"),
        (lambda n, p: n.chmod(p / "file", 0), NotADirectoryError, "file"),
        (lambda n, p: n.chmod("", 0), FileNotFoundError, "No such file"),
        (lambda n, p: n.copy_metadata(p / "nowhere", p), FileNotFoundError, "nowhere"),
    ],
)
async def test_bad_arguments_are_named_and_nothing_is_changed(
    old: Path,
    wrong: Callable[[RollbackNursery, Path], object],
    kind: type[Exception],
    message: str,
) -> None:
    (old / "file").touch()
    before = Whole.of(old)
    async with open_rollback_nursery() as nursery:
        with pytest.raises(kind, match=message):
            await wrong(nursery, old)  # type: ignore[misc]
    assert Whole.of(old) == before
    assert nursery.report.kept == ()


async def test_a_source_is_named_as_it_is_where_the_destination_is_relative(
    root_owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root_owned)
    os.mkdir("here")
    async with open_rollback_nursery() as nursery:
        for source, wanted in (("/nowhere/source", "/nowhere/source"), ("none", "none")):
            with pytest.raises(FileNotFoundError) as caught:
                await nursery.copy_metadata(source, "here")
            assert caught.value.filename == wanted
        with pytest.raises(FileNotFoundError) as caught:
            await nursery.chmod("there", 0)
        assert caught.value.filename == "there"


async def test_a_block_that_has_ended_changes_nothing(tmp_path: Path) -> None:
    async with open_rollback_nursery() as nursery:
        pass
    with pytest.raises(RuntimeError, match="its block has ended"):
        await nursery.chmod(tmp_path, 0)


async def test_a_filesystem_that_cannot_do_it_is_told_so() -> None:
    async with open_rollback_nursery(policy=Policy(filesystem=World().filesystem)) as nursery:
        with pytest.raises(NotImplementedError, match="cannot change whose directories are"):
            await nursery.chmod("/", 0)


# What hangs


@pytest.mark.parametrize("when", ["before", "inside", "after"])
async def test_a_change_that_hangs_is_put_back_by_its_late_thread(
    root_owned: Path, when: str
) -> None:
    filesystem = FaultyFilesystem.wrap()
    old = root_owned / "old"
    old.mkdir(0o755)
    before = Whole.of(old)
    hold = filesystem.hold("chmod", str(old), when=when)  # type: ignore[arg-type]
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    async with assert_nothing_leaked():
        async with open_rollback_nursery(policy=policy) as nursery:
            await nursery.makedirs(root_owned / "new")
            nursery.start_soon(nursery.chmod, old, 0o2711)
            await hold.wait_arrived()
            await cancelled(nursery)
        owed = {(debt.operation, debt.path) for debt in pending_rollbacks()}
        assert {("chmod", str(old)), ("undo", str(old))} <= owed
        hold.release()
        with trio.fail_after(PATIENCE):
            await wait_settled()
        assert (Whole.of(old), os.listdir(root_owned)) == (before, ["old"])


async def test_a_step_timeout_is_one_and_what_comes_late_is_put_back(
    root_owned: Path, clock: MockClock
) -> None:
    filesystem = FaultyFilesystem.wrap()
    before = Whole.of(root_owned)
    hold = filesystem.hold("chmod", str(root_owned), when="after")
    policy = Policy(filesystem=filesystem, step_timeout=60, rollback_timeout=0, retries={})
    async with open_rollback_nursery(policy=policy) as nursery, trio.open_nursery() as tasks:

        @tasks.start_soon
        async def change() -> None:
            with pytest.raises(StepTimeout) as caught:
                await nursery.chmod(root_owned, 0o700)
            assert caught.value.root_cause is RootCause.TIMED_OUT
            owed = {(debt.operation, debt.path) for debt in caught.value.report.pending}
            assert owed == {("chmod", str(root_owned)), ("undo", str(root_owned))}

        await hold.wait_arrived()
        clock.jump(60)
    hold.release()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert Whole.of(root_owned) == before


async def test_on_a_frozen_filesystem_it_is_put_back_after_the_thaw(
    freezable: FreezableMount,
) -> None:
    old = freezable.path / "old"
    old.mkdir(0o755)
    before = Whole.of(old)
    policy = Policy(step_timeout=math.inf, rollback_timeout=0)
    async with open_rollback_nursery(policy=policy) as nursery:
        await nursery.chown(old, ALICE)
        freezable.freeze()
        nursery.start_soon(nursery.chmod, old, 0o711)
        await wait_stuck_async(syscall="chmod")
        await cancelled(nursery)
    assert {debt.operation for debt in pending_rollbacks()} == {"chmod", "undo"}
    assert all(isinstance(debt, PendingRollback) for debt in pending_rollbacks())
    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert Whole.of(old) == before


@pytest.mark.parametrize("after", [False, True])
async def test_on_a_server_that_does_not_answer_it_is_put_back_when_it_does(
    fuse: FuseMount, after: bool
) -> None:
    needs_root()
    old = fuse.path / "old"
    old.mkdir(0o755)
    gate = fuse.hold("chmod", "/old", after=after)
    policy = Policy(rollback_timeout=0, step_timeout=math.inf)
    async with open_rollback_nursery(policy=policy) as nursery:
        nursery.start_soon(nursery.chmod, old, 0o711)
        await trio.to_thread.run_sync(gate.wait_arrived)
        await cancelled(nursery)
    assert [debt.operation for debt in pending_rollbacks()] == ["chmod", "undo"]
    gate.release()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert old.stat().st_mode & 0o7777 == 0o755


# The order of undoing, without threads


def test_what_is_below_waits_until_it_is_changed_back() -> None:
    world = World("/a")
    transaction = Transaction(
        world,
        world.workers.on(world.filesystem.mount("/a")),
        world.filesystem,
        Recorder(()),
        Policy(),
    )
    transaction.made("/a/b", 0.0)
    transaction.made("/c", 0.0)
    transaction.altered("/a/", (1, 2), Metadata(mode=0o755))

    def thread() -> Handshake:
        handshake = Handshake(transaction.lock)
        handshake.start()
        transaction.join(handshake)
        return handshake

    first, second = thread(), thread()
    take = partial(transaction.next_for, only=None)
    taken = take(first)
    assert taken is not None
    assert taken.before is not None
    elsewhere = take(second)
    assert elsewhere is not None
    assert elsewhere.path == "/c"
    assert take(second) is None  # the rest is in what is being changed
    last = take(first)
    assert last is not None
    assert last.path == "/a/b"
    # The same where a system call is in its way.
    transaction.altered("/a", (1, 2), Metadata(mode=0o755))
    transaction.made("/a/b/c", 0.0)
    stuck = thread()
    stuck.admit(("mkdir", "/a/x"))
    transaction.insert(last)
    assert [take(second) and "something" for _ in range(1)] == ["something"]
    assert take(second) is None


def test_events_of_a_change_are_told(root_owned: Path) -> None:
    told: list[object] = []

    async def main() -> None:
        policy = Policy(observers=[told.append])
        async with open_rollback_nursery(policy=policy) as nursery:
            await nursery.makedirs(root_owned / "a")
            await nursery.chmod(root_owned / "a", 0o2711)
            await cancelled(nursery)

    trio.run(main)
    kinds = [type(event) for event in told]
    assert kinds.index(Changed) < kinds.index(Restored) < kinds.index(Removed)
    assert Kept not in kinds
