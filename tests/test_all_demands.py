"""All that can be asked for at once: what comes before what, and what is left if it fails."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from filesystems.needs import needs_root
from trio.testing import MockClock

from trio_mkdir import (
    MkdirError,
    Policy,
    makedirs,
    makedirs_many,
    mkdir,
    open_rollback_nursery,
)
from trio_mkdir.testing import FaultyFilesystem, assert_nothing_leaked

ALL: dict[str, Any] = {
    "atomic": True,
    "durable": True,
    "exact_mode": True,
    "owner": 5,
    "group": 7,
    "on_mount": "/",
}


@pytest.fixture
def disk(autojump_clock: MockClock) -> FaultyFilesystem:
    """A filesystem in memory, without threads."""
    filesystem = FaultyFilesystem(threads=False)
    filesystem.memory.add_directory("/srv")
    return filesystem


async def test_it_is_finished_hidden_and_written_before_it_appears(disk: FaultyFilesystem) -> None:
    await makedirs("/srv/a/b", 0o2710, **ALL, policy=Policy(filesystem=disk))
    done = [(record.operation, str(record.path)) for record in disk.operations]
    shown = [operation for operation, _ in done].index("rename")
    for operation in ("mkdir", "chown", "chmod"):
        assert [path for name, path in done[shown:] if name == operation] == []
    written = [(number, path) for number, (name, path) in enumerate(done) if name == "fsync"]
    assert [path for number, path in written if number > shown] == ["/srv"]
    assert len(written) == 3
    for path, mode in (("/srv/a", 0o755), ("/srv/a/b", 0o2710)):
        found = disk.stat(path)
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (5, 7, mode)


@pytest.mark.parametrize("lost_reply", [False, True])
@pytest.mark.parametrize("like", [None, "/like"])
async def test_whatever_fails_nothing_is_left(
    disk: FaultyFilesystem, like: str | None, lost_reply: bool
) -> None:
    disk.memory.add_directory("/like", 0o500)  # in which nothing could be undone
    before = disk.memory.paths()
    policy = Policy(filesystem=disk, retries={})
    for nth in itertools.count(1):
        rule = disk.fail_nth(nth, errno.EIO, lost_reply=lost_reply)
        failure: MkdirError | None = None
        async with assert_nothing_leaked():
            try:
                await makedirs("/srv/a/b", 0o750, **ALL, like=like, policy=policy)
            except MkdirError as error:
                failure = error
        if failure is None:
            assert disk.memory.paths() == [*before, "/srv/a", "/srv/a/b"]
            disk.memory.remove("/srv/a")
        else:
            assert failure.errno == errno.EIO
            assert disk.memory.paths() == before
            assert failure.report.kept == ()
        disk.forget(rule)
        if not rule.hits:
            break
    assert nth > 20


async def test_a_block_takes_all_of_it_back(disk: FaultyFilesystem) -> None:
    disk.memory.add_directory("/srv/old", 0o700)
    async with open_rollback_nursery(policy=Policy(filesystem=disk)) as nursery:
        await nursery.makedirs("/srv/a/b", **ALL)
        await nursery.chmod("/srv/old", 0o777)
        await nursery.makedirs("/srv/old/c", **ALL)
        nursery.cancel_scope.cancel()
    assert disk.memory.paths() == ["/srv", "/srv/old"]
    assert stat.S_IMODE(disk.stat("/srv/old").st_mode) == 0o700


async def test_many_are_given_away_and_written_beneath_a_root(tmp_path: Path) -> None:
    needs_root()
    (tmp_path / "root").mkdir()
    wanted = {name: value for name, value in ALL.items() if name not in {"atomic", "on_mount"}}
    paths = ["a/b", "a/c", "d"]
    report = await makedirs_many(paths, 0o3751, **wanted, beneath=tmp_path / "root")
    assert {*report.created} == {"a", *paths}
    for path in paths:
        found = os.stat(tmp_path / "root" / path)
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (5, 7, 0o3751)
    with pytest.raises(LookupError):
        await makedirs_many(["e"], owner="nobody-has-this-name", beneath=tmp_path / "root")
    assert sorted(os.listdir(tmp_path / "root")) == ["a", "d"]


@pytest.mark.parametrize("path", ["d/../a/.", "d/.././a//./", "a/.", "d/../a"])
async def test_a_leaf_is_one_however_it_is_spelled(tmp_path: Path, path: str) -> None:
    (tmp_path / "d").mkdir()
    for many in (False, True):
        if many:
            await makedirs_many([path], 0o701, exact_mode=True, beneath=tmp_path)
        else:
            await makedirs(path, 0o701, exact_mode=True, beneath=tmp_path)
        assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o701
        (tmp_path / "a").rmdir()


async def test_what_loses_the_race_to_appear_is_taken_back_with_all_that_was_done_to_it(
    disk: FaultyFilesystem,
) -> None:
    # A parent that is to let nobody in is opened again to be undone.
    disk.memory.add_directory("/srv/like", 0o400)
    disk.interfere("rename", "*", lambda: disk.memory.add_directory("/srv/a", 0o750))
    policy = Policy(filesystem=disk)
    async with open_rollback_nursery(policy=policy) as nursery:
        report = await nursery.makedirs("/srv/a/b/c", like="/srv/like", **ALL)
        assert report.created == ("/srv/a/b", "/srv/a/b/c")
        nursery.cancel_scope.cancel()
    assert disk.memory.paths() == ["/srv", "/srv/a", "/srv/like"]
    assert stat.S_IMODE(disk.stat("/srv/a").st_mode) == 0o750
    assert nursery.report.kept == ()


async def test_what_may_have_appeared_is_looked_for_before_what_was_done_to_it_is_put_back(
    disk: FaultyFilesystem,
) -> None:
    # It was looked for where it had been hidden, and told of as lost while it was removed.
    disk.memory.add_directory("/srv/like", 0o500)
    disk.lose_reply("rename", "*", errno.EIO)
    disk.interfere("rename", "*", lambda: disk.fail("lstat", "/srv/a", errno.EIO))
    policy = Policy(filesystem=disk, retries={})
    with pytest.raises(MkdirError) as caught:
        await makedirs("/srv/a/b/c", like="/srv/like", atomic=True, policy=policy)
    assert caught.value.errno == errno.EIO
    assert caught.value.report.kept == ()
    assert disk.memory.paths() == ["/srv", "/srv/like"]


MODULE: dict[str, Any] = {
    "makedirs": makedirs,
    "mkdir": mkdir,
    "makedirs_many": lambda path, **wanted: makedirs_many([path], **wanted),
}


@pytest.mark.parametrize("name", MODULE)
@pytest.mark.parametrize("provisional", [False, True])
async def test_each_of_them_reaches_each_function(
    disk: FaultyFilesystem, name: str, provisional: bool
) -> None:
    policy = Policy(filesystem=disk)

    async def make(**wanted: Any) -> None:
        if not provisional:
            await MODULE[name]("/srv/a", **wanted, policy=policy)
            return
        async with open_rollback_nursery(policy=policy) as nursery:
            make_inside: Any = getattr(nursery, name)
            await make_inside(["/srv/a"] if name == "makedirs_many" else "/srv/a", **wanted)

    for keyword, operation in (
        ("atomic", "rename"),
        ("durable", "fsync"),
        ("exact_mode", "open"),
        ("owner", "chown"),
        ("group", "chown"),
    ):
        before = len(disk.operations)
        await make(**{keyword: 5 if operation == "chown" else True})
        done = {record.operation for record in disk.operations[before:]}
        assert done & {"rename", "fsync", "chown"} == {operation} - {"open"}
        assert operation in done
        found = disk.stat("/srv/a")
        assert (found.st_uid, found.st_gid) == ((keyword == "owner") * 5, (keyword == "group") * 5)
        disk.memory.remove("/srv/a")
    for keyword in ("owner", "group", "like", "on_mount"):
        wanted = pytest.RaisesExc(ValueError, match=f"{keyword} must be")
        with pytest.RaisesGroup(wanted, allow_unwrapped=True):
            await make(**{keyword: ""})
