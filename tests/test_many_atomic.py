"""Many paths, atomically: of all that is missing together each tree appears at once."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from command import Here
from test_atomic import tree
from test_atomic_sweeps import RealWhole, Whole, check_whole
from trio.testing import MockClock
from worlds import WHENS, cancel_everywhere, disturb_everywhere, each_in_its_own, name_of

import trio_mkdir
from trio_mkdir import (
    MkdirError,
    Policy,
    RootCause,
    makedirs,
    makedirs_many,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._hidden import PREFIX
from trio_mkdir.testing import (
    FaultyFilesystem,
    assert_nothing_leaked,
)

pytestmark = pytest.mark.usefixtures("nothing_left")

pytest_plugins = ["command_fixtures"]

SOON = 10.0
"""Seconds after which a test gives up: never reached, unless something is wrong."""


@pytest.fixture
def double() -> FaultyFilesystem:
    filesystem = FaultyFilesystem(threads=False)
    filesystem.memory.add_directory("/srv/there")
    return filesystem


def srv(*names: str) -> list[str]:
    return [f"/srv/{name}" for name in names]


def seen(double: FaultyFilesystem) -> list[str]:
    """What whoever looks sees, but for what stood before."""
    before = {"/srv", "/srv/there"}
    return [path for path in double.memory.paths() if PREFIX not in path and path not in before]


def asked(double: FaultyFilesystem, *operations: str) -> list[tuple[str, str]]:
    """What the filesystem was asked for, whatever a hidden name is."""
    found = []
    for record in double.operations:
        if record.operation in operations:
            path = os.fsdecode(record.path)
            names = ["*" if name.startswith(PREFIX) else name for name in path.split("/")]
            found.append((record.operation, "/".join(names)))
    return found


async def one_by_one(*names: str) -> AsyncIterator[str]:
    """Each so late that it is not planned together with another one."""
    for path in srv(*names):
        await trio.sleep(1)
        yield path


# Appearing


async def test_each_tree_appears_by_one_rename_with_its_modes(double: FaultyFilesystem) -> None:
    looks: list[list[str]] = []
    for when in WHENS:
        double.interfere("*", "*", lambda: looks.append(seen(double)), when=when, times=10**6)
    paths = srv("a/b/c", "e/f", "a/d", "a", "there/g", "there/h/i", "there/g/j")
    policy = Policy(filesystem=double)
    report = await makedirs_many(
        paths, 0o700, parent_mode=0o751, atomic=True, exist_ok=False, policy=policy
    )
    trees = [
        srv("a", "a/b", "a/b/c", "a/d"),
        srv("e", "e/f"),
        srv("there/g", "there/g/j"),
        srv("there/h", "there/h/i"),
    ]
    looks.append(seen(double))
    assert [path for path, _ in itertools.groupby(looks)] == [
        sorted(itertools.chain(*trees[:number])) for number in range(5)
    ]
    assert asked(double, "rename") == [("rename", path) for path in srv("*", "*", "there/*")] + [
        ("rename", "/srv/there/*")
    ]
    assert sorted(report.created) == sorted(itertools.chain(*trees))
    modes = {path: stat.S_IMODE(double.memory.stat(path).st_mode) for path in report.created}
    assert modes == {path: 0o700 if path in paths else 0o751 for path in report.created}


async def test_nobody_who_looks_sees_a_part(tmp_path: Path) -> None:
    parts: set[str] = set()
    over = threading.Event()
    looks = 0

    def watch() -> None:
        nonlocal looks
        while not over.is_set():
            looks += 1
            for name in os.listdir(tmp_path):
                last = [tmp_path / name / "b" / "9", tmp_path / name / "c"]
                # What is seen is whole, however soon after its appearing.
                if not name.startswith(PREFIX) and not all(path.is_dir() for path in last):
                    parts.add(name)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(30):
            tops = [tmp_path / f"{number}.{top}" for top in range(3)]
            names = [*(f"b/{name}" for name in range(10)), "c"]
            await makedirs_many([top / name for name in names for top in tops], atomic=True)
    finally:
        over.set()
        watcher.join()
    assert looks
    assert parts == set()


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("exist_ok", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ["a", "a/b"],
        ["a/b", "a", "a/b"],
        ["a/b/", "a/b/."],
        ["a/b", "a//b"],
        ["there", "there/a"],
        ["there/a", "there/sub"],
        ["a", "file"],
        ["a", "file/b"],
        ["link/a", "link/sub/a"],
        ["a", "dangling/b"],
        ["a", "x" * 256],
        ["a", ""],
        ["", "a"],
        ["/"],
        ["."],
        ["there/../a", "there/../a/b", "c"],
    ],
    ids=lambda names: ",".join(name[:9] for name in names),
)
async def test_it_answers_as_without(
    names: list[str], exist_ok: bool, atomic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for options in ({}, {"atomic": True}):
        root = tmp_path / str(len(options))
        (root / "there" / "sub").mkdir(parents=True)
        (root / "file").touch()
        (root / "link").symlink_to("there")
        (root / "dangling").symlink_to("nowhere")
        monkeypatch.chdir(root)
        paths = [os.fsencode(name) for name in names] if atomic else names
        try:
            report = await makedirs_many(paths, 0o750, exist_ok=exist_ok, **options)  # type: ignore[arg-type]
        except MkdirError as error:
            answer: object = (type(error), error.errno, error.filename)
        else:
            answer = sorted(report.created)
        answers.append((answer, {name: os.lstat(root / name).st_mode for name in tree(root)}))
    assert answers[0] == answers[1]


async def test_what_comes_later_appears_inside_of_what_has_appeared(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    policy = Policy(filesystem=double)
    paths = one_by_one("a/0/b", "a/1/b", "a/2/b")
    report = await makedirs_many(paths, atomic=True, exist_ok=False, policy=policy)
    assert asked(double, "rename") == [
        *(("rename", path) for path in srv("*", "a/*", "a/*")),
    ]
    assert len(report.created) == 7


async def test_what_winds_is_made_one_by_one_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    names = ["a/b", "there/../c/d", "c/e", "there/../c/f"]
    report = await makedirs_many([tmp_path / name for name in names], atomic=True)
    tops = ["a", "a/b", "there/../c", "there/../c/d", "c/e", "there/../c/f"]
    assert report.created == tuple(str(tmp_path / name) for name in tops)


@pytest.mark.parametrize("inside", [False, True])
async def test_what_is_missing_before_dots_is_not_made(inside: bool, tmp_path: Path) -> None:
    paths = ["a/b", "new/../c"]
    with pytest.raises(MkdirError, match="No such file"):
        if inside:
            await makedirs_many(paths, atomic=True, beneath=tmp_path)
        else:
            await makedirs_many([tmp_path / path for path in paths], atomic=True)
    assert tree(tmp_path) == []
    (tmp_path / "new").mkdir()
    await makedirs_many(paths, atomic=True, beneath=tmp_path)
    assert tree(tmp_path) == ["a", "a/b", "c", "new"]


async def test_trees_on_several_mounts_are_whole_in_whichever_order_they_come(
    double: FaultyFilesystem,
) -> None:
    double.memory.add_directory("/nas")
    double.mount_at("/nas")
    paths = ["/srv/a/b", "/nas/a/b", "/srv/a/c", "/nas/a/c"]
    await makedirs_many(paths, atomic=True, policy=Policy(filesystem=double))
    assert asked(double, "rename") == [("rename", "/srv/*"), ("rename", "/nas/*")]


async def test_it_tells_how_far_it_is(double: FaultyFilesystem) -> None:
    told: list[tuple[int, int | None]] = []
    await makedirs_many(
        srv("a/b", "a", "c", "a/b"),
        atomic=True,
        progress=lambda *numbers: told.append(numbers),
        policy=Policy(filesystem=double),
    )
    assert told[-1] == (4, 4)


async def test_what_is_spelled_otherwise_is_made_once(double: FaultyFilesystem) -> None:
    paths: list[str | bytes] = [*srv("a/b/c", "a/./b/d", "a//b"), b"/srv/a/e"]
    await makedirs_many(paths, atomic=True, policy=Policy(filesystem=double))
    assert seen(double) == srv("a", "a/b", "a/b/c", "a/b/d", "a/e")
    made = [path for _, path in asked(double, "mkdir")]
    assert made == srv("*", "*/b", "*/b/c", "*/b/d", "a/*")


# Others


async def test_whoever_is_quicker_is_left_in_peace(double: FaultyFilesystem) -> None:
    double.interfere("rename", "*", partial(double.memory.add_directory, "/srv/a", 0o700))
    policy = Policy(filesystem=double)
    report = await makedirs_many(
        srv("a/b/c", "a/b/d", "a/e", "f"), atomic=True, exist_ok=False, policy=policy
    )
    assert report.created == tuple(srv("a/b", "a/b/c", "a/b/d", "a/e", "f"))
    assert report.removed == ()
    assert stat.S_IMODE(double.memory.stat("/srv/a").st_mode) == 0o700
    assert asked(double, "rename") == [("rename", path) for path in srv("*", "a/*", "a/*", "*")]


@pytest.mark.parametrize("exist_ok", [False, True])
async def test_of_whoever_is_quicker_a_path_that_was_asked_for_counts_as_found(
    exist_ok: bool, double: FaultyFilesystem
) -> None:
    double.interfere("rename", "*", partial(double.memory.add_directory, "/srv/a/e"))
    paths = srv("a/b/c", "a/e", "f")
    call = partial(makedirs_many, paths, atomic=True, policy=Policy(filesystem=double))
    if exist_ok:
        report = await call(exist_ok=True)
        assert report.created == tuple(srv("a/b", "a/b/c", "f"))
    else:
        with pytest.raises(FileExistsError) as caught:
            await call(exist_ok=False)
        assert caught.value.filename == "/srv/a/e"
        assert seen(double) == srv("a", "a/e")


async def test_who_makes_it_away_each_time_is_not_followed_for_ever(
    double: FaultyFilesystem,
) -> None:
    double.fail("rename", "*", errno.EEXIST, times=1000)
    with pytest.raises(FileNotFoundError) as caught:
        await makedirs_many(srv("a/b", "a/c"), atomic=True, policy=Policy(filesystem=double))
    assert caught.value.root_cause is RootCause.VANISHED  # type: ignore[attr-defined]
    assert double.memory.paths() == ["/srv", "/srv/there"]


async def test_what_vanishes_once_it_has_appeared_is_made_again_and_at_once(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    def vanish() -> None:
        for path in srv("a/b", "a"):
            double.memory.remove(path)
        double.interfere("rename", "*", lambda: looks.append(seen(double)))

    looks: list[list[str]] = []
    # When what has appeared is in place, only where it has is still to be written.
    double.interfere("open", "/srv/a", vanish)
    policy = Policy(filesystem=double)
    report = await makedirs_many(one_by_one("a", "a/b"), atomic=True, durable=True, policy=policy)
    assert [retry.cause for retry in report.retries] == [RootCause.VANISHED]
    assert looks == [[]]
    assert seen(double) == srv("a", "a/b")


async def test_what_vanishes_and_is_made_again_by_others_is_theirs(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    def vanish() -> None:
        for path in srv("a/b", "a"):
            double.memory.remove(path)
        double.memory.add_directory("/srv/x/y")  # which get their numbers
        double.interfere("lstat", "/srv/a", partial(double.memory.add_directory, "/srv/a"))

    double.interfere("open", "/srv/a", vanish)
    async with open_rollback_nursery(policy=Policy(filesystem=double)) as nursery:
        await nursery.makedirs_many(one_by_one("a", "a/b"), atomic=True, durable=True)
        nursery.cancel_scope.cancel()
    assert seen(double) == srv("a", "x", "x/y")


async def test_calls_that_share_parents_all_get_what_they_asked_for(tmp_path: Path) -> None:
    for number in range(20):
        root = tmp_path / str(number)
        root.mkdir()
        async with trio.open_nursery() as nursery:
            for name in "abcd":
                paths = [root / "x" / "y" / name, root / "x" / name / "z", root / name]
                nursery.start_soon(partial(makedirs_many, paths, atomic=name != "b"))
        assert tree(root) == sorted(
            ["x", "x/y", *"abcd"]
            + [path for name in "abcd" for path in (f"x/y/{name}", f"x/{name}", f"x/{name}/z")]
        )


# Failing


@pytest.mark.parametrize("exist_ok", [False, True])
async def test_what_has_appeared_is_undone_when_a_later_tree_fails(
    exist_ok: bool, double: FaultyFilesystem
) -> None:
    double.memory.add_file("/srv/file")
    bad = "file/in/the/way" if exist_ok else "there"
    policy = Policy(filesystem=double)
    with pytest.raises(MkdirError) as caught:
        await makedirs_many(
            srv("a/b", "a/c", "d", bad), atomic=True, exist_ok=exist_ok, policy=policy
        )
    report = caught.value.report
    assert report is not None
    assert sorted(report.removed) == srv("a", "a/b", "a/c", "d")
    assert double.memory.paths() == ["/srv", "/srv/file", "/srv/there"]


async def test_paths_in_errors_are_those_at_which_things_were_going_to_be(
    double: FaultyFilesystem,
) -> None:
    double.fail("mkdir", "*/c", errno.EACCES)
    with pytest.raises(PermissionError) as caught:
        await makedirs_many(srv("a/b", "a/c"), atomic=True, policy=Policy(filesystem=double))
    assert caught.value.filename == "/srv/a/c"
    assert seen(double) == []


@pytest.mark.sweep
@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EBUSY, errno.EEXIST, errno.EINVAL, errno.ENOENT]
)
async def test_a_lost_reply_to_the_rename_is_settled_by_what_stands_there(
    number: int, double: FaultyFilesystem
) -> None:
    double.lose_reply("rename", "*", number, times=2)
    policy = Policy(filesystem=double)
    report = await makedirs_many(srv("a/b", "a/c", "d/e"), atomic=True, policy=policy)
    assert report.created == tuple(srv("a", "a/b", "a/c", "d", "d/e"))
    assert seen(double) == [*report.created]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
async def test_a_filesystem_without_such_a_rename_is_refused(
    number: int, double: FaultyFilesystem
) -> None:
    double.fail("rename", "*", number)
    with pytest.raises(MkdirError) as caught:
        await makedirs_many(srv("a/b", "a/c"), atomic=True, policy=Policy(filesystem=double))
    assert (caught.value.errno, caught.value.filename) == (number, "/srv/a")
    assert "no rename that replaces nothing" in caught.value.__notes__[0]
    assert double.memory.paths() == ["/srv", "/srv/there"]


async def test_a_filesystem_that_cannot_rename_at_all_is_refused_at_once() -> None:
    class Poor:
        turn = None

        def mount(self, path: str) -> trio_mkdir.Mount:
            return trio_mkdir.Mount(1, 0, "0:1", "/", "/", "rw", "poor", "poor")

        mkdir = rmdir = stat = lstat = statvfs = sleep = mount

    with pytest.raises(NotImplementedError, match="atomically"):
        await makedirs_many(["/a"], atomic=True, policy=Policy(filesystem=Poor()))  # type: ignore[arg-type]


async def test_as_long_as_it_gets_on_it_is_tried_again(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    # Each directory is refused once, and there are more of them than attempts at one.
    for number in range(30):
        double.fail("mkdir", f"*/b/{number}", errno.EBUSY)
    paths = srv(*(f"a/b/{number}" for number in range(30)))
    report = await makedirs_many(paths, atomic=True, policy=Policy(filesystem=double, budget=None))
    assert len(report.retries) == 30
    assert asked(double, "rename") == [("rename", "/srv/*")]


async def test_nothing_of_a_tree_is_touched_while_its_rename_hangs(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem.wrap()
    hold = filesystem.hold("rename", "*")
    policy = Policy(filesystem=filesystem, rollback_timeout=0.05)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as nursery:
            paths = [tmp_path / name for name in ("a/b/c", "a/b/d", "a/e/f", "a/g")]
            nursery.start_soon(partial(makedirs_many, paths, atomic=True, policy=policy))
            await hold.wait_arrived()
            nursery.cancel_scope.cancel()
        debts = pending_rollbacks()
        assert {debt.operation for debt in debts} == {"rename", "undo"}
        assert all(PREFIX not in str(debt.path) for debt in debts)
        assert len(tree(tmp_path)) == 7  # left alone until it has returned
        hold.release()
        with trio.fail_after(SOON):
            await wait_settled()
    assert tree(tmp_path) == []


# What else is asked for


async def test_each_tree_is_written_before_it_appears_and_what_it_appears_in_after_that(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    paths = srv("a/b", "a/c", "there/d", "there/../a/e")
    await makedirs_many(paths, atomic=True, durable=True, policy=Policy(filesystem=double))
    steps = asked(double, "fsync", "rename")
    assert steps[:-3] == [
        *(("fsync", path) for path in srv("*", "*/b", "*/c")),
        ("rename", "/srv/*"),
        ("fsync", "/srv/there/*"),
        ("rename", "/srv/there/*"),
        ("fsync", "/srv/there/../a/*"),
        ("rename", "/srv/there/../a/*"),
    ]
    # Also that which was new, and written, before something appeared in it.
    above = ["/srv", *srv("there", "there/../a")]
    assert sorted(steps[-3:]) == [("fsync", path) for path in above]


async def test_each_has_its_owner_and_mode_before_it_appears(double: FaultyFilesystem) -> None:
    had: dict[str, tuple[int, int, int]] = {}

    def look() -> None:
        for path in double.memory.paths():
            if PREFIX in path:
                status = double.memory.stat(path)
                name = path.split("/", 3)[-1] if path.count("/") > 2 else "top"
                had[name] = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid

    double.interfere("rename", "*", look, times=5)
    policy = Policy(filesystem=double)
    options: Any = {"exact_mode": True, "owner": 7, "group": 8, "parent_mode": 0o711}
    await makedirs_many(srv("a/b/c", "a/d"), 0o777, atomic=True, policy=policy, **options)
    assert had == {
        "top": (0o711, 7, 8),
        "b": (0o711, 7, 8),
        "b/c": (0o777, 7, 8),
        "d": (0o777, 7, 8),
    }


@pytest.mark.parametrize("wrong", ["/srv/x", "/nas/usb/x"])
async def test_what_is_not_on_its_mount_is_refused(wrong: str, double: FaultyFilesystem) -> None:
    double.memory.add_directory("/nas")
    double.mount_at("/nas")
    double.memory.add_directory("/nas/usb")
    double.mount_at("/nas/usb")
    policy = Policy(filesystem=double)
    call = partial(makedirs_many, atomic=True, on_mount="/nas", policy=policy)
    with pytest.raises(MkdirError) as caught:
        await call(["/nas/a/b", wrong])
    assert caught.value.filename == wrong
    assert double.operations == ()
    await call(["/nas/a/b", "/nas/a/c"])
    assert "/nas/a/c" in double.memory.paths()


async def test_a_mount_that_vanishes_meanwhile_ends_it_and_nothing_is_left(
    double: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    double.memory.add_directory("/nas")
    double.mount_at("/nas")
    double.interfere("rename", "*", lambda: double.unmount("/nas"), when="after")
    with pytest.raises(MkdirError) as caught:
        await makedirs_many(
            ["/nas/a/b", "/nas/c"], atomic=True, on_mount="/nas", policy=Policy(filesystem=double)
        )
    assert caught.value.root_cause is RootCause.DISCONNECTED
    with trio.fail_after(100):
        await wait_settled()
    made = [path for operation, path in asked(double, "mkdir") if operation == "mkdir"]
    assert made == ["/nas/*", "/nas/*/b"]


async def test_beneath_a_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to("../outside")
    report = await makedirs_many(["a/b", "a/c", "a/b/../d"], atomic=True, beneath=root)
    assert report.created == ("a", "a/b", "a/c", "a/b/../d")
    for out in ("out/a", "../a", "a/../../a"):
        with pytest.raises(trio_mkdir.EscapeError):
            await makedirs_many(["x/y", "x/z", out], atomic=True, beneath=root)
    async with assert_nothing_leaked(), open_rollback_nursery() as nursery:
        await nursery.makedirs_many(["a/e/f", "g", "a/e/h"], atomic=True, beneath=root)
        assert (root / "a" / "e" / "h").is_dir()
        nursery.cancel_scope.cancel()
    assert tree(root) == ["a", "a/b", "a/c", "a/d", "out"]


async def test_a_nursery_that_fails_takes_it_back(tmp_path: Path) -> None:
    names = ["a/b", "a/c/d", "e"]
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs_many([tmp_path / name for name in names], atomic=True)
        await nursery.makedirs(tmp_path / "a" / "c" / "f", atomic=True)
        await nursery.makedirs_many([tmp_path / "e" / "g"], atomic=True)
        assert tree(tmp_path) == ["a", "a/b", "a/c", "a/c/d", "a/c/f", "e", "e/g"]
        nursery.cancel_scope.cancel()
    assert len(nursery.report.removed) == 7
    assert tree(tmp_path) == []


def test_the_command_makes_what_a_file_names(here: Here, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("new/a/b\nnew/c\nd/x/y\n")
    status, out, err = here.run("--atomic", "-v", "--from", "list")
    assert (status, err) == (0, [])
    assert len(out) == 6
    assert tree(tmp_path / "new") == ["a", "a/b", "c"]


def test_the_command_makes_nothing_if_it_cannot_make_all(here: Here, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("other/a\nlist/b\n")
    status, out, err = here.run("--atomic", "--from", "list")
    assert (status, out, len(err)) == (1, [], 1)
    assert PREFIX not in err[0]
    assert not (tmp_path / "other").exists()


# Cancelled at every point and disturbed at every operation


class ManyWhole(Whole):
    """A world of atomic calls for many, of which each tree is seen whole or not at all."""

    async def makedirs_many(self, *names: str, exist_ok: bool = True) -> None:
        paths = [self.path(name) for name in names]
        await makedirs_many(paths, exist_ok=exist_ok, atomic=True, policy=self.policy)
        self.succeed(*names)

    def watch_trees(self, *trees: list[str]) -> None:
        """From now on look at every operation whether a part of one of these can be seen."""
        expected = [{self.path(name) for name in names} for names in trees]
        whole: list[set[str]] = []

        def look() -> None:
            now = self.tree()
            for paths in expected:
                if paths <= now:
                    whole.append(paths)  # it may be taken back from the deepest up
                elif paths not in whole:
                    self.parts |= paths & now

        for when in WHENS:
            self.filesystem.interfere("*", "*", look, when=when, times=10**6)


class RealManyWhole(RealWhole, ManyWhole):
    """The same on the real filesystem, with worker threads; others watch there."""

    def watch_trees(self, *trees: list[str]) -> None:
        """To walk a tree in which others make and remove is no single look at it."""


Scenario = Callable[[ManyWhole], Awaitable[object]]


async def many(world: ManyWhole) -> None:
    world.watch_trees(["a", "a/b", "a/b/c", "a/b/i", "a/e"], ["there/a"], ["j", "j/k"])
    await world.makedirs_many("a/b/c", "there/a", "a/b/i", "a/e", "j/k", exist_ok=False)


async def many_where_something_stands(world: ManyWhole) -> None:
    world.watch_trees(["there/a", "there/a/b", "there/a/c"])
    await world.makedirs_many("there", "there/a/b", "there/a/c", "there/a")


async def many_that_fail(world: ManyWhole) -> None:
    world.watch_trees(["a", "a/b", "a/c"])
    await world.makedirs_many("a/b", "a/c", "file/in/the/way")


async def many_in_a_nursery_that_fails(world: ManyWhole) -> None:
    async with world.nursery() as nursery:
        paths = [world.path(name) for name in ("a/b", "a/c", "there/d")]
        await nursery.makedirs_many(paths, atomic=True)
        nursery.start_soon(partial(nursery.makedirs_many, [world.path("a/c/e")], atomic=True))
        await nursery.makedirs(world.path("file/in/the/way"), atomic=True)


async def many_beside_others(world: ManyWhole) -> None:
    async def plain() -> None:
        await makedirs(world.path("a/b/h"), exist_ok=True, policy=world.policy)
        world.succeed("a/b/h")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.makedirs_many, "a/b/c", "a/b/d", "a/e")
        nursery.start_soon(world.makedirs_many, "a/b/f", "a/e/g")
        nursery.start_soon(plain)


SCENARIOS: list[Scenario] = [
    many,
    many_where_something_stands,
    many_that_fail,
    many_in_a_nursery_that_fails,
    many_beside_others,
]
FAILING = {many_that_fail, many_in_a_nursery_that_fails}


async def run_and_leave_nothing(scenario: Scenario, world: ManyWhole) -> None:
    async with assert_nothing_leaked(patience=100):
        await scenario(world)


def expected(scenario: Scenario) -> tuple[type[Exception], ...]:
    return (MkdirError,) if scenario in FAILING else ()


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("scenario", "delay"),
    [
        *((scenario, 0.0) for scenario in SCENARIOS),
        *((scenario, 0.1) for scenario in SCENARIOS if scenario is not many_beside_others),
    ],
    ids=name_of,
)
async def test_cancelled_at_any_point_it_is_whole_or_nothing(
    scenario: Scenario, delay: float, autojump_clock: MockClock
) -> None:
    def setup() -> ManyWhole:
        world = ManyWhole(rollback_timeout=100.0)
        if delay:
            world.filesystem.delay("*", "*", delay, when="after")
        return world

    summary = await cancel_everywhere(
        scenario, setup, check=check_whole, expected=expected(scenario)
    )
    assert summary.cancelled > 3


@pytest.mark.sweep
@pytest.mark.parametrize("scenario", [many, many_that_fail], ids=name_of)
async def test_cancelled_at_any_point_with_threads_on_the_real_filesystem(
    scenario: Scenario, tmp_path: Path
) -> None:
    setup = each_in_its_own(tmp_path, lambda root: RealManyWhole(root, 0.002))

    summary = await cancel_everywhere(
        scenario, setup, check=check_whole, expected=expected(scenario)
    )
    assert summary.cancelled > 1


@pytest.mark.sweep
@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
@pytest.mark.parametrize(
    ("number", "lost_reply"),
    [
        (errno.EACCES, False),
        *itertools.product([errno.EBUSY, errno.EIO, errno.ESTALE], [False, True]),
    ],
)
async def test_a_fault_at_any_operation_leaves_it_whole_or_nothing(
    scenario: Scenario, number: int, lost_reply: bool, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number, ManyWhole, lost_reply=lost_reply)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EEXIST], ids=errno.errorcode.get)
async def test_what_is_gone_or_taken_for_a_moment_is_made_again(
    number: int, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(many, number, ManyWhole, operations={"mkdir", "rename"}, faults=2)
