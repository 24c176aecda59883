"""The library on a filesystem that hangs, fails, lies, dies and disappears.

Nothing here is simulated: a FUSE server in another process keeps real system calls in the kernel,
or answers them with an errno. Every order of events is brought about by gates, none by sleeping.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
import trio.testing
from filesystems.fuse import FuseMount, Hold, fuse
from filesystems.needs import needs_root
from gates import LONG, time_out
from trio.testing import MockClock

from trio_mkdir import (
    BackoffPolicy,
    DebtPaid,
    DebtTaken,
    Event,
    LateAnswer,
    Made,
    MkdirError,
    MountStalled,
    PendingRollback,
    Policy,
    Removed,
    RetryScheduled,
    RootCause,
    StepTimedOut,
    StepTimeout,
    makedirs,
    mkdir,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._registry import registry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

__all__ = ["fuse"]

E = TypeVar("E", bound=Event)

SOON = 10.0
"""Seconds after which a test gives up: never reached, unless something is wrong."""
ROLLBACK_TIMEOUT = 0.1
"""Of those calls whose undoing has to wait for something that is held."""
SLACK = 0.5
"""Seconds for scheduling on a busy machine."""

AT_ONCE = BackoffPolicy.constant(0, max_retries=3)
RETRIES = dict.fromkeys(
    [RootCause.BUSY, RootCause.STALE, RootCause.NO_RESOURCES, RootCause.TIMED_OUT], AT_ONCE
)


class Events:
    """An observer that remembers, and whose events can be waited for in any thread."""

    def __init__(self) -> None:
        self._all: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self._all.append(event)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        with self._changed:
            return [event for event in self._all if isinstance(event, kind)]

    def kinds(self) -> list[type[Event]]:
        with self._changed:
            return [type(event) for event in self._all]

    def wait(self, kind: type[Event], count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.kinds().count(kind) >= count, SOON)


@pytest.fixture
def events() -> Events:
    return Events()


def policy_of(
    *observers: Callable[[Event], object],
    step_timeout: float = math.inf,
    rollback_timeout: float = SOON,
    stall_after: int = 1000,
) -> Policy:
    return Policy(
        step_timeout=step_timeout,
        rollback_timeout=rollback_timeout,
        stall_after=stall_after,
        retries=RETRIES,
        budget=None,
        observers=observers,
    )


@pytest.fixture
def policy(events: Events) -> Policy:
    return policy_of(events)


@pytest.fixture
def hasty(events: Events) -> Policy:
    return policy_of(events, rollback_timeout=ROLLBACK_TIMEOUT)


def stuck() -> int:
    return len(registry.workers._stuck) + sum(
        workers.stuck for workers in registry.workers._workers.values()
    )


def descriptors() -> set[str]:
    # The one with which we look is gone by the time we look at it.
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


async def _settled() -> None:
    with trio.fail_after(SOON):
        await wait_settled()


@pytest.fixture(autouse=True)
def nothing_leaks(fuse: FuseMount) -> Iterator[None]:
    """Whatever a test does, once everything is released nothing of it is left in the process."""
    before = descriptors()
    yield
    fuse.clear()
    fuse.wait_answered()
    trio.run(_settled)
    assert registry.tree.statistics == (0, 0)
    assert pending_rollbacks() == ()
    assert stuck() == 0
    assert descriptors() <= before


async def paid(events: Events) -> None:
    """Wait until the one call that owes something has paid, and has told so."""
    await in_thread(events.wait, DebtPaid)
    await _settled()


async def in_thread(function: Callable[..., object], *args: object) -> None:
    await trio.to_thread.run_sync(partial(function, *args))


async def cancel_when_held(
    gate: Hold, call: Callable[[], Awaitable[object]], count: int = 1
) -> tuple[float, trio.CancelScope]:
    """Run ``call`` and cancel it once it is held; returns how long it took to end after that."""
    cancelled = 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await in_thread(gate.wait_arrived, count)
        cancelled = trio.current_time()
        nursery.cancel_scope.cancel()
    return trio.current_time() - cancelled, nursery.cancel_scope


def owed(pending: Iterable[PendingRollback]) -> list[tuple[str, Path]]:
    return [(debt.operation, Path(os.fsdecode(debt.path))) for debt in pending]


def tree(fuse: FuseMount) -> list[str]:
    """What is in the filesystem, looked at from behind: that never hangs."""
    return sorted(
        os.path.relpath(os.path.join(place, name), fuse.backing)
        for place, names, files in os.walk(fuse.backing)
        for name in [*names, *files]
    )


# An errno that only a filesystem like this can give

PASSING = [
    (errno.ESTALE, RootCause.STALE),
    (errno.ENOMEM, RootCause.NO_RESOURCES),
    (errno.EINTR, RootCause.BUSY),
]


def answers(number: int, count: int) -> int:
    """How many answers make ``count`` errors: after ESTALE the kernel itself asks once more."""
    return 2 * count if number == errno.ESTALE else count


@pytest.mark.parametrize(("number", "cause"), PASSING)
async def test_a_failure_that_passes_is_tried_again(
    fuse: FuseMount, policy: Policy, number: int, cause: RootCause
) -> None:
    fuse.fail("mkdir", number, "/a/b", times=answers(number, 1))
    report = await makedirs(fuse.path / "a" / "b" / "c", policy=policy)
    assert tree(fuse) == ["a", "a/b", "a/b/c"]
    assert [(retry.cause, retry.errno) for retry in report.retries] == [(cause, number)]
    assert report.retries[0].path == os.fspath(fuse.path / "a" / "b")
    assert [len(fuse.log("rmdir")), len(report.created)] == [0, 3]


@pytest.mark.parametrize(("number", "cause"), PASSING)
async def test_a_failure_that_stays_is_raised_as_it_is_and_nothing_is_left(
    fuse: FuseMount, policy: Policy, number: int, cause: RootCause
) -> None:
    fuse.fail("mkdir", number, "/a/b")
    with pytest.raises(MkdirError) as caught:
        await makedirs(fuse.path / "a" / "b" / "c", policy=policy)
    error = caught.value
    assert (error.errno, error.root_cause) == (number, cause)
    assert error.filename == os.fspath(fuse.path / "a" / "b")
    assert isinstance(error, InterruptedError) is (number == errno.EINTR)
    assert len(error.report.retries) == 3
    assert error.report.removed == (os.fspath(fuse.path / "a"),)
    assert tree(fuse) == []


LOST = [errno.EIO, errno.EINTR, errno.ETIMEDOUT, errno.EISDIR]
RETRIED = {errno.EINTR, errno.ETIMEDOUT}


@pytest.mark.parametrize("number", LOST)
async def test_a_directory_whose_reply_was_lost_stands_and_that_is_success_with_exist_ok(
    fuse: FuseMount, policy: Policy, number: int
) -> None:
    fuse.fail("mkdir", number, "/a/b", times=1, after=True)
    report = await makedirs(fuse.path / "a" / "b", exist_ok=True, policy=policy)
    assert tree(fuse) == ["a", "a/b"]
    assert report.created == (os.fspath(fuse.path / "a"),)


@pytest.mark.parametrize("number", LOST)
async def test_a_parent_whose_reply_was_lost_does_not_stop_the_call(
    fuse: FuseMount, policy: Policy, number: int
) -> None:
    fuse.fail("mkdir", number, "/a", times=1, after=True)
    report = await makedirs(fuse.path / "a" / "b", policy=policy)
    assert tree(fuse) == ["a", "a/b"]
    assert report.created == (os.fspath(fuse.path / "a" / "b"),)


@pytest.mark.parametrize("number", LOST)
async def test_without_exist_ok_a_directory_whose_reply_was_lost_is_kept_and_told(
    fuse: FuseMount, policy: Policy, number: int
) -> None:
    # It may just as well be somebody else's: nobody can tell, so nobody removes it.
    fuse.fail("mkdir", number, "/a/b", times=1, after=True)
    path = os.fspath(fuse.path / "a" / "b")
    with pytest.raises(MkdirError) as caught:
        await makedirs(path, policy=policy)
    error = caught.value
    if number in RETRIED:
        assert isinstance(error, FileExistsError)
        assert any(errno.errorcode[number] in note for note in error.__notes__)
    else:
        assert error.errno == number
    assert error.filename == path
    assert path in [kept.path for kept in error.report.kept]
    assert any(f"left {path!r}" in note for note in error.__notes__)
    assert tree(fuse) == ["a", "a/b"]


async def test_what_was_made_after_a_lost_reply_of_a_parent_is_undone_and_the_parent_kept(
    fuse: FuseMount, policy: Policy
) -> None:
    fuse.fail("mkdir", errno.EINTR, "/a", times=1, after=True)
    fuse.fail("mkdir", errno.ENOSPC, "/a/b/c")
    with pytest.raises(MkdirError) as caught:
        await makedirs(fuse.path / "a" / "b" / "c", policy=policy)
    assert caught.value.errno == errno.ENOSPC
    assert [kept.path for kept in caught.value.report.kept] == [os.fspath(fuse.path / "a")]
    assert tree(fuse) == ["a"]


# A mount that dies


async def test_a_mount_whose_server_has_died_is_disconnected(
    fuse: FuseMount, policy: Policy
) -> None:
    fuse.kill()
    with pytest.raises(MkdirError) as caught:
        await makedirs(fuse.path / "a" / "b", policy=policy)
    error = caught.value
    assert (error.errno, error.root_cause) == (errno.ENOTCONN, RootCause.DISCONNECTED)
    assert error.mount is not None
    assert error.mount.mount_point == os.fspath(fuse.path)
    assert any(os.fspath(fuse.path) in note for note in error.__notes__)
    assert error.report.retries == ()
    assert fuse.beneath() == []


@pytest.mark.parametrize("end", ["kill", "abort"])
async def test_a_server_that_dies_under_a_call_ends_it_and_what_is_left_is_told(
    fuse: FuseMount, policy: Policy, end: str
) -> None:
    if end == "abort":
        needs_root()
    gate = fuse.hold("mkdir", "/a/b")
    with pytest.raises(MkdirError) as caught:
        await _die_meanwhile(gate, getattr(fuse, end), fuse.path / "a" / "b", policy)
    error = caught.value
    assert isinstance(error, ConnectionAbortedError)
    assert (error.errno, error.root_cause) == (errno.ECONNABORTED, RootCause.DISCONNECTED)
    (made,) = error.report.created
    assert made == os.fspath(fuse.path / "a")
    assert (made, errno.ENOTCONN) in [(kept.path, kept.errno) for kept in error.report.kept]
    assert error.report.pending == ()
    assert fuse.beneath() == []


async def _die_meanwhile(gate: Hold, die: Callable[[], object], path: Path, policy: Policy) -> None:
    failures: list[MkdirError] = []

    async def call() -> None:
        try:
            await makedirs(path, policy=policy)
        except MkdirError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await in_thread(gate.wait_arrived)
        await in_thread(die)
    raise failures[0]


@pytest.fixture
def vanishing(fuse: FuseMount, events: Events) -> Policy:
    """Fails once at ``/a/b``, and the mount vanishes during the backoff."""
    fuse.fail("mkdir", errno.EAGAIN, "/a/b", times=1)

    def vanish(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            fuse.vanish()
            (fuse.path / "a").mkdir()  # somebody else's, where the next attempt would go

    return policy_of(events, vanish)


async def test_a_call_whose_mount_vanishes_between_two_attempts_leaves_nothing_beneath(
    fuse: FuseMount, vanishing: Policy
) -> None:
    # Or the next mkdir would quietly succeed on the disk beneath the mount point.
    with pytest.raises(MkdirError) as caught:
        await makedirs(fuse.path / "a" / "b" / "c", policy=vanishing)
    assert caught.value.root_cause is RootCause.DISCONNECTED
    assert any(os.fspath(fuse.path) in note for note in caught.value.__notes__)
    # What was made before lies on the mount that is gone; of its name, but another, is this.
    assert fuse.beneath() == ["a"]
    assert tree(fuse) == ["a"]


async def test_a_call_whose_mount_vanishes_between_two_attempts_makes_nothing_beneath(
    fuse: FuseMount, vanishing: Policy, events: Events
) -> None:
    # Not even for a moment: whoever is killed in that moment leaves it on the disk.
    with pytest.raises(MkdirError):
        await makedirs(fuse.path / "a" / "b" / "c", policy=vanishing)
    assert [event.path for event in events.of(Made)] == [os.fspath(fuse.path / "a")]


# A system call that does not return: step timeouts


async def test_a_step_timeout_waits_again_for_the_same_system_call_then_gives_up(
    fuse: FuseMount, events: Events, clock: MockClock
) -> None:
    (fuse.backing / "a").mkdir()
    gate = fuse.hold("mkdir")
    path = os.fspath(fuse.path / "a" / "b")
    policy = policy_of(events, step_timeout=LONG, rollback_timeout=ROLLBACK_TIMEOUT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, partial(in_thread, gate.wait_arrived), 4)
        with pytest.raises(StepTimeout) as caught:
            await makedirs(path, policy=policy)
    error = caught.value
    assert (error.errno, error.root_cause) == (errno.ETIMEDOUT, RootCause.TIMED_OUT)
    assert error.filename == path
    assert [event.path for event in events.of(StepTimedOut)] == [path] * 4
    assert len(error.report.retries) == 3
    assert owed(error.report.pending) == [("mkdir", fuse.path / "a" / "b")]
    assert any(repr(path) in note for note in error.__notes__)
    gate.release()
    await paid(events)
    assert tree(fuse) == ["a"]
    assert [request[1:] for request in fuse.log("mkdir")] == [("/a/b", 0)]
    assert [request[1:] for request in fuse.log("rmdir")] == [("/a/b", 0)]
    (late,) = events.of(LateAnswer)
    assert (late.path, late.operation, late.errno) == (path, "mkdir", None)


async def test_a_system_call_that_returns_after_a_step_timeout_is_the_answer(
    fuse: FuseMount, events: Events, clock: MockClock
) -> None:
    gate = fuse.hold("mkdir", "/a/b")

    def release(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            gate.release()

    policy = policy_of(events, release, step_timeout=LONG)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, partial(in_thread, gate.wait_arrived))
        report = await makedirs(fuse.path / "a" / "b", policy=policy)
    assert tree(fuse) == ["a", "a/b"]
    assert [retry.cause for retry in report.retries] == [RootCause.TIMED_OUT]
    assert len(fuse.log("mkdir")) == 2
    assert events.of(LateAnswer) == []


# A system call that does not return: cancellation

EFFECT = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@EFFECT
async def test_a_cancelled_call_ends_in_time_and_its_late_directory_is_undone(
    fuse: FuseMount, events: Events, hasty: Policy, after: bool
) -> None:
    gate = fuse.hold("mkdir", "/a", after=after)
    path = os.fspath(fuse.path / "a")
    took, scope = await cancel_when_held(gate, partial(makedirs, path, policy=hasty))
    assert took < ROLLBACK_TIMEOUT + SLACK
    assert scope.cancelled_caught
    (debt,) = pending_rollbacks()
    assert isinstance(debt, PendingRollback)
    assert (debt.path, debt.operation) == (path, "mkdir")
    assert debt.mount_point == os.fspath(fuse.path)
    assert [event.debt for event in events.of(DebtTaken)] == [debt]
    assert events.of(LateAnswer) == []
    gate.release()
    await paid(events)
    assert tree(fuse) == []
    assert pending_rollbacks() == ()
    (late,) = events.of(LateAnswer)
    assert (late.path, late.operation, late.errno) == (path, "mkdir", None)
    assert [paid.path for paid in events.of(DebtPaid)] == [path]
    assert events.kinds()[-3:] == [LateAnswer, Removed, DebtPaid]


async def test_a_late_failure_is_told_with_its_errno(
    fuse: FuseMount, events: Events, hasty: Policy
) -> None:
    gate = fuse.hold("mkdir", "/a/b")
    fuse.fail("mkdir", errno.EDQUOT, "/a/b")
    path = os.fspath(fuse.path / "a" / "b")
    await cancel_when_held(gate, partial(makedirs, path, policy=hasty))
    gate.release()
    await paid(events)
    (late,) = events.of(LateAnswer)
    assert (late.path, late.errno) == (path, errno.EDQUOT)
    assert len(events.of(DebtPaid)) == 1
    assert tree(fuse) == []


@EFFECT
async def test_what_stands_above_a_stuck_mkdir_is_left_alone_until_it_returns(
    fuse: FuseMount, events: Events, hasty: Policy, after: bool
) -> None:
    # rmdir there, and even a look, would wait on the lock that the stuck one holds.
    gate = fuse.hold("mkdir", "/a/b/c", after=after)
    took, _ = await cancel_when_held(
        gate, partial(makedirs, fuse.path / "a" / "b" / "c" / "d", policy=hasty)
    )
    assert took < ROLLBACK_TIMEOUT + SLACK
    above = [("undo", fuse.path / "a" / "b"), ("undo", fuse.path / "a")]
    assert owed(pending_rollbacks()) == [("mkdir", fuse.path / "a" / "b" / "c"), *above]
    assert fuse.log("rmdir") == []
    gate.release()
    await paid(events)
    assert tree(fuse) == []
    assert [request.path for request in fuse.log("rmdir")] == ["/a/b/c", "/a/b", "/a"]
    assert "/a/b/c/d" not in [request.path for request in fuse.log("mkdir")]
    assert events.kinds()[-1] is DebtPaid


async def test_what_stood_before_is_not_removed_by_a_late_thread(
    fuse: FuseMount, hasty: Policy
) -> None:
    (fuse.path / "a").mkdir()
    gate = fuse.hold("mkdir", "/a/b")
    await cancel_when_held(gate, partial(mkdir, fuse.path / "a" / "b", policy=hasty))
    gate.release()
    await _settled()
    assert tree(fuse) == ["a"]


async def test_what_somebody_puts_into_a_late_directory_keeps_it(
    fuse: FuseMount, events: Events, hasty: Policy
) -> None:
    gate = fuse.hold("mkdir", "/a/b", after=True)
    await cancel_when_held(gate, partial(makedirs, fuse.path / "a" / "b", policy=hasty))
    (fuse.backing / "a" / "b" / "c").mkdir()
    gate.release()
    await paid(events)
    assert tree(fuse) == ["a", "a/b", "a/b/c"]
    assert events.kinds()[-1] is DebtPaid


async def test_a_nursery_that_is_cancelled_over_a_stuck_mkdir_undoes_everything_later(
    fuse: FuseMount, events: Events, hasty: Policy
) -> None:
    gate = fuse.hold("mkdir", "/b/*")

    async def block() -> None:
        async with open_rollback_nursery(policy=hasty) as nursery:
            await nursery.makedirs(fuse.path / "a" / "c")
            await nursery.makedirs(fuse.path / "b" / "c")

    took, _ = await cancel_when_held(gate, block)
    assert took < 2 * ROLLBACK_TIMEOUT + SLACK
    await in_thread(events.wait, Removed, 2)
    assert tree(fuse) == ["b"]  # nothing is stuck in the rest
    gate.release()
    await _settled()
    assert tree(fuse) == []


@EFFECT
def test_a_mkdir_that_returns_after_its_run_is_over_is_undone_all_the_same(
    fuse: FuseMount, events: Events, hasty: Policy, after: bool
) -> None:
    gate = fuse.hold("mkdir", "/a/b", after=after)
    path = fuse.path / "a" / "b"
    trio.run(cancel_when_held, gate, partial(makedirs, path, policy=hasty))
    assert len(pending_rollbacks()) == 2
    gate.release()
    events.wait(DebtPaid)
    assert pending_rollbacks() == ()
    assert tree(fuse) == []
    (late,) = events.of(LateAnswer)
    assert late.path == os.fspath(path)


def test_another_run_can_wait_for_what_the_first_one_left_owing(
    fuse: FuseMount, hasty: Policy
) -> None:
    gate = fuse.hold("mkdir", "/a")
    trio.run(cancel_when_held, gate, partial(makedirs, fuse.path / "a", policy=hasty))

    async def wait() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_settled)
            await trio.testing.wait_all_tasks_blocked()
            gate.release()

    trio.run(wait)
    assert tree(fuse) == []


def test_an_interrupt_from_the_keyboard_ends_a_stuck_call_and_nothing_is_left(
    fuse: FuseMount, hasty: Policy
) -> None:
    gate = fuse.hold("mkdir", "/a/b")

    def interrupt() -> None:
        gate.wait_arrived()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        trio.run(partial(makedirs, fuse.path / "a" / "b" / "c", policy=hasty))
    thread.join()
    assert [debt.operation for debt in pending_rollbacks()] == ["mkdir", "undo"]
    gate.release()
    trio.run(_settled)
    assert tree(fuse) == []


def test_runs_in_several_threads_each_get_their_own_answer(
    fuse: FuseMount, events: Events, hasty: Policy
) -> None:
    count = 6
    gate = fuse.hold("mkdir", "/held*/*")

    def cancelled(number: int) -> None:
        async def main() -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    path = fuse.path / f"held{number}" / "a"
                    nursery.start_soon(partial(makedirs, path, policy=hasty))
                    await in_thread(gate.wait_arrived, count)
                    scope.cancel()
            assert scope.cancelled_caught

        trio.run(main)

    def made(number: int) -> None:
        trio.run(partial(makedirs, fuse.path / f"made{number}" / "a", policy=hasty))

    with ThreadPoolExecutor(2 * count) as pool:
        runs = [pool.submit(run, number) for number in range(count) for run in (cancelled, made)]
    for run in runs:
        run.result()
    assert len(pending_rollbacks()) == 2 * count
    gate.release()
    events.wait(DebtPaid, count)
    made_paths = [f"made{number}{rest}" for number in range(count) for rest in ("", "/a")]
    assert tree(fuse) == made_paths


# An undoing that does not return


async def test_a_stuck_rmdir_is_a_debt_and_is_paid_when_it_returns(
    fuse: FuseMount, events: Events, clock: MockClock
) -> None:
    fuse.fail("mkdir", errno.EACCES, "/a/b/c")
    gate = fuse.hold("rmdir", "/a/b")
    policy = policy_of(events, rollback_timeout=LONG)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, partial(in_thread, gate.wait_arrived))
        with pytest.raises(PermissionError) as caught:
            await makedirs(fuse.path / "a" / "b" / "c", policy=policy)
    assert LONG <= trio.current_time() - began < LONG + SOON
    assert isinstance(caught.value, MkdirError)
    assert owed(caught.value.report.pending) == [
        ("rmdir", fuse.path / "a" / "b"),
        ("undo", fuse.path / "a"),
    ]
    assert [request.path for request in fuse.log("rmdir")] == ["/a/b"]
    gate.release()
    await paid(events)
    assert tree(fuse) == []
    assert [request.path for request in fuse.log("rmdir")] == ["/a/b", "/a"]
    assert events.kinds()[-1] is DebtPaid


async def test_a_rmdir_that_is_interrupted_is_tried_again(fuse: FuseMount, policy: Policy) -> None:
    fuse.fail("mkdir", errno.EACCES, "/a/b")
    fuse.fail("rmdir", errno.EINTR, "/a", times=2)
    with pytest.raises(PermissionError):
        await makedirs(fuse.path / "a" / "b", policy=policy)
    assert tree(fuse) == []
    assert [request.errno for request in fuse.log("rmdir")] == [errno.EINTR, errno.EINTR, 0]


async def test_a_rmdir_that_is_refused_is_told(fuse: FuseMount, policy: Policy) -> None:
    fuse.fail("mkdir", errno.EACCES, "/a/b")
    fuse.fail("rmdir", errno.EROFS, "/a")
    with pytest.raises(PermissionError) as caught:
        await makedirs(fuse.path / "a" / "b", policy=policy)
    assert isinstance(caught.value, MkdirError)
    (kept,) = caught.value.report.kept
    assert (kept.path, kept.errno) == (os.fspath(fuse.path / "a"), errno.EROFS)
    assert tree(fuse) == ["a"]


# One dead mount and everybody else


async def test_sixty_stuck_calls_do_not_hinder_anything_elsewhere(
    fuse: FuseMount, tmp_path: Path, hasty: Policy
) -> None:
    parents = [fuse.path / f"{number}" for number in range(60)]
    for parent in parents:
        (fuse.backing / parent.name).mkdir()
    gate = fuse.hold("mkdir", "/*/a")
    async with trio.open_nursery() as nursery:
        for parent in parents:
            nursery.start_soon(partial(makedirs, parent / "a", policy=hasty))
        await in_thread(gate.wait_arrived, hasty.workers)
        with trio.fail_after(SOON):
            for number in range(60):
                path = tmp_path / "healthy" / f"{number}" / "a"
                assert not await trio.Path(path).exists()
                await makedirs(path)
                assert await trio.Path(path).exists()
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        assert len(gate.arrived) == hasty.workers  # the other calls wait for a worker
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < ROLLBACK_TIMEOUT + 2 * SLACK
    assert len(pending_rollbacks()) == hasty.workers
    gate.release()
    await _settled()
    assert tree(fuse) == sorted(parent.name for parent in parents)
    assert len(fuse.log("mkdir")) == hasty.workers


async def test_a_mount_with_too_many_stuck_calls_is_refused_at_once_until_one_returns(
    fuse: FuseMount, tmp_path: Path, events: Events
) -> None:
    policy = policy_of(events, stall_after=2, rollback_timeout=ROLLBACK_TIMEOUT)
    gates = []
    for name in ("a", "b"):
        (fuse.backing / name).mkdir()
        gates.append(fuse.hold("mkdir", f"/{name}/*"))
        await cancel_when_held(gates[-1], partial(makedirs, fuse.path / name / "c", policy=policy))
    requests = len(fuse.log())
    began = trio.current_time()
    with pytest.raises(MountStalled) as caught:
        await makedirs(fuse.path / "new" / "c", policy=policy)
    assert trio.current_time() - began < SLACK
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.mount is not None
    assert caught.value.mount.mount_point == os.fspath(fuse.path)
    assert len(fuse.log()) == requests  # it did not even go there
    await makedirs(tmp_path / "elsewhere" / "c", policy=policy)
    gates[0].release()
    await in_thread(events.wait, LateAnswer)
    await makedirs(fuse.path / "new" / "c", policy=policy)
    gates[1].release()
    await _settled()
    assert tree(fuse) == ["a", "b", "new", "new/c"]


async def test_a_step_timeout_counts_as_stuck_while_its_caller_still_waits(
    fuse: FuseMount, events: Events, clock: MockClock
) -> None:
    (fuse.backing / "a").mkdir()
    gate = fuse.hold("mkdir", "/a/*")
    waits_on = policy_of(events, step_timeout=LONG, rollback_timeout=ROLLBACK_TIMEOUT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, fuse.path / "a" / "b", policy=waits_on))
        await time_out(clock, partial(in_thread, gate.wait_arrived))
        assert events.kinds()[-1] is RetryScheduled
        with pytest.raises(MountStalled):
            await makedirs(fuse.path / "c", policy=policy_of(stall_after=1))
        nursery.cancel_scope.cancel()
    gate.release()
    await _settled()
    assert tree(fuse) == ["a"]
    await makedirs(fuse.path / "c", policy=policy_of(stall_after=1))
