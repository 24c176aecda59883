"""Owner, group, mode and ACLs of what a call makes, on filesystems that have them."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import trio
from acls import ACLS, Whole, setfacl
from filesystems.processes import AnotherUser

import trio_mkdir
from trio_mkdir import (
    Correction,
    MkdirError,
    NotCopied,
    Policy,
    RootCause,
    makedirs,
    mkdir,
    open_rollback_nursery,
)
from trio_mkdir import _accounts as accounts
from trio_mkdir import _directory as directory
from trio_mkdir.testing import FaultyFilesystem, MemoryFilesystem

pytest_plugins = ["ownership_fixtures"]

SetUmask = Callable[[int], None]

ALICE = 1001
STAFF = 1002
OPS = 1003


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def plain(place: Path) -> None:
    """A parent that hands nothing on."""


def setgid(place: Path) -> None:
    os.chown(place, 0, STAFF)
    place.chmod(0o2755)


def sticky(place: Path) -> None:
    place.chmod(0o1777)


def default_acl(place: Path) -> None:
    setfacl(place, "u::rwx", "u:1001:rwx", "g::rx", "o::x", "m::rwx", default=True)


def short_default_acl(place: Path) -> None:
    setfacl(place, "u::rwx", "g::rwx", "o::-", default=True)


def everything(place: Path) -> None:
    setgid(place)
    default_acl(place)


PARENTS = [plain, setgid, sticky, default_acl, short_default_acl, everything]


# What each gets


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("prepare", PARENTS)
async def test_without_an_exact_mode_it_is_what_mkdir_gives(
    place: Path, set_umask: SetUmask, prepare: Callable[[Path], None], mask: int
) -> None:
    prepare(place)
    set_umask(mask)
    for number, asked in enumerate([0o777, 0o1750, 0o700, 0o111, 0o000, 0o7777]):
        os.mkdir(place / f"like{number}")
        os.mkdir(place / f"like{number}/leaf", asked)
        report = await makedirs(place / f"new{number}/leaf", asked, owner=ALICE)
        assert report.audit == ()
        for name in ("", "/leaf"):
            wanted = attrs.evolve(Whole.of(f"{place}/like{number}{name}"), uid=ALICE)
            assert Whole.of(f"{place}/new{number}{name}") == wanted


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("prepare", PARENTS)
async def test_an_exact_mode_is_that_of_the_leaf_whatever_the_umask(
    place: Path, set_umask: SetUmask, prepare: Callable[[Path], None], mask: int
) -> None:
    prepare(place)
    inherited = place.stat().st_mode & stat.S_ISGID
    for asked in (0o777, 0o750, 0o4711, 0o3770, 0o2700, 0o7777, 0o001, 0):
        set_umask(mask)
        await mkdir(place / f"{asked:o}", asked, exact_mode=True)
        set_umask(0o022)
        assert mode(place / f"{asked:o}") == asked | inherited
    assert os.umask(0o022) == 0o022


async def test_an_exact_mode_is_not_that_of_the_parents(place: Path, set_umask: SetUmask) -> None:
    set_umask(0o027)
    await makedirs(place / "a/b/c", 0o2777, exact_mode=True, parent_mode=0o1777)
    modes = [mode(place / path) for path in ("a", "a/b", "a/b/c")]
    assert modes == [0o1750, 0o1750, 0o2777]
    assert os.umask(0o022) == 0o027


async def test_what_a_dot_names_is_the_leaf(place: Path, set_umask: SetUmask) -> None:
    set_umask(0o077)
    await makedirs(f"{place}/a/b/./.", 0o1770, exact_mode=True)
    assert (mode(place / "a"), mode(place / "a/b")) == (0o700, 0o1770)
    await makedirs(f"{place}/c/.", 0o755, owner=ALICE)
    assert mode(place / "c") == 0o700  # as os.makedirs has it


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"owner": ALICE}, (ALICE, 0)),
        ({"group": OPS}, (0, OPS)),
        ({"owner": ALICE, "group": OPS}, (ALICE, OPS)),
        ({"owner": "nobody"}, (65534, 0)),
        ({"owner": "root", "group": "root"}, (0, 0)),
    ],
)
async def test_owner_and_group_are_those_of_all_that_is_made_and_of_nothing_else(
    place: Path, options: dict[str, int | str], wanted: tuple[int, int]
) -> None:
    (place / "old").mkdir()
    await makedirs(place / "old/a/b", **options)  # type: ignore[arg-type]
    assert owner(place / "old/a") == owner(place / "old/a/b") == wanted
    assert owner(place / "old") == owner(place) == (0, 0)
    # What is there already is not this call's.
    await makedirs(place / "old", exist_ok=True, owner=ALICE, exact_mode=True, mode=0o700)
    assert (owner(place / "old"), mode(place / "old")) == ((0, 0), 0o755)


async def test_a_group_that_is_asked_for_wins_over_an_inherited_one(place: Path) -> None:
    setgid(place)
    await makedirs(place / "a/b", group=OPS)
    for path in (place / "a", place / "a/b"):
        assert (owner(path), mode(path)) == ((0, OPS), 0o2755)


async def test_a_leaf_of_mode_0_in_a_parent_where_one_only_passes(place: Path) -> None:
    await makedirs(place / "a/b/c", 0, parent_mode=0o333, exact_mode=True, owner=ALICE)
    assert [mode(place / path) for path in ("a", "a/b", "a/b/c")] == [0o311, 0o311, 0]


async def test_beneath_a_root_it_is_the_same(place: Path) -> None:
    everything(place)
    (place / "to").symlink_to("real")
    (place / "real").mkdir()
    (place.parent / "template").mkdir()
    os.chown(place.parent / "template", ALICE, OPS)
    await makedirs("to/a/b", 0o1751, exact_mode=True, owner=7, beneath=place)
    assert (owner(place / "real/a/b"), mode(place / "real/a/b")) == ((7, STAFF), 0o3751)
    template = place.parent / "template"
    await makedirs("to/c", beneath=place, like=template)  # which is not in there
    assert owner(place / "real/c") == (ALICE, OPS)
    template.rmdir()


async def test_below_a_symbolic_link_and_in_bytes(place: Path) -> None:
    (place / "real").mkdir()
    os.chown(place / "real", 0, STAFF)
    (place / "real").chmod(0o2700)
    (place / "link").symlink_to("real")
    report = await makedirs(os.fsencode(place / "link/a"), owner=ALICE, like=os.fsencode(place))
    assert report.created == (os.fsencode(place / "link/a"),)
    assert (owner(place / "real/a"), mode(place / "real/a")) == ((ALICE, 0), 0o2755)


async def test_a_nursery_gives_the_same(place: Path) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(place / "a/b", 0o1770, exact_mode=True, owner=ALICE, group=OPS)
        await nursery.mkdir(place / "c", owner=ALICE)
    assert (owner(place / "a"), mode(place / "a/b")) == ((ALICE, OPS), 0o1770)
    assert owner(place / "c") == (ALICE, 0)


async def test_a_nursery_takes_away_what_it_gave_away(place: Path) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs(place / "a/b", 0, exact_mode=True, owner=ALICE)
        nursery.cancel_scope.cancel()
    assert os.listdir(place) == []


# Templates


@pytest.fixture
def template(place: Path) -> Path:
    made = place / "template"
    made.mkdir()
    os.chown(made, ALICE, OPS)
    setfacl(made, "u:2000:rwx", "m::rx")
    setfacl(made, "u::rwx", "g:3000:rx", "g::rx", "o::-", default=True)
    os.setxattr(made, "user.project", b"\0value")
    os.setxattr(made, "user.empty", b"")
    os.setxattr(made, "trusted.mine", b"root's")
    made.chmod(0o1754)
    return made


async def test_a_template_gives_all_that_it_has_to_all_that_is_made(
    place: Path, template: Path, set_umask: SetUmask
) -> None:
    set_umask(0o077)
    report = await makedirs(place / "a/b", 0o700, like=template)
    assert Whole.of(place / "a") == Whole.of(place / "a/b") == Whole.of(template)
    assert os.getxattr(place / "a/b", "trusted.mine") == b"root's"
    assert report.audit == ()


async def test_what_is_said_beside_a_template_wins(place: Path, template: Path) -> None:
    await makedirs(place / "a/b", 0o2710, exact_mode=True, owner=7, group="root", like=template)
    assert (owner(place / "a"), mode(place / "a")) == ((7, 0), 0o1754)
    assert (owner(place / "a/b"), mode(place / "a/b")) == ((7, 0), 0o2710)


async def test_a_template_without_acls_leaves_none_that_is_inherited(place: Path) -> None:
    everything(place)
    bare = place.parent / "bare"
    bare.mkdir(0o751)
    await makedirs(place / "a/b", like=bare)
    for path in (place / "a", place / "a/b"):
        # Set-group-ID is inherited all the same: whoever wants it off says so afterwards.
        assert Whole.of(path) == attrs.evolve(Whole.of(bare), mode=0o2751)
    bare.rmdir()


async def test_a_template_may_be_behind_a_link_but_must_be_a_directory(
    place: Path, template: Path
) -> None:
    (place / "link").symlink_to("template")
    (place / "file").touch()
    await mkdir(place / "a", like=place / "link")
    assert owner(place / "a") == (ALICE, OPS)
    for path, number in ((place / "file", errno.ENOTDIR), (place / "none", errno.ENOENT)):
        with pytest.raises(MkdirError) as caught:
            await makedirs(place / "b/c", like=path)
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
        assert caught.value.__notes__ == ["template: it is what `like` names"]
        assert not (place / "b").exists()


async def test_a_template_is_named_as_it_is_where_the_path_is_relative(
    root_owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root_owned)
    with pytest.raises(FileNotFoundError) as caught:
        await makedirs("a/b", like="/nowhere/template")
    assert caught.value.filename == "/nowhere/template"


async def test_an_attribute_that_does_not_fit_there_is_an_error(
    root_owned: Path, place: Path, template: Path
) -> None:
    filesystem = FaultyFilesystem.wrap()
    filesystem.fail("setxattr", "*/b", errno.ENOTSUP)
    with pytest.raises(OSError, match="not supported") as caught:
        await makedirs(place / "a/b", like=template, policy=Policy(filesystem=filesystem))
    assert isinstance(caught.value, MkdirError)
    assert caught.value.__notes__[-1].startswith("setxattr system.posix_acl_default")
    assert not (place / "a").exists()


async def test_what_is_the_systems_and_may_not_be_set_is_told() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/template")
    with_attributes = filesystem.memory.open("/template")
    for name in ("security.label", "user.mine", "trusted.overlay.opaque", "trusted.SGI_ACL_FILE"):
        with_attributes.setxattr(name, b"x")
    # The first one that is set.
    filesystem.fail("setxattr", "/a", errno.EPERM)
    report = await mkdir("/a", like="/template", policy=Policy(filesystem=filesystem))
    (left,) = report.audit
    assert isinstance(left, NotCopied)
    assert (left.path, left.what, left.errno) == ("/a", "security.label", errno.EPERM)
    assert filesystem.memory.open("/a").listxattr() == ["user.mine"]


async def test_a_filesystem_without_attributes_has_a_template_too() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/template", 0o751)
    filesystem.fail("listxattr", "/template", errno.ENOTSUP)
    filesystem.fail("getxattr", "/template", errno.ENOTSUP, times=2)
    policy = Policy(filesystem=filesystem)
    await mkdir("/a", like="/template", policy=policy)
    assert stat.S_IMODE(filesystem.memory.stat("/a").st_mode) == 0o751
    for operation in ("listxattr", "getxattr"):
        filesystem.fail(operation, "/template", errno.EIO)
        with pytest.raises(MkdirError) as caught:
            await mkdir("/b", like="/template", policy=policy)
        assert caught.value.errno == errno.EIO
        assert filesystem.memory.paths() == ["/a", "/template"]


# What is inherited is checked


def forgetful(place: Path) -> FaultyFilesystem:
    """A filesystem that hands on neither group nor set-group-ID nor default ACL."""
    filesystem = FaultyFilesystem.wrap()

    def forget() -> None:
        for above, names, _ in os.walk(place):
            for path in (os.path.join(above, name) for name in names):
                for acl in set(os.listxattr(path)) & {*ACLS}:
                    os.removexattr(path, acl)
                os.chown(path, -1, 0)
                os.chmod(path, 0o700)

    filesystem.interfere("mkdir", f"{place}/*", forget, when="after", times=float("inf"))
    return filesystem


async def test_what_the_filesystem_does_not_hand_on_is_corrected_and_told(
    place: Path, set_umask: SetUmask
) -> None:
    set_umask(0o077)
    everything(place)
    os.makedirs(place / "like/leaf", 0o751)
    wanted = Whole.of(place / "like"), Whole.of(place / "like/leaf")
    policy = Policy(filesystem=forgetful(place / "."))
    (place / "like/leaf").rmdir()
    (place / "like").rmdir()
    report = await makedirs(place / "a/b", 0o751, owner=0, policy=policy)
    assert (Whole.of(place / "a"), Whole.of(place / "a/b")) == wanted
    told = [(event.path, event.what, event.before, event.after) for event in corrections(report)]
    acl = "user::rwx,user:1001:rwx,group::r-x,mask::rwx,other::--x"
    assert told == [
        (str(place / path), what, before, after)
        for path in ("a/b", "a")
        for what, before, after in [
            ("group", 0, STAFF),
            ("mode", 0o700, 0o2700),
            ("system.posix_acl_default", None, acl),
            ("system.posix_acl_access", None, acl),
        ]
    ]


def corrections(report: trio_mkdir.Report) -> list[Correction]:
    assert all(isinstance(event, Correction) for event in report.audit)
    return [event for event in report.audit if isinstance(event, Correction)]


async def test_a_correction_is_told_once_however_often_it_is_tried(place: Path) -> None:
    setgid(place)
    filesystem = forgetful(place)
    filesystem.fail("chown", "*", errno.EINTR, times=2)
    report = await mkdir(place / "a", exact_mode=True, policy=Policy(filesystem=filesystem))
    assert len(report.retries) == 2
    assert [event.what for event in corrections(report)] == ["group", "mode"]
    assert (owner(place / "a"), mode(place / "a")) == ((0, STAFF), 0o2777)


async def test_a_short_default_acl_leaves_no_access_acl_to_correct(place: Path) -> None:
    short_default_acl(place)
    report = await mkdir(place / "a", owner=0, policy=Policy(filesystem=forgetful(place)))
    assert [event.what for event in corrections(report)] == ["system.posix_acl_default"]
    assert mode(place / "a") == 0o770


async def test_a_filesystem_that_cannot_be_corrected_fails_the_call(place: Path) -> None:
    setgid(place)
    filesystem = forgetful(place)
    filesystem.fail("chown", "*", errno.EPERM)
    with pytest.raises(PermissionError) as caught:
        await makedirs(place / "a/b", exact_mode=True, policy=Policy(filesystem=filesystem))
    assert isinstance(caught.value, MkdirError)
    assert caught.value.root_cause is RootCause.NOT_PERMITTED
    assert caught.value.__notes__[-1] == f"chown from 0:0 to 0:{STAFF}"
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (0o700, "; the set-group-ID bit is only kept for who is in the group, chmod(2)"),
        (0o2700, ""),
    ],
)
async def test_a_change_that_the_server_only_says_it_made_is_an_error(
    place: Path, left: int, why: str
) -> None:
    filesystem = FaultyFilesystem.wrap()

    def undo() -> None:
        (place / "a/b").chmod(left)

    filesystem.interfere("chmod", "*/b", undo, when="after")
    with pytest.raises(PermissionError) as caught:
        await makedirs(place / "a/b", 0o2755, exact_mode=True, policy=Policy(filesystem=filesystem))
    assert isinstance(caught.value, MkdirError)
    assert caught.value.operation == "chmod"
    assert caught.value.__notes__[-1] == (
        f"chmod did something else: it is {left:#06o} 0:0 after a change to 0o2755 0:0{why}"
    )
    assert os.listdir(place) == []


# Without root


def give_to(place: Path, user: AnotherUser) -> None:
    os.chown(place, user.uid, user.gid)


def test_another_user_may_take_one_of_his_groups_and_no_other(
    place: Path, as_user: AnotherUser
) -> None:
    give_to(place, as_user)
    user = attrs.evolve(as_user, groups=(STAFF,))
    snippet = """
from functools import partial
async def main():
    for options in json.loads(sys.argv[2]):
        try:
            await trio_mkdir.makedirs(sys.argv[1] + "/a/b", 0o2770, exact_mode=True, **options)
        except OSError as error:
            print(error.errno, os.listdir(sys.argv[1]))
        else:
            made = os.stat(sys.argv[1] + "/a/b")
            print(oct(made.st_mode), made.st_uid, made.st_gid)
            os.rmdir(sys.argv[1] + "/a/b")
            os.rmdir(sys.argv[1] + "/a")
trio.run(main)
"""
    asked = f'[{{"group": {STAFF}}}, {{"group": {OPS}}}, {{"owner": 0}}, {{"owner": {user.uid}}}]'
    said = user.run(snippet, str(place), asked).splitlines()
    assert said == [
        f"0o42770 {user.uid} {STAFF}",
        "1 []",
        "1 []",
        f"0o42770 {user.uid} {user.gid}",
    ]


def test_a_set_group_id_that_the_kernel_would_drop_in_silence_is_an_error(
    place: Path, as_user: AnotherUser
) -> None:
    setgid(place)
    place.chmod(0o2777)
    snippet = """
async def main():
    try:
        await trio_mkdir.makedirs(sys.argv[1] + "/a/b", int(sys.argv[2], 8), exact_mode=True,
            parent_mode=0o700)
    except trio_mkdir.MkdirError as error:
        print(error.errno, "set-group-ID" in error.__notes__[-1], os.listdir(sys.argv[1]))
    else:
        print(oct(os.stat(sys.argv[1] + "/a/b").st_mode))
trio.run(main)
"""
    assert as_user.run(snippet, str(place), "755").splitlines() == ["1 True []"]
    # Where nothing is to be changed, nothing is dropped.
    assert as_user.run(snippet, str(place), "700").splitlines() == ["0o42700"]
    member = attrs.evolve(as_user, groups=(STAFF,))
    (place / "a").rename(place.parent / "moved")
    assert member.run(snippet, str(place), "755").splitlines() == ["0o42755"]
    os.rmdir(place.parent / "moved/b")
    os.rmdir(place.parent / "moved")


def test_a_template_that_nobody_may_write_to_is_no_hindrance_to_undoing(
    place: Path, as_user: AnotherUser
) -> None:
    give_to(place, as_user)
    snippet = """
async def main():
    os.mkdir(sys.argv[1] + "/t")
    os.chmod(sys.argv[1] + "/t", 0o555)
    try:
        async with trio_mkdir.open_rollback_nursery() as nursery:
            await nursery.makedirs(sys.argv[1] + "/a/b/c", like=sys.argv[1] + "/t")
            print(oct(os.stat(sys.argv[1] + "/a/b").st_mode))
            nursery.cancel_scope.cancel()
    finally:
        print(os.listdir(sys.argv[1]), nursery.report.kept)
trio.run(main)
"""
    assert as_user.run(snippet, str(place)).splitlines() == ["0o40555", "['t'] ()"]


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"owner": "no-such"}, "owner: no such user: 'no-such'"),
        ({"group": "no-such"}, "group: no such group: 'no-such'"),
        ({"group": "no-such", "beneath": "."}, "group: no such group: 'no-such'"),
    ],
)
async def test_an_unknown_name_is_told_as_shutil_does_and_nothing_is_made(
    root_owned: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(root_owned)
    with pytest.raises(LookupError, match=message):
        await makedirs("a/b", **options)  # type: ignore[arg-type]
    assert os.listdir(root_owned) == []


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"owner": True}, TypeError, "owner must be a name, a number or None, not True"),
        ({"group": 1.5}, TypeError, r"group must be a name, a number or None, not 1\.5"),
        ({"owner": ""}, ValueError, "owner must be a name, a number or None, not ''"),
        ({"group": "a\0"}, ValueError, "group must be a name"),
        ({"owner": -1}, ValueError, "owner must be between 0 and 4294967294, not -1"),
        ({"like": ""}, ValueError, "like must be a path"),
        ({"like": 3}, TypeError, "like must be a path or None, not 3"),
        ({"exact_mode": True, "mode": 1 << 20}, ValueError, "mode must be from 0"),
    ],
)
async def test_bad_arguments_are_named(
    tmp_path: Path, options: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await makedirs(tmp_path / "a", **options)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


async def test_a_filesystem_that_cannot_do_it_is_told_so(tmp_path: Path) -> None:
    class Opens(MemoryFilesystem):
        umask = None  # type: ignore[assignment]

    backing = MemoryFilesystem()
    partly = SimpleNamespace(
        **{name: getattr(backing, name) for name in ("mkdir", "rmdir", "stat", "lstat", "statvfs")},
        **{name: getattr(backing, name) for name in ("open", "rename", "sleep", "mount")},
        turn=None,
    )
    with pytest.raises(NotImplementedError, match="cannot change whose directories are"):
        await makedirs("/a", owner=0, policy=Policy(filesystem=partly))
    assert backing.paths() == []


def test_a_platform_that_cannot_do_it_is_told_what_it_lacks() -> None:
    lesser = SimpleNamespace(O_NOFOLLOW=1, chown=1, listxattr=1, setxattr=1, removexattr=1)
    lesser.path = SimpleNamespace(isdir=lambda _: False)
    with pytest.raises(NotImplementedError, match="lacks: O_PATH, getxattr, /proc/self/fd"):
        directory.check_supported(lesser)


def test_a_umask_that_the_kernel_does_not_tell_is_told_of(tmp_path: Path) -> None:
    os.umask(before := os.umask(0o022))
    assert accounts.process_umask() == before
    with pytest.raises(NotImplementedError, match="No such file"):
        accounts.process_umask(str(tmp_path / "none"))
    (tmp_path / "old").write_text("Name:\tpython\nPid:\t1\n")
    with pytest.raises(NotImplementedError, match="does not tell the umask"):
        accounts.process_umask(str(tmp_path / "old"))


# Others


async def test_what_has_taken_the_place_of_a_new_directory_is_left_alone(place: Path) -> None:
    victim = place / "victim"
    victim.mkdir(0o700)
    filesystem = FaultyFilesystem.wrap()

    def swap() -> None:
        (place / "new").rename(place / "away")
        victim.rename(place / "new")

    filesystem.interfere("open", f"{place}/new", swap)
    with pytest.raises(FileExistsError):
        await mkdir(
            place / "new", 0o777, exact_mode=True, owner=ALICE, policy=Policy(filesystem=filesystem)
        )
    assert (owner(place / "new"), mode(place / "new")) == ((0, 0), 0o700)


async def test_what_others_have_put_there_meanwhile_is_welcome_but_not_given_away(
    place: Path,
) -> None:
    (place / "theirs").mkdir(0o700)
    filesystem = FaultyFilesystem.wrap()

    def swap() -> None:
        (place / "new").rename(place / "away")
        (place / "theirs").rename(place / "new")

    filesystem.interfere("open", f"{place}/new", swap)
    policy = Policy(filesystem=filesystem)
    await makedirs(place / "new", 0o777, exist_ok=True, exact_mode=True, owner=ALICE, policy=policy)
    assert (owner(place / "new"), mode(place / "new")) == ((0, 0), 0o700)


@pytest.mark.parametrize("thing", ["nothing", "link", "directory"])
async def test_what_vanishes_meanwhile_is_made_again(place: Path, thing: str) -> None:
    filesystem = FaultyFilesystem.wrap()
    (place / "theirs").mkdir(0o711)

    def replace() -> None:
        (place / "a/b").rmdir()
        (place / "a").rmdir()
        if thing == "link":
            (place / "a").symlink_to(".")
        elif thing == "directory":
            (place / "theirs").rename(place / "a")

    filesystem.interfere("open", f"{place}/a/b", replace)
    policy = Policy(filesystem=filesystem)
    report = await makedirs(place / "a/b", 0o1777, exact_mode=True, owner=ALICE, policy=policy)
    assert (owner(place / "a/b"), mode(place / "a/b")) == ((ALICE, 0), 0o1777)
    wanted = {"nothing": (ALICE, 0o755), "link": (0, 0o755), "directory": (0, 0o711)}[thing]
    assert (owner(place / "a")[0], mode(place / "a")) == wanted
    assert [retry.cause for retry in report.retries] == [RootCause.VANISHED]


async def test_a_parent_that_stood_and_vanishes_is_made_and_given_too(place: Path) -> None:
    (place / "a").mkdir()
    filesystem = FaultyFilesystem.wrap()

    def remove() -> None:
        (place / "a/b").rmdir()
        (place / "a").rmdir()

    filesystem.interfere("open", f"{place}/a/b", remove)
    policy = Policy(filesystem=filesystem)
    await makedirs(place / "a/b", 0o1777, exact_mode=True, owner=ALICE, policy=policy)
    for path, wanted in ((place / "a", 0o755), (place / "a/b", 0o1777)):
        assert (owner(path), mode(path)) == ((ALICE, 0), wanted)
    opened = [record.path for record in filesystem.operations if record.operation == "chmod"]
    assert opened == [str(place / "a/b"), str(place / "a")]


async def test_what_may_be_ours_after_a_lost_reply_is_not_passed_over_in_silence() -> None:
    filesystem = FaultyFilesystem()
    filesystem.lose_reply("mkdir", "/a", errno.ECONNABORTED)
    policy = Policy(filesystem=filesystem)
    with pytest.raises(ConnectionAbortedError) as caught:
        await makedirs("/a/b", owner=ALICE, policy=policy)
    assert isinstance(caught.value, MkdirError)
    assert any("cannot be told from another's" in note for note in caught.value.__notes__)
    assert filesystem.memory.paths() == ["/a"]
    # What is open is not ours: it stood before.
    filesystem.memory.chmod("/a", 0o755)
    filesystem.fail("mkdir", "/a", errno.ECONNABORTED, times=float("inf"))
    await makedirs("/a", exist_ok=True, owner=ALICE, policy=policy)
    assert filesystem.memory.stat("/a").st_uid == 0


async def test_what_may_be_ours_and_cannot_be_looked_at_fails_the_call() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/a")
    filesystem.fail("mkdir", "/a", errno.ECONNABORTED, times=float("inf"))
    filesystem.fail("lstat", "/a", errno.EIO, times=float("inf"))
    with pytest.raises(MkdirError) as caught:
        await makedirs("/a", exist_ok=True, owner=1, policy=Policy(filesystem=filesystem))
    assert caught.value.errno == errno.EIO


async def test_names_are_looked_up_where_they_may_hang() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_user("alice", ALICE)
    filesystem.memory.add_group("staff", STAFF)
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    for operation in ("getpwnam", "getgrnam"):
        hold = filesystem.hold(operation, "/srv/a")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def call() -> None:
                    filesystem.memory.add_directory("/srv")
                    await makedirs("/srv/a", owner="alice", group="staff", policy=policy)

                await hold.wait_arrived()
                scope.cancel()
        assert filesystem.memory.paths() == ["/srv"]
        hold.release()
        await trio_mkdir.wait_settled()
        assert filesystem.memory.paths() == ["/srv"]
    await makedirs("/srv/a", owner="alice", group="staff", policy=policy)
    made = filesystem.memory.stat("/srv/a")
    assert (made.st_uid, made.st_gid) == (ALICE, STAFF)


async def test_without_these_options_nothing_more_is_asked() -> None:
    filesystem = FaultyFilesystem()
    await makedirs("/a/b", policy=Policy(filesystem=filesystem))
    asked = [record.operation for record in filesystem.operations]
    assert asked == ["mkdir", "mkdir", "lstat", "mkdir"]


async def test_with_them_it_is_so_much_more() -> None:
    filesystem = FaultyFilesystem()
    await makedirs("/a/b", exact_mode=True, policy=Policy(filesystem=filesystem))
    asked = [record.operation for record in filesystem.operations]
    each = ["open", "fstat", "chmod", "fstat"]
    above = ["open", "fstat", "getxattr"]
    assert asked == ["mkdir", "mkdir", "lstat", "mkdir", "lstat", *above, *each, *each]


def test_every_combination_of_options_is_accepted(root_owned: Path) -> None:
    async def all_of_them() -> None:
        for number, (exact, user, group, like) in enumerate(
            itertools.product([True, False], [None, 5], [None, "root"], [None, root_owned])
        ):
            path = root_owned / str(number)
            await mkdir(path, 0o1755, exact_mode=exact, owner=user, group=group, like=like)
            wanted = 0o755 if like and not exact else 0o1755
            assert (mode(path), owner(path)) == (wanted, (user or 0, 0))

    trio.run(all_of_them)
