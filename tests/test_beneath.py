"""A call that stays beneath a root: what it makes and refuses, and that it lets go in the end."""

from __future__ import annotations

import errno
import gc
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from doubles import Memory, first
from filesystems.frozen import FreezableMount
from filesystems.processes import AnotherUser
from filesystems.stuck import wait_stuck_async
from gates import Attempt, Gate, Stage, as_usual

import trio_mkdir
from trio_mkdir import EscapeError, MkdirError, Policy, RootCause, open_rollback_nursery
from trio_mkdir._beneath import MAX_LINKS, Beneath, check_supported, open_beneath, root_at
from trio_mkdir._paths import AnyPath, Root
from trio_mkdir._registry import registry
from trio_mkdir.testing import assert_nothing_leaked

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

NAME = "n" * 256


@attrs.frozen
class Garden:
    """A root with all that can be in a path, and what is around it."""

    base: Path
    root: Path

    @classmethod
    def in_(cls, base: Path) -> Garden:
        root = base / "root"
        (root / "dir" / "sub").mkdir(parents=True)
        (root / "file").touch()
        os.mkfifo(root / "fifo")
        (base / "outside" / "sub").mkdir(parents=True)
        links = {
            "in": "dir",
            "in_slash": "dir/",
            "in_by_dots": "dir/sub/../.",
            "dir/up": "..",
            "chain": "chain1",
            "chain1": "dir/chain2",
            "dir/chain2": "../dir/sub",
            "loop": "loop",
            "ping": "pong/x",
            "pong": "ping",
            "dangling": "nothing",
            "dangling_dots": "nothing/..",
            "to_file": "file",
            "out": "../outside",
            "out_deep": "dir/../../outside",
            "out_chain": "dir/up/../outside",
            "out_and_in": "../root/dir",
            "abs": str(base / "outside"),
            "abs_in": str(root / "dir"),
            "slash": "/",
        }
        for name, text in links.items():
            (root / name).symlink_to(text)
        return cls(base, root)

    def tree(self) -> list[str]:
        """All that is there, around the root too."""
        return sorted(
            os.path.relpath(os.path.join(above, name), self.base)
            for above, directories, files in os.walk(self.base)
            for name in [*directories, *files]
        )

    def below(self) -> list[str]:
        return [path[len("root/") :] for path in self.tree() if path.startswith("root/")]


@pytest.fixture
def garden(tmp_path: Path) -> Garden:
    return Garden.in_(tmp_path)


# What it makes and what it refuses

ESCAPES = errno.EXDEV

MADE = {
    "new": ["new"],
    "new/": ["new"],
    "new//x///": ["new", "new/x"],
    "./new/./x": ["new", "new/x"],
    "new/.": ["new"],
    "new/x/./.": ["new", "new/x"],
    "dir/new": ["dir/new"],
    "dir/../new/x": ["new", "new/x"],
    "dir/sub/../../dir/new": ["dir/new"],
    "dir/sub/../new/x": ["dir/new", "dir/new/x"],
    "in/new": ["dir/new"],
    "in_slash/new": ["dir/new"],
    "in_by_dots/new": ["dir/new"],
    "in/../new": ["new"],
    "chain/new/x": ["dir/sub/new", "dir/sub/new/x"],
    "chain/../new": ["dir/new"],
    "dir/up/new": ["new"],
    "dir/up/dir/up/in/new": ["dir/new"],
    "...": ["..."],
    "..new/x..": ["..new", "..new/x.."],
    " /\n": [" ", " /\n"],
}

REFUSED = {
    "": errno.ENOENT,
    # What leads out
    "/": ESCAPES,
    "/new": ESCAPES,
    "//new": ESCAPES,
    "..": ESCAPES,
    "../": ESCAPES,
    "../new": ESCAPES,
    "../root/new": ESCAPES,
    "./../new": ESCAPES,
    ".//..//new": ESCAPES,
    "dir/../..": ESCAPES,
    "dir/../../new": ESCAPES,
    "dir/../../root/dir/new": ESCAPES,
    "in/../../new": ESCAPES,
    "dir/up/../new": ESCAPES,
    "out/new": ESCAPES,
    "out/sub/new": ESCAPES,
    "out/..": ESCAPES,
    "out/../new": ESCAPES,
    "out_deep/new": ESCAPES,
    "out_chain/new": ESCAPES,
    "out_and_in/new": ESCAPES,
    "abs/new": ESCAPES,
    "abs_in/new": ESCAPES,
    "slash/new": ESCAPES,
    "in/up/slash/new/x": ESCAPES,
    # What is missing before a `..`, or behind a link
    "new/..": errno.ENOENT,
    "new/../": errno.ENOENT,
    "new/../.": errno.ENOENT,
    "new/./../x": errno.ENOENT,
    "new/../x": errno.ENOENT,
    "new/../../x": errno.ENOENT,
    "new/x/../../y": errno.ENOENT,
    "dir/new/../x/y": errno.ENOENT,
    "dir/../new/../x": errno.ENOENT,
    "dangling/x": errno.ENOENT,
    "dangling/../x": errno.ENOENT,
    "dangling_dots/x": errno.ENOENT,
    # What is in the way
    "dangling": errno.EEXIST,
    "dangling/": errno.EEXIST,
    "dir": errno.EEXIST,
    "dir/": errno.EEXIST,
    ".": errno.EEXIST,
    "./": errno.EEXIST,
    "dir/.": errno.EEXIST,
    "dir/..": errno.EEXIST,
    "in": errno.EEXIST,
    "in/": errno.EEXIST,
    "out": errno.EEXIST,
    "abs": errno.EEXIST,
    "loop": errno.EEXIST,
    "file": errno.EEXIST,
    "file/": errno.EEXIST,
    "file/.": errno.ENOTDIR,
    "file/..": errno.ENOTDIR,
    "file/new/x": errno.ENOTDIR,
    "to_file/new": errno.ENOTDIR,
    "fifo/new": errno.ENOTDIR,
    "loop/new": errno.ELOOP,
    "ping/new": errno.ELOOP,
    NAME: errno.ENAMETOOLONG,
    "./" * 2047 + "ab": errno.ENAMETOOLONG,
    f"{NAME}/new": errno.ENAMETOOLONG,
}

STANDS = [
    "dir",
    "dir/",
    ".",
    "./",
    "dir/.",
    "dir/..",
    "in",
    "in/",
    "chain",
    "dir/up",
    "dir/sub/../..",
]

# With exist_ok, what a link leads to is looked at.
NO_DIRECTORY = {
    "out": ESCAPES,
    "abs_in": ESCAPES,
    "out/": ESCAPES,
    "loop": errno.EEXIST,
    "dangling": errno.EEXIST,
    "file": errno.EEXIST,
    "to_file": errno.EEXIST,
    "fifo": errno.EEXIST,
}


@pytest.mark.parametrize("path", MADE)
async def test_what_is_missing_is_made_where_the_path_leads(garden: Garden, path: str) -> None:
    before = garden.tree()
    async with assert_nothing_leaked():
        report = await trio_mkdir.makedirs(path, beneath=garden.root)
    assert set(garden.tree()) - set(before) == {f"root/{name}" for name in MADE[path]}
    assert len(report.created) == len(MADE[path])
    assert all(path.startswith(str(made)) for made in report.created)


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("fn", [trio_mkdir.makedirs, trio_mkdir.mkdir])
async def test_what_is_refused_makes_nothing(garden: Garden, path: str, fn: Any) -> None:
    before = garden.tree()
    async with assert_nothing_leaked():
        with pytest.raises(MkdirError) as caught:
            await fn(path, beneath=garden.root)
    assert garden.tree() == before
    error = caught.value
    assert error.errno == REFUSED[path]
    assert isinstance(error, EscapeError) is (error.errno == ESCAPES)
    assert (error.root_cause is RootCause.ESCAPES) is (error.errno == ESCAPES)
    assert path.startswith(str(error.filename))


@pytest.mark.parametrize("path", STANDS)
async def test_what_stands_is_welcome_if_the_caller_says_so(garden: Garden, path: str) -> None:
    before = garden.tree()
    for fn in (trio_mkdir.makedirs, trio_mkdir.mkdir):
        assert (await fn(path, exist_ok=True, beneath=garden.root)).created == ()
    assert garden.tree() == before


@pytest.mark.parametrize("path", NO_DIRECTORY)
async def test_what_is_no_directory_in_there_is_not_welcome(garden: Garden, path: str) -> None:
    before = garden.tree()
    with pytest.raises(MkdirError) as caught:
        await trio_mkdir.makedirs(path, exist_ok=True, beneath=garden.root)
    assert caught.value.errno == NO_DIRECTORY[path]
    assert garden.tree() == before


async def test_an_escape_says_what_it_leads_out_of(garden: Garden) -> None:
    with pytest.raises(EscapeError) as caught:
        await trio_mkdir.makedirs("out/new", beneath=garden.root)
    assert caught.value.__notes__ == [
        f"it leads out of {str(garden.root)!r}, by `..` or a symbolic link"
    ]


@pytest.mark.parametrize("above", ["new", "dir/../new"])
async def test_mkdir_makes_no_parents(garden: Garden, above: str) -> None:
    with pytest.raises(FileNotFoundError):
        await trio_mkdir.mkdir(f"{above}/x", beneath=garden.root)
    await trio_mkdir.mkdir(above, beneath=garden.root)
    await trio_mkdir.mkdir(f"{above}/x", beneath=garden.root)
    assert (garden.root / "new" / "x").is_dir()


async def test_links_are_followed_as_far_as_the_kernel_does(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    for number in range(MAX_LINKS + 1):
        (tmp_path / str(number + 1)).symlink_to(str(number))
    await trio_mkdir.makedirs(f"{MAX_LINKS}/x", beneath=tmp_path)
    with pytest.raises(MkdirError) as caught:
        await trio_mkdir.makedirs(f"{MAX_LINKS + 1}/x", beneath=tmp_path)
    assert caught.value.root_cause is RootCause.LOOP
    assert os.listdir(tmp_path / "0") == ["x"]


@pytest.mark.skipif(sys.platform != "linux", reason="what /proc has is Linux's")
@pytest.mark.parametrize(
    ("link", "number"), [("fd/{}", ESCAPES), ("root", ESCAPES), ("ns/mnt", errno.ENOENT)]
)
async def test_magic_links_are_not_followed(tmp_path: Path, link: str, number: int) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    path = link.format(descriptor) + "/new"
    with pytest.raises(MkdirError) as caught:
        await trio_mkdir.mkdir(path, beneath="/proc/self")
    os.close(descriptor)
    assert caught.value.errno == number
    assert os.listdir(tmp_path) == []


async def test_a_path_may_be_as_long_as_one_for_the_kernel(garden: Garden) -> None:
    await trio_mkdir.makedirs("./" * 2047 + "a", beneath=garden.root)
    assert (garden.root / "a").is_dir()


def test_one_that_is_not_closed_is_closed_with_the_last_reference(garden: Garden) -> None:
    before = os.listdir("/proc/self/fd")
    descriptor = os.open(garden.root, os.O_RDONLY)
    beneath = Beneath(Root("root", descriptor), registry.operating_system.mount)
    os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    del beneath
    assert os.listdir("/proc/self/fd") == before


async def test_a_path_may_be_longer_and_deeper_than_a_process_has_descriptors(
    tmp_path: Path,
) -> None:
    depth = 300
    down = "/".join(["d"] * depth)
    async with assert_nothing_leaked():
        report = await trio_mkdir.makedirs(down, beneath=tmp_path)
        assert len(report.created) == depth
        # All the way back, past what was closed on the way down, and down again.
        winding = f"{down}/{'../' * (depth - 1)}{down[2:]}{'/..' * (depth - 2)}/new"
        await trio_mkdir.makedirs(winding, beneath=tmp_path)
        with pytest.raises(EscapeError):
            await trio_mkdir.makedirs(f"{down}/{'../' * (depth + 1)}new", beneath=tmp_path)
    assert sorted(os.listdir(tmp_path / "d" / "d")) == ["d", "new"]


CLOSED = """
base = sys.argv[1]
os.umask(0)
async def main():
    await trio_mkdir.makedirs("drop/a/b", beneath=base)
    await trio_mkdir.makedirs("leaf", 0, beneath=base)
    await trio_mkdir.makedirs("leaf", exist_ok=True, beneath=base)
    for path in ("leaf/x", "shut/x"):
        try:
            await trio_mkdir.makedirs(path, beneath=base)
        except trio_mkdir.MkdirError as error:
            print(errno.errorcode[error.errno])
    try:
        async with trio_mkdir.open_rollback_nursery() as nursery:
            await nursery.makedirs("drop/c/d", parent_mode=0o333, mode=0, beneath=base)
            raise ZeroDivisionError
    except BaseException as group:
        print([type(one).__name__ for one in group.exceptions])
trio.run(main)
"""


def test_what_may_be_searched_and_not_read_is_enough(scratch: Path, as_user: AnotherUser) -> None:
    base = scratch / "closed"
    (base / "drop").mkdir(parents=True)
    (base / "shut").mkdir(mode=0)
    base.chmod(0o777)
    (base / "drop").chmod(0o333)
    try:
        said = as_user.run(CLOSED, str(base)).splitlines()
        assert said == ["EACCES", "EACCES", "['ZeroDivisionError']"]
        assert sorted(os.listdir(base / "drop")) == ["a"]
        assert (base / "leaf").stat().st_mode & 0o777 == 0
    finally:
        shutil.rmtree(base)


# The root


@pytest.mark.parametrize(
    "root",
    [
        str,
        os.fsencode,
        lambda path: path,
        lambda path: f"{path}/",
        lambda path: f"{path}/dir/../",
        lambda path: path / "in" / "up",
    ],
    ids=["text", "bytes", "path", "slash", "dots", "link"],
)
@pytest.mark.parametrize("path", ["new/x", b"new/x"], ids=["text", "bytes"])
async def test_a_root_may_be_told_in_many_ways(
    garden: Garden, root: Callable[[Path], Any], path: AnyPath
) -> None:
    report = await trio_mkdir.makedirs(path, beneath=root(garden.root))
    assert report.created == (path[:3], path)
    assert (garden.root / "new" / "x").is_dir()


async def test_the_root_of_all_is_a_root(garden: Garden) -> None:
    path = str(garden.root / "dir" / "new" / "x")
    report = await trio_mkdir.makedirs(path[1:], beneath="/")
    assert report.created == (path[1:-2], path[1:])
    with pytest.raises(EscapeError):
        await trio_mkdir.makedirs(f"../{path}", beneath="/")


async def test_a_descriptor_is_a_root_and_stays_the_callers(garden: Garden) -> None:
    descriptor = os.open(garden.root, os.O_RDONLY)
    async with assert_nothing_leaked():
        await trio_mkdir.makedirs("new/x", beneath=descriptor)
        with pytest.raises(EscapeError):
            await trio_mkdir.makedirs("../x", beneath=descriptor)
        async with open_rollback_nursery() as nursery:
            await nursery.mkdir("y", beneath=descriptor)
    os.rename(garden.root, garden.base / "moved")
    await trio_mkdir.makedirs("z", beneath=descriptor)
    os.close(descriptor)
    made = sorted({"new", "y", "z"} & set(os.listdir(garden.base / "moved")))
    assert made == ["new", "y", "z"]


async def test_a_descriptor_without_a_name_is_a_root(garden: Garden) -> None:
    descriptor = os.open(garden.root / "dir" / "sub", os.O_RDONLY)
    os.rmdir(garden.root / "dir" / "sub")
    with pytest.raises(FileNotFoundError):
        await trio_mkdir.makedirs("new", beneath=descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("root", "number"),
    [
        ("nothing", errno.ENOENT),
        ("nothing/..", errno.ENOENT),
        ("file", errno.ENOTDIR),
        ("fifo", errno.ENOTDIR),
        ("loop", errno.ELOOP),
    ],
)
@pytest.mark.parametrize("path", ["x", "x/y/z", "new/..", "."])
async def test_a_root_that_is_no_directory_is_what_the_error_names(
    garden: Garden, root: str, number: int, path: str
) -> None:
    before = garden.tree()
    async with assert_nothing_leaked():
        with pytest.raises(MkdirError) as caught:
            await trio_mkdir.makedirs(path, exist_ok=True, beneath=garden.root / root)
    assert (caught.value.errno, caught.value.filename) == (number, str(garden.root / root))
    assert "it is the root that the path has to stay beneath" in caught.value.__notes__
    assert garden.tree() == before


async def test_a_descriptor_that_is_no_directory_is_no_root(garden: Garden) -> None:
    descriptor = os.open(garden.root / "file", os.O_RDONLY)
    async with assert_nothing_leaked():
        with pytest.raises(NotADirectoryError) as caught:
            await trio_mkdir.makedirs("new", beneath=descriptor)
    os.close(descriptor)
    assert caught.value.filename == str(garden.root / "file")


async def test_a_descriptor_that_is_not_open_is_no_root() -> None:
    with pytest.raises(MkdirError) as caught:
        await trio_mkdir.makedirs("new", beneath=-1)
    assert caught.value.errno == errno.EBADF


async def test_an_empty_root_is_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        await trio_mkdir.makedirs("new", beneath="")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("root", [True, 1.5, object()])
async def test_a_root_of_another_type_is_refused(root: Any) -> None:
    with pytest.raises(TypeError, match="beneath must be"):
        await trio_mkdir.makedirs("new", beneath=root)


async def test_a_root_that_no_system_call_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="beneath must not hold a null byte"):
        await trio_mkdir.makedirs("new", beneath="a\0b")


def test_a_descriptor_that_has_no_path_gets_a_name() -> None:
    reader, writer = os.pipe()
    assert root_at(reader, in_bytes=False) == Root(f"/proc/self/fd/{reader}", reader)
    os.close(reader)
    os.close(writer)


# Where it cannot be done


async def test_a_double_that_cannot_do_it_says_so() -> None:
    with pytest.raises(NotImplementedError, match="beneath a root"):
        await trio_mkdir.makedirs("new", beneath="/", policy=Policy(filesystem=Memory()))


@pytest.mark.parametrize("lacking", ["O_PATH", "O_NOFOLLOW", "mkdir"])
def test_a_platform_that_cannot_do_it_is_told_what_it_lacks(lacking: str) -> None:
    platform = SimpleNamespace(**vars(os))
    if lacking.startswith("O_"):
        delattr(platform, lacking)
    else:
        platform.supports_dir_fd = os.supports_dir_fd - {getattr(os, lacking)}
    with pytest.raises(NotImplementedError, match=lacking):
        check_supported(platform)


# What others do meanwhile


class Interfered(Beneath):
    """Somebody acts right before one of the openings."""

    def __init__(self, root: Path, *acts: Callable[[], object]) -> None:
        super().__init__(Root(str(root), None), registry.operating_system.mount)
        self._acts = list(acts)
        self._open = self._opened_after

    def _opened_after(self, *args: Any, **kwargs: Any) -> int:
        if self._acts:
            self._acts.pop(0)()
        return os.open(*args, **kwargs)


def nobody() -> None:
    """Does nothing."""


def test_a_directory_that_takes_the_place_of_a_link_is_entered(garden: Garden) -> None:
    def swap() -> None:
        (garden.root / "out").unlink()
        (garden.root / "out").mkdir()

    # The root, the directory that is a link, and that link.
    beneath = Interfered(garden.root, nobody, nobody, swap)
    beneath.mkdir(str(garden.root / "out" / "new"), 0o777)
    beneath.close()
    assert os.listdir(garden.root / "out") == ["new"]
    assert os.listdir(garden.base / "outside") == ["sub"]


def test_somebody_who_swaps_for_ever_does_not_hold_it_up_for_ever(garden: Garden) -> None:
    out, aside = garden.root / "out", garden.root / "aside"
    aside.mkdir()

    def swap() -> None:
        out.rename(garden.root / "third")
        aside.rename(out)
        (garden.root / "third").rename(aside)

    beneath = Interfered(garden.root, nobody, nobody, *[swap] * 200)
    with pytest.raises(OSError) as caught:
        beneath.mkdir(str(out / "new"), 0o777)
    beneath.close()
    assert caught.value.errno == errno.ELOOP


def test_what_a_link_takes_the_place_of_is_not_entered(garden: Garden) -> None:
    def swap() -> None:
        (garden.root / "dir").rename(garden.root / "aside")
        (garden.root / "dir").symlink_to("../outside")

    beneath = Interfered(garden.root, nobody, swap)
    with pytest.raises(OSError) as caught:
        beneath.mkdir(str(garden.root / "dir" / "new"), 0o777)
    beneath.close()
    assert caught.value.errno == errno.EXDEV
    assert os.listdir(garden.base / "outside") == ["sub"]


def test_closed_it_lets_whoever_is_in_a_system_call_finish(garden: Garden) -> None:
    def close() -> None:
        beneath.close()

    before = os.listdir("/proc/self/fd")
    beneath = Interfered(garden.root, nobody, close)
    beneath.mkdir(str(garden.root / "dir" / "sub" / "new"), 0o777)
    assert os.listdir(garden.root / "dir" / "sub") == ["new"]
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(FileNotFoundError):
        beneath.rmdir(str(garden.root / "dir" / "sub" / "new"))


def test_it_answers_for_nothing_but_what_is_beneath_its_root(garden: Garden) -> None:
    beneath = Beneath(Root(str(garden.root), None), registry.operating_system.mount)
    for path in (garden.base, garden.base / "outside", f"{garden.root}2", "/"):
        assert not beneath.holds(str(path))
        for ask in (beneath.stat, beneath.lstat, beneath.rmdir, partial(beneath.mkdir, mode=0o777)):
            with pytest.raises(OSError) as caught:
                ask(str(path))
            assert caught.value.errno == errno.EXDEV
    with pytest.raises(OSError):
        beneath.rmdir(str(garden.root))
    assert beneath.stat(str(garden.root)).st_ino == garden.root.stat().st_ino
    beneath.close()
    with pytest.raises(FileNotFoundError):
        beneath.stat(str(garden.root))


def test_one_directory_in_there_can_be_opened(garden: Garden) -> None:
    with open_beneath(str(garden.root), "in/up/dir") as directory:
        assert os.path.samestat(directory.stat(), (garden.root / "dir").stat())
    for path in ("in", "out", "out/sub", "nothing"):
        with pytest.raises(OSError), open_beneath(str(garden.root), path):
            pass


# Calls that are held up


class Held:
    """The real filesystem from a root down, by the script of a stage."""

    turn = None

    def __init__(self, stage: Rooted, beneath: Beneath) -> None:
        self._stage = stage
        self._beneath = beneath
        self.root = beneath.root
        self.holds = beneath.holds
        self.close = beneath.close
        self.sleep = stage.sleep
        self.mount = stage.mount

    @property
    def anchor(self) -> object:
        return self._beneath.anchor

    def _run(self, name: str, path: AnyPath, *args: Any) -> Any:
        do = partial(getattr(self._beneath, name), path, *args)
        return self._stage._run(name, path, do)

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


class Rooted(Stage):
    """A stage whose calls can stay beneath a root."""

    opening: Callable[[], object] = staticmethod(nobody)
    """Comes right before a root is opened."""

    def beneath(self, root: Root) -> Held:
        stage = self

        class Opening(Beneath):
            def _opened(self) -> int:
                stage.opening()
                return super()._opened()

        return Held(self, Opening(root, self.mount))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Rooted]:
    (tmp_path / "root").mkdir()
    with Rooted.on(tmp_path) as made:
        assert isinstance(made, Rooted)
        yield made


async def make(
    stage: Rooted, path: str, root: str | int = "root", policy: Policy | None = None
) -> object:
    where = root if isinstance(root, int) else stage.at(root)
    return await trio_mkdir.makedirs(path, beneath=where, policy=policy or stage.policy())


async def test_it_is_undone_in_the_root_wherever_that_is_by_then(stage: Rooted) -> None:
    def move() -> None:
        os.rename(stage.at("root"), stage.at("moved"))
        os.makedirs(stage.at("root/a"))

    stage.script("mkdir", stage.at("root/a/b"), as_usual, first(move))
    stage.refuse("mkdir", "root/a/b/c", errno.ENOENT, errno.EACCES)
    with pytest.raises(PermissionError):
        await make(stage, "a/b/c")
    assert await stage.settled() == ["moved", "root", "root/a"]


async def test_a_root_that_hangs_holds_up_nobody_and_leaves_nothing(stage: Rooted) -> None:
    gate = Gate()
    stage.opening = lambda: gate(nobody)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make, stage, "a/b", "root", stage.policy(rollback_timeout=0))
            await gate.entered()
            nursery.cancel_scope.cancel()
        assert len(trio_mkdir.pending_rollbacks()) == 1
        gate.open()
        assert await stage.settled() == ["root"]


async def test_a_relative_root_is_taken_from_the_working_directory_of_the_call(
    stage: Rooted, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    stage.opening = lambda: gate(nobody)
    monkeypatch.chdir(stage.root)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_mkdir.makedirs, "a", beneath="root", policy=stage.policy()))
        await gate.entered()
        monkeypatch.chdir("/")
        gate.open()
    assert await stage.settled() == ["root", "root/a"]


async def test_a_descriptor_may_be_closed_as_soon_as_the_call_has_begun(stage: Rooted) -> None:
    gate = Gate()
    stage.opening = lambda: gate(nobody)
    descriptor = os.open(stage.at("root"), os.O_RDONLY)
    async with assert_nothing_leaked(), trio.open_nursery() as nursery:
        nursery.start_soon(make, stage, "a/b", descriptor)
        await gate.entered()
        os.close(descriptor)
        os.close(os.open("/dev/null", os.O_RDONLY))
        gate.open()
    assert await stage.settled() == ["root", "root/a", "root/a/b"]


async def test_what_comes_late_is_undone_in_the_root_and_lets_go_of_it(stage: Rooted) -> None:
    gate = stage.stop("mkdir", "root/a/b", skip=1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make, stage, "a/b", "root", stage.policy(rollback_timeout=0))
            await gate.entered()
            nursery.cancel_scope.cancel()
        os.rename(stage.at("root"), stage.at("moved"))
        assert {debt.path for debt in trio_mkdir.pending_rollbacks()} == {
            stage.at("root/a"),
            stage.at("root/a/b"),
        }
        gate.open()
        assert await stage.settled() == ["moved"]


def test_what_comes_after_the_run_lets_go_of_the_root_too(stage: Rooted) -> None:
    gate = stage.stop("mkdir", "root/a/b", skip=1)
    before = len(os.listdir("/proc/self/fd"))

    async def leave() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make, stage, "a/b", "root", stage.policy(rollback_timeout=0))
            await gate.entered()
            nursery.cancel_scope.cancel()

    trio.run(leave)
    gate.open()
    assert trio.run(stage.settled) == ["root"]
    assert len(os.listdir("/proc/self/fd")) == before


async def test_on_a_mount_that_hangs_it_ends_in_time_and_leaves_nothing(
    freezable: FreezableMount,
) -> None:
    root = freezable.path / "root"
    (root / "dir").mkdir(parents=True)
    policy = Policy(step_timeout=math.inf, rollback_timeout=0)
    async with assert_nothing_leaked():
        freezable.freeze()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio_mkdir.makedirs, "dir/a/b", beneath=root, policy=policy))
            await wait_stuck_async(1)
            nursery.cancel_scope.cancel()
        assert [debt.path for debt in trio_mkdir.pending_rollbacks()] == [str(root / "dir" / "a")]
        freezable.thaw()
        await trio_mkdir.wait_settled()
    assert os.listdir(root / "dir") == []


async def test_a_hook_for_space_is_told_of_the_space_in_there(stage: Rooted) -> None:
    told: list[Any] = []

    async def reclaim(path: AnyPath, cause: RootCause, space: os.statvfs_result) -> None:
        told.append((path, cause, space.f_bsize))

    stage.refuse("mkdir", "root/a", errno.ENOSPC)
    await make(stage, "a", policy=stage.policy(reclaim=reclaim))
    assert told == [("a", RootCause.NO_SPACE, os.statvfs(stage.root).f_bsize)]


# Blocks


class Failure(Exception):
    """What a block ends with."""


def roots_open(root: Path) -> int:
    """How many descriptors are open on a directory."""
    names = os.listdir("/proc/self/fd")
    found = [os.readlink(f"/proc/self/fd/{name}") for name in names if name_is_open(name)]
    return found.count(str(root))


def name_is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


async def test_a_block_keeps_one_descriptor_for_each_root_until_it_ends(garden: Garden) -> None:
    async with assert_nothing_leaked():
        async with open_rollback_nursery() as nursery:
            for name in "abc":
                await nursery.makedirs(f"{name}/x", beneath=garden.root)
                await nursery.mkdir(f"sub/{name}", beneath=garden.root / "dir")
            await nursery.makedirs("dir", exist_ok=True, beneath=garden.root)
            await nursery.makedirs(garden.base / "plain")
            assert roots_open(garden.root) == 1
            assert roots_open(garden.root / "dir") == 1
        assert roots_open(garden.root) == 0


async def test_a_block_undoes_each_in_its_root_wherever_that_is_by_then(garden: Garden) -> None:
    before = garden.tree()
    async with assert_nothing_leaked():
        with pytest.RaisesGroup(Failure):
            async with open_rollback_nursery() as nursery:
                await nursery.makedirs(garden.base / "plain" / "x")
                await nursery.makedirs("a/b", beneath=garden.root)
                await nursery.makedirs("a/c", beneath=garden.root)
                await nursery.mkdir("sub/d", beneath=garden.root / "dir")
                os.rename(garden.root, garden.base / "moved")
                (garden.root / "a" / "b").mkdir(parents=True)
                raise Failure
    assert nursery.report.removed[:4] == ("sub/d", "a/c", "a/b", "a")
    shutil.rmtree(garden.root)
    os.rename(garden.base / "moved", garden.root)
    assert garden.tree() == before


@pytest.mark.parametrize("fails", [False, True])
async def test_a_block_hands_its_roots_on_to_the_block_around_it(
    garden: Garden, fails: bool
) -> None:
    before = garden.tree()
    async with assert_nothing_leaked():
        try:
            async with open_rollback_nursery() as outer:
                await outer.makedirs("a/x", beneath=garden.root)
                async with open_rollback_nursery() as inner:
                    await inner.makedirs("a/y", beneath=garden.root)
                    await inner.makedirs("sub/z", beneath=garden.root / "dir")
                assert roots_open(garden.root) == 1
                assert roots_open(garden.root / "dir") == 1
                if fails:
                    raise Failure
        except BaseExceptionGroup as group:
            assert [type(one) for one in group.exceptions] == [Failure]  # noqa: PT017
    made = {"root/a", "root/a/x", "root/a/y", "root/dir/sub/z"}
    assert set(garden.tree()) - set(before) == (set() if fails else made)


async def test_a_root_that_a_block_has_made_goes_with_it(tmp_path: Path) -> None:
    async with assert_nothing_leaked():
        with pytest.RaisesGroup(Failure):
            async with open_rollback_nursery() as nursery:
                await nursery.makedirs(tmp_path / "new" / "root")
                await nursery.makedirs("a/b", beneath=tmp_path / "new" / "root")
                raise Failure
    assert os.listdir(tmp_path) == []


async def test_a_block_that_has_ended_takes_no_root(garden: Garden) -> None:
    async with open_rollback_nursery() as nursery:
        pass
    async with assert_nothing_leaked():
        with pytest.raises(RuntimeError):
            await nursery.makedirs("new", beneath=garden.root)


# Directories that it shares with others


@pytest.mark.parametrize("well", [True, False])
async def test_a_root_that_its_maker_left_to_a_block_goes_or_stays_with_it(
    stage: Rooted, well: bool
) -> None:
    failing = stage.stop("mkdir", "new/x", errno.EACCES, skip=1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as tasks:
            maker = stage.call(tasks, "new/x")
            await failing.entered()
            try:
                async with open_rollback_nursery(policy=stage.policy()) as nursery:
                    await nursery.makedirs("f", beneath=stage.at("new"))
                    failing.open()
                    assert await maker.done() == "failure"
                    assert stage.tree() == ["new", "new/f", "root"]
                    if not well:
                        raise Failure
            except BaseExceptionGroup as group:
                assert [type(one) for one in group.exceptions] == [Failure]  # noqa: PT017
        assert await stage.settled() == (["new", "new/f", "root"] if well else ["root"])


async def test_a_root_that_its_maker_could_not_remove_goes_with_what_was_in_it(
    stage: Rooted,
) -> None:
    failing = stage.stop("mkdir", "top/new/x", errno.EACCES, skip=1)
    waiting = stage.stop("mkdir", "top/new/f/g", errno.EACCES, skip=1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as tasks:
            maker = stage.call(tasks, "top/new/x")
            await failing.entered()
            finder = Attempt(tasks, partial(make, stage, "f/g", "top/new"))
            await waiting.entered()
            failing.open()
            assert await maker.done() == "failure"
            assert stage.tree() == ["root", "top", "top/new", "top/new/f"]
            waiting.open()
            assert await finder.done() == "failure"
        assert await stage.settled() == ["root"]


async def test_a_root_whose_maker_has_closed_his_own_is_left_and_told_of(stage: Rooted) -> None:
    failing = stage.stop("mkdir", "root/new/x", errno.EACCES, skip=1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as tasks:
            maker = Attempt(tasks, partial(make, stage, "new/x"))
            await failing.entered()
            with pytest.RaisesGroup(Failure, trio_mkdir.RollbackError):
                async with open_rollback_nursery(policy=stage.policy()) as nursery:
                    await nursery.makedirs("f", beneath=stage.at("root/new"))
                    failing.open()
                    assert await maker.done() == "failure"
                    # A late thread of another call may be looking whether it is wanted there.
                    await trio_mkdir.wait_settled()
                    raise Failure
        assert await stage.settled() == ["root", "root/new"]
    assert [kept.path for kept in nursery.report.kept] == [stage.at("root/new")]


@pytest.mark.parametrize("finder_is_plain", [True, False])
async def test_what_a_call_beneath_a_root_left_to_others_goes_with_them(
    stage: Rooted, finder_is_plain: bool
) -> None:
    failing = stage.stop("mkdir", "root/d/x", errno.EACCES, skip=1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as tasks:
            maker = Attempt(tasks, partial(make, stage, "d/x"))
            await failing.entered()
            with pytest.RaisesGroup(Failure):
                async with open_rollback_nursery(policy=stage.policy()) as nursery:
                    if finder_is_plain:
                        await nursery.makedirs(stage.at("root/d/f"))
                    else:
                        await nursery.makedirs("root/d/f", beneath=stage.root)
                    failing.open()
                    assert await maker.done() == "failure"
                    raise Failure
        assert await stage.settled() == ["root"]


async def test_what_is_beneath_a_root_is_not_removed_by_anothers_path(stage: Rooted) -> None:
    os.symlink("root", stage.at("link"))
    failing = stage.stop("mkdir", "link/d/x", errno.EACCES, skip=1)
    async with trio.open_nursery() as tasks:
        maker = stage.call(tasks, "link/d/x")
        await failing.entered()
        with pytest.RaisesGroup(Failure):
            async with open_rollback_nursery(policy=stage.policy()) as nursery:
                await nursery.makedirs("d/f", beneath=stage.at("root"))
                failing.open()
                assert await maker.done() == "failure"
                before = len(stage.calls)
                raise Failure
    assert await stage.settled() == ["root"]
    assert {path for _, path in stage.calls[before:]} == {
        stage.at("root/d"),
        stage.at("root/d/f"),
    }


async def held_up(stage: Rooted, tasks: trio.Nursery, path: str) -> tuple[Attempt, Gate]:
    """A call beneath the root that has made all but the last of ``path``, and then fails."""
    gate = stage.stop("mkdir", f"root/{path}", errno.EACCES, skip=1)
    call = Attempt(tasks, partial(make, stage, path))
    await gate.entered()
    return call, gate


async def fails(call: Attempt, gate: Gate) -> None:
    gate.open()
    assert await call.done() == "failure"


async def test_what_was_left_in_there_is_known_for_as_long_as_what_is_in_it(stage: Rooted) -> None:
    async with assert_nothing_leaked():
        async with trio.open_nursery() as tasks:
            maker = await held_up(stage, tasks, "x/m")
            inside = await held_up(stage, tasks, "x/a/m")
            await fails(*maker)
            deeper = await held_up(stage, tasks, "x/a/b/m")
            os.rename(stage.at("root"), stage.at("moved"))
            await fails(*inside)
            await fails(*deeper)
        assert await stage.settled() == ["moved"]


async def test_what_was_left_in_there_because_of_what_others_removed_goes_too(
    stage: Rooted,
) -> None:
    elsewhere = stage.stop("mkdir", "other/m", errno.EACCES, skip=1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as tasks:
            maker = await held_up(stage, tasks, "x/m")
            inside = await held_up(stage, tasks, "x/a/m")
            deeper = await held_up(stage, tasks, "x/a/b/m")
            stranger = stage.call(tasks, "other/m")
            await elsewhere.entered()
            os.mkdir(stage.at("other/theirs"))
            await fails(stranger, elsewhere)
            await fails(*maker)
            await fails(*inside)
            os.rename(stage.at("root"), stage.at("moved"))
            for path in ("moved/x/a/b", "moved/x/a"):
                os.rmdir(stage.at(path))
            os.makedirs(stage.at("root/x"))
            before = len(stage.calls)
            await fails(*deeper)
        assert await stage.settled() == ["moved", "other", "other/theirs", "root", "root/x"]
    assert stage.at("other") not in {path for _, path in stage.calls[before:]}


async def test_what_is_above_a_root_goes_the_way_the_root_went(stage: Rooted) -> None:
    failing = stage.stop("mkdir", "sky/top/new/x", errno.EACCES, skip=1)
    waiting = stage.stop("mkdir", "sky/top/new/f/g", errno.EACCES, skip=1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as tasks:
            maker = stage.call(tasks, "sky/top/new/x")
            await failing.entered()
            finder = Attempt(tasks, partial(make, stage, "f/g", "sky/top/new"))
            await waiting.entered()
            await fails(maker, failing)
            assert stage.tree() == ["root", "sky", "sky/top", "sky/top/new", "sky/top/new/f"]
            # Others remove it right after the root has gone.
            stage.script("stat", stage.at("sky/top"), first(partial(os.rmdir, stage.at("sky/top"))))
            await fails(finder, waiting)
        assert await stage.settled() == ["root"]


async def test_what_is_above_a_root_that_others_have_removed_goes_too(stage: Rooted) -> None:
    failing = stage.stop("mkdir", "top/new/x", errno.EACCES, skip=1)
    waiting = stage.stop("mkdir", "top/new/f/g", errno.EACCES, skip=1)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as tasks:
            maker = stage.call(tasks, "top/new/x")
            await failing.entered()
            finder = Attempt(tasks, partial(make, stage, "f/g", "top/new"))
            await waiting.entered()
            await fails(maker, failing)
            for path in ("top/new/f", "top/new"):
                os.rmdir(stage.at(path))
            await fails(finder, waiting)
        assert await stage.settled() == ["root"]


def test_one_that_was_interrupted_while_it_was_made_ends_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    unraised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    monkeypatch.setattr("trio_mkdir._beneath.threading", SimpleNamespace(Lock=interrupt))
    with pytest.raises(KeyboardInterrupt):
        Beneath(root_at(tmp_path, in_bytes=False), registry.operating_system.mount)
    gc.collect()
    assert unraised == []
