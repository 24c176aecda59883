"""Atomic calls: what is missing appears at once or not at all; everything else is as without."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from filesystems.frozen import FreezableMount
from filesystems.fuse import FuseMount, fuse
from trio.testing import MockClock

import trio_mkdir
from trio_mkdir import (
    Kept,
    Made,
    MkdirError,
    Policy,
    Removed,
    RootCause,
    StepTimeout,
    makedirs,
    mkdir,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._hidden import PREFIX
from trio_mkdir.testing import FaultyFilesystem, assert_nothing_leaked

__all__ = ["fuse"]

pytestmark = pytest.mark.usefixtures("nothing_left")

SOON = 10.0
"""Seconds after which a test gives up: never reached, unless something is wrong."""


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def double() -> FaultyFilesystem:
    filesystem = FaultyFilesystem(threads=False)
    filesystem.memory.add_directory("/srv")
    return filesystem


# Beside the plain calls

PATHS = [
    "new",
    "new/",
    "new/.",
    "new//sub/./deep",
    "dir",
    "dir/",
    "dir/.",
    "dir/..",
    "dir/sub",
    "dir/new/sub",
    "dir/../new",
    "file",
    "file/",
    "file/new",
    "file/new/sub",
    "link",
    "link/",
    "link/new/sub",
    "link_to_file",
    "link_to_file/new",
    "dangling",
    "dangling/",
    "dangling/.",
    "dangling/new",
    "dangling/new/sub",
    "loop",
    "loop/new",
    "",
    "/",
    ".",
    "..",
    "x" * 256,
    "new/" + "x" * 256,
    "x" * 255 + "/new",
]


def prepare(root: Path) -> None:
    (root / "dir" / "sub").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to("dir")
    (root / "link_to_file").symlink_to("file")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")


@pytest.mark.parametrize(
    "path", PATHS, ids=lambda path: re.sub("x{9,}", lambda x: f"x{len(x[0])}", path) or "empty"
)
@pytest.mark.parametrize("exist_ok", [False, True])
@pytest.mark.parametrize("fn", [makedirs, mkdir], ids=lambda fn: fn.__name__)
@pytest.mark.parametrize("kind", [os.fspath, os.fsencode], ids=["str", "bytes"])
async def test_it_answers_as_without(
    path: str,
    exist_ok: bool,
    fn: Callable[..., object],
    kind: Callable[[str], str | bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = []
    for atomic in (False, True):
        root = tmp_path / str(int(atomic))
        root.mkdir()
        prepare(root)
        monkeypatch.chdir(root)
        call = partial(makedirs if fn is makedirs else mkdir, kind(path), 0o750)
        try:
            report = await call(exist_ok=exist_ok, atomic=atomic)
        except MkdirError as error:
            answer: object = (type(error), error.errno, error.filename, error.root_cause)
            notes = getattr(error, "__notes__", [])
        else:
            answer, notes = (report.path, report.created), []
        modes = {name: os.lstat(root / name).st_mode for name in tree(root)}
        answers.append((answer, [note.replace(str(root), "") for note in notes], modes))
    assert answers[0] == answers[1]


async def test_what_is_missing_before_dots_is_not_made(tmp_path: Path) -> None:
    # It would be two trees, and so two renames.
    with pytest.raises(MkdirError, match="No such file") as caught:
        await makedirs(tmp_path / "new" / ".." / "b", atomic=True)
    assert caught.value.__notes__ == [
        "what is missing before a `..` cannot be made at once with what comes after it"
    ]
    assert tree(tmp_path) == []


async def test_a_user_who_may_not_write_is_told_of_the_path_that_he_named(
    double: FaultyFilesystem,
) -> None:
    double.fail("mkdir", "*", errno.EACCES)
    with pytest.raises(PermissionError) as caught:
        await makedirs("/srv/a/b", atomic=True, policy=Policy(filesystem=double))
    assert caught.value.filename == "/srv/a"
    assert double.memory.paths() == ["/srv"]


# Appearing


async def test_it_appears_by_one_rename_with_its_modes(double: FaultyFilesystem) -> None:
    seen: list[list[str]] = []
    double.interfere("rename", "*", lambda: seen.append(double.memory.paths()))
    report = await makedirs("/srv/a/b/c", 0o700, atomic=True, policy=Policy(filesystem=double))
    assert report.created == ("/srv/a", "/srv/a/b", "/srv/a/b/c")
    assert [each.operation for each in double.operations].count("rename") == 1
    ((top, *hidden),) = [paths[1:] for paths in seen]
    assert top.startswith(f"/srv/{PREFIX}")
    assert hidden == [f"{top}/b", f"{top}/b/c"]
    assert double.memory.paths() == ["/srv", *report.created]
    assert double.memory.stat("/srv/a/b/c").st_mode & 0o777 == 0o700


async def test_nothing_is_made_where_it_stands(double: FaultyFilesystem) -> None:
    double.memory.add_directory("/srv/a")
    policy = Policy(filesystem=double)
    report = await makedirs("/srv/a", exist_ok=True, atomic=True, policy=policy)
    assert report.created == ()
    assert {each.operation for each in double.operations} == {"lstat", "stat"}


async def test_whoever_is_quicker_is_left_in_peace(double: FaultyFilesystem) -> None:
    events: list[trio_mkdir.Event] = []
    double.interfere("rename", "*", partial(double.memory.add_directory, "/srv/a", 0o700))
    policy = Policy(filesystem=double, observers=[events.append])
    report = await makedirs("/srv/a/b/c", atomic=True, policy=policy)
    assert report.created == ("/srv/a/b", "/srv/a/b/c")
    assert report.removed == ()
    assert double.memory.paths() == ["/srv", "/srv/a", "/srv/a/b", "/srv/a/b/c"]
    assert double.memory.stat("/srv/a").st_mode & 0o777 == 0o700
    assert [event.path for event in events if isinstance(event, Made)] == [*report.created]


async def test_a_file_that_is_quicker_is_in_the_way(double: FaultyFilesystem) -> None:
    double.interfere("rename", "*", partial(double.memory.add_file, "/srv/a"))
    with pytest.raises(NotADirectoryError):
        await makedirs("/srv/a/b/c", atomic=True, policy=Policy(filesystem=double))
    assert double.memory.paths() == ["/srv", "/srv/a"]


async def test_the_leaf_of_whoever_is_quicker_counts_as_found(double: FaultyFilesystem) -> None:
    double.interfere("rename", "*", partial(double.memory.add_directory, "/srv/a"), times=2)
    policy = Policy(filesystem=double)
    with pytest.raises(FileExistsError):
        await makedirs("/srv/a", atomic=True, policy=policy)
    double.memory.remove("/srv/a")
    await makedirs("/srv/a", atomic=True, exist_ok=True, policy=policy)
    assert double.memory.paths() == ["/srv", "/srv/a"]


async def test_who_makes_it_away_each_time_is_not_followed_for_ever(
    double: FaultyFilesystem,
) -> None:
    double.fail("rename", "*", errno.EEXIST, times=1000)
    with pytest.raises(FileNotFoundError) as caught:
        await makedirs("/srv/a/b", atomic=True, policy=Policy(filesystem=double))
    assert caught.value.root_cause is RootCause.VANISHED  # type: ignore[attr-defined]
    assert double.memory.paths() == ["/srv"]


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EBUSY, errno.EEXIST, errno.EINVAL, errno.ENOENT]
)
async def test_a_lost_reply_to_the_rename_is_settled_by_what_stands_there(
    number: int, double: FaultyFilesystem
) -> None:
    double.lose_reply("rename", "*", number)
    report = await makedirs("/srv/a/b", atomic=True, policy=Policy(filesystem=double))
    assert report.created == ("/srv/a", "/srv/a/b")
    assert double.memory.paths() == ["/srv", *report.created]


async def test_where_it_cannot_be_settled_it_is_taken_back_wherever_it_is(
    double: FaultyFilesystem,
) -> None:
    double.lose_reply("rename", "*", errno.EIO)
    double.interfere("rename", "*", partial(double.fail, "lstat", "/srv/a", errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        await makedirs("/srv/a/b", atomic=True, policy=Policy(filesystem=double))
    assert double.memory.paths() == ["/srv"]


@pytest.mark.parametrize("worked", [True, False])
async def test_what_may_have_appeared_and_cannot_be_looked_at_may_still_be_hidden(
    double: FaultyFilesystem, autojump_clock: MockClock, worked: bool
) -> None:
    (double.lose_reply if worked else double.fail)("rename", "*", errno.EIO)
    double.interfere("rename", "*", lambda: double.fail("lstat", "*", errno.EIO, times=1000))
    with pytest.raises(MkdirError) as caught:
        await makedirs("/srv/a", atomic=True, policy=Policy(filesystem=double, retries={}))
    (kept,) = caught.value.report.kept
    assert "; it may still be hidden, as '/srv/.trio-mkdir." in kept.why
    assert ("/srv/a" in double.memory.paths()) == worked
    assert len(double.memory.paths()) == 2


async def test_where_it_cannot_be_settled_at_once_it_is_tried_again(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    double.lose_reply("rename", "*", errno.EIO)
    double.interfere("rename", "*", partial(double.fail, "lstat", "/srv/a", errno.EBUSY))
    report = await makedirs("/srv/a/b", atomic=True, policy=Policy(filesystem=double))
    assert [retry.errno for retry in report.retries] == [errno.EBUSY]
    assert report.created == ("/srv/a", "/srv/a/b")
    assert double.memory.paths() == ["/srv", *report.created]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
async def test_a_filesystem_without_such_a_rename_is_refused(
    number: int, double: FaultyFilesystem
) -> None:
    double.fail("rename", "*", number)
    with pytest.raises(MkdirError) as caught:
        await makedirs("/srv/a/b", atomic=True, policy=Policy(filesystem=double))
    assert caught.value.errno == number
    assert caught.value.filename == "/srv/a"
    assert "no rename that replaces nothing" in caught.value.__notes__[0]
    assert double.memory.paths() == ["/srv"]


async def test_a_real_filesystem_without_such_a_rename_is_refused(fuse: FuseMount) -> None:
    fuse.fail("rename", errno.EINVAL)
    with pytest.raises(MkdirError) as caught:
        await makedirs(fuse.path / "a" / "b", atomic=True)
    assert caught.value.errno in {errno.EINVAL, errno.ENOSYS}
    assert "no rename that replaces nothing" in caught.value.__notes__[0]
    assert os.listdir(fuse.backing) == []


async def test_a_filesystem_that_cannot_rename_at_all_is_refused_at_once() -> None:
    class Poor:
        turn = None

        def mount(self, path: str) -> trio_mkdir.Mount:
            return trio_mkdir.Mount(1, 0, "0:1", "/", "/", "rw", "poor", "poor")

        mkdir = rmdir = stat = lstat = statvfs = sleep = mount

    with pytest.raises(NotImplementedError, match="atomically"):
        await makedirs("/srv/a", atomic=True, policy=Policy(filesystem=Poor()))  # type: ignore[arg-type]


async def test_space_is_reclaimed_for_what_is_hidden(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    asked: list[object] = []

    async def reclaim(path: object, cause: RootCause, snapshot: os.statvfs_result) -> None:
        await trio.lowlevel.checkpoint()
        asked.append((path, cause))

    double.fail("mkdir", "*/b", errno.ENOSPC)
    await makedirs("/srv/a/b", atomic=True, policy=Policy(filesystem=double, reclaim=reclaim))
    assert asked == [("/srv/a/b", RootCause.NO_SPACE)]
    assert double.memory.paths() == ["/srv", "/srv/a", "/srv/a/b"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY, errno.EEXIST])
async def test_what_stands_hidden_is_ours_whatever_was_answered(
    number: int, double: FaultyFilesystem
) -> None:
    double.lose_reply("mkdir", "*", number, times=2)
    report = await makedirs("/srv/a/b", atomic=True, policy=Policy(filesystem=double))
    assert report.retries == ()
    assert double.memory.paths() == ["/srv", *report.created]


# Undoing


async def test_a_nursery_that_fails_takes_it_back(tmp_path: Path) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(tmp_path / "a" / "b", atomic=True)
        await nursery.mkdir(tmp_path / "c", atomic=True)
        assert tree(tmp_path) == ["a", "a/b", "c"]
        nursery.cancel_scope.cancel()
    assert set(nursery.report.removed) == {str(tmp_path / name) for name in ("a", "a/b", "c")}
    assert tree(tmp_path) == []


async def test_what_others_put_in_is_kept(tmp_path: Path) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(tmp_path / "a" / "b", atomic=True)
        (tmp_path / "a" / "file").touch()
        nursery.cancel_scope.cancel()
    assert tree(tmp_path) == ["a", "a/file"]


async def test_what_cannot_be_taken_back_is_told_of_with_its_name(
    double: FaultyFilesystem,
) -> None:
    kept: list[Kept] = []

    def observe(event: trio_mkdir.Event) -> None:
        if isinstance(event, Kept):
            kept.append(event)
        assert not isinstance(event, (Made, Removed))

    double.fail("rename", "*", errno.EIO)
    double.fail("rmdir", "*", errno.EIO)
    with pytest.raises(MkdirError):
        await makedirs("/srv/a", atomic=True, policy=Policy(filesystem=double, observers=[observe]))
    (top,) = double.memory.paths()[1:]
    assert [event.path for event in kept] == ["/srv/a"]
    assert repr(top) in kept[0].why


@pytest.mark.parametrize("operation", ["mkdir", "rename"])
async def test_what_hangs_is_taken_back_late(operation: str, tmp_path: Path) -> None:
    filesystem = FaultyFilesystem.wrap()
    hold = filesystem.hold(operation, "*")
    policy = Policy(filesystem=filesystem, rollback_timeout=0.05)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(makedirs, tmp_path / "a" / "b", atomic=True, policy=policy))
            await hold.wait_arrived()
            nursery.cancel_scope.cancel()
        debts = pending_rollbacks()
        assert operation in {debt.operation for debt in debts}
        assert all(PREFIX not in str(debt.path) for debt in debts)
        if operation == "rename":
            assert len(tree(tmp_path)) == 2  # left alone until it has returned
        hold.release()
        with trio.fail_after(SOON):
            await wait_settled()
    assert tree(tmp_path) == []


async def test_on_a_frozen_disk_it_is_taken_back_late(freezable: FreezableMount) -> None:
    root = freezable.path / "atomic"
    root.mkdir()
    freezable.freeze()
    try:
        with trio.move_on_after(0.2) as scope:
            await makedirs(root / "a" / "b", atomic=True, policy=Policy(rollback_timeout=0.1))
        assert scope.cancelled_caught
        assert pending_rollbacks()
    finally:
        freezable.thaw()
    with trio.fail_after(SOON):
        await wait_settled()
    assert tree(root) == []


async def test_a_rename_that_hangs_is_a_step_that_times_out(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    policy = Policy(filesystem=double, step_timeout=1, retries={})
    hold = double.hold("rename", "*")
    with pytest.raises(StepTimeout) as caught:
        await makedirs("/srv/a/b", atomic=True, policy=policy)
    assert PREFIX not in str(caught.value.filename)
    hold.release()
    await wait_settled()
    assert double.memory.paths() == ["/srv"]


# Beneath a root, and beside others


async def test_beneath_a_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "out").symlink_to("../outside")
    report = await makedirs("a/b", atomic=True, beneath=tmp_path / "root")
    assert report.created == ("a", "a/b")
    with pytest.raises(trio_mkdir.EscapeError):
        await makedirs("out/a", atomic=True, beneath=tmp_path / "root")
    with pytest.raises(trio_mkdir.EscapeError):
        await makedirs("../a", atomic=True, beneath=tmp_path / "root")
    async with assert_nothing_leaked(), open_rollback_nursery() as nursery:
        await nursery.makedirs("a/c/d", atomic=True, beneath=tmp_path / "root")
        nursery.cancel_scope.cancel()
    assert tree(tmp_path) == ["outside", "root", "root/a", "root/a/b", "root/out"]


@pytest.mark.parametrize("plain_too", [False, True])
async def test_calls_that_share_parents_all_get_what_they_asked_for(
    plain_too: bool, tmp_path: Path
) -> None:
    # One wins the rename, the others build inside of what it made.
    for number in range(50):
        root = tmp_path / str(number)
        root.mkdir()
        async with trio.open_nursery() as nursery:
            for name in "abcdef":
                atomic = not (plain_too and name in "ace")
                nursery.start_soon(partial(makedirs, root / "x" / "y" / name, atomic=atomic))
        assert tree(root) == ["x", "x/y", *(f"x/y/{name}" for name in "abcdef")]


async def test_nobody_who_looks_sees_a_part(tmp_path: Path) -> None:
    parts: set[str] = set()
    over = threading.Event()
    looks = 0

    def watch() -> None:
        nonlocal looks
        while not over.is_set():
            looks += 1
            for name in os.listdir(tmp_path):
                # What is seen is whole, however soon after its appearing.
                if not name.startswith(PREFIX) and not (tmp_path / name / "b" / "c").is_dir():
                    parts.add(name)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(200):
            await makedirs(tmp_path / str(number) / "b" / "c", atomic=True)
    finally:
        over.set()
        watcher.join()
    assert looks
    assert parts == set()
