"""`makedirs_many`: many paths as one tree, all or nothing, whatever happens on the way."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from doubles import PATIENCE, NoThreads, first, then
from filesystems.frozen import FreezableMount
from filesystems.stuck import wait_stuck_async
from filesystems.waiting import wait_until
from gates import Stage
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_mkdir
from trio_mkdir import (
    BackoffPolicy,
    Event,
    Made,
    MkdirError,
    MkdirNotADirectoryError,
    MkdirPermissionError,
    MountStalled,
    Policy,
    RootCause,
    StepTimeout,
    _incoming,
    _lane,
    _many,
    _pace,
    _visit,
    makedirs,
    makedirs_many,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._registry import registry
from trio_mkdir.testing import FaultyFilesystem, assert_nothing_leaked

if sys.version_info < (3, 11):
    pass


pytestmark = pytest.mark.usefixtures("nothing_left")


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


@pytest.fixture
def stage(here: Path) -> Iterator[Stage]:
    with Stage.on(here) as stage:
        yield stage


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every filesystem counts as slow, so that tasks work side by side from the beginning."""
    monkeypatch.setattr(_pace, "_SLOW", -1.0)
    monkeypatch.setattr(_many, "FIRST_SLICE", 0.0)


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many paths are planned together at the most, instead of some thousand."""
    monkeypatch.setattr(_incoming, "_AT_ONCE", 64)
    return 64


@pytest.fixture
def in_trios_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices are used up by what a double's delays take."""
    time = SimpleNamespace(monotonic=trio.current_time)
    for module in (_lane, _visit):
        monkeypatch.setattr(module, "time", time)


@pytest.fixture
def disk() -> FaultyFilesystem:
    """A filesystem in memory, without threads."""
    filesystem = FaultyFilesystem(threads=False)
    filesystem.memory.add_directory("/srv")
    return filesystem


def tree(directory: Path | str) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(above, name), directory)
        for above, names, files in os.walk(directory)
        for name in (*names, *files)
    )


def mode_of(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


async def later(*paths: Any) -> AsyncIterator[Any]:
    for path in paths:
        await trio.lowlevel.checkpoint()
        yield path


# What is made


async def test_every_path_is_made_with_whatever_is_missing_above_it(here: Path) -> None:
    report = await makedirs_many([here / "a/b", here / "a/c/d", here / "e"])
    assert tree(here) == ["a", "a/b", "a/c", "a/c/d", "e"]
    assert report.path == ""
    assert {*report.created} == {str(here / path) for path in tree(here)}
    order = list(report.created)
    assert order.index(str(here / "a")) < order.index(str(here / "a/c"))
    assert report.steps >= 1
    assert report.elapsed >= 0


async def test_what_is_there_already_is_no_failure_unless_it_must_not_be(here: Path) -> None:
    await makedirs_many(["a/b", "c"])
    report = await makedirs_many(["a/b", "c", "a/d"])
    assert report.created == ("a/d",)
    with pytest.raises(FileExistsError) as caught:
        await makedirs_many(["e/f", "g", "a/b"], exist_ok=False)
    assert caught.value.filename == "a/b"
    assert isinstance(caught.value, MkdirError)
    assert tree(here) == ["a", "a/b", "a/d", "c"]
    await makedirs_many(["a/e", "c/f"], exist_ok=False)  # what is above them may be there


async def test_no_paths_are_nothing_to_do(here: Path) -> None:
    sources: list[Any] = [[], iter(()), later()]
    for nothing in sources:
        report = await makedirs_many(nothing)
        assert report.created == ()
    assert tree(here) == []


@pytest.mark.parametrize(
    "paths",
    [
        *(["a/b", "a"], ["a", "a/b"], ["a/b", "a/b", "a"], ["a/b/", "a/b", "a//"]),
        *(["a/b/.", "a/./"], ["./a/b", "a/."], ["a/../a/b"], [b"a/b", b"a"]),
        *([Path("a/b"), b"a"], {"a/b": 1, "a": 2}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("exist_ok", [True, False])
async def test_one_directory_is_made_once_however_often_it_is_named(
    here: Path, paths: Any, exist_ok: bool
) -> None:
    if not exist_ok and {type(path) for path in paths} > {bytes}:
        exist_ok = True  # of text and bytes nobody says that they are the same
    report = await makedirs_many(paths, exist_ok=exist_ok)
    assert tree(here) == ["a", "a/b"]
    assert len(report.created) == 2


async def test_paths_are_told_as_the_caller_wrote_them(here: Path) -> None:
    report = await makedirs_many([b"a/b", "c/", str(here / "d/"), here / "e"])
    assert {*report.created} == {b"a", b"a/b", "c/", str(here / "d"), str(here / "e")}


async def test_a_slash_at_the_end_of_a_full_path_is_told_as_it_was_written(here: Path) -> None:
    report = await makedirs_many([f"{here}/d/e//"])
    assert report.created == (f"{here}/d", f"{here}/d/e//")


async def test_the_root_and_the_working_directory_stand_already(here: Path) -> None:
    paths: list[str | bytes] = ["/", ".", "..", "./", "/.", b"/", b".", str(here)]
    assert (await makedirs_many(paths)).created == ()
    for path in paths:
        with pytest.raises(FileExistsError):
            await makedirs_many([path], exist_ok=False)


async def test_no_path_at_all_is_not_found_and_nothing_is_left(here: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await makedirs_many(["a/b", ""])
    assert caught.value.filename == ""
    assert tree(here) == []


@pytest.mark.parametrize(
    ("wrong", "error"), [("a\0b", ValueError), ("\udfff", UnicodeError), (3, TypeError)]
)
async def test_what_is_no_path_ends_the_call_and_nothing_is_left(
    here: Path, wrong: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await makedirs_many(["a/b", wrong])
    with pytest.raises(error):
        await makedirs_many(later("a/b", wrong))
    assert tree(here) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("a/b",), TypeError),
        ((b"a/b",), TypeError),
        ((Path("a"),), TypeError),
        ((3,), TypeError),
        (([], -1), ValueError),
        (([], "x"), TypeError),
    ],
)
async def test_wrong_arguments_are_told_at_a_checkpoint(
    here: Path, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with trio.testing.assert_checkpoints(), pytest.raises(error):
        await makedirs_many(*arguments)
    assert tree(here) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"concurrency": 0}, ValueError),
        ({"concurrency": 1.5}, TypeError),
        ({"progress": 3}, TypeError),
        ({"parent_mode": "x"}, TypeError),
        ({"policy": None}, TypeError),
    ],
)
async def test_wrong_options_are_told(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await makedirs_many([], **options)


async def test_it_is_a_checkpoint_whatever_there_is_to_do(here: Path) -> None:
    for paths in ([], ["a/b"], ["a/b"]):
        with trio.testing.assert_checkpoints():
            await makedirs_many(paths)
    with trio.testing.assert_checkpoints(), pytest.raises(OSError, match="File name too long"):
        await makedirs_many(["a" * 300])


some_paths = st.lists(
    st.lists(st.sampled_from(["a", "b", "..", ".", ""]), min_size=1, max_size=4), max_size=6
)


@given(paths=some_paths)
@settings(max_examples=60, deadline=None)
def test_the_tree_is_that_of_making_one_after_the_other(paths: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        trees = []
        for root in (Path(directory, "one"), Path(directory, "many")):
            (root / "at" / "the" / "bottom").mkdir(parents=True)
            # A slash before it, so that no path leads to the root of everything.
            named = [f"{root}/at/the/bottom/{'/'.join(path)}" for path in paths]
            if root.name == "one":
                for name in named:
                    os.makedirs(name, exist_ok=True)
            else:
                trio.run(partial(makedirs_many, named))
            trees.append(tree(root))
        assert trees[0] == trees[1]


# Modes


async def test_each_path_has_the_mode_and_what_is_above_it_the_other(here: Path) -> None:
    await makedirs_many(["a/b", "a/b/c/d", "e"], 0o700, parent_mode=0o711)
    assert [mode_of(path) for path in ("a", "a/b", "a/b/c", "a/b/c/d", "e")] == [
        *(0o711, 0o700, 0o711, 0o700, 0o700),
    ]
    await makedirs_many(["f/g"])
    assert mode_of("f") == mode_of("f/g") == 0o755


async def test_a_path_that_vanishes_is_made_again_with_its_own_mode(stage: Stage) -> None:
    # It was made again like any parent: what was to be private was open to everybody.
    vanish = partial(os.rmdir, stage.at("private"))
    stage.script("mkdir", stage.at("private/x"), first(vanish))
    await makedirs_many(
        [stage.at("private"), stage.at("private/x"), stage.at("y")], 0o700, policy=stage.policy()
    )
    assert mode_of(stage.at("private")) == 0o700
    assert stage.tree() == ["private", "private/x", "y"]


# What the paths come from


async def test_paths_come_from_anything_that_can_be_iterated(here: Path) -> None:
    send, receive = trio.open_memory_channel[str](10)
    for name in ("m/n", "m/o"):
        send.send_nowait(name)
    send.close()
    for paths in (iter(["a/b"]), {"c": 1}, later("d", "e/f"), receive):
        await makedirs_many(paths)
    assert tree(here) == ["a", "a/b", "c", "d", "e", "e/f", "m", "m/n", "m/o"]


async def test_what_comes_slowly_is_made_as_it_comes(here: Path, clock: MockClock) -> None:
    seen: list[list[str]] = []

    async def slowly() -> AsyncIterator[str]:
        for name in ("a/b", "a/c", "d"):
            clock.jump(1)
            yield name
            seen.append(tree(here))

    await makedirs_many(slowly())
    assert seen == [["a", "a/b"], ["a", "a/b", "a/c"], ["a", "a/b", "a/c", "d"]]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_no_more_than_some_are_read_ahead(
    here: Path, few_at_once: int, asynchronous: bool
) -> None:
    ahead: list[int] = []

    def paths() -> Iterator[str]:
        for number in range(500):
            ahead.append(number - (len(os.listdir("a")) if number else 0))
            yield f"a/{number}"

    async def paths_later() -> AsyncIterator[str]:
        for path in paths():
            yield path

    os.mkdir("a")
    report = await makedirs_many(paths_later() if asynchronous else paths(), concurrency=1)
    assert len(report.created) == len(os.listdir("a")) == 500
    assert max(ahead) < few_at_once


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("when", [0, 1, 100])
async def test_a_source_that_fails_undoes_everything(
    here: Path, few_at_once: int, asynchronous: bool, when: int
) -> None:
    def paths() -> Iterator[str]:
        for number in range(when):
            yield f"a/b/{number}"
        raise ZeroDivisionError

    async def paths_later() -> AsyncIterator[str]:
        for path in paths():
            yield path

    policy = Policy(rollback_timeout=PATIENCE)  # on a busy machine it outlasts a second
    async with assert_nothing_leaked(patience=PATIENCE):
        with pytest.raises(ZeroDivisionError):
            await makedirs_many(paths_later() if asynchronous else paths(), policy=policy)
    assert tree(here) == []


async def test_what_was_made_on_the_way_is_its_own_when_it_is_asked_for_later(
    here: Path, few_at_once: int
) -> None:
    (here / "there").mkdir()
    for last, fails in (("a", False), ("there", True)):
        paths = [*(f"{last}/{number}" for number in range(few_at_once)), last]
        if fails:
            with pytest.raises(FileExistsError):
                await makedirs_many(paths, exist_ok=False)
        else:
            await makedirs_many(paths, exist_ok=False)
    await wait_settled()  # on a busy machine the taking back may outlast its second
    assert len(tree(here)) == few_at_once + 2


async def test_what_gets_something_in_it_later_is_undone_after_that(
    here: Path, few_at_once: int
) -> None:
    def paths() -> Iterator[str]:
        yield from (f"a/{number}" for number in range(few_at_once))
        yield from ("a/7/b", "a/8/b/c", "a/9")
        raise ZeroDivisionError

    async with assert_nothing_leaked(patience=PATIENCE):
        with pytest.raises(ZeroDivisionError):
            await makedirs_many(paths())
    assert tree(here) == []


async def test_where_one_stands_the_others_beside_it_are_not_asked_for(
    disk: FaultyFilesystem,
) -> None:
    for name in ("a", "b", "d"):
        disk.memory.add_directory(f"/srv/{name}")
    paths = [f"/srv/{name}/{child}" for name in "abcd" for child in "xy"]
    report = await makedirs_many(paths, policy=Policy(filesystem=disk))
    assert {*report.created} == {*paths, "/srv/c"}
    asked = [record.path for record in disk.operations if record.operation == "mkdir"]
    assert [asked.count(f"/srv/{name}") for name in "abcd"] == [1, 0, 1, 0]


@pytest.mark.parametrize("exist_ok", [False, True])
async def test_where_one_stands_and_others_do_not_everything_is_as_one_by_one(
    disk: FaultyFilesystem, exist_ok: bool
) -> None:
    disk.memory.add_directory("/srv/a")
    disk.memory.add_file("/srv/c")
    policy = Policy(filesystem=disk)
    paths = [f"/srv/{name}/{child}" for name in "abc" for child in "xy"]
    before = disk.memory.paths()
    with pytest.raises(MkdirNotADirectoryError) as caught:
        await makedirs_many(paths, exist_ok=exist_ok, policy=policy)
    assert caught.value.filename == "/srv/c/x"
    assert disk.memory.paths() == before
    report = await makedirs_many(
        [*paths[:4], "/srv/b"], 0o700, exist_ok=exist_ok, parent_mode=0o711, policy=policy
    )
    assert {*report.created} == {*paths[:4], "/srv/b"}
    modes = [stat.S_IMODE(disk.stat(path).st_mode) for path in ("/srv/b", "/srv/b/x")]
    assert modes == [0o700, 0o700]


async def test_what_was_made_on_the_way_may_come_later_though_nothing_may_be_there(
    here: Path, clock: MockClock
) -> None:
    async def paths() -> AsyncIterator[str]:
        yield "a/b"
        clock.jump(1)  # so that what has come is made before the last one comes
        yield "c"
        yield "a"

    report = await makedirs_many(paths(), exist_ok=False)
    assert {*report.created} == {"a", "a/b", "c"}


@pytest.mark.parametrize("spelled", ["b/./s", "b//s", "./b/s", "b/s/", "b/s/.", ".//b/.//s"])
@pytest.mark.parametrize("whole", [False, True])
async def test_one_directory_is_one_however_it_is_spelled(
    here: Path, spelled: str, whole: bool
) -> None:
    top = f"{here}/" if whole else ""
    report = await makedirs_many([f"{top}{spelled}", f"{top}b/s/x", f"{top}b/./s/y"], 0o700)
    assert tree(here) == ["b", "b/s", "b/s/x", "b/s/y"]
    assert (mode_of("b"), mode_of("b/s"), mode_of("b/s/x")) == (0o755, 0o700, 0o700)
    assert len(report.created) == 4
    assert f"{top}{spelled}" in report.created


async def test_a_call_that_waits_for_a_path_can_be_cancelled(here: Path) -> None:
    send, receive = trio.open_memory_channel[str](0)
    async with send, receive, trio.open_nursery() as nursery:
        nursery.start_soon(makedirs_many, receive)
        await send.send("a/b")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert tree(here) == []


async def test_a_relative_path_is_below_the_directory_where_the_first_one_was(
    here: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()

    async def wander() -> AsyncIterator[str | bytes]:
        yield "a/b"
        os.chdir(tmp_path / "elsewhere")
        yield "a/c"

    await makedirs_many(wander())
    assert tree(here) == ["a", "a/b", "a/c"]
    assert tree(tmp_path / "elsewhere") == []


async def test_a_working_directory_that_vanished_is_not_made_again(
    here: Path, tmp_path: Path
) -> None:
    def vanish() -> Iterator[str]:
        yield "a"
        here.rmdir()
        yield str(tmp_path / "b")

    with pytest.raises(FileNotFoundError) as caught:
        await makedirs_many(vanish())
    assert caught.value.filename == "a"
    assert tree(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        await makedirs_many(["a"])


async def test_a_working_directory_is_made_again_for_who_names_it(
    here: Path, tmp_path: Path
) -> None:
    def vanish() -> Iterator[str]:
        yield "."
        here.rmdir()
        yield f"{here}/b"

    await makedirs_many(vanish())
    assert tree(tmp_path) == ["here", "here/b"]


# Progress


async def test_progress_is_told_at_the_end_in_any_case(here: Path) -> None:
    told: list[tuple[int, int | None]] = []
    await makedirs_many(["a/b", "a/c", "a/c"], progress=lambda *now: told.append(now))
    assert told[-1] == (3, 3)
    await makedirs_many(later("a/b"), progress=lambda *now: told.append(now))
    assert told[-1:] == [(1, None)]


async def test_progress_is_told_on_the_way_where_it_takes_long(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None
) -> None:
    disk.delay("mkdir", "*", 0.03)
    told: list[tuple[int, int | None]] = []
    paths = [f"/srv/{name}/x" for name in "abcdef"]
    policy = Policy(filesystem=disk)
    await makedirs_many(paths, concurrency=1, progress=lambda *now: told.append(now), policy=policy)
    assert told == sorted(told)
    assert told[-1] == (6, 6)
    assert len(told) == 7


@pytest.mark.parametrize("when", [1, 2])
async def test_progress_that_raises_ends_the_call_as_it_is(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None, when: int
) -> None:
    disk.delay("mkdir", "*", 0.1)
    calls = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal calls
        calls += 1
        if calls == when:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        await makedirs_many(
            ["/srv/a/x", "/srv/b/x"], progress=progress, policy=Policy(filesystem=disk)
        )
    assert disk.memory.paths() == ["/srv"]


# Side by side


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_so_many_directories_are_made_at_once_and_never_two_in_one(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None, concurrency: int
) -> None:
    disk.delay("mkdir", "*", 1.0)
    paths = [f"/srv/{above}/{name}" for above in "abcd" for name in "xyz"]
    began = trio.current_time()
    await makedirs_many(paths, concurrency=concurrency, policy=Policy(filesystem=disk))
    took = trio.current_time() - began
    # a, b, c and d one after the other, and then twelve, so many at once.
    assert took == 16 if concurrency == 1 else took < 12
    assert set(paths) <= set(disk.memory.paths())


async def test_the_first_failure_ends_all_and_comes_out_in_no_group(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None
) -> None:
    disk.delay("mkdir", "*", 1.0)
    disk.fail("mkdir", "/srv/b/y", errno.EACCES)
    disk.fail("mkdir", "/srv/c/y", errno.EROFS)
    paths = [f"/srv/{above}/{name}" for above in "abc" for name in "xyz"]
    async with assert_nothing_leaked(patience=100):
        with pytest.raises(MkdirError) as caught:
            await makedirs_many(paths, policy=Policy(filesystem=disk, rollback_timeout=100))
        assert caught.value.errno in {errno.EACCES, errno.EROFS}
        assert caught.value.report.removed
        assert disk.memory.paths() == ["/srv"]


async def test_a_cancellation_comes_out_as_it_is_and_in_no_group(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None
) -> None:
    disk.delay("mkdir", "*", 1.0)
    caught: list[BaseException] = []

    async def make() -> None:
        try:
            await makedirs_many(
                [f"/srv/{above}/{name}" for above in "abc" for name in "xyz"],
                policy=Policy(filesystem=disk, rollback_timeout=100),
            )
        except BaseException as ended:
            caught.append(ended)
            raise

    with trio.move_on_after(4.5) as scope:
        await make()
    assert scope.cancelled_caught
    assert [type(ended) for ended in caught] == [trio.Cancelled]
    assert disk.memory.paths() == ["/srv"]


@pytest.mark.parametrize("beside", [False, True])
def test_a_keyboard_interrupt_comes_out_as_it_is_and_in_no_group(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    if beside:
        monkeypatch.setattr(_pace, "_SLOW", -1.0)
        monkeypatch.setattr(_many, "FIRST_SLICE", 0.0)
    interrupt = partial(signal.raise_signal, signal.SIGINT)  # in a thread; Python tells the main
    stage.script("mkdir", stage.at("b/y"), first(interrupt))
    paths = [stage.at(f"{above}/{name}") for above in "abc" for name in "xyz"]

    async def main() -> None:
        await makedirs_many(paths, policy=stage.policy())
        await trio.sleep(PATIENCE)  # the signal is on its way

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    wait_until(lambda: not pending_rollbacks())
    assert stage.tree() == [] or len(stage.tree()) == 12  # it was done before the signal came


def test_a_keyboard_interrupt_while_it_waits_for_a_thread(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pace, "_SLOW", -1.0)
    monkeypatch.setattr(_many, "FIRST_SLICE", 0.0)
    gate = stage.stop("mkdir", "b/y")
    caught: list[BaseException] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            await trio.lowlevel.checkpoint()
            try:
                await makedirs_many(
                    [stage.at(f"{above}/{name}") for above in "abc" for name in "xyz"],
                    policy=stage.policy(rollback_timeout=0.0),
                )
            except BaseException as ended:
                caught.append(ended)
                raise

    async def interrupt() -> None:
        await gate.entered()
        # In a thread: here it would be this task that is interrupted.
        await trio.to_thread.run_sync(signal.raise_signal, signal.SIGINT)

    with pytest.RaisesGroup(KeyboardInterrupt):
        trio.run(main)
    assert [type(ended) for ended in caught] == [KeyboardInterrupt]
    gate.open()
    wait_until(lambda: not pending_rollbacks())
    assert stage.tree() == []


async def test_what_is_stuck_keeps_nobody_else_from_working(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None
) -> None:
    hold = disk.hold("mkdir", "/srv/a/x")
    disk.delay("mkdir", "*", 0.1)
    policy = Policy(filesystem=disk, step_timeout=1000)
    paths = [f"/srv/{above}/{name}" for above in "abc" for name in "xyz"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs_many, paths, policy=policy))
        await hold.wait_arrived()
        await trio.sleep(10)
        assert set(disk.memory.paths()) >= {
            f"/srv/{above}/{name}" for above in "bc" for name in "xyz"
        }
        hold.release()
    assert set(paths) <= set(disk.memory.paths())


async def test_of_a_stuck_one_among_others_nothing_is_left_once_it_answers(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None
) -> None:
    hold = disk.hold("mkdir", "/srv/a/x")
    disk.delay("mkdir", "*", 0.1)
    policy = Policy(filesystem=disk, step_timeout=1000)
    paths = [f"/srv/{above}/{name}" for above in "abc" for name in "xyz"]
    began = trio.current_time()
    with trio.move_on_after(10):
        await makedirs_many(paths, policy=policy)
    assert trio.current_time() - began <= 10 + policy.rollback_timeout
    # Nothing is undone above the stuck one, everything else is.
    assert disk.memory.paths() == ["/srv", "/srv/a"]
    assert {(debt.operation, debt.path) for debt in pending_rollbacks()} == {
        ("mkdir", "/srv/a/x"),
        ("undo", "/srv/a"),
    }
    hold.release()
    with trio.fail_after(100):
        await wait_settled()
    assert disk.memory.paths() == ["/srv"]


# Trouble


async def test_a_failure_that_passes_is_tried_again_and_told(here: Path, stage: Stage) -> None:
    stage.refuse("mkdir", "a/b", errno.EBUSY, errno.EBUSY)
    report = await makedirs_many(["a/b", "c"], policy=stage.policy())
    assert [retry.path for retry in report.retries] == ["a/b", "a/b"]
    assert stage.tree() == ["a", "a/b", "c"]


async def test_each_piece_of_work_is_tried_again_as_long_as_a_call_is(
    disk: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    # The time for trying again began with the first failure, however long ago that was.
    for name in ("a", "b"):
        disk.fail("mkdir", f"/srv/{name}/x", errno.EBUSY)
    retries = {RootCause.BUSY: BackoffPolicy.constant(0.5, max_retries=3, max_elapsed=1.0)}
    policy = Policy(filesystem=disk, retries=retries)

    async def slowly() -> AsyncIterator[str]:
        await trio.sleep(1)  # so that what has come is made before the next one comes
        yield "/srv/a/x"
        await trio.sleep(10)
        yield "/srv/b/x"

    report = await makedirs_many(slowly(), policy=policy)
    assert len(report.retries) == 2


async def test_a_slow_mount_does_not_stall_the_call_that_waits_for_it(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None
) -> None:
    # When it answered again, the first task to come back met the others, still counted as stuck.
    paths = [f"/srv/{number}/{name}" for number in range(20) for name in "xy"]
    holds = [disk.hold("mkdir", f"/srv/{number}/*") for number in range(20)]
    disk.delay("mkdir", "*", 0.1)
    policy = Policy(filesystem=disk, step_timeout=10.0, budget=None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs_many, paths, policy=policy))
        for hold in holds:
            await hold.wait_arrived()
        await trio.sleep(15)
        with pytest.raises(MountStalled):  # for others it is
            await makedirs("/srv/other", policy=policy)
        for hold in holds:
            hold.release()
            await trio.testing.wait_all_tasks_blocked()
    assert set(paths) <= set(disk.memory.paths())


async def test_a_call_is_refused_at_once_where_others_are_stuck(
    disk: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    hold = disk.hold("mkdir", "/srv/a")
    policy = Policy(
        filesystem=disk, step_timeout=1.0, retries={}, stall_after=1, rollback_timeout=0
    )
    with pytest.raises(StepTimeout):
        await makedirs("/srv/a", policy=policy)
    with trio.fail_after(100), pytest.raises(MountStalled):
        await makedirs_many(["/srv/b/x", "/srv/c"], policy=policy)
    hold.release()
    with trio.fail_after(100):
        await wait_settled()
    assert disk.memory.paths() == ["/srv"]


async def test_a_system_call_that_takes_too_long_is_a_step_timeout(
    disk: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    hold = disk.hold("mkdir", "/srv/a/b")
    policy = Policy(filesystem=disk, step_timeout=1.0, retries={}, rollback_timeout=0)
    with pytest.raises(StepTimeout) as caught:
        await makedirs_many(["/srv/a/b", "/srv/a/c"], policy=policy)
    assert caught.value.filename == "/srv/a/b"
    assert {debt.path for debt in caught.value.report.pending} == {"/srv/a/b"}
    hold.release()
    with trio.fail_after(100):
        await wait_settled()
    assert disk.memory.paths() == ["/srv"]


@pytest.mark.parametrize("exist_ok", [False, True])
async def test_without_a_new_thread_it_goes_on_where_it_was(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, exist_ok: bool
) -> None:
    # What was made right before was tried once more, and was in its own way.
    threads = NoThreads(monkeypatch)
    slices = 0.0
    monkeypatch.setattr(_visit, "time", SimpleNamespace(monotonic=lambda: slices))

    def use_up() -> None:
        nonlocal slices
        slices += 1
        threads.lack(1)

    stage.script("mkdir", stage.at("a"), then(use_up))
    paths = [stage.at(path) for path in ("a", "a/b", "c")]
    report = await makedirs_many(paths, exist_ok=exist_ok, policy=stage.policy())
    assert stage.tree() == ["a", "a/b", "c"]
    assert [retry.cause for retry in report.retries] == [RootCause.NO_RESOURCES]


async def test_a_thousand_debts_are_told_in_a_few_words(
    disk: FaultyFilesystem, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # A line and a note for each held up the whole run for seconds.
    disk.delay("rmdir", "*", 1.0)
    disk.fail("mkdir", "/srv/a/last", errno.EACCES)
    policy = Policy(filesystem=disk, rollback_timeout=0)
    paths = [*(f"/srv/a/{number}" for number in range(1000)), "/srv/a/last"]
    with caplog.at_level(logging.INFO, "trio_mkdir"), pytest.raises(MkdirPermissionError) as caught:
        await makedirs_many(paths, concurrency=1, policy=policy)
    report = caught.value.report
    assert len(report.pending) > 900
    assert len(caught.value.__notes__) < 20
    assert f"and {len(report.pending) - 10} more, in the report" in caught.value.__notes__
    told = [record.getMessage() for record in caplog.records]
    assert f"{len(report.pending) - 10} more DebtTaken" in told
    assert len(told) < 50
    await wait_settled()
    assert disk.memory.paths() == ["/srv"]


# Mounts


async def test_what_is_on_another_mount_is_undone_while_one_is_dead(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_trios_time: None
) -> None:
    disk.memory.add_directory("/nas")
    disk.mount_at("/nas")
    hold = disk.hold("mkdir", "/nas/*", times=math.inf)
    disk.delay("mkdir", "*", 0.1)
    policy = Policy(filesystem=disk, step_timeout=1000)
    with trio.move_on_after(10):
        await makedirs_many(["/nas/a/x", "/nas/b", "/srv/a/x", "/srv/b"], policy=policy)
    assert disk.memory.paths() == ["/nas", "/srv"]
    assert {debt.mount_point for debt in pending_rollbacks()} == {"/nas"}
    hold.release()
    with trio.fail_after(100):
        await wait_settled()
    assert disk.memory.paths() == ["/nas", "/srv"]


async def test_a_mount_that_is_gone_after_trouble_ends_the_call(
    disk: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    # The trouble was with one piece of work and the mount gone before the next: nobody looked.
    disk.memory.add_directory("/nas")
    disk.mount_at("/nas")
    disk.fail("mkdir", "/nas/a", errno.EBUSY)

    async def unmount_in_between() -> AsyncIterator[str]:
        await trio.sleep(1)  # so that what has come is made before the next one comes
        yield "/nas/a"
        disk.unmount("/nas")
        yield "/nas/b"

    with pytest.raises(MkdirError) as caught:
        await makedirs_many(unmount_in_between(), policy=Policy(filesystem=disk))
    assert caught.value.root_cause is RootCause.DISCONNECTED
    assert caught.value.mount is not None
    assert caught.value.mount.mount_point == "/nas"
    assert disk.memory.paths() == ["/nas", "/srv"]


async def test_a_mount_point_among_others_is_no_mount_that_is_gone(
    disk: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    # All in one directory were taken to be on the mount of the one that came first.
    for path in ("/mnt/nas", "/mnt/usb"):
        disk.memory.add_directory(path)
        disk.mount_at(path)
    disk.fail("mkdir", "/mnt/[ab]", errno.EBUSY, times=2)
    paths = ["/mnt/nas", "/mnt/a", "/mnt/usb/x", "/mnt/b", "/mnt/usb"]
    report = await makedirs_many(paths, policy=Policy(filesystem=disk))
    assert len(report.retries) == 2
    assert {*report.created} == {"/mnt/a", "/mnt/b", "/mnt/usb/x"}


async def test_a_dead_mount_is_looked_at_by_its_own_workers_only(
    disk: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    disk.memory.add_directory("/mnt/nas")
    disk.mount_at("/mnt/nas")
    hold = disk.hold("stat", "/mnt/nas", when="before")
    policy = Policy(filesystem=disk, rollback_timeout=0, step_timeout=1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs_many, ["/mnt/a", "/mnt/nas"], policy=policy))
        await hold.wait_arrived()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    on_nas, on_root = (registry.workers.on(disk.mount(path)) for path in ("/mnt/nas", "/mnt"))
    assert (on_nas.stuck, on_root.stuck) == (1, 0)
    hold.release()
    with trio.fail_after(100):
        await wait_settled()
    assert disk.memory.paths() == ["/mnt", "/mnt/nas", "/srv"]


async def test_nothing_is_left_of_many_on_a_hung_mount(freezable: FreezableMount) -> None:
    root = freezable.path

    async def paths() -> AsyncIterator[Path]:
        for number in range(100):
            yield root / f"a/{number}"
        freezable.freeze()
        yield root / "b"
        yield root / "c/d"

    policy = Policy(rollback_timeout=0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs_many, paths(), policy=policy))
        await wait_stuck_async()
        nursery.cancel_scope.cancel()
    assert pending_rollbacks()
    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert [name for name in os.listdir(root) if name != "lost+found"] == []


# Others


async def test_each_event_is_told_once_whoever_listens(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    paths = [f"a/{number}" for number in range(50)]
    await makedirs_many(paths, policy=Policy(observers=[events.append]))
    assert sum(isinstance(event, Made) for event in events) == 51
    with caplog.at_level(logging.DEBUG, "trio_mkdir"):
        await makedirs_many(["b/c", "b/d"])
    assert sum(record.getMessage().startswith("Made") for record in caplog.records) == 3


async def test_a_failure_after_many_in_one_go_tells_each_of_them(
    here: Path, clock: MockClock
) -> None:
    (here / "file").touch()

    async def paths() -> AsyncIterator[str]:
        for number in range(50):
            yield f"a/{number}"
        clock.jump(1)  # so that what has come is made before the last one comes
        yield "a"
        yield "file/x"

    with pytest.raises(MkdirNotADirectoryError) as caught:
        await makedirs_many(paths())
    report = caught.value.report
    assert len(report.created) == len(set(report.created)) == len(report.removed) == 51
    assert report.removed[-1] == "a"
    assert report.kept == ()
    assert tree(here) == ["file"]


async def test_what_another_call_relies_on_is_left_to_it(stage: Stage) -> None:
    gate = stage.stop("mkdir", "a/last")
    policy = stage.policy()
    async with trio.open_nursery() as outside:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                paths = [stage.at(path) for path in ("a/b/c", "a/d", "a/last")]
                nursery.start_soon(partial(makedirs_many, paths, policy=policy))
                await gate.entered()
                await stage.make("a/b/x")
                outside.start_soon(stage.make, "a/d")
                await stage.hears(trio_mkdir.StepStarted, "a/d")
                scope.cancel()
                gate.open()
    assert await stage.settled() == ["a", "a/b", "a/b/x", "a/d"]


async def test_it_relies_on_what_another_call_has_made(stage: Stage, side_by_side: None) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a/b"))
        report = await makedirs_many(
            [stage.at("a/b/c"), stage.at("a/d"), stage.at("e")], policy=stage.policy()
        )
        assert {*report.relied_on} == {stage.at("a/b"), stage.at("a")}
        nursery.cancel_scope.cancel()
    assert await stage.settled() == ["a", "a/b", "a/b/c", "a/d", "e"]


async def test_what_vanishes_at_the_end_is_made_again(stage: Stage) -> None:
    (stage.root / "a").mkdir()
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("x"))  # so that it has to look
        stage.script("stat", stage.at("a"), first(partial(os.rmdir, stage.at("a"))))
        await makedirs_many([stage.at("a"), stage.at("b")], policy=stage.policy())
    assert stage.tree() == ["a", "b", "x"]


async def test_two_runs_in_two_threads_share_their_directories(here: Path) -> None:
    def run(names: str) -> None:
        async def main() -> None:
            for number in range(20):
                await makedirs_many([here / f"{number}/{name}/x" for name in names])

        trio.run(main)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, run, "abc")
        nursery.start_soon(trio.to_thread.run_sync, run, "bcd")
    assert len(tree(here)) == 20 + 20 * 4 * 2


# In a rollback nursery


async def test_in_a_rollback_nursery_it_is_provisional(here: Path) -> None:
    undone: list[list[str]] = []
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_rollback_nursery() as nursery:
            await nursery.makedirs_many([f"a/{number}" for number in range(5)])
            nursery.push_undo(lambda: undone.append(tree(here)))
            await nursery.makedirs_many(["b/c", "a/x"], 0o700, parent_mode=0o711)
            raise ZeroDivisionError
    assert undone == [["a", *(f"a/{number}" for number in range(5))]]
    assert tree(here) == []
    assert len(nursery.report.created) == len(nursery.report.removed) == 9
    assert nursery.report.created[0] == "a"


async def test_what_was_made_in_a_nursery_stays_for_who_has_relied_on_it(stage: Stage) -> None:
    policy = Policy(filesystem=stage)
    async with open_rollback_nursery(policy=policy) as nursery:
        await nursery.makedirs_many([stage.at("a/x"), stage.at("b")])
        await makedirs(stage.at("a"), exist_ok=True, policy=policy)
        nursery.cancel_scope.cancel()
    assert await stage.settled() == ["a"]


async def test_in_a_rollback_nursery_it_stays_with_the_block(here: Path) -> None:
    async with open_rollback_nursery() as outer:
        async with open_rollback_nursery() as nursery:
            nursery.start_soon(nursery.makedirs_many, ["a/b", "c"])
        with pytest.raises(FileExistsError):
            await outer.makedirs_many(["d", "c"], exist_ok=False)
        await outer.makedirs_many([])
    assert tree(here) == ["a", "a/b", "c"]
    with pytest.raises(RuntimeError, match="closed"):
        await nursery.makedirs_many(["d"])
    async with open_rollback_nursery() as nursery:
        with trio.testing.assert_checkpoints(), pytest.raises(TypeError):
            await nursery.makedirs_many("d")
