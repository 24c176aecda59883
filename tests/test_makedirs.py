"""`makedirs` and `mkdir` stand in for those of `os`: same results, same errors, nothing left."""

from __future__ import annotations

import errno
import inspect
import os
import re
import signal
import stat
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import attrs
import pytest
import trio
import trio.testing
from doubles import (
    DISK,
    NAS,
    PATIENCE,
    Memory,
    NoThreads,
    Scripted,
    fail,
    first,
    lose,
    refuse,
)
from filesystems.waiting import wait_until_async
from gates import LONG, time_out
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import trio_mkdir
from trio_mkdir import (
    BackoffPolicy,
    Event,
    Kept,
    MkdirError,
    MkdirFileNotFoundError,
    MountStalled,
    Policy,
    RootCause,
    StepTimeout,
    _rollback,
    makedirs,
    mkdir,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._entries import Holder
from trio_mkdir._registry import _after_fork as after_fork
from trio_mkdir._registry import registry
from trio_mkdir._visit import SLICE

pytestmark = pytest.mark.usefixtures("nothing_left")

BOTH = pytest.mark.parametrize("function", [makedirs, mkdir], ids=["makedirs", "mkdir"])


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    directory = tmp_path.resolve() / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def tree(directory: Path | str) -> dict[str, int]:
    """Everything below a directory, with its type and mode."""
    return {
        os.path.relpath(os.path.join(above, name), directory): os.lstat(
            os.path.join(above, name)
        ).st_mode
        for above, names, files in os.walk(directory)
        for name in (*names, *files)
    }


def mode_of(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


# What os.makedirs does


async def test_a_whole_path_is_made(here: Path) -> None:
    await makedirs(here / "a" / "b" / "c")
    assert (here / "a" / "b" / "c").is_dir()
    await makedirs(here / "a" / "b" / "d")
    assert sorted(tree(here)) == ["a", "a/b", "a/b/c", "a/b/d"]


async def test_a_path_may_have_dots_in_it(here: Path) -> None:
    await makedirs(here / "a" / os.curdir / "b")
    await makedirs(os.path.join(here, "a", "b", os.pardir, "c", os.curdir, "d", os.curdir))
    assert sorted(tree(here)) == ["a", "a/b", "a/c", "a/c/d"]


async def test_the_working_directory_stands_already(here: Path) -> None:
    for path in (".", "./", str(here), os.curdir, ".."):
        with pytest.raises(FileExistsError):
            await makedirs(path)
        await makedirs(path, exist_ok=True)


async def test_the_root_stands_already() -> None:
    with pytest.raises(FileExistsError):
        await makedirs("/")
    await makedirs("/", exist_ok=True)
    with pytest.raises(FileExistsError):
        await mkdir("/")


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077], ids=oct)
@pytest.mark.parametrize("mode", [0o777, 0o750, 0o700, 0o1777], ids=oct)
async def test_the_leaf_gets_the_mode_and_parents_the_umask_alone(
    here: Path, mode: int, umask: int
) -> None:
    os.umask(umask)
    await makedirs(here / "a" / "b", mode)
    assert mode_of(here / "a") == 0o777 & ~umask
    assert mode_of(here / "a" / "b") == mode & ~umask


async def test_a_default_mode_is_cut_by_the_umask(here: Path) -> None:
    os.umask(0o027)
    await makedirs("a/b")
    await mkdir("c")
    assert [mode_of(path) for path in ("a", "a/b", "c")] == [0o750] * 3


async def test_parents_get_another_mode_if_they_are_given_one(here: Path) -> None:
    await makedirs(here / "a" / "b", 0o755, parent_mode=0o711)
    assert mode_of(here / "a") == 0o711
    assert mode_of(here / "a" / "b") == 0o755


async def test_a_directory_that_stands_keeps_its_mode(here: Path) -> None:
    (here / "a").mkdir()
    (here / "a").chmod(0o711)
    await makedirs(here / "a", 0o777, exist_ok=True)
    await makedirs(here / "a" / "b", 0o777, parent_mode=0o777)
    assert mode_of(here / "a") == 0o711


async def test_what_stands_is_an_error_unless_it_may_exist(here: Path) -> None:
    await makedirs("a/b")
    for arguments in ((), (0o777,), (0o777, False)):
        with pytest.raises(FileExistsError):
            await makedirs("a/b", *arguments)
    await makedirs("a/b", 0o777, True)
    await makedirs("a/b", exist_ok=True)
    await mkdir("a/b", exist_ok=True)


async def test_a_mode_that_differs_is_no_error_where_it_may_exist(here: Path) -> None:
    await makedirs("a", 0o700)
    await makedirs("a", 0o755, exist_ok=True)
    assert mode_of("a") == 0o700


async def test_an_inherited_group_bit_is_no_error_where_it_may_exist(here: Path) -> None:
    os.chmod(here, 0o2775)  # noqa: S103 - in a directory of its own
    if not mode_of(here) & stat.S_ISGID:
        pytest.skip("the group bit does not stay here")
    await makedirs("a/b", 0o777)
    assert mode_of("a/b") & stat.S_ISGID
    await makedirs("a/b", 0o777, exist_ok=True)
    await makedirs("a/b", 0o777 | stat.S_ISGID, exist_ok=True)


async def test_a_file_is_in_the_way_whether_or_not_it_may_exist(here: Path) -> None:
    (here / "file").touch()
    for exist_ok in (False, True):
        with pytest.raises(FileExistsError):
            await makedirs("file", exist_ok=exist_ok)
        with pytest.raises(FileExistsError):
            await mkdir("file", exist_ok=exist_ok)
        with pytest.raises(NotADirectoryError):
            await makedirs("file/a/b", exist_ok=exist_ok)


async def test_two_dots_mean_what_the_symbolic_link_before_them_makes_of_them(here: Path) -> None:
    (here / "deep" / "real").mkdir(parents=True)
    (here / "link").symlink_to("deep/real")
    await makedirs("link/../a")
    assert (here / "deep" / "a").is_dir()
    assert not (here / "a").exists()


async def test_a_path_through_a_symbolic_link_is_made_where_it_leads(here: Path) -> None:
    (here / "real").mkdir()
    (here / "link").symlink_to("real")
    await makedirs("link/a/b")
    assert (here / "real" / "a" / "b").is_dir()


async def test_a_link_to_a_directory_is_one(here: Path) -> None:
    (here / "real").mkdir()
    (here / "link").symlink_to("real")
    with pytest.raises(FileExistsError):
        await makedirs("link")
    await makedirs("link", exist_ok=True)


async def test_a_link_that_leads_nowhere_is_in_the_way_and_not_followed(here: Path) -> None:
    (here / "link").symlink_to("nowhere")
    for exist_ok in (False, True):
        with pytest.raises(FileExistsError):
            await makedirs("link", exist_ok=exist_ok)
    with pytest.raises(FileNotFoundError):
        await makedirs("link/a")
    assert not (here / "nowhere").exists()


@pytest.mark.parametrize("path", ["a/", "a//", "a/b/", "./a/b//"])
async def test_slashes_at_the_end_mean_nothing(here: Path, path: str) -> None:
    await makedirs(path)
    assert os.path.isdir(path)


async def test_a_name_may_be_as_long_as_the_filesystem_lets_it(here: Path) -> None:
    await makedirs("x" * 255)
    with pytest.raises(OSError, match="File name too long") as raised:
        await makedirs("new/" + "x" * 256 + "/a")
    assert raised.value.errno == errno.ENAMETOOLONG
    assert sorted(tree(here)) == ["x" * 255]


async def test_a_new_directory_with_a_dot_is_the_directory(here: Path) -> None:
    await makedirs("new/.")
    assert sorted(tree(here)) == ["new"]
    with pytest.raises(FileExistsError):
        await makedirs("new/.")


async def test_mkdir_makes_one_directory_in_one_that_stands(here: Path) -> None:
    await mkdir("a")
    await mkdir("a/b", 0o700)
    assert mode_of("a/b") == 0o700
    with pytest.raises(FileExistsError):
        await mkdir("a")
    with pytest.raises(FileNotFoundError):
        await mkdir("c/d")
    with pytest.raises(FileNotFoundError):
        await mkdir("c/.")
    assert sorted(tree(here)) == ["a", "a/b"]


# Paths of every kind


async def test_bytes_in_bytes_out(here: Path) -> None:
    name = b"caf\xe9"
    report = await makedirs(name + b"/a")
    assert report.path == name + b"/a"
    assert report.created == (name, name + b"/a")
    assert os.path.isdir(os.path.join(os.fsencode(here), name, b"a"))
    with pytest.raises(FileExistsError) as raised:
        await makedirs(name + b"/a")
    assert raised.value.filename == name + b"/a"


async def test_names_that_are_no_text_are_made_from_surrogates(here: Path) -> None:
    report = await makedirs("caf\udce9/a")
    assert report.created == ("caf\udce9", "caf\udce9/a")
    assert os.listdir(os.fsencode(here)) == [b"caf\xe9"]


@pytest.mark.parametrize("kind", [Path, PurePosixPath, trio.Path], ids=["path", "pure", "trio"])
async def test_path_objects_are_paths(here: Path, kind: Callable[[str], Any]) -> None:
    report = await makedirs(kind("a/b"))
    assert report.path == "a/b"
    assert (here / "a" / "b").is_dir()


async def test_an_entry_of_a_directory_is_a_path(here: Path) -> None:
    (here / "a").mkdir()
    (entry,) = os.scandir(os.fsencode(here))
    report = await makedirs(entry, exist_ok=True)
    assert report.path == os.fsencode(here / "a")


@BOTH
@pytest.mark.parametrize("path", ["", b""], ids=["text", "bytes"])
async def test_an_empty_path_is_not_found(function: Callable[..., Any], path: str | bytes) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        await function(path)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, path)


async def test_the_report_and_the_error_speak_as_the_caller_did(here: Path) -> None:
    report = await makedirs("./a//b")
    assert report.created == ("./a", "./a//b")
    with pytest.raises(FileExistsError) as raised:
        await makedirs("a/b/")
    assert raised.value.filename == "a/b/"


async def test_nothing_but_what_was_made_is_reported(here: Path) -> None:
    (here / "a").mkdir()
    assert (await makedirs("a/b")).created == ("a/b",)
    assert (await makedirs("a/b", exist_ok=True)).created == ()


# The working directory


async def test_a_relative_path_is_taken_against_the_working_directory_of_the_moment(
    here: Path,
) -> None:
    (here / "one").mkdir()
    filesystem = Scripted(registry.operating_system)
    filesystem.script("mkdir", f"{here}/a/b", first(lambda: os.chdir(here / "one")))
    await makedirs("a/b", policy=Policy(filesystem=filesystem))
    assert sorted(tree(here)) == ["a", "a/b", "one"]


async def test_the_rollback_of_a_relative_path_is_too(here: Path) -> None:
    (here / "one" / "a").mkdir(parents=True)
    filesystem = Scripted(registry.operating_system)

    def move_and_refuse(do: Callable[[], object]) -> None:
        os.chdir(here / "one")
        refuse(errno.ENOSPC)(do)

    filesystem.script("mkdir", f"{here}/a/b", refuse(errno.ENOENT), move_and_refuse)
    with pytest.raises(OSError, match="No space left"):
        await makedirs("a/b", policy=Policy(filesystem=filesystem, retries={}))
    assert sorted(tree(here)) == ["one", "one/a"]


@BOTH
async def test_a_relative_path_in_a_directory_that_is_gone_is_not_found(
    here: Path, function: Callable[..., Any]
) -> None:
    here.rmdir()
    with pytest.raises(MkdirFileNotFoundError) as raised:
        await function("a")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, "a")
    assert raised.value.root_cause is RootCause.MISSING
    with pytest.raises(FileNotFoundError):
        await function(b"a")


async def test_an_absolute_path_needs_no_working_directory(here: Path, tmp_path: Path) -> None:
    here.rmdir()
    await makedirs(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


async def test_the_mode_of_another_directory_can_be_given_as_stat_tells_it(here: Path) -> None:
    os.chmod(here, 0o750)  # noqa: S103 - in a directory of its own
    await makedirs("a/b", os.stat(here).st_mode)
    assert mode_of("a/b") == 0o750


async def test_the_working_directory_and_the_umask_are_left_as_they_are(here: Path) -> None:
    os.umask(0o027)
    await makedirs("a/b/c", 0o777)
    assert os.getcwd() == str(here)
    assert os.umask(0o022) == 0o027


# Compared with os.makedirs, and os.mkdir, in twin directories


names = st.sampled_from(["a", "b", "..", ".", "", "dir", "file", "link", "dangling", "loop"])
paths = st.builds(
    lambda parts, end: "/".join(parts) + end,
    st.lists(names, min_size=1, max_size=6),
    st.sampled_from(["", "/"]),
)


LOOP = re.compile(r"loop/+\.[/.]*$")
"""Of "loop/." os.makedirs says that it was made, though nothing can be there."""

WORK = "1/2/3/4/5/6"
"""Deep enough for every `..` to stay in the twin directory."""


def prepare(directory: str) -> str:
    work = f"{directory}/{WORK}"
    os.makedirs(f"{work}/dir/inner")
    os.symlink("dir/inner", f"{work}/link")
    os.symlink("nowhere/at/all", f"{work}/dangling")
    os.symlink("loop", f"{work}/loop")
    with open(f"{work}/file", "w", encoding="ascii"):
        pass
    return work


Outcome = tuple[type[OSError], int | None] | None


def outcome_of(make: Callable[[], object]) -> Outcome:
    try:
        make()
    except MkdirError as error:
        (kind,) = [base for base in type(error).__mro__ if base.__module__ == "builtins"][:1]
        assert issubclass(kind, OSError)
        return kind, error.errno
    except OSError as error:
        return type(error), error.errno
    return None


def compare(path: str, plain: Callable[[str], object], ours: Callable[[str], object]) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        plains, mine = prepare(one), prepare(other)
        before = tree(other)
        expected = outcome_of(lambda: plain(f"{plains}/{path}"))
        assert outcome_of(lambda: ours(f"{mine}/{path}")) == expected
        assert tree(other) == (tree(one) if expected is None else before)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(paths, st.booleans(), st.sampled_from([0o777, 0o700, 0o1755]))
@example("new/..", False, 0o777)
@example("new/../b", False, 0o777)
@example("link/../a", False, 0o777)
@example("dangling/.", False, 0o777)
@example("dangling/a", True, 0o777)
@example("loop/a/b", False, 0o777)
@example("file/.", True, 0o777)
def test_makedirs_does_what_that_of_os_does_but_leaves_nothing_behind_when_it_fails(
    path: str, exist_ok: bool, mode: int
) -> None:
    assume(not LOOP.search(path))
    compare(
        path,
        lambda path: os.makedirs(path, mode, exist_ok),
        lambda path: trio.run(makedirs, path, mode, exist_ok),
    )


@settings(max_examples=200, derandomize=True, deadline=None)
@given(paths, st.sampled_from([0o777, 0o700, 0o1755]))
def test_mkdir_does_what_that_of_os_does(path: str, mode: int) -> None:
    compare(path, lambda path: os.mkdir(path, mode), lambda path: trio.run(mkdir, path, mode))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(paths)
def test_a_relative_path_is_as_good_as_an_absolute_one(path: str) -> None:
    def relative(absolute: str) -> object:
        directory = absolute.removesuffix(f"/{path}")
        before = os.getcwd()
        os.chdir(directory)
        try:
            return trio.run(makedirs, path) if path else trio.run(makedirs, "./")
        finally:
            os.chdir(before)

    if not path.startswith("/") and not LOOP.search(path):
        compare(path, os.makedirs, relative)


async def test_a_link_that_leads_nowhere_and_ends_in_a_slash_is_in_the_way(here: Path) -> None:
    (here / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        await makedirs("link/", exist_ok=True)


# Arguments


@BOTH
@pytest.mark.parametrize("path", [None, 3, object(), ["a"]], ids=repr)
async def test_what_is_no_path_is_a_type_error(function: Callable[..., Any], path: object) -> None:
    with trio.testing.assert_checkpoints(), pytest.raises(TypeError):
        await function(path)


@BOTH
@pytest.mark.parametrize("path", ["a\0b", b"\0"], ids=repr)
async def test_a_null_byte_is_a_value_error(function: Callable[..., Any], path: object) -> None:
    with trio.testing.assert_checkpoints(), pytest.raises(ValueError, match="null byte"):
        await function(path)


@BOTH
@pytest.mark.parametrize(
    ("options", "kind", "name"),
    [
        ({"mode": -1}, ValueError, "mode"),
        ({"mode": 0o200000}, ValueError, "mode"),
        ({"mode": "0o755"}, TypeError, "mode"),
        ({"mode": None}, TypeError, "mode"),
        ({"policy": None}, TypeError, "policy"),
        ({"policy": Policy}, TypeError, "policy"),
    ],
)
async def test_an_option_out_of_range_is_named_and_nothing_is_made(
    here: Path,
    function: Callable[..., Any],
    options: dict[str, object],
    kind: type[Exception],
    name: str,
) -> None:
    with trio.testing.assert_checkpoints(), pytest.raises(kind, match=f"^{name} must ") as raised:
        await function("a", **options)
    (value,) = options.values()
    assert repr(value) in str(raised.value)
    assert tree(here) == {}


async def test_a_parent_mode_out_of_range_is_named(here: Path) -> None:
    with pytest.raises(ValueError, match=r"^parent_mode must .* not -1$"):
        await makedirs("a", parent_mode=-1)
    with pytest.raises(TypeError, match=r"^parent_mode must .* not 'x'$"):
        await makedirs("a", parent_mode="x")  # type: ignore[arg-type]


# Checkpoints and cancellation


@BOTH
@pytest.mark.parametrize("exist_ok", [False, True])
async def test_it_is_a_checkpoint_always(
    here: Path, function: Callable[..., Any], exist_ok: bool
) -> None:
    with trio.testing.assert_checkpoints():
        await function("a")
    with trio.testing.assert_checkpoints():
        if exist_ok:
            await function("a", exist_ok=True)
        else:
            with pytest.raises(FileExistsError):
                await function("a")


@BOTH
async def test_it_is_a_checkpoint_where_the_working_directory_is_gone(
    here: Path, function: Callable[..., Any]
) -> None:
    here.rmdir()
    with trio.testing.assert_checkpoints(), pytest.raises(FileNotFoundError):
        await function("a")


async def test_waiting_for_nothing_is_a_checkpoint() -> None:
    with trio.testing.assert_checkpoints():
        await wait_settled()


@BOTH
@pytest.mark.parametrize("path", ["a", "b", "", "a\0", 3], ids=repr)
async def test_in_a_cancelled_scope_it_is_cancelled_and_nothing_is_made(
    here: Path, function: Callable[..., Any], path: object
) -> None:
    (here / "b").mkdir()
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled):
            await function(path)
        with pytest.raises(trio.Cancelled):
            await wait_settled()
    assert not scope.cancelled_caught
    assert sorted(tree(here)) == ["b"]


async def test_a_cancellation_goes_through_as_it_is(here: Path) -> None:
    with trio.move_on_after(0) as scope:
        await makedirs("a/b")
    assert scope.cancelled_caught
    assert tree(here) == {}


async def wait_entered(gate: Any) -> None:
    await trio.to_thread.run_sync(gate.wait_entered)


async def test_a_cancelled_call_undoes_what_it_made() -> None:
    filesystem = Scripted()
    gate = filesystem.gate("mkdir", "/a/b")
    filesystem.script("mkdir", "/a/b", first(lambda: None))
    policy = Policy(filesystem=filesystem)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial_makedirs, "/a/b", policy)
        await wait_entered(gate)
        gate.open()
        nursery.cancel_scope.cancel()
    await wait_settled()
    assert filesystem.below.tree() == []


async def partial_makedirs(path: str, policy: Policy) -> None:
    await makedirs(path, policy=policy)


async def test_a_stuck_call_ends_when_it_is_cancelled_and_is_undone_when_the_kernel_answers() -> (
    None
):
    filesystem = Scripted()
    gate = filesystem.gate("mkdir", "/a/b")  # the leaf, tried first
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial_makedirs, "/a/b", policy)
        await wait_entered(gate)
        nursery.cancel_scope.cancel()
    (debt,) = pending_rollbacks()
    assert (debt.operation, debt.path) == ("mkdir", "/a/b")
    gate.open()
    with trio.fail_after(10):
        await wait_settled()
    assert pending_rollbacks() == ()
    assert filesystem.below.tree() == []


async def test_who_waits_for_settling_may_be_cancelled() -> None:
    filesystem = Scripted()
    gate = filesystem.gate("mkdir", "/a")
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial_makedirs, "/a", policy)
        await wait_entered(gate)
        nursery.cancel_scope.cancel()
    with trio.move_on_after(0) as scope:
        await wait_settled()
    assert scope.cancelled_caught
    gate.open()
    await wait_settled()


async def test_a_call_starts_no_system_call_after_it_was_cancelled() -> None:
    # Also not while it looks at its path because another call is under way.
    filesystem = Scripted()
    filesystem.below.put("/a")
    filesystem.below.put("/a/b")
    gate = filesystem.gate("stat", "/a")
    other = registry.tree
    holder = Holder()
    other.begin(holder)
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial_makedirs, "/a/b/c/d", policy)
        await wait_entered(gate)
        nursery.cancel_scope.cancel()
    before = [name for name, _ in filesystem.calls]
    gate.open()
    await wait_settled()
    other.end(holder)
    after = [name for name, _ in filesystem.calls][len(before) :]
    assert "stat" not in after
    assert filesystem.below.tree() == ["/a", "/a/b"]


# Trying again


async def test_what_can_pass_is_tried_again_and_reported() -> None:
    filesystem = Scripted()
    filesystem.script("mkdir", "/a", refuse(errno.EAGAIN), refuse(errno.ENOMEM))
    policy = Policy(
        filesystem=filesystem,
        retries={
            RootCause.BUSY: BackoffPolicy.constant(0),
            RootCause.NO_RESOURCES: BackoffPolicy.constant(0),
        },
    )
    report = await makedirs("/a", policy=policy)
    assert [(retry.cause, retry.errno, retry.path) for retry in report.retries] == [
        (RootCause.BUSY, errno.EAGAIN, "/a"),
        (RootCause.NO_RESOURCES, errno.ENOMEM, "/a"),
    ]
    assert report.created == ("/a",)
    assert report.steps == 3


async def test_what_never_passes_is_raised_with_the_kernels_errno_and_the_report() -> None:
    filesystem = Scripted()
    filesystem.always("mkdir", "/a/b", refuse(errno.ENOSPC))
    filesystem.below.put("/a")
    policy = Policy(filesystem=filesystem, retries={RootCause.NO_SPACE: BackoffPolicy.constant(0)})
    with pytest.raises(MkdirError) as raised:
        await makedirs("/a/b", policy=policy)
    error = raised.value
    assert (error.errno, error.filename, error.root_cause) == (
        errno.ENOSPC,
        "/a/b",
        RootCause.NO_SPACE,
    )
    assert len(error.report.retries) == 3
    assert error.__cause__ is None


async def test_a_backoff_sleeps_by_trios_clock(autojump_clock: trio.testing.MockClock) -> None:
    filesystem = Scripted(TurnByTurn())
    filesystem.turn = filesystem.below.turn
    filesystem.script("mkdir", "/a", *[refuse(errno.EBUSY)] * 3)
    before = trio.current_time()
    report = await makedirs("/a", policy=Policy(filesystem=filesystem))
    assert trio.current_time() - before == pytest.approx(0.310)
    assert report.elapsed == pytest.approx(0.310)


class TurnByTurn(Memory):
    """A double without threads."""

    async def turn(self, operation: object) -> None:  # type: ignore[override]
        await trio.lowlevel.checkpoint()


async def test_a_stale_handle_is_walked_again_from_the_leaf() -> None:
    filesystem = Scripted()
    filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.ESTALE))
    policy = Policy(filesystem=filesystem, retries={RootCause.STALE: BackoffPolicy.constant(0)})
    await makedirs("/a/b", policy=policy)
    made = [path for name, path in filesystem.calls if name == "mkdir"]
    assert made == ["/a/b", "/a", "/a/b", "/a/b"]
    assert filesystem.below.tree() == ["/a", "/a/b"]


async def test_a_parent_that_vanishes_is_made_again() -> None:
    filesystem = Scripted()
    filesystem.script(
        "mkdir", "/a/b", refuse(errno.ENOENT), first(lambda: filesystem.below.take("/a"))
    )
    report = await makedirs("/a/b", policy=Policy(filesystem=filesystem))
    assert filesystem.below.tree() == ["/a", "/a/b"]
    assert [retry.cause for retry in report.retries] == [RootCause.VANISHED]


async def test_two_programs_that_undo_each_others_work_do_not_go_on_for_ever() -> None:
    filesystem = Scripted()

    def vanish() -> None:
        if "/a" in filesystem.below.tree():
            filesystem.below.take("/a")

    filesystem.always("mkdir", "/a/b", first(vanish))
    with pytest.raises(FileNotFoundError) as raised:
        await makedirs("/a/b", policy=Policy(filesystem=filesystem))
    assert raised.value.root_cause is RootCause.VANISHED  # type: ignore[attr-defined]
    assert len(raised.value.report.retries) == 10  # type: ignore[attr-defined]


# Making room


async def test_room_is_made_before_a_retry_for_lack_of_space() -> None:
    filesystem = Scripted()
    filesystem.below.put("/a")
    filesystem.script("mkdir", "/a/b", refuse(errno.ENOSPC), refuse(errno.EDQUOT))
    asked: list[tuple[object, ...]] = []

    async def reclaim(path: object, cause: RootCause, snapshot: os.statvfs_result) -> None:
        asked.append((path, cause, snapshot.f_bavail))

    backoff = BackoffPolicy.constant(0)
    policy = Policy(
        filesystem=filesystem,
        reclaim=reclaim,
        retries={RootCause.NO_SPACE: backoff, RootCause.NO_QUOTA: backoff},
    )
    await makedirs("/a/b", policy=policy)
    assert asked == [("/a/b", RootCause.NO_SPACE, 0), ("/a/b", RootCause.NO_QUOTA, 0)]
    assert filesystem.calls.count(("statvfs", "/a")) == 2


async def test_what_making_room_raises_ends_the_call() -> None:
    filesystem = Scripted()
    filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.ENOSPC))

    async def reclaim(*_: object) -> None:
        raise ZeroDivisionError

    policy = Policy(filesystem=filesystem, reclaim=reclaim)
    with pytest.raises(ZeroDivisionError):
        await makedirs("/a/b", policy=policy)
    assert filesystem.below.tree() == []


async def test_a_snapshot_that_cannot_be_had_is_told_beside_the_error() -> None:
    filesystem = Scripted()
    filesystem.below.put("/a")
    filesystem.script("mkdir", "/a/b", refuse(errno.ENOSPC))
    filesystem.script("statvfs", "/a", refuse(errno.EIO))

    async def reclaim(*_: object) -> None:
        pytest.fail("asked without a snapshot")

    with pytest.raises(MkdirError) as raised:
        await makedirs("/a/b", policy=Policy(filesystem=filesystem, reclaim=reclaim))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/a/b")
    assert "statvfs" in " ".join(raised.value.__notes__)


async def test_a_look_for_reclaim_that_fails_for_the_moment_is_a_retry() -> None:
    filesystem = Scripted()
    filesystem.below.put("/a")
    filesystem.script("mkdir", "/a/b", refuse(errno.ENOSPC), refuse(errno.ENOSPC))
    filesystem.script("statvfs", "/a", refuse(errno.EINTR))
    asked: list[object] = []

    async def reclaim(*told: object) -> None:
        asked.append(told)

    report = await makedirs("/a/b", policy=Policy(filesystem=filesystem, reclaim=reclaim))
    assert [retry.errno for retry in report.retries] == [errno.ENOSPC, errno.EINTR, errno.ENOSPC]
    assert len(asked) == 1


# Steps that take too long


async def test_a_system_call_that_is_too_slow_for_the_policy_is_a_step_timeout(
    clock: trio.testing.MockClock,
) -> None:
    filesystem = Scripted()
    gate = filesystem.gate("mkdir", "/a")
    policy = Policy(filesystem=filesystem, step_timeout=LONG, rollback_timeout=0, retries={})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, partial(wait_entered, gate))
        with pytest.raises(StepTimeout) as raised:
            await makedirs("/a", policy=policy)
    assert (raised.value.errno, raised.value.filename) == (errno.ETIMEDOUT, "/a")
    assert raised.value.root_cause is RootCause.TIMED_OUT
    assert [debt.path for debt in raised.value.report.pending] == ["/a"]
    assert any("waits for a system call (mkdir)" in note for note in raised.value.__notes__)
    gate.open()
    await wait_settled()
    assert filesystem.below.tree() == []


async def test_waiting_again_is_waiting_for_the_same_system_call(
    clock: trio.testing.MockClock,
) -> None:
    filesystem = Scripted()
    gate = filesystem.gate("mkdir", "/a")
    timeouts = 0

    def observe(event: Event) -> None:
        nonlocal timeouts
        timeouts += type(event) is trio_mkdir.StepTimedOut
        if timeouts == 2:
            gate.open()

    policy = Policy(
        filesystem=filesystem,
        step_timeout=LONG,
        retries={RootCause.TIMED_OUT: BackoffPolicy.constant(0, max_retries=2)},
        observers=[observe],
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, partial(wait_entered, gate), 2)
        report = await makedirs("/a", policy=policy)
    assert filesystem.calls == [("mkdir", "/a")]
    assert report.created == ("/a",)
    assert timeouts == 2


async def test_a_timeout_of_the_kernels_own_is_no_step_timeout() -> None:
    filesystem = Scripted()
    filesystem.script("mkdir", "/a", refuse(errno.ETIMEDOUT))
    with pytest.raises(TimeoutError) as raised:
        await makedirs("/a", policy=Policy(filesystem=filesystem, retries={}))
    assert not isinstance(raised.value, StepTimeout)


async def test_calls_on_a_mount_whose_workers_are_all_stuck_fail_at_once() -> None:
    filesystem = Scripted()
    gates = [filesystem.gate("mkdir", path) for path in ("/a", "/b")]
    policy = Policy(filesystem=filesystem, rollback_timeout=0, stall_after=2)
    async with trio.open_nursery() as nursery:
        for path, gate in zip(("/a", "/b"), gates, strict=True):
            nursery.start_soon(partial_makedirs, path, policy)
            await wait_entered(gate)
        nursery.cancel_scope.cancel()
    with trio.testing.assert_checkpoints(), pytest.raises(MountStalled):
        await makedirs("/c", policy=policy)
    assert ("mkdir", "/c") not in filesystem.calls
    for gate in gates:
        gate.open()
    await wait_settled()
    await makedirs("/c", policy=policy)
    assert filesystem.below.tree() == ["/c"]


async def test_a_call_whose_mount_stalls_between_two_steps_is_over_at_once() -> None:
    # A visit that was prepared and never sent kept it waiting for its own undoing, and active for
    # ever: what other calls shared with it was then never forgotten.
    filesystem = Scripted()
    workers = registry.workers.on(DISK)

    def stall(do: Callable[[], object]) -> NoReturn:
        workers.stuck = 8
        fail(errno.EAGAIN)

    filesystem.script("mkdir", "/a", stall)
    with pytest.raises(MountStalled):
        await makedirs("/a", policy=Policy(filesystem=filesystem))
    workers.stuck = 0
    assert registry.tree.statistics == (0, 0)
    assert pending_rollbacks() == ()


# Slices


async def test_on_a_slow_filesystem_a_step_makes_one_system_call() -> None:
    # So that the time of each of them is bounded, and a cancellation is heeded between two.
    filesystem = Scripted()
    for path in ("/a", "/a/b", "/a/b/c"):
        filesystem.always("mkdir", path, first(lambda: time.sleep(2 * SLICE)))
    report = await makedirs("/a/b/c", policy=Policy(filesystem=filesystem))
    assert report.steps >= 5
    assert filesystem.below.tree() == ["/a", "/a/b", "/a/b/c"]


async def test_on_a_slow_filesystem_a_look_at_a_path_is_one_step_for_each_directory() -> None:
    # Otherwise ten looks of 0.6 s each are a StepTimeout after 5 s, with no system call stuck.
    filesystem = Scripted()
    for path in ("/a", "/a/b", "/a/b/c", "/a/b/c/d"):
        filesystem.always("stat", path, first(lambda: time.sleep(2 * SLICE)))
        filesystem.below.put(path)
    other = Holder()
    registry.tree.begin(other)
    report = await makedirs("/a/b/c/d/e", policy=Policy(filesystem=filesystem))
    registry.tree.end(other)
    assert report.steps >= 4


# Directories that are being removed


async def test_a_call_that_finds_a_directory_being_removed_waits_and_makes_it_again() -> None:
    filesystem = Scripted()
    removing = filesystem.gate("rmdir", "/a")
    filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.EROFS))
    policy = Policy(filesystem=filesystem)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails_read_only, "/a/b", policy)
        await wait_entered(removing)
        nursery.start_soon(makes_again, "/a", policy)
        await removal_awaited()
        removing.open()
    assert filesystem.below.tree() == ["/a"]


async def removal_awaited() -> None:
    """Wait until a call waits for what another one is removing."""
    entries = registry.tree._entries
    await wait_until_async(lambda: any(entry.waiters for entry in [*entries.values()]))


async def fails_read_only(path: str, policy: Policy) -> None:
    with pytest.raises(OSError, match="Read-only"):
        await makedirs(path, policy=policy)


async def makes_again(path: str, policy: Policy) -> None:
    report = await makedirs(path, exist_ok=True, policy=policy)
    assert report.created == (path,)


async def test_a_removal_that_takes_too_long_is_a_step_timeout(
    clock: trio.testing.MockClock,
) -> None:
    filesystem = Scripted()
    removing = filesystem.gate("rmdir", "/a")
    filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.EROFS))
    policy = Policy(filesystem=filesystem, retries={}, rollback_timeout=0)
    await fails_read_only("/a/b", policy)
    await wait_entered(removing)
    impatient = attrs.evolve(policy, step_timeout=LONG, stall_after=99)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, removal_awaited)
        with pytest.raises(StepTimeout) as raised:
            await makedirs("/a", exist_ok=True, policy=impatient)
    assert raised.value.filename == "/a"
    assert ("mkdir", "/a") in filesystem.calls[-20:]
    removing.open()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert filesystem.below.tree() == []


# Without threads


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> NoThreads:
    return NoThreads(monkeypatch)


AT_ONCE = {RootCause.NO_RESOURCES: BackoffPolicy.constant(0)}


async def test_a_thread_that_cannot_be_started_is_tried_again(no_threads: NoThreads) -> None:
    filesystem = Scripted()
    no_threads.lack(2)
    report = await makedirs("/a", policy=Policy(filesystem=filesystem, retries=AT_ONCE))
    assert [(retry.cause, retry.errno) for retry in report.retries] == [
        (RootCause.NO_RESOURCES, errno.EAGAIN)
    ] * 2
    assert filesystem.below.tree() == ["/a"]


async def test_where_no_thread_can_be_started_that_is_the_error(no_threads: NoThreads) -> None:
    no_threads.lack(1)
    with pytest.raises(BlockingIOError) as raised:
        await makedirs("/a", policy=Policy(filesystem=Scripted(), retries={}))
    assert isinstance(raised.value, MkdirError)
    assert raised.value.root_cause is RootCause.NO_RESOURCES
    assert raised.value.__notes__ == ["can't start new thread"]


async def test_a_rollback_without_a_thread_tries_again_in_its_time(no_threads: NoThreads) -> None:
    filesystem = Scripted()

    def act(do: Callable[[], object]) -> None:
        no_threads.lack(2)
        refuse(errno.EROFS)(do)

    filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), act)
    with pytest.raises(MkdirError) as raised:
        await makedirs("/a/b", policy=Policy(filesystem=filesystem, retries=AT_ONCE))
    assert raised.value.report.removed == ("/a",)
    assert filesystem.below.tree() == []


async def test_a_rollback_for_which_there_is_no_thread_in_time_is_a_debt_and_paid_later(
    no_threads: NoThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rollback, "_WAIT_FOR_THREAD", 0.001)
    filesystem = Scripted()

    def act(do: Callable[[], object]) -> None:
        no_threads.lack(10)
        refuse(errno.EROFS)(do)

    filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), act)
    policy = Policy(filesystem=filesystem, retries={}, rollback_timeout=0)
    with pytest.raises(MkdirError) as raised:
        await makedirs("/a/b", policy=policy)
    assert [debt.path for debt in raised.value.report.pending] == ["/a"]
    assert [debt.operation for debt in pending_rollbacks()] == ["undo"]
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert filesystem.below.tree() == []


async def test_a_rollback_for_which_no_worker_is_free_is_a_debt_and_paid_later() -> None:
    filesystem = Scripted()
    gate = filesystem.gate("mkdir", "/stuck")
    # The first visit ends with what the policy tries again; until then "/a" is made.
    filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.EBUSY))
    retries = {RootCause.BUSY: BackoffPolicy.constant(3600)}
    policy = Policy(filesystem=filesystem, workers=1, rollback_timeout=0, retries=retries)
    scheduled = trio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, trio_mkdir.RetryScheduled):
            scheduled.set()

    observed = attrs.evolve(policy, observers=[observe])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial_makedirs, "/a/b", observed)
        await scheduled.wait()
        nursery.start_soon(partial_makedirs, "/stuck", policy)
        await wait_entered(gate)
        nursery.cancel_scope.cancel()
    gate.open()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert filesystem.below.tree() == []


# Forks


def in_a_child(child: Callable[[], object]) -> int:
    """The exit status of ``child`` in a forked process: 1 if it raises, -9 if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        pid = os.fork()
    if not pid:  # pragma: no cover - another process
        status = 1
        try:
            child()
            status = 0
        finally:
            os._exit(status)
    # From here, as the child may hang before it gets to any line above.
    killer = threading.Timer(PATIENCE, os.kill, [pid, signal.SIGKILL])
    killer.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        killer.cancel()


async def test_in_a_forked_child_the_debts_of_the_parent_are_nobodys(tmp_path: Path) -> None:
    filesystem = Scripted()
    gate = filesystem.gate("mkdir", "/a")
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial_makedirs, "/a", policy)
        await wait_entered(gate)
        nursery.cancel_scope.cancel()

    def child() -> None:
        assert pending_rollbacks() == ()
        assert registry.tree.statistics == (0, 0)
        assert registry.mounts.find("/proc/self").type == "proc"

    assert pending_rollbacks() != ()
    assert in_a_child(child) == 0
    gate.open()
    await wait_settled()


@pytest.mark.skipif(
    "register_at_fork" not in inspect.getsource(trio._core._thread_cache),
    reason="this trio takes its parent's threads for its own after a fork",
)
def test_a_forked_child_makes_directories_of_its_own(tmp_path: Path) -> None:
    def child() -> None:
        with ThreadPoolExecutor(1) as executor:  # trio was never run in this thread
            executor.submit(lambda: trio.run(makedirs, tmp_path / "a" / "b")).result()

    assert in_a_child(child) == 0
    assert (tmp_path / "a" / "b").is_dir()


def test_after_a_fork_everything_begins_anew() -> None:
    before = registry.mounts.find("/")
    tree, debts = registry.tree, registry.debts
    after_fork()
    assert registry.tree is not tree
    assert registry.debts is not debts
    assert registry.mounts.find("/") == before


def test_a_fork_while_another_thread_looks_at_the_mounts_does_not_hang() -> None:
    taken, done = threading.Event(), threading.Event()

    def look() -> None:
        with registry.mounts._lock:
            taken.set()
            done.wait(2 * PATIENCE)

    thread = threading.Thread(target=look)
    thread.start()
    assert taken.wait(PATIENCE)
    try:
        status = in_a_child(lambda: None)
    finally:
        done.set()
        thread.join()
    assert status == 0


# Lost replies


async def test_what_may_be_ours_or_anothers_is_left_and_said_to_be() -> None:
    filesystem = Scripted()
    filesystem.script("mkdir", "/a", lose(errno.EIO))
    with pytest.raises(OSError, match="Input/output error") as raised:
        await makedirs("/a", policy=Policy(filesystem=filesystem))
    error = raised.value
    assert isinstance(error, MkdirError)
    assert [(kept.path, kept.why) for kept in error.report.kept] == [
        ("/a", "mkdir was answered EIO: it may be ours or another's")
    ]
    assert any(note.startswith("left '/a'") for note in error.__notes__)
    assert filesystem.below.tree() == ["/a"]


async def test_what_was_not_made_after_all_is_not_said_to_be_left() -> None:
    filesystem = Scripted()
    filesystem.script("mkdir", "/a", refuse(errno.EIO))
    with pytest.raises(MkdirError) as raised:
        await makedirs("/a", policy=Policy(filesystem=filesystem))
    assert raised.value.report.kept == ()


# Mounts


async def test_a_call_whose_mount_is_gone_after_a_failure_ends() -> None:
    filesystem = Scripted()
    below = filesystem.mounts
    filesystem.mounts = lambda path: NAS

    def vanish() -> None:
        filesystem.mounts = below

    def act(do: Callable[[], object]) -> None:
        vanish()
        refuse(errno.EAGAIN)(do)

    filesystem.script("mkdir", "/nas/a", act)
    with pytest.raises(MkdirError) as raised:
        await makedirs("/nas/a", policy=Policy(filesystem=filesystem))
    error = raised.value
    assert (error.errno, error.root_cause) == (errno.EAGAIN, RootCause.DISCONNECTED)
    assert error.mount == NAS
    assert any("/nas" in note for note in error.__notes__)
    assert filesystem.below.tree() == []


async def test_a_call_that_had_trouble_looks_at_its_mount_once_more_before_it_succeeds() -> None:
    filesystem = Scripted()
    below = filesystem.mounts
    filesystem.mounts = lambda path: NAS

    def vanish() -> None:
        filesystem.mounts = below

    filesystem.script("mkdir", "/a", refuse(errno.EAGAIN), first(vanish))
    retries = {RootCause.BUSY: BackoffPolicy.constant(0)}
    with pytest.raises(MkdirError) as raised:
        await makedirs("/a", policy=Policy(filesystem=filesystem, retries=retries))
    assert raised.value.root_cause is RootCause.DISCONNECTED
    assert filesystem.below.tree() == []


async def test_a_mount_that_was_remounted_meanwhile_is_the_same_mount() -> None:
    filesystem = Scripted()
    filesystem.mounts = lambda path: NAS

    def remount() -> None:
        filesystem.mounts = lambda path: attrs.evolve(NAS, options="rw,noatime")

    def act(do: Callable[[], object]) -> None:
        remount()
        refuse(errno.EAGAIN)(do)

    filesystem.script("mkdir", "/a", act)
    retries = {RootCause.BUSY: BackoffPolicy.constant(0)}
    await makedirs("/a", policy=Policy(filesystem=filesystem, retries=retries))
    assert filesystem.below.tree() == ["/a"]


async def test_an_automount_that_a_call_has_set_off_is_where_it_began() -> None:
    # Until somebody comes, an autofs is mounted there. The first to come wait for the real one, and
    # so it is their calls that are slow, time out and look at the mount again.
    filesystem = Scripted()
    autofs = attrs.evolve(NAS, id=30, type="autofs", source="systemd-1")
    filesystem.mounts = lambda path: autofs

    def act(do: Callable[[], object]) -> None:
        filesystem.mounts = lambda path: attrs.evolve(NAS, parent=autofs.id)
        refuse(errno.EAGAIN)(do)

    filesystem.script("mkdir", "/a", act)
    retries = {RootCause.BUSY: BackoffPolicy.constant(0)}
    await makedirs("/a", policy=Policy(filesystem=filesystem, retries=retries))
    assert filesystem.below.tree() == ["/a"]


async def test_who_is_not_permitted_is_told_who_is() -> None:
    filesystem = Scripted()
    filesystem.below.put("/a")
    filesystem.script("mkdir", "/a/b", refuse(errno.EACCES))
    with pytest.raises(PermissionError) as raised:
        await makedirs("/a/b", policy=Policy(filesystem=filesystem))
    assert isinstance(raised.value, MkdirError)
    mount, who = raised.value.__notes__
    assert mount == "on the mount / (double from memory, rw)"
    assert who.startswith("'/a' has mode 0755")


# What is kept


async def test_what_somebody_put_something_into_is_kept_and_reported() -> None:
    filesystem = Scripted()
    put = filesystem.below.put

    def act(do: Callable[[], object]) -> None:
        put("/a/file", stat.S_IFREG)
        refuse(errno.EROFS)(do)

    filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), act)
    with pytest.raises(MkdirError) as raised:
        await makedirs("/a/b", policy=Policy(filesystem=filesystem))
    (kept,) = raised.value.report.kept
    assert isinstance(kept, Kept)
    assert (kept.path, kept.why) == ("/a", "it is not empty")
    assert raised.value.report.created == ("/a",)
    assert raised.value.report.removed == ()


async def test_what_was_undone_is_reported() -> None:
    filesystem = Scripted()
    filesystem.script("mkdir", "/a/b/c", refuse(errno.ENOENT), refuse(errno.EROFS))
    with pytest.raises(MkdirError) as raised:
        await makedirs("/a/b/c", policy=Policy(filesystem=filesystem))
    report = raised.value.report
    assert report.created == ("/a", "/a/b")
    assert report.removed == ("/a/b", "/a")
    assert report.kept == ()
    assert report.pending == ()
