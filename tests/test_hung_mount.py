"""A mount that hangs: a frozen ext4, where mkdir(2) sleeps uninterruptibly until the thaw."""

from __future__ import annotations

import errno
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from filesystems.frozen import FreezableMount
from filesystems.stuck import stuck_threads, wait_stuck, wait_stuck_async
from filesystems.waiting import PATIENCE, busy_threads, wait_until, wait_until_async
from gates import LONG, time_out
from trio.testing import MockClock

import trio_mkdir
from trio_mkdir import (
    BackoffPolicy,
    DebtPaid,
    DebtTaken,
    Event,
    LateAnswer,
    Made,
    MountStalled,
    MountStatistics,
    Policy,
    RetryScheduled,
    RootCause,
    StepStarted,
    StepTimedOut,
    StepTimeout,
    makedirs,
    mkdir,
    mounts,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._registry import registry

DEADLINE = 0.3
SCHEDULING = 0.1
"""Seconds that the end of a call may take beyond what it is allowed to wait."""

PATIENT = Policy(step_timeout=math.inf, rollback_timeout=0)
"""Waits as long as its caller does, and leaves at once."""

IMPATIENT = Policy(step_timeout=LONG, rollback_timeout=0, retries={})
"""Gives up on a system call the first time that it takes too long."""


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def tree(directory: Path) -> list[str]:
    """What is in a directory, however deep, that mkfs has not put there."""
    found = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    return [path for path in found if path != "lost+found"]


def at_ease() -> bool:
    """Whether nothing is owed and no thread is at work."""
    return not pending_rollbacks() and not busy_threads()


def freeze_when_made(mount: FreezableMount, path: Path) -> Callable[[Event], None]:
    """An observer that freezes the mount right after ``path`` was made, in the thread that did."""

    def observe(event: Event) -> None:
        if isinstance(event, Made) and event.path == str(path):
            mount.freeze()

    return observe


def thaw_when_retried(mount: FreezableMount, times: int = 1) -> Callable[[Event], None]:
    """An observer that thaws the mount when the policy has decided to wait again."""
    left = [*range(times)]

    def observe(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            left.pop()
            if not left:
                mount.thaw()

    return observe


async def end_after(seconds: float, policy: Policy, path: Path, stuck: int) -> float:
    """Give a call that has become the ``stuck``th to hang some seconds; how many it took to end."""
    began = math.nan
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(makedirs, path, policy=policy))
            await wait_stuck_async(stuck)
            began = time.perf_counter()
            scope.deadline = trio.current_time() + seconds
    took = time.perf_counter() - began
    assert scope.cancelled_caught
    return took


async def cancelled_when_stuck(policy: Policy, path: Path) -> None:
    """Cancel a call as soon as it hangs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, path, policy=policy))
        await wait_stuck_async()
        nursery.cancel_scope.cancel()


async def fail_when_stuck(
    clock: MockClock, policy: Policy, path: Path, stuck: int = 1
) -> StepTimeout:
    """Have a call time out once it is the ``stuck``th to hang; its error."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, partial(wait_stuck_async, stuck))
        with pytest.raises(StepTimeout) as caught:
            await makedirs(path, policy=policy)
    return caught.value


async def stall(clock: MockClock, mount: FreezableMount, policy: Policy, count: int) -> None:
    """Let so many calls time out in a system call."""
    for number in range(count):
        path = mount.path / str(number) / "a"
        await fail_when_stuck(clock, policy, path, number + 1)


@pytest.fixture(autouse=True)
def nothing_leaks(freezable: FreezableMount) -> Iterator[None]:
    before = open_descriptors()
    yield
    freezable.thaw()
    wait_until(at_ease)
    assert registry.tree.statistics == (0, 0)
    assert all(not workers.stuck for workers in registry.workers._workers.values())
    assert all(not workers.debts for workers in registry.workers._workers.values())
    assert all(not workers.busy for workers in registry.workers._workers.values())
    assert open_descriptors() == before


# The caller's deadline


@pytest.mark.parametrize("rollback_timeout", [0.0, 0.2])
def test_a_deadline_ends_the_call_on_a_hung_mount_in_time(
    freezable: FreezableMount, rollback_timeout: float
) -> None:
    freezable.freeze()
    policy = Policy(rollback_timeout=rollback_timeout)
    # The promise is about the library, not about who else keeps the processors busy: one time in
    # three is proof enough that nothing in it waits for the mount.
    took = []
    for attempt in range(3):
        path = freezable.path / f"{attempt}/b/c"
        took.append(trio.run(end_after, DEADLINE, policy, path, attempt + 1))
        if took[-1] <= DEADLINE + rollback_timeout + SCHEDULING:
            break
    assert DEADLINE <= min(took) <= DEADLINE + rollback_timeout + SCHEDULING
    assert stuck_threads()  # it still hangs


async def test_after_the_thaw_nothing_is_left_of_a_cancelled_call(
    freezable: FreezableMount,
) -> None:
    freezable.freeze()
    await cancelled_when_stuck(PATIENT, freezable.path / "a/b/c")
    assert [debt.operation for debt in pending_rollbacks()] == ["mkdir"]
    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert tree(freezable.path) == []


def test_after_the_thaw_nothing_is_left_when_the_run_is_over_by_then(
    freezable: FreezableMount,
) -> None:
    freezable.freeze()
    trio.run(cancelled_when_stuck, PATIENT, freezable.path / "a/b/c")
    assert pending_rollbacks()
    freezable.thaw()
    wait_until(lambda: not pending_rollbacks())
    assert tree(freezable.path) == []


@pytest.mark.parametrize("over", [False, True], ids=["in-the-run", "after-the-run"])
def test_what_was_made_before_the_mount_hung_is_undone_with_what_comes_late(
    freezable: FreezableMount, over: bool
) -> None:
    events: list[Event] = []
    observe = freeze_when_made(freezable, freezable.path / "a/b")
    policy = Policy(step_timeout=math.inf, rollback_timeout=0, observers=[observe, events.append])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(makedirs, freezable.path / "a/b/c/d", policy=policy))
            await wait_stuck_async()
            nursery.cancel_scope.cancel()
        assert tree(freezable.path) == ["a", "a/b"]  # a rmdir would have waited as well
        owed = {(debt.operation, debt.path) for debt in pending_rollbacks()}
        made = str(freezable.path / "a")
        assert owed == {("mkdir", f"{made}/b/c"), ("undo", f"{made}/b"), ("undo", made)}
        assert {debt.mount_point for debt in pending_rollbacks()} == {str(freezable.path)}
        if not over:
            freezable.thaw()
            with trio.fail_after(PATIENCE):
                await wait_settled()

    trio.run(main)
    freezable.thaw()
    wait_until(at_ease)
    assert tree(freezable.path) == []
    assert [event.debt.operation for event in events if isinstance(event, DebtTaken)] == [
        "mkdir",
        "undo",
        "undo",
    ]
    (late,) = [event for event in events if isinstance(event, LateAnswer)]
    assert (late.operation, late.errno) == ("mkdir", None)
    assert late.path == str(freezable.path / "a/b/c")
    assert sum(isinstance(event, DebtPaid) for event in events) == 1


async def test_an_undoing_that_hangs_itself_ends_with_the_rollback_timeout(
    freezable: FreezableMount, clock: MockClock
) -> None:
    began = math.nan
    async with trio.open_nursery() as outside:
        outside.start_soon(time_out, clock, partial(wait_stuck_async, 1, "rmdir"))
        with pytest.RaisesGroup(ZeroDivisionError):
            async with open_rollback_nursery(policy=Policy(rollback_timeout=LONG)) as nursery:
                await nursery.makedirs(freezable.path / "a/b")
                freezable.freeze()
                began = trio.current_time()
                raise ZeroDivisionError
    assert LONG <= trio.current_time() - began < LONG + PATIENCE
    assert len(stuck_threads("rmdir")) == 1
    assert [debt.operation for debt in pending_rollbacks()] == ["rmdir", "undo"]
    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert tree(freezable.path) == []


async def test_what_is_on_another_mount_is_undone_while_one_hangs(
    freezable: FreezableMount, tmpfs: Path
) -> None:
    with trio.CancelScope() as scope:
        async with open_rollback_nursery(policy=Policy(rollback_timeout=0.1)) as nursery:
            await nursery.makedirs(tmpfs / "a/b")
            freezable.freeze()
            nursery.start_soon(nursery.makedirs, freezable.path / "c/d")
            await wait_stuck_async()
            scope.cancel()
    await wait_until_async(lambda: tree(tmpfs) == [])
    assert stuck_threads()  # it still hangs


async def test_what_stood_before_a_mount_hung_stands_after_it(
    freezable: FreezableMount, clock: MockClock
) -> None:
    (freezable.path / "there").mkdir()
    freezable.freeze()
    # Linux takes the write access that a freeze withholds before it looks for the name.
    await fail_when_stuck(clock, IMPATIENT, freezable.path / "there")
    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert tree(freezable.path) == ["there"]


# The step's own timeout


async def test_a_system_call_that_takes_too_long_is_a_step_timeout(
    freezable: FreezableMount, clock: MockClock
) -> None:
    freezable.freeze()
    path = freezable.path / "a"
    error = await fail_when_stuck(clock, IMPATIENT, path / "b")
    assert isinstance(error, TimeoutError)
    assert error.errno == errno.ETIMEDOUT
    assert error.filename == str(path)
    assert error.root_cause is RootCause.TIMED_OUT
    assert error.mount is not None
    assert error.mount.mount_point == str(freezable.path)
    (pending,) = error.report.pending
    assert (pending.path, pending.operation) == (str(path), "mkdir")
    assert pending.mount_point == str(freezable.path)
    assert error.report.created == error.report.removed == ()
    assert error.report.kept == ()
    notes = "\n".join(error.__notes__)
    assert str(path) in notes
    assert str(freezable.path) in notes


async def test_trying_again_after_a_step_timeout_waits_for_the_same_system_call(
    freezable: FreezableMount, clock: MockClock
) -> None:
    stuck: list[list[int]] = []
    events: list[Event] = []

    def observe(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepTimedOut):
            stuck.append(stuck_threads())

    retries = {RootCause.TIMED_OUT: BackoffPolicy.constant(0, max_retries=3)}
    policy = Policy(step_timeout=LONG, rollback_timeout=0, retries=retries, observers=[observe])
    freezable.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, wait_stuck_async, 4)
        with pytest.raises(StepTimeout) as caught:
            await mkdir(freezable.path / "a", policy=policy)
    # At each expiry one and the same thread is in mkdir(2).
    assert len(stuck) == 4
    assert len(stuck[0]) == 1
    assert all(threads == stuck[0] for threads in stuck)
    report = caught.value.report
    assert [retry.cause for retry in report.retries] == [RootCause.TIMED_OUT] * 3
    assert [retry.errno for retry in report.retries] == [errno.ETIMEDOUT] * 3
    assert report.steps == 1
    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert tree(freezable.path) == []
    # Late, and attributed when it came.
    (late,) = [event for event in events if isinstance(event, LateAnswer)]
    assert (late.operation, late.errno) == ("mkdir", None)


async def test_a_mount_that_answers_while_it_is_waited_for_again_makes_the_call_succeed(
    freezable: FreezableMount, clock: MockClock
) -> None:
    events: list[Event] = []
    policy = Policy(
        step_timeout=LONG,
        retries={RootCause.TIMED_OUT: BackoffPolicy.constant(0, max_retries=2)},
        observers=[events.append, thaw_when_retried(freezable, times=2)],
    )
    freezable.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, wait_stuck_async, 2)
        report = await makedirs(freezable.path / "a/b/c", policy=policy)
    root = str(freezable.path)
    assert report.created == (f"{root}/a", f"{root}/a/b", f"{root}/a/b/c")
    assert [event.path for event in events if isinstance(event, Made)] == [*report.created]
    assert len(report.retries) == 2
    assert pending_rollbacks() == ()
    assert tree(freezable.path) == ["a", "a/b", "a/b/c"]


async def test_a_call_may_be_cancelled_while_it_waits_again(
    freezable: FreezableMount, clock: MockClock
) -> None:
    events: list[Event] = []
    retries = {RootCause.TIMED_OUT: BackoffPolicy.constant(0, max_retries=1)}
    patient = Policy(
        step_timeout=LONG, rollback_timeout=0, retries=retries, observers=[events.append]
    )
    freezable.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, freezable.path / "a/b", policy=patient))
        await time_out(clock, wait_stuck_async)
        assert isinstance(events[-1], RetryScheduled)
        nursery.cancel_scope.cancel()
    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert tree(freezable.path) == []


# Everybody else


@pytest.mark.parametrize("workers", [40, 60])
async def test_sixty_stuck_calls_hold_up_nobody_on_a_healthy_mount(
    freezable: FreezableMount, tmpfs: Path, workers: int
) -> None:
    policy = Policy(step_timeout=math.inf, rollback_timeout=0, workers=workers)
    freezable.freeze()
    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(partial(makedirs, freezable.path / f"{number}/a", policy=policy))
        await wait_stuck_async(workers)
        with trio.fail_after(PATIENCE):
            assert await trio.Path(tmpfs).exists()
            for number in range(60):
                await makedirs(tmpfs / f"{number}/a/b")
                assert await trio.Path(tmpfs / f"{number}/a/b").exists()
        assert len(stuck_threads()) == workers
        everybodys = trio.to_thread.current_default_thread_limiter()
        assert isinstance(everybodys, trio.CapacityLimiter)
        assert everybodys.borrowed_tokens == 0
        nursery.cancel_scope.cancel()
    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
    assert tree(freezable.path) == []
    assert len(tree(tmpfs)) == 180


async def test_a_mount_with_too_many_stuck_workers_refuses_calls_at_once(
    freezable: FreezableMount, tmpfs: Path, clock: MockClock
) -> None:
    freezable.freeze()
    await stall(clock, freezable, IMPATIENT, 8)
    # Two minutes of patience, none of which it needs.
    patient = Policy(step_timeout=120, rollback_timeout=120)
    with trio.fail_after(PATIENCE), pytest.raises(MountStalled) as caught:
        await makedirs(freezable.path / "another", policy=patient)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert not isinstance(error, StepTimeout)
    assert error.errno == errno.ETIMEDOUT
    assert error.root_cause is RootCause.TIMED_OUT
    assert error.report.steps == 0
    assert error.report.pending == ()
    assert error.mount is not None
    assert error.mount.mount_point == str(freezable.path)
    assert any(str(freezable.path) in note for note in error.__notes__)
    assert len(stuck_threads()) == 8
    await makedirs(tmpfs / "healthy")

    freezable.thaw()
    with trio.fail_after(PATIENCE):
        await wait_settled()
        await makedirs(freezable.path / "another", policy=patient)
    assert tree(freezable.path) == ["another"]


async def test_calls_go_through_again_as_soon_as_one_stuck_worker_returns(
    freezable: FreezableMount, clock: MockClock
) -> None:
    answers: list[float] = []

    def observe(event: Event) -> None:
        if isinstance(event, LateAnswer):
            answers.append(event.time)

    policy = Policy(step_timeout=LONG, rollback_timeout=0, retries={}, observers=[observe])
    freezable.freeze()
    await stall(clock, freezable, policy, 8)
    freezable.thaw()
    await wait_until_async(lambda: answers)
    with trio.fail_after(PATIENCE):
        await makedirs(freezable.path / "another")
        await wait_settled()
    assert tree(freezable.path) == ["another"]


async def test_what_hangs_on_a_frozen_mount_is_told_without_touching_it(
    freezable: FreezableMount, clock: MockClock
) -> None:
    def now() -> MountStatistics:
        (found,) = [each for each in mounts() if each.mount.mount_point == str(freezable.path)]
        return found

    policy = Policy(step_timeout=LONG, rollback_timeout=0, retries={}, stall_after=2)
    await makedirs(freezable.path / "before", policy=policy)
    assert (now().busy, now().stuck, now().debts) == (0, 0, 0)
    answered = now().last_answer
    assert answered is not None
    freezable.freeze()
    await stall(clock, freezable, policy, 2)
    with pytest.raises(MountStalled) as caught:
        await makedirs(freezable.path / "another", policy=policy)
    error = caught.value
    for found in (error.statistics, now()):  # here it still hangs
        assert found.mount == error.mount
        assert (found.busy, found.stuck, found.debts) == (2, 2, 2)
        assert (found.stuck_operation, found.stuck_path) == ("mkdir", f"{freezable.path}/0")
        assert found.stuck_since is not None
        assert answered < found.stuck_since < found.time
        assert found.last_answer == answered
    (note,) = error.__notes__
    assert note.startswith(f"on the mount {freezable.path} (ext4 from /dev/loop")
    assert "2 system calls stuck, the longest for " in note
    assert f"(mkdir of '{freezable.path}/0')" in note

    freezable.thaw()
    await wait_until_async(lambda: now().stuck < 2)
    # At once, whoever else is still at the undoing of what came late.
    with trio.fail_after(PATIENCE):
        await makedirs(freezable.path / "another", policy=policy)
        await wait_settled()
    assert (now().stuck, now().debts) == (0, 0)
    assert (now().last_answer or 0) > answered
    assert tree(freezable.path) == ["another", "before"]


async def test_a_checkpoint_is_executed_when_a_stalled_mount_refuses_a_call(
    freezable: FreezableMount, clock: MockClock
) -> None:
    policy = Policy(step_timeout=LONG, rollback_timeout=0, retries={}, stall_after=1)
    freezable.freeze()
    await stall(clock, freezable, policy, 1)
    with trio.testing.assert_checkpoints(), pytest.raises(MountStalled):
        await makedirs(freezable.path / "b", policy=policy)
    with trio.CancelScope() as scope:
        scope.cancel()
        await makedirs(freezable.path / "b", policy=policy)
    assert scope.cancelled_caught


async def test_a_call_that_waits_for_a_worker_is_cancelled_at_once_and_makes_nothing(
    freezable: FreezableMount,
) -> None:
    # Both would wait for long if they waited for their rollback.
    events: list[Event] = []
    policy = Policy(
        step_timeout=math.inf, rollback_timeout=120, workers=1, observers=[events.append]
    )
    at_once = Policy(step_timeout=math.inf, rollback_timeout=0, workers=1)
    freezable.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, freezable.path / "a", policy=at_once))
        await wait_stuck_async()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as waiting:
                for number in range(3):
                    waiting.start_soon(
                        partial(makedirs, freezable.path / f"{number}/b", policy=policy)
                    )
                await trio.testing.wait_all_tasks_blocked()
                waiting.cancel_scope.cancel()
        assert {type(event) for event in events} == {StepStarted}
        assert len(stuck_threads()) == 1
        assert pending_rollbacks() == ()
        freezable.thaw()
    assert tree(freezable.path) == ["a"]


async def test_waiting_for_a_worker_is_no_part_of_a_steps_time(
    freezable: FreezableMount, clock: MockClock
) -> None:
    first = Policy(step_timeout=math.inf, rollback_timeout=0, workers=1)
    second = Policy(step_timeout=LONG, rollback_timeout=0, workers=1, retries={})
    freezable.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, freezable.path / "a", policy=first))
        await wait_stuck_async()
        nursery.start_soon(partial(makedirs, freezable.path / "b", policy=second))
        await time_out(clock, trio.testing.wait_all_tasks_blocked)
        freezable.thaw()
    assert tree(freezable.path) == ["a", "b"]


# Several at once


async def test_of_two_calls_for_one_path_the_one_that_stays_gets_it(
    freezable: FreezableMount,
) -> None:
    path = freezable.path / "a/b/c"
    freezable.freeze()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as impatient:
                    impatient.start_soon(partial(makedirs, path / "d", policy=PATIENT))
                    nursery.start_soon(partial(makedirs, path, exist_ok=True, policy=PATIENT))
                    await wait_stuck_async(2)
                    scope.cancel()
            freezable.thaw()
        await wait_settled()
    assert tree(freezable.path) == ["a", "a/b", "a/b/c"]


@pytest.mark.parametrize("thawed", ["while-they-run", "after-them"])
def test_several_runs_in_several_threads_leave_what_succeeded_and_nothing_else(
    freezable: FreezableMount, thawed: str
) -> None:
    path = freezable.path / "a/b"
    cancelled = threading.Barrier(4, timeout=PATIENCE)
    succeeds = thawed == "while-they-run"
    failures: list[Exception] = []

    async def gives_up(number: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(makedirs, path / str(number), policy=PATIENT))
            await wait_stuck_async(4 if succeeds else 3)
            nursery.cancel_scope.cancel()
        if succeeds:
            await trio.to_thread.run_sync(cancelled.wait)
            with trio.fail_after(PATIENCE):
                await wait_settled()

    async def stays() -> None:
        with trio.fail_after(PATIENCE):
            await makedirs(path / "stays", policy=PATIENT)

    def in_a_run(main: Callable[[], Awaitable[object]]) -> None:
        try:
            trio.run(main)
        except Exception as failure:  # noqa: BLE001 - looked at below
            failures.append(failure)

    freezable.freeze()
    mains: list[Callable[[], Awaitable[object]]] = [
        partial(gives_up, number) for number in range(3)
    ]
    if succeeds:
        mains.append(stays)
    threads = [threading.Thread(target=in_a_run, args=[main]) for main in mains]
    for thread in threads:
        thread.start()
    if succeeds:
        # Only after those three have seen all four stuck: whoever wakes early is not counted.
        cancelled.wait()
        freezable.thaw()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []
    freezable.thaw()
    wait_until(at_ease)
    assert tree(freezable.path) == (["a", "a/b", "a/b/stays"] if succeeds else [])


def test_many_calls_that_end_with_their_run_leave_no_thread_behind(
    freezable: FreezableMount,
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                path = freezable.path / f"{number % 4}/a/{number}"
                nursery.start_soon(partial(makedirs, path, policy=PATIENT))
            await wait_stuck_async(20)
            nursery.cancel_scope.cancel()

    freezable.freeze()
    trio.run(main)
    wait_stuck(20)
    assert len(pending_rollbacks()) == 20
    freezable.thaw()
    wait_until(at_ease)
    assert tree(freezable.path) == []


async def test_waiting_until_all_is_settled_can_be_cancelled(freezable: FreezableMount) -> None:
    freezable.freeze()
    await cancelled_when_stuck(PATIENT, freezable.path / "a")
    with trio.move_on_after(0.05) as scope:
        await wait_settled()
    assert scope.cancelled_caught
    assert trio_mkdir.pending_rollbacks()
