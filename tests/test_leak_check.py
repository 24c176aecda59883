"""`assert_nothing_leaked` sees what was left behind, and only that."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import trio_mkdir
from trio_mkdir import Policy, makedirs
from trio_mkdir._entries import Holder
from trio_mkdir._registry import registry
from trio_mkdir.testing import FaultyFilesystem, assert_nothing_leaked

PATIENCE = 0.05


def leaked(message: str) -> pytest.RaisesExc[AssertionError]:
    return pytest.raises(AssertionError, match=message)


@pytest.fixture
async def filesystem() -> AsyncIterator[FaultyFilesystem]:
    """Where something can be left behind, which is over when the test is."""
    filesystem = FaultyFilesystem()
    yield filesystem
    filesystem.release_all()
    with trio.fail_after(10):
        await trio_mkdir.wait_settled()


async def cancel_while_held(filesystem: FaultyFilesystem, policy: Policy) -> None:
    hold = filesystem.hold("mkdir", "/a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, "/a", policy=policy))
        await hold.wait_arrived()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "no threads"])
async def test_a_call_leaves_nothing_behind(threads: bool) -> None:
    policy = Policy(filesystem=FaultyFilesystem(threads=threads))
    async with assert_nothing_leaked():
        await makedirs("/a/b", policy=policy)
        with pytest.raises(FileExistsError):
            await makedirs("/a/b", policy=policy)
        with trio.CancelScope() as scope:
            scope.cancel()
            await makedirs("/a/c/d", policy=policy)


async def test_threads_that_trio_keeps_for_later_are_no_leak(tmp_path: Path) -> None:
    async with assert_nothing_leaked(), trio.open_nursery() as nursery:
        for name in "abcdef":
            nursery.start_soon(makedirs, tmp_path / name)
            nursery.start_soon(trio.Path(tmp_path).stat)


async def test_a_thread_that_comes_back_late_is_waited_for(filesystem: FaultyFilesystem) -> None:
    async with assert_nothing_leaked():
        await cancel_while_held(filesystem, Policy(filesystem=filesystem, rollback_timeout=0))
        filesystem.release_all()
    assert filesystem.memory.paths() == []


async def test_what_stood_before_is_no_leak(filesystem: FaultyFilesystem, tmp_path: Path) -> None:
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    await cancel_while_held(filesystem, policy)
    async with assert_nothing_leaked():
        await makedirs("/b/c", policy=Policy(filesystem=FaultyFilesystem()))
        os.close(descriptor)  # less than before is none either


async def test_a_descriptor_is_named(tmp_path: Path) -> None:
    descriptors = []
    with leaked(rf"^something was left behind:\n- file descriptor \d+, open on {tmp_path}$"):
        async with assert_nothing_leaked(patience=PATIENCE):
            descriptors.append(os.open(tmp_path, os.O_RDONLY))
    os.close(*descriptors)


async def test_a_descriptor_that_is_reused_is_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with leaked(rf"file descriptor {descriptor}, open on {tmp_path}/other$"):
            async with assert_nothing_leaked(patience=PATIENCE):
                os.close(descriptor)
                assert os.open(tmp_path / "other", os.O_RDONLY) == descriptor
    finally:
        os.close(descriptor)


async def test_a_thread_is_named() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="a thread", daemon=True)
    try:
        with leaked("^something was left behind:\n- thread 'a thread'$"):
            async with assert_nothing_leaked(patience=PATIENCE):
                thread.start()
    finally:
        stop.set()
        thread.join()


async def test_a_stuck_worker_and_its_debt_are_told(filesystem: FaultyFilesystem) -> None:
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    with pytest.raises(AssertionError) as caught:
        async with assert_nothing_leaked(patience=PATIENCE):
            await cancel_while_held(filesystem, policy)
    lines = str(caught.value).splitlines()
    assert lines[0] == "something was left behind:"
    assert lines[1] == "- 1 x worker stuck in a system call"
    assert [line for line in lines if line.startswith("- debt PendingRollback(path='/a'")]
    # Its thread and its token are part of its being stuck.
    assert not [line for line in lines if "busy" in line or "token" in line]


async def test_stuck_workers_can_be_allowed(filesystem: FaultyFilesystem) -> None:
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    async with assert_nothing_leaked(patience=PATIENCE, allow_stuck=True):
        await cancel_while_held(filesystem, policy)


async def test_other_leaks_are_not_allowed_with_them(
    filesystem: FaultyFilesystem, tmp_path: Path
) -> None:
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    descriptors = []
    with leaked(f"left behind:\n- file descriptor .* {tmp_path}$"):
        async with assert_nothing_leaked(patience=PATIENCE, allow_stuck=True):
            await cancel_while_held(filesystem, policy)
            descriptors.append(os.open(tmp_path, os.O_RDONLY))
    os.close(*descriptors)


async def test_a_call_that_goes_on_is_told_with_all_that_it_has(
    filesystem: FaultyFilesystem,
) -> None:
    hold = filesystem.hold("mkdir", "/a")
    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError) as caught:
            async with assert_nothing_leaked(patience=PATIENCE):
                nursery.start_soon(partial(makedirs, "/a", policy=Policy(filesystem=filesystem)))
                await hold.wait_arrived()
        hold.release()
    assert str(caught.value).splitlines()[1:] == [
        "- thread 'trio_mkdir', busy",
        "- 1 x worker token",
        "- 1 x call still active in the shared tree",
    ]


async def test_a_task_of_ours_is_named(autojump_clock: MockClock) -> None:
    filesystem = FaultyFilesystem(threads=False)
    hold = filesystem.hold("mkdir", "/a")
    async with trio.open_nursery() as nursery:
        with leaked(r"\n- task trio_mkdir\.\w+\._without_thread\n"):
            async with assert_nothing_leaked(patience=PATIENCE):
                nursery.start_soon(partial(makedirs, "/a", policy=Policy(filesystem=filesystem)))
                await hold.wait_arrived()
        hold.release()


async def test_a_directory_that_the_shared_tree_does_not_forget_is_told() -> None:
    holder = Holder()
    with leaked(":\n- 1 x directory still known to the shared tree$"):
        async with assert_nothing_leaked(patience=PATIENCE):
            registry.tree.hold(holder, [((-1000, 1), "/a", 0.0)])  # without a call
    registry.tree.end(holder)


async def test_a_leak_is_told_although_the_block_failed() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, daemon=True)
    with leaked("thread") as caught:
        async with assert_nothing_leaked(patience=PATIENCE):
            thread.start()
            raise KeyError("the first cause")
    assert isinstance(caught.value.__context__, KeyError)
    stop.set()
    thread.join()


async def test_a_block_that_fails_without_a_leak_just_fails() -> None:
    with pytest.raises(KeyError):
        async with assert_nothing_leaked():
            raise KeyError


async def test_a_cancelled_block_is_checked_too() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, daemon=True)
    with leaked("thread"), trio.CancelScope() as scope:
        async with assert_nothing_leaked(patience=PATIENCE):
            thread.start()
            scope.cancel()
            await trio.sleep_forever()
    stop.set()
    thread.join()


@pytest.mark.parametrize("patience", [-1, float("inf"), float("nan")])
def test_patience_has_bounds(patience: float) -> None:
    with pytest.raises(ValueError, match="patience must be"):
        assert_nothing_leaked(patience=patience)
