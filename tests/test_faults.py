"""What a call does about errors that the kernel itself answers, on filesystems that have them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
import trio
from filesystems.faults import ControlGroup, MortalMount, Quota
from filesystems.mounts import MountPoint, mount_table
from filesystems.processes import AnotherUser

from trio_mkdir import (
    BackoffPolicy,
    Event,
    Made,
    MkdirError,
    Policy,
    Report,
    RetryScheduled,
    RootCause,
    makedirs,
    mkdir,
    pending_rollbacks,
)
from trio_mkdir._registry import registry

AnyPath: TypeAlias = str | bytes

RETRIES = {
    cause: BackoffPolicy.constant(0.0005, max_retries=2, max_elapsed=60)
    for cause in Policy().retries
}
"""What the default policy retries, without its waiting."""
HASTY = Policy(retries=RETRIES, budget=None)


def tree(directory: Path) -> list[str]:
    """What is in a directory, however deep; nothing if it is none."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def way(start: Path, end: Path) -> Path:
    """A path to ``end`` through ``start``, which need not exist."""
    return start / os.path.relpath(end, start)


def on_retry(act: Callable[[], object]) -> Callable[[Event], None]:
    """An observer that does something once, when the first retry has been decided."""
    todo = [act]

    def observe(event: Event) -> None:
        if isinstance(event, RetryScheduled) and todo:
            todo.pop()()

    return observe


def on_made(path: Path, act: Callable[[], object]) -> Callable[[Event], None]:
    """An observer that does something right after ``path`` was made."""

    def observe(event: Event) -> None:
        if isinstance(event, Made) and event.path == str(path):
            act()

    return observe


def umask() -> str:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("Umask:"))
    return line


@pytest.fixture(autouse=True)
def nothing_changes_but_the_tree() -> Iterator[None]:
    before = umask(), os.getcwd()
    yield
    assert (umask(), os.getcwd()) == before
    assert registry.tree.statistics == (0, 0)
    assert pending_rollbacks() == ()


# Every source of an error


@attrs.frozen
class Fault:
    """A place where the kernel refuses a directory."""

    refuses: Path
    """Nothing can be made in it..."""
    first: str
    """...and this least of all."""
    number: int
    kind: type[OSError]
    cause: RootCause
    retried: bool = False


@pytest.fixture
def full(no_space: Path) -> Fault:
    for number in range(3):
        (no_space / str(number)).touch()
    return Fault(no_space, "a", errno.ENOSPC, OSError, RootCause.NO_SPACE, retried=True)


@pytest.fixture
def over_quota(no_quota: Quota) -> Fault:
    cause = RootCause.NO_QUOTA
    return Fault(no_quota.path, "a", errno.EDQUOT, OSError, cause, retried=True)


@pytest.fixture
def mounted_read_only(read_only: Path) -> Fault:
    return Fault(read_only, "a", errno.EROFS, OSError, RootCause.READ_ONLY)


@pytest.fixture
def made_immutable(immutable: Path) -> Fault:
    return Fault(immutable, "a", errno.EPERM, PermissionError, RootCause.NOT_PERMITTED)


@pytest.fixture
def out_of_links(too_many_links: Path) -> Fault:
    return Fault(too_many_links, "a", errno.EMLINK, OSError, RootCause.TOO_MANY_LINKS)


@pytest.fixture
def broken(shut_down: Path) -> Fault:
    return Fault(shut_down, "a", errno.EIO, OSError, RootCause.DISCONNECTED)


@pytest.fixture
def out_of_descendants(no_descendants: ControlGroup) -> Fault:
    path = no_descendants.path
    return Fault(path, "a", errno.EAGAIN, BlockingIOError, RootCause.BUSY, retried=True)


@pytest.fixture
def name_too_long(tmp_path: Path) -> Fault:
    (tmp_path / "place").mkdir()
    number, cause = errno.ENAMETOOLONG, RootCause.BAD_NAME
    return Fault(tmp_path / "place", "n" * 256, number, OSError, cause)


@pytest.fixture
def loop(tmp_path: Path) -> Fault:
    (tmp_path / "loop").symlink_to("loop")
    return Fault(tmp_path / "loop", "a", errno.ELOOP, OSError, RootCause.LOOP)


@pytest.fixture
def file_in_the_way(tmp_path: Path) -> Fault:
    (tmp_path / "file").write_text("precious")
    cause = RootCause.IN_THE_WAY
    return Fault(tmp_path / "file", "a", errno.ENOTDIR, NotADirectoryError, cause)


ON_A_MOUNT = [
    "full",
    "over_quota",
    "mounted_read_only",
    "made_immutable",
    "out_of_links",
    "broken",
    "out_of_descendants",
]
FAULTS = [*ON_A_MOUNT, "name_too_long", "loop", "file_in_the_way"]


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Fault:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Fault)
    return found


@pytest.mark.parametrize("exist_ok", [False, True])
async def test_a_fault_on_the_way_ends_in_its_cause_and_errno_and_leaves_nothing(
    fault: Fault, tmp_path: Path, exist_ok: bool
) -> None:
    # Two directories can be made before the way leads to the place that refuses the others.
    start = tmp_path / "start"
    start.mkdir()
    new = start / "new"
    base = way(new / "deep", fault.refuses)
    before = tree(tmp_path), tree(fault.refuses), len(os.listdir("/proc/self/fd"))
    with pytest.raises(fault.kind) as caught:
        await makedirs(base / fault.first / "b/c", exist_ok=exist_ok, policy=HASTY)
    error = caught.value
    assert isinstance(error, MkdirError)
    plain = type(OSError(fault.number, ""))  # the class that Python itself gives this errno
    assert plain is fault.kind
    assert (error.errno, error.strerror) == (fault.number, os.strerror(fault.number))
    assert error.root_cause is fault.cause
    assert error.filename == str(base / fault.first)
    report = error.report
    assert report.created == (str(new), str(new / "deep"))
    assert report.removed == report.created[::-1]
    assert (report.kept, report.pending) == ((), ())
    assert (tree(tmp_path), tree(fault.refuses), len(os.listdir("/proc/self/fd"))) == before


async def test_only_a_cause_that_can_pass_is_tried_again_and_as_often_as_the_policy_says(
    fault: Fault,
) -> None:
    with pytest.raises(MkdirError) as caught:
        await makedirs(fault.refuses / fault.first / "b/c", policy=HASTY)
    retries = [
        (retry.cause, retry.errno, retry.path, retry.delay) for retry in caught.value.report.retries
    ]
    path = str(fault.refuses / fault.first)
    expected = [(fault.cause, fault.number, path, 0.0005)] * 2
    assert retries == (expected if fault.retried else [])
    assert (fault.cause in Policy().retries) == fault.retried


async def test_a_cause_that_the_policy_leaves_out_is_not_tried_again(fault: Fault) -> None:
    with pytest.raises(MkdirError) as caught:
        await makedirs(fault.refuses / fault.first / "b/c", policy=Policy(retries={}))
    assert caught.value.report.retries == ()
    assert caught.value.errno == fault.number


async def test_mkdir_answers_to_a_fault_as_makedirs_does(fault: Fault) -> None:
    with pytest.raises(fault.kind) as caught:
        await mkdir(fault.refuses / fault.first, policy=HASTY)
    error = caught.value
    assert isinstance(error, MkdirError)
    assert (error.errno, error.root_cause) == (fault.number, fault.cause)
    assert error.report.created == ()


@pytest.mark.parametrize("name", ON_A_MOUNT)
async def test_an_error_knows_the_mount_on_which_it_happened(
    name: str, request: pytest.FixtureRequest
) -> None:
    fault: Fault = request.getfixturevalue(name)
    with pytest.raises(MkdirError) as caught:
        await makedirs(fault.refuses / fault.first / "b/c", policy=HASTY)
    points = [mount.path for mount in mount_table()]
    place = next(path for path in (fault.refuses, *fault.refuses.parents) if path in points)
    assert caught.value.mount is not None
    assert caught.value.mount.mount_point == str(place)


@pytest.mark.parametrize("name", ["made_immutable", "mounted_read_only", "broken"])
async def test_where_an_administrator_has_to_act_the_error_names_the_mount(
    name: str, request: pytest.FixtureRequest
) -> None:
    fault: Fault = request.getfixturevalue(name)
    with pytest.raises(MkdirError) as caught:
        await makedirs(fault.refuses / "a/b", policy=HASTY)
    mount = caught.value.mount
    assert mount is not None
    assert any(mount.mount_point in note and mount.type in note for note in caught.value.__notes__)


async def test_an_error_for_lack_of_permission_says_who_may_write(made_immutable: Fault) -> None:
    with pytest.raises(PermissionError) as caught:
        await makedirs(made_immutable.refuses / "a/b", policy=HASTY)
    notes = "\n".join(caught.value.__notes__)
    assert repr(str(made_immutable.refuses)) in notes
    assert "mode 0755, uid 0, gid 0" in notes
    assert f"this process has uid {os.geteuid()}" in notes


# Another user, no threads: in processes of their own

ATTEMPT = """
retries = {
    cause: trio_mkdir.BackoffPolicy.constant(0.0005, max_retries=2)
    for cause in trio_mkdir.Policy().retries
}
def observe(event):
    if "allow" in sys.argv and isinstance(event, trio_mkdir.RetryScheduled):
        allow_threads()
policy = trio_mkdir.Policy(retries=retries, observers=[observe])
async def main():
    said = {"mro": [], "cause": None, "notes": [], "errno": None, "filename": None}
    try:
        report = await trio_mkdir.makedirs(sys.argv[1], exist_ok=True, policy=policy)
    except trio_mkdir.MkdirError as error:
        report = error.report
        said["mro"] = [cls.__name__ for cls in type(error).__mro__]
        said["cause"] = error.root_cause.name
        said["errno"], said["filename"] = error.errno, error.filename
        said["notes"] = getattr(error, "__notes__", [])
    said["retries"] = [retry.cause.name for retry in report.retries]
    said["created"], said["removed"] = report.created, report.removed
    said["kept"] = [kept.path for kept in report.kept]
    print(json.dumps(said))
trio.run(main)
"""


@pytest.fixture
def for_everybody(scratch: Path) -> Iterator[Path]:
    path = scratch / "for-everybody"
    path.mkdir()
    path.chmod(0o777)
    yield path
    for found in tree(path)[::-1]:
        (path / found).rmdir()
    path.rmdir()


def test_a_directory_of_somebody_else_is_not_permitted_and_leaves_nothing(
    as_user: AnotherUser, for_everybody: Path
) -> None:
    closed = for_everybody / "closed"
    closed.mkdir(mode=0o755)
    place = for_everybody / "new/deep/../../closed"
    said = json.loads(as_user.run(ATTEMPT, f"{place}/a/b"))
    assert {"MkdirError", "PermissionError"} <= set(said["mro"])
    assert (said["errno"], said["cause"]) == (errno.EACCES, "NOT_PERMITTED")
    assert said["filename"] == f"{place}/a"
    assert said["retries"] == []
    assert said["created"] == [f"{for_everybody}/new", f"{for_everybody}/new/deep"]
    assert said["removed"] == said["created"][::-1]
    assert tree(for_everybody) == ["closed"]
    notes = "\n".join(said["notes"])
    assert f"'{place}' has mode 0755, uid 0, gid 0" in notes
    assert f"this process has uid {as_user.uid}, gid {as_user.gid}" in notes
    assert any(note.startswith("on the mount ") for note in said["notes"])


def test_directories_of_somebody_else_that_stand_already_are_no_failure(
    as_user: AnotherUser, for_everybody: Path
) -> None:
    (for_everybody / "closed/there").mkdir(parents=True, mode=0o755)
    (for_everybody / "closed/there/open").mkdir()
    (for_everybody / "closed/there/open").chmod(0o777)
    said = json.loads(as_user.run(ATTEMPT, f"{for_everybody}/closed/there"))
    assert (said["mro"], said["created"]) == ([], [])
    # By this way every directory is tried, from the outermost one that is missing on.
    path = for_everybody / "new/../closed/there/open/a/b"
    said = json.loads(as_user.run(ATTEMPT, str(path)))
    assert (said["mro"], said["kept"]) == ([], [])
    assert (for_everybody / "closed/there/open/a/b").is_dir()


def test_a_process_that_can_start_no_thread_lacks_resources(
    without_new_threads: AnotherUser, for_everybody: Path
) -> None:
    said = json.loads(without_new_threads.run(ATTEMPT, f"{for_everybody}/a/b"))
    assert {"MkdirError", "BlockingIOError"} <= set(said["mro"])
    assert (said["errno"], said["cause"]) == (errno.EAGAIN, "NO_RESOURCES")
    assert said["retries"] == ["NO_RESOURCES"] * 2
    assert any("can't start new thread" in note for note in said["notes"])
    assert (said["created"], said["kept"]) == ([], [])
    assert tree(for_everybody) == []


def test_a_call_goes_on_as_soon_as_a_thread_can_be_started(
    without_new_threads: AnotherUser, for_everybody: Path
) -> None:
    said = json.loads(without_new_threads.run(ATTEMPT, f"{for_everybody}/a/b", "allow"))
    assert said["mro"] == []
    assert said["retries"] == ["NO_RESOURCES"]
    assert said["created"] == [f"{for_everybody}/a", f"{for_everybody}/a/b"]
    assert tree(for_everybody) == ["a", "a/b"]


# Faults in the middle of a path


async def test_a_filesystem_that_fills_up_halfway_is_left_as_it_was(no_space: Path) -> None:
    with pytest.raises(MkdirError) as caught:
        await makedirs(no_space / "a/b/c/d/e", policy=HASTY)
    error = caught.value
    assert (error.errno, error.filename) == (errno.ENOSPC, str(no_space / "a/b/c/d"))
    assert error.report.created == tuple(str(no_space / path) for path in ("a", "a/b", "a/b/c"))
    assert error.report.removed == error.report.created[::-1]
    # The three that were made are there to be tried again on, not to be made once more.
    assert [retry.path for retry in error.report.retries] == [str(no_space / "a/b/c/d")] * 2
    assert tree(no_space) == []


async def test_a_cgroup_that_may_have_so_many_descendants_is_left_as_it_was(
    no_descendants: ControlGroup,
) -> None:
    no_descendants.allow(2)
    with pytest.raises(BlockingIOError) as caught:
        await makedirs(no_descendants.path / "a/b/c", policy=HASTY)
    assert isinstance(caught.value, MkdirError)
    assert len(caught.value.report.created) == len(caught.value.report.removed) == 2
    assert [path for path in no_descendants.path.iterdir() if path.is_dir()] == []


async def test_a_cause_that_passes_between_two_attempts_leads_to_success(
    no_descendants: ControlGroup,
) -> None:
    no_descendants.allow(1)
    path = no_descendants.path / "a/b/c"
    observe = on_retry(lambda: no_descendants.allow("max"))
    report = await makedirs(path, policy=Policy(retries=RETRIES, observers=[observe]))
    assert report.created == (str(path.parent.parent), str(path.parent), str(path))
    assert [retry.cause for retry in report.retries] == [RootCause.BUSY]
    assert path.is_dir()


async def test_what_a_broken_filesystem_does_not_give_back_is_reported(
    mortal: MortalMount,
) -> None:
    observe = on_made(mortal.path / "a/b", mortal.shut_down)
    with pytest.raises(MkdirError) as caught:
        await makedirs(mortal.path / "a/b/c", policy=Policy(retries=RETRIES, observers=[observe]))
    error = caught.value
    assert (error.errno, error.root_cause) == (errno.EIO, RootCause.DISCONNECTED)
    made = [str(mortal.path / "a"), str(mortal.path / "a/b")]
    assert error.report.created == tuple(made)
    assert {kept.path for kept in error.report.kept} == set(made)
    assert error.report.kept[0].errno == errno.EIO
    notes = "\n".join(error.__notes__)
    assert all(f"left {path!r}" in notes for path in made)
    assert os.strerror(errno.EIO) in notes


# Reclaiming space


@pytest.fixture
def junk(no_space: Path) -> list[Path]:
    """Files that take all inodes but one."""
    files = [no_space / "1.tmp", no_space / "2.tmp"]
    for file in files:
        file.touch()
    return files


async def test_space_that_is_reclaimed_lets_the_next_attempt_succeed(
    no_space: Path, junk: list[Path]
) -> None:
    asked: list[tuple[AnyPath, RootCause, int]] = []

    async def reclaim(path: AnyPath, cause: RootCause, space: os.statvfs_result) -> None:
        asked.append((path, cause, space.f_ffree))
        await trio.lowlevel.checkpoint()
        junk.pop().unlink()

    policy = Policy(retries=RETRIES, reclaim=reclaim)
    report = await makedirs(no_space / "a/b/c", policy=policy)
    assert asked == [
        (str(no_space / "a/b"), RootCause.NO_SPACE, 0),
        (str(no_space / "a/b/c"), RootCause.NO_SPACE, 0),
    ]
    assert report.created == tuple(str(no_space / path) for path in ("a", "a/b", "a/b/c"))
    assert tree(no_space) == ["a", "a/b", "a/b/c"]


async def test_quota_that_is_reclaimed_lets_the_next_attempt_succeed(no_quota: Quota) -> None:
    asked: list[tuple[AnyPath, RootCause]] = []

    async def reclaim(path: AnyPath, cause: RootCause, _: os.statvfs_result) -> None:
        asked.append((path, cause))
        await trio.lowlevel.checkpoint()
        no_quota.lift()

    policy = Policy(retries=RETRIES, reclaim=reclaim)
    await makedirs(no_quota.path / "a/b", policy=policy)
    assert asked == [(str(no_quota.path / "a"), RootCause.NO_QUOTA)]
    assert tree(no_quota.path) == ["a", "a/b"]


async def test_reclaiming_in_vain_is_tried_as_often_as_the_policy_says(
    no_space: Path, junk: list[Path]
) -> None:
    asked: list[AnyPath] = []

    async def reclaim(path: AnyPath, _: RootCause, __: os.statvfs_result) -> None:
        await trio.lowlevel.checkpoint()
        asked.append(path)

    with pytest.raises(MkdirError) as caught:
        await makedirs(no_space / "a/b/c", policy=Policy(retries=RETRIES, reclaim=reclaim))
    assert caught.value.errno == errno.ENOSPC
    assert asked == [str(no_space / "a/b")] * 2
    assert tree(no_space) == ["1.tmp", "2.tmp"]


async def test_an_exception_of_reclaim_ends_the_call_and_leaves_nothing(
    no_space: Path, junk: list[Path]
) -> None:
    class NothingToReclaim(Exception):
        pass

    failure = NothingToReclaim()

    async def reclaim(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise failure

    with pytest.raises(NothingToReclaim) as caught:
        await makedirs(no_space / "a/b/c", policy=Policy(retries=RETRIES, reclaim=reclaim))
    assert caught.value is failure
    assert tree(no_space) == ["1.tmp", "2.tmp"]


async def test_a_call_may_be_cancelled_while_it_reclaims(no_space: Path, junk: list[Path]) -> None:
    reclaiming = trio.Event()

    async def reclaim(*_: object) -> None:
        reclaiming.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:

        async def call() -> None:
            await makedirs(no_space / "a/b/c", policy=Policy(retries=RETRIES, reclaim=reclaim))

        nursery.start_soon(call)
        await reclaiming.wait()
        assert tree(no_space) == ["1.tmp", "2.tmp", "a"]
        nursery.cancel_scope.cancel()
    assert tree(no_space) == ["1.tmp", "2.tmp"]


async def test_nothing_is_reclaimed_for_other_causes(no_descendants: ControlGroup) -> None:
    async def reclaim(*_: object) -> None:
        raise AssertionError("there is nothing to reclaim")

    with pytest.raises(BlockingIOError):
        await makedirs(no_descendants.path / "a", policy=Policy(retries=RETRIES, reclaim=reclaim))


# What stands already


async def test_directories_that_stand_on_a_read_only_filesystem_are_no_failure(
    read_only: Path, tmp_path: Path
) -> None:
    report = await makedirs(read_only / "there/deep", exist_ok=True, policy=HASTY)
    assert report.created == ()
    # By this way every directory is tried, from the outermost one that is missing on.
    path = way(tmp_path / "new", read_only / "there/deep")
    report = await makedirs(path, exist_ok=True, policy=HASTY)
    assert report.created == (str(tmp_path / "new"),)
    with pytest.raises(FileExistsError):
        await makedirs(read_only / "there/deep", policy=HASTY)


async def test_a_tree_is_made_on_a_mount_below_read_only_directories(
    read_only: Path, tmp_path: Path, tmpfs: Path
) -> None:
    there = read_only / "there/deep"
    back = way(there, tmpfs).relative_to(there)
    report = await makedirs(way(tmp_path / "new", there) / back / "a/b", policy=HASTY)
    assert len(report.created) == 3
    assert tree(tmpfs) == ["a", "a/b"]
    assert tree(read_only) == ["there", "there/deep"]


async def test_directories_that_stand_in_an_immutable_one_are_no_failure(
    freezable: object, immutable: Path
) -> None:
    report = await makedirs(immutable, exist_ok=True, policy=HASTY)
    assert report.created == ()


# A mount that vanishes


async def test_a_mount_that_vanishes_between_two_attempts_ends_the_call_as_disconnected(
    vanishing_mount: MountPoint,
) -> None:
    root = vanishing_mount.path
    policy = Policy(retries=RETRIES, observers=[on_retry(vanishing_mount.vanish)])
    with pytest.raises(MkdirError) as caught:
        await makedirs(root / "a/b/c/d/e", policy=policy)
    error = caught.value
    assert error.root_cause is RootCause.DISCONNECTED
    assert error.mount is not None
    assert error.mount.mount_point == str(root)
    assert any(str(root) in note and "tmpfs" in note for note in error.__notes__)
    assert vanishing_mount.beneath() == []


@pytest.mark.parametrize("when", ["decided", "reclaiming"])
@pytest.mark.parametrize(
    "made_before",
    [
        0,
        1,
        3,
    ],
)
async def test_nothing_is_made_beneath_a_mount_that_has_vanished(
    vanishing_mount: MountPoint, made_before: int, when: str
) -> None:
    root = vanishing_mount.path
    for number in range(made_before, 3):
        (root / f"{number}.tmp").touch()
    events: list[Event] = []

    async def reclaim(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        vanishing_mount.vanish()

    policy = Policy(
        retries=RETRIES,
        reclaim=reclaim if when == "reclaiming" else None,
        observers=[
            events.append,
            *([on_retry(vanishing_mount.vanish)] if when == "decided" else []),
        ],
    )
    with pytest.raises(MkdirError) as caught:
        await makedirs(root / "a/b/c/d/e", policy=policy)
    assert caught.value.root_cause is RootCause.DISCONNECTED
    made = [event.path for event in events if isinstance(event, Made)]
    assert made == [str(root / path) for path in ("a", "a/b", "a/b/c")[:made_before]]
    assert vanishing_mount.beneath() == []


async def test_what_stands_beneath_a_mount_that_has_vanished_is_not_touched(
    vanishing_mount: MountPoint,
) -> None:
    root = vanishing_mount.path

    def vanish() -> None:
        vanishing_mount.vanish()
        (root / "a/b/c").mkdir(parents=True)

    policy = Policy(retries=RETRIES, observers=[on_retry(vanish)])
    with pytest.raises(MkdirError) as caught:
        await makedirs(root / "a/b/c/d/e", policy=policy)
    assert caught.value.root_cause is RootCause.DISCONNECTED
    assert vanishing_mount.beneath() == ["a", "a/b", "a/b/c"]


# Others in the tree


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_what_others_put_into_a_half_made_tree_is_kept_with_its_parents(
    tmp_path: Path, kind: str
) -> None:
    foreign = tmp_path / "a/b/foreign"

    def put() -> None:
        if kind == "file":
            foreign.write_text("precious")
        elif kind == "link":
            foreign.symlink_to("nowhere")
        else:
            foreign.mkdir()

    long = "n" * 256
    policy = Policy(observers=[on_made(tmp_path / "a/b/c", put)])
    with pytest.raises(MkdirError) as caught:
        await makedirs(tmp_path / "a/b/c" / long, policy=policy)
    error = caught.value
    assert error.errno == errno.ENAMETOOLONG
    assert tree(tmp_path) == ["a", "a/b", "a/b/foreign"]
    if kind == "file":
        assert foreign.read_text() == "precious"
    made = [str(tmp_path / path) for path in ("a", "a/b", "a/b/c")]
    assert error.report.created == tuple(made)
    assert error.report.removed == (made[2],)
    assert [kept.path for kept in error.report.kept] == [made[1], made[0]]
    assert {kept.why for kept in error.report.kept} == {"it is not empty"}
    assert [note for note in error.__notes__ if note.startswith("left ")] == [
        f"left {made[1]!r}: it is not empty",
        f"left {made[0]!r}: it is not empty",
    ]


async def test_a_directory_that_was_put_in_the_place_of_ours_is_kept(no_space: Path) -> None:
    ours = no_space / "a/b/c"

    def replace() -> None:
        ours.rmdir()
        ours.mkdir()  # a tmpfs does not use an inode number twice

    policy = Policy(retries=RETRIES, observers=[on_retry(replace)])
    with pytest.raises(MkdirError) as caught:
        await makedirs(ours / "d/e", policy=policy)
    assert tree(no_space) == ["a", "a/b", "a/b/c"]
    assert caught.value.report.removed == ()
    kept = [kept.path for kept in caught.value.report.kept]
    assert kept == [str(no_space / "a/b"), str(no_space / "a")]


# The rest of the process


async def test_a_change_of_the_working_directory_during_the_backoff_changes_nothing(
    no_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = os.getcwd()
    monkeypatch.chdir(no_space)
    policy = Policy(retries=RETRIES, observers=[on_retry(lambda: os.chdir(elsewhere))])
    with pytest.raises(MkdirError) as caught:
        await makedirs("a/b/c/d/e", policy=policy)
    assert os.getcwd() == str(elsewhere)
    assert caught.value.filename == "a/b/c/d"  # as it was given
    assert caught.value.report.removed == ("a/b/c", "a/b", "a")
    assert tree(no_space) == []
    assert tree(elsewhere) == []
    os.chdir(before)


async def test_a_retry_goes_on_where_the_working_directory_was(
    no_space: Path, junk: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = os.getcwd()

    async def reclaim(path: AnyPath, *_: object) -> None:
        await trio.lowlevel.checkpoint()
        os.chdir(elsewhere)
        assert path == "a/b"
        for file in junk:
            file.unlink()

    monkeypatch.chdir(no_space)
    report: Report = await makedirs("a/b/c", policy=Policy(retries=RETRIES, reclaim=reclaim))
    assert report.created == ("a", "a/b", "a/b/c")
    assert tree(no_space) == ["a", "a/b", "a/b/c"]
    assert tree(elsewhere) == []
    os.chdir(before)
