"""The rollback nursery: its block ends well and everything stays, or it fails and nothing does."""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest
import trio
from doubles import first
from gates import Attempt, Gate, Stage, as_usual
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_mkdir import (
    BackoffPolicy,
    Kept,
    Made,
    Policy,
    ReliedOn,
    Removed,
    Report,
    RetryScheduled,
    RollbackError,
    RollbackNursery,
    RootCause,
    StepStarted,
    makedirs,
    mkdir,
    open_rollback_nursery,
    pending_rollbacks,
)

AT_ONCE = BackoffPolicy.constant(0, max_retries=3)


class Oops(Exception):
    """What makes a block fail."""


def oops() -> NoReturn:
    raise Oops


async def oops_at_once() -> NoReturn:
    raise Oops


async def oops_async() -> NoReturn:
    await trio.lowlevel.checkpoint()
    raise Oops


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage.on(tmp_path) as stage:
        yield stage


def failed_undo(undo: object, cause: type[BaseException]) -> pytest.RaisesExc[RollbackError]:
    """A rollback error about ``undo`` because of ``cause``."""

    def check(error: RollbackError) -> bool:
        return error.undo == undo and isinstance(error.__cause__, cause)

    return pytest.RaisesExc(RollbackError, check=check)


# How a block ends


async def test_a_success_leaves_everything_and_runs_no_compensation(stage: Stage) -> None:
    ran: list[str] = []
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        report = await nursery.makedirs(stage.at("a/b"))
        nursery.push_undo(ran.append, "compensation")
        nursery.start_soon(nursery.makedirs, stage.at("c/d"))
        await nursery.mkdir(stage.at("a/e"))
    assert isinstance(report, Report)
    assert ran == []
    assert await stage.settled() == ["a", "a/b", "a/e", "c", "c/d"]


async def test_an_error_undoes_everything_the_last_first(stage: Stage) -> None:
    os.mkdir(stage.at("old"))
    with pytest.RaisesGroup(Oops):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("old/a/b"))
            await nursery.makedirs(stage.at("c"))
            await nursery.mkdir(stage.at("old/a/d"))
            oops()
    assert stage.tells(Removed) == ["old/a/d", "c", "old/a/b", "old/a"]
    assert await stage.settled() == ["old"]


async def test_an_error_in_a_task_undoes_everything(stage: Stage) -> None:
    with pytest.RaisesGroup(Oops):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.start_soon(oops_async)
    assert await stage.settled() == []


async def test_an_error_of_a_call_inside_undoes_everything_and_comes_out_as_it_is(
    stage: Stage,
) -> None:
    with pytest.RaisesGroup(FileExistsError) as caught:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            await nursery.makedirs(stage.at("a"))
    error = caught.value.exceptions[0]
    assert isinstance(error, FileExistsError)
    assert error.filename == stage.at("a")
    assert await stage.settled() == []


async def test_an_error_that_the_block_handles_itself_undoes_only_its_own_call(
    stage: Stage,
) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a"))
        stage.refuse("mkdir", "b/c", errno.ENOENT, errno.EROFS)
        with pytest.raises(OSError):
            await nursery.makedirs(stage.at("b/c"))
        assert stage.tree() == ["a"]
    assert await stage.settled() == ["a"]


async def test_cancelling_the_scope_around_it_undoes_everything(stage: Stage) -> None:
    with trio.CancelScope() as scope:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a/b"))
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert stage.tells(Removed) == ["a/b", "a"]
    assert await stage.settled() == []


async def test_cancelling_its_own_scope_undoes_everything_and_raises_nothing(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a/b"))
        nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()
    assert nursery.cancel_scope.cancelled_caught
    assert await stage.settled() == []


async def test_cancelling_its_own_scope_undoes_everything_also_where_no_checkpoint_follows(
    stage: Stage,
) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a/b"))
        nursery.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_the_tasks_inside_have_ended_before_anything_is_undone(stage: Stage) -> None:
    record: list[object] = []

    async def stays() -> None:
        try:
            await trio.sleep_forever()
        finally:
            record.append(stage.tree())

    with pytest.RaisesGroup(Oops):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(record.append, "undo")
            nursery.start_soon(stays)
            await wait_all_tasks_blocked()
            oops()
    assert record == [["a"], "undo"]


async def test_rolling_back_is_shielded_where_the_scope_around_it_is_cancelled_already(
    stage: Stage,
) -> None:
    record: list[str] = []

    async def undo() -> None:
        await trio.lowlevel.checkpoint()
        record.append("after a checkpoint")

    with trio.CancelScope() as scope:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(undo)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert record == ["after a checkpoint"]
    assert stage.tree() == []
    assert pending_rollbacks() == ()


async def test_a_cancellation_goes_through_where_undoing_takes_too_long(stage: Stage) -> None:
    gate = stage.stop("rmdir", "a")
    with trio.CancelScope() as scope:
        async with open_rollback_nursery(policy=stage.policy(rollback_timeout=0)) as nursery:
            await nursery.makedirs(stage.at("a"))
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    await gate.entered()
    assert [debt.path for debt in pending_rollbacks()] == [stage.at("a")]
    assert [debt.path for debt in nursery.report.pending] == [stage.at("a")]
    gate.open()
    assert await stage.settled() == []


async def test_a_keyboard_interrupt_undoes_everything(stage: Stage) -> None:
    async def wait_for_it() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a/b"))
            signal.raise_signal(signal.SIGINT)
            await wait_for_it()
    assert await stage.settled() == []


async def test_a_keyboard_interrupt_in_a_task_undoes_everything(stage: Stage) -> None:
    async def interrupted() -> None:
        await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a/b"))
            nursery.start_soon(interrupted)
            await trio.sleep_forever()
    assert await stage.settled() == []


def test_a_keyboard_interrupt_that_comes_during_a_call_undoes_everything(stage: Stage) -> None:
    async def main() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            await nursery.makedirs(stage.at("b/c"))
            await trio.sleep_forever()

    interrupt = partial(signal.raise_signal, signal.SIGINT)  # in a thread; Python tells the main
    stage.script("mkdir", stage.at("b/c"), as_usual, first(interrupt))
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True, allow_unwrapped=True):
        trio.run(main)
    trio.run(settled_empty, stage)


def test_a_keyboard_interrupt_that_comes_during_a_compensation_stops_none_of_the_others(
    stage: Stage,
) -> None:
    ran: list[str] = []

    async def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async def main() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            nursery.push_undo(ran.append, "earlier")
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(interrupted)
            nursery.cancel_scope.cancel()

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True, allow_unwrapped=True):
        trio.run(main)
    trio.run(settled_empty, stage)
    assert ran == ["earlier"]


def test_a_keyboard_interrupt_that_comes_during_a_removal_stops_no_compensation(
    stage: Stage,
) -> None:
    ran: list[str] = []

    async def main() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            nursery.push_undo(ran.append, "earlier")
            await nursery.makedirs(stage.at("a"))
            nursery.cancel_scope.cancel()

    def interrupt_and_wait(do: Callable[[], object]) -> object:
        signal.raise_signal(signal.SIGINT)  # in a thread; Python tells the main one
        return gate(do)

    gate = Gate()
    stage.script("rmdir", stage.at("a"), interrupt_and_wait)
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True, allow_unwrapped=True):
        trio.run(main)
    gate.open()
    trio.run(settled_empty, stage)
    assert ran == ["earlier"]


async def settled_empty(stage: Stage) -> None:
    assert await stage.settled() == []


async def test_the_original_tracebacks_survive(stage: Stage) -> None:
    def frames(error: BaseException) -> list[str]:
        return [frame.name for frame in traceback.extract_tb(error.__traceback__)]

    with pytest.RaisesGroup(Oops, Oops) as caught:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            nursery.start_soon(oops_at_once)
            nursery.start_soon(oops_at_once)
    assert [frames(error) for error in caught.value.exceptions] == [["oops_at_once"]] * 2

    with pytest.RaisesGroup(Oops, RollbackError) as beside:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            nursery.push_undo(oops)
            oops()
    cause, undone = beside.value.exceptions
    assert frames(cause)[-1] == "oops"
    assert undone.__cause__ is not None
    assert frames(undone.__cause__)[-1] == "oops"


async def test_what_is_below_somebody_elses_file_is_kept_and_no_error(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a/b"))
        Path(stage.at("a/file")).touch()
        nursery.cancel_scope.cancel()
    assert [kept.path for kept in nursery.report.kept] == [stage.at("a")]
    assert nursery.report.removed == (stage.at("a/b"),)
    assert await stage.settled() == ["a"]


# Compensations


async def test_directories_and_compensations_are_undone_in_one_order(stage: Stage) -> None:
    seen: list[tuple[str, list[str]]] = []

    def undo(name: str) -> None:
        seen.append((name, stage.tree()))

    async def undo_async(name: str) -> None:
        await trio.lowlevel.checkpoint()
        undo(name)

    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        nursery.push_undo(undo, "first")
        await nursery.makedirs(stage.at("a"))
        nursery.push_undo(undo_async, "second")
        nursery.push_undo(partial(undo_async, "third"))
        await nursery.makedirs(stage.at("b"))
        await nursery.makedirs(stage.at("a/c"))
        nursery.push_undo(undo, "fourth")
        nursery.cancel_scope.cancel()
    assert seen == [
        ("fourth", ["a", "a/c", "b"]),
        ("third", ["a"]),
        ("second", ["a"]),
        ("first", []),
    ]


async def test_compensations_run_where_nothing_was_made(stage: Stage) -> None:
    ran: list[int] = []
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        for number in range(3):
            nursery.push_undo(ran.append, number)
        nursery.cancel_scope.cancel()
    assert ran == [2, 1, 0]


@pytest.mark.parametrize("fails", [oops, oops_async])
async def test_a_failing_compensation_comes_out_beside_the_cause_and_stops_nothing(
    stage: Stage, fails: Callable[[], object]
) -> None:
    ran: list[str] = []
    with pytest.RaisesGroup(KeyError, failed_undo(fails, Oops)) as caught:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(ran.append, "earlier")
            nursery.push_undo(fails)
            await nursery.makedirs(stage.at("b"))
            raise KeyError
    assert ran == ["earlier"]
    assert "could not undo" in str(caught.value.exceptions[1])
    assert await stage.settled() == []


async def test_a_failing_compensation_comes_out_of_a_cancelled_block(stage: Stage) -> None:
    with pytest.RaisesGroup(failed_undo(oops, Oops)):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(oops)
            nursery.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_a_failing_compensation_does_not_hide_the_cancellation_around_it(
    stage: Stage,
) -> None:
    """The scope around the block catches its Cancelled out of the group, and the rest comes out."""
    with pytest.RaisesGroup(failed_undo(oops, Oops)), trio.CancelScope() as scope:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(oops)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert await stage.settled() == []


async def test_a_failing_removal_comes_out_beside_the_cause_and_stops_nothing(
    stage: Stage,
) -> None:
    stage.always("rmdir", stage.at("a/b"), lambda do: _refuse(errno.EIO))
    with pytest.RaisesGroup(Oops, failed_undo(stage.at("a/b"), OSError)) as caught:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a/b"))
            await nursery.makedirs(stage.at("c"))
            oops()
    cause = caught.value.exceptions[1].__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.EIO
    assert cause.filename == stage.at("a/b")
    assert [kept.path for kept in nursery.report.kept] == [stage.at("a/b"), stage.at("a")]
    assert [kept.errno for kept in nursery.report.kept] == [errno.EIO, None]
    assert await stage.settled() == ["a", "a/b"]


def _refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


async def test_a_failing_compensation_and_a_failing_removal_come_out_together(
    stage: Stage,
) -> None:
    stage.refuse("rmdir", "a", errno.EIO)
    with pytest.RaisesGroup(Oops, failed_undo(oops, Oops), failed_undo(stage.at("a"), OSError)):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(oops)
            await nursery.makedirs(stage.at("b"))
            oops()
    assert await stage.settled() == ["a"]


async def test_a_compensation_that_hangs_is_bounded_and_reported(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    ran: list[str] = []
    began = trio.current_time()
    policy = stage.policy(rollback_timeout=3.0)
    with pytest.RaisesGroup(Oops, failed_undo(trio.sleep_forever, trio.TooSlowError)):
        async with open_rollback_nursery(policy=policy) as nursery:
            nursery.push_undo(ran.append, "earlier")
            nursery.push_undo(trio.sleep_forever)
            oops()
    assert trio.current_time() - began == pytest.approx(3.0)
    assert ran == ["earlier"]


async def test_directories_are_undone_also_after_a_compensation_has_used_up_the_time(
    stage: Stage,
) -> None:
    with pytest.RaisesGroup(Oops, failed_undo(trio.sleep_forever, trio.TooSlowError)):
        async with open_rollback_nursery(policy=stage.policy(rollback_timeout=0)) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(trio.sleep_forever)
            await nursery.makedirs(stage.at("b"))
            oops()
    assert await stage.settled() == []


async def test_compensations_run_also_where_a_removal_hangs(stage: Stage) -> None:
    ran: list[str] = []
    gate = stage.stop("rmdir", "a")
    async with open_rollback_nursery(policy=stage.policy(rollback_timeout=0)) as nursery:
        nursery.push_undo(ran.append, "earlier")
        await nursery.makedirs(stage.at("a"))
        nursery.push_undo(ran.append, "later")
        nursery.cancel_scope.cancel()
    assert ran == ["later", "earlier"]
    gate.open()
    assert await stage.settled() == []


async def test_a_compensation_has_to_be_callable(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        with pytest.raises(TypeError, match="callable"):
            nursery.push_undo("rm -r a")  # type: ignore[arg-type]


async def test_the_policy_has_to_be_one() -> None:
    with pytest.raises(TypeError, match="Policy"):
        open_rollback_nursery(policy=5)  # type: ignore[arg-type]


# A nursery as trio's


async def test_it_starts_tasks_as_a_nursery_of_trios_does(stage: Stage) -> None:
    names: list[str] = []

    async def task(
        name: str, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        names.append(trio.lowlevel.current_task().name)
        task_status.started(f"{name} has begun")
        await trio.sleep_forever()

    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        assert nursery.child_tasks == frozenset()
        assert await nursery.start(task, "one", name="first") == "one has begun"
        nursery.start_soon(task, "two", name="second")
        await wait_all_tasks_blocked()
        assert names == ["first", "second"]
        assert sorted(child.name for child in nursery.child_tasks) == ["first", "second"]
        assert isinstance(nursery.cancel_scope, trio.CancelScope)
        nursery.cancel_scope.cancel()
    assert nursery.child_tasks == frozenset()


async def test_a_task_that_fails_to_start_raises_where_it_was_started(stage: Stage) -> None:
    async def no_start(task_status: trio.TaskStatus[None]) -> None:
        await oops_async()

    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a"))
        with pytest.raises(Oops):
            await nursery.start(no_start)
    assert await stage.settled() == ["a"]


async def test_it_waits_for_its_tasks_before_it_commits(stage: Stage) -> None:
    go_on = trio.Event()

    async def task() -> None:
        await go_on.wait()
        await nursery.makedirs(stage.at("late"))
        oops()

    with pytest.RaisesGroup(Oops):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.start_soon(task)
            go_on.set()
    assert await stage.settled() == []


async def test_leaving_is_a_checkpoint(stage: Stage) -> None:
    with assert_checkpoints():
        async with open_rollback_nursery(policy=stage.policy()):
            pass


async def test_leaving_a_cancelled_block_is_a_checkpoint(stage: Stage) -> None:
    with assert_checkpoints():
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            nursery.cancel_scope.cancel()


async def test_a_cancellation_around_it_undoes_everything_also_where_no_checkpoint_follows(
    stage: Stage,
) -> None:
    with trio.CancelScope() as scope:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            scope.cancel()
    assert scope.cancelled_caught
    assert await stage.settled() == []


# After the block


@pytest.mark.parametrize("ends", ["well", "cancelled"])
@pytest.mark.parametrize("method", [RollbackNursery.makedirs, RollbackNursery.mkdir])
async def test_a_closed_nursery_makes_nothing(
    stage: Stage, ends: str, method: Callable[..., Any]
) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        if ends == "cancelled":
            nursery.cancel_scope.cancel()
    with assert_checkpoints(), pytest.raises(RuntimeError, match="closed"):
        await method(nursery, stage.at("a"))
    assert await stage.settled() == []


async def test_a_closed_nursery_takes_no_compensation(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        nursery.push_undo(oops)


@pytest.mark.parametrize("ends", ["well", "cancelled"])
async def test_a_call_that_another_task_still_runs_when_the_block_ends_is_undone(
    stage: Stage, ends: str
) -> None:
    """It belongs to no block any more that could undo it later."""
    outcome: list[str] = []

    async def foreign() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            await rollback_nursery.makedirs(stage.at("a/b"))
        outcome.append("refused")

    async with trio.open_nursery() as nursery:
        gate = stage.stop("mkdir", "a/b", skip=1)
        async with open_rollback_nursery(policy=stage.policy()) as rollback_nursery:
            await rollback_nursery.makedirs(stage.at("c"))
            nursery.start_soon(foreign)
            await gate.entered()  # it has made a
            if ends == "cancelled":
                rollback_nursery.cancel_scope.cancel()
        gate.open()
    assert outcome == ["refused"]
    assert await stage.settled() == (["c"] if ends == "well" else [])


async def test_a_compensation_cannot_use_the_nursery_that_it_undoes(stage: Stage) -> None:
    async def undo() -> None:
        await nursery.makedirs(stage.at("b"))

    with pytest.RaisesGroup(Oops, failed_undo(undo, RuntimeError)):
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.push_undo(undo)
            oops()
    assert await stage.settled() == []


# Nested


async def test_an_inner_success_is_undone_with_the_outer_block(stage: Stage) -> None:
    seen: list[list[str]] = []
    with pytest.RaisesGroup(Oops):
        async with open_rollback_nursery(policy=stage.policy()) as outer:
            await outer.makedirs(stage.at("a"))
            async with open_rollback_nursery(policy=stage.policy()) as inner:
                await inner.makedirs(stage.at("a/b"))
                inner.push_undo(lambda: seen.append(stage.tree()))
                await inner.makedirs(stage.at("c"))
            await outer.makedirs(stage.at("d"))
            assert stage.tree() == ["a", "a/b", "c", "d"]
            oops()
    assert seen == [["a", "a/b"]]
    assert stage.tells(Removed) == ["d", "c", "a/b", "a"]
    assert outer.report.removed == tuple(map(stage.at, ["d", "c", "a/b", "a"]))
    assert await stage.settled() == []


async def test_an_inner_failure_is_undone_alone(stage: Stage) -> None:
    ran: list[str] = []
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        await outer.makedirs(stage.at("a"))
        outer.push_undo(ran.append, "outer")
        with pytest.RaisesGroup(Oops):
            async with open_rollback_nursery(policy=stage.policy()) as inner:
                await inner.makedirs(stage.at("a/b"))
                inner.push_undo(ran.append, "inner")
                oops()
        assert stage.tree() == ["a"]
        assert ran == ["inner"]
        await outer.makedirs(stage.at("c"))
    assert ran == ["inner"]
    assert await stage.settled() == ["a", "c"]


async def test_both_succeed_and_everything_stays(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a"))
        assert outer.report.created == (stage.at("a"),)
    assert await stage.settled() == ["a"]


async def test_three_levels_are_undone_with_the_outermost(stage: Stage) -> None:
    record: list[str] = []
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        await outer.makedirs(stage.at("o"))
        outer.push_undo(record.append, "outer")
        async with open_rollback_nursery(policy=stage.policy()) as middle:
            middle.push_undo(record.append, "middle")
            await middle.makedirs(stage.at("m"))
            async with open_rollback_nursery(policy=stage.policy()) as inner:
                inner.push_undo(record.append, "inner")
                await inner.makedirs(stage.at("i"))
        outer.cancel_scope.cancel()
    assert record == ["inner", "middle", "outer"]
    assert stage.tells(Removed) == ["i", "m", "o"]
    assert await stage.settled() == []


async def test_what_the_outer_block_is_told_inside_the_inner_one_keeps_its_place(
    stage: Stage,
) -> None:
    """The outer block's compensation, pushed last, frees the inner one's directory: it runs first.

    It ran after the directory's removal, which was answered ENOTEMPTY: the directory stayed.
    """
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a"))
            Path(stage.at("a/file")).touch()
            outer.push_undo(os.unlink, stage.at("a/file"))
        outer.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_what_the_outer_block_relies_on_stays_when_the_inner_one_fails(
    stage: Stage,
) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a"))
            await outer.makedirs(stage.at("a/b"))
            inner.cancel_scope.cancel()
        assert stage.tree() == ["a", "a/b"]
    assert await stage.settled() == ["a", "a/b"]


async def test_what_the_outer_block_made_inside_the_inner_one_is_undone_with_it(
    stage: Stage,
) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a"))
            await outer.makedirs(stage.at("a/b"))
            await inner.makedirs(stage.at("a/b/c"))
        outer.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_an_inner_block_may_rely_on_what_the_outer_one_made(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        await outer.makedirs(stage.at("a"))
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a"), exist_ok=True)
        assert stage.tells(ReliedOn) == []  # it is the family's own
        outer.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_a_block_in_a_task_of_another_nursery_belongs_to_the_block_around_the_task(
    stage: Stage,
) -> None:
    async def task() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a"))

    with pytest.RaisesGroup(Oops):
        async with open_rollback_nursery(policy=stage.policy()) as outer:
            async with trio.open_nursery() as plain:
                plain.start_soon(task)
            assert stage.tree() == ["a"]
            await outer.mkdir(stage.at("a/b"))
            oops()
    assert await stage.settled() == []


async def test_an_inner_block_that_outlives_the_outer_one_commits_by_itself(stage: Stage) -> None:
    """A task of another nursery, started from inside the outer block, is not the outer block's."""
    go_on = trio.Event()

    async def task(task_status: trio.TaskStatus[None]) -> None:
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a"))
            task_status.started()
            await go_on.wait()

    async with trio.open_nursery() as nursery:
        async with open_rollback_nursery(policy=stage.policy()) as outer:
            await nursery.start(task)
            outer.cancel_scope.cancel()
        go_on.set()
    assert await stage.settled() == ["a"]


# Who relies on whom


async def test_a_plain_call_that_relies_on_the_nurserys_directory_keeps_it(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a"))
        await nursery.makedirs(stage.at("b"))
        report = await stage.make("a/x")
        nursery.cancel_scope.cancel()
    assert report.relied_on == (stage.at("a"),)
    assert [kept.path for kept in nursery.report.kept] == [stage.at("a")]
    assert stage.tells(Kept) == ["a"]
    assert await stage.settled() == ["a", "a/x"]


async def test_a_plain_call_that_fails_later_removes_what_it_kept_of_the_nursery(
    stage: Stage,
) -> None:
    async with trio.open_nursery() as nursery:
        async with open_rollback_nursery(policy=stage.policy()) as block:
            await block.makedirs(stage.at("a"))
            gate = stage.stop("mkdir", "a/x/y", skip=1)
            call = stage.call(nursery, "a/x/y")
            await gate.entered()  # it has made a/x
            block.cancel_scope.cancel()
        assert stage.tree() == ["a", "a/x"]
        call.cancel()
        gate.open()
        assert await call.done() == "cancelled"
    assert await stage.settled() == []


async def test_a_nursery_that_relies_on_a_plain_calls_directory_keeps_it(stage: Stage) -> None:
    async with trio.open_nursery() as nursery:
        gate = stage.stop("mkdir", "a/x", skip=1)
        call = stage.call(nursery, "a/x")
        await gate.entered()  # it has made a
        async with open_rollback_nursery(policy=stage.policy()) as block:
            await block.makedirs(stage.at("a/b"))
            call.cancel()
            gate.open()
            assert await call.done() == "cancelled"
            assert stage.tree() == ["a", "a/b"]
    assert await stage.settled() == ["a", "a/b"]


async def test_a_nursery_that_fails_after_a_plain_call_removes_what_it_kept_of_it(
    stage: Stage,
) -> None:
    async with trio.open_nursery() as nursery:
        gate = stage.stop("mkdir", "a/x", skip=1)
        call = stage.call(nursery, "a/x")
        await gate.entered()  # it has made a
        async with open_rollback_nursery(policy=stage.policy()) as block:
            await block.makedirs(stage.at("a"), exist_ok=True)
            call.cancel()
            gate.open()
            await call.done()
            assert stage.tree() == ["a"]
            block.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_of_two_nurseries_side_by_side_the_last_to_fail_removes_what_both_relied_on(
    stage: Stage,
) -> None:
    first_made, second_relies = trio.Event(), trio.Event()

    async def first() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as block:
            await block.makedirs(stage.at("a"))
            first_made.set()
            await second_relies.wait()
            block.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        maker = Attempt(nursery, first)
        await first_made.wait()
        async with open_rollback_nursery(policy=stage.policy()) as block:
            await block.makedirs(stage.at("a"), exist_ok=True)
            second_relies.set()
            await maker.done()
            assert stage.tree() == ["a"]
            block.cancel_scope.cancel()
    assert block.report.relied_on == (stage.at("a"),)
    assert block.report.removed == (stage.at("a"),)
    assert await stage.settled() == []


# Telling


async def test_the_report_tells_what_stayed(stage: Stage) -> None:
    policy = stage.policy(retries={RootCause.BUSY: AT_ONCE})
    async with open_rollback_nursery(policy=policy) as nursery:
        assert nursery.report.created == ()
        await nursery.makedirs(stage.at("a/b"))
        stage.refuse("mkdir", "c", errno.EBUSY)
        inner = await nursery.makedirs(stage.at("c"))
        assert nursery.report.created == tuple(map(stage.at, ["a", "a/b", "c"]))
        before = nursery.report.elapsed
    report = nursery.report
    assert report.path == ""
    assert report.created == tuple(map(stage.at, ["a", "a/b", "c"]))
    assert [(retry.cause, retry.errno, retry.path) for retry in report.retries] == [
        (RootCause.BUSY, errno.EBUSY, stage.at("c"))
    ]
    assert report.retries == tuple(
        attrs.evolve(retry, call=report.retries[0].call) for retry in inner.retries
    )
    assert report.steps >= 3  # more where a slice is used up on the way
    assert (report.removed, report.kept, report.pending) == ((), (), ())
    assert before <= report.elapsed == nursery.report.elapsed


async def test_the_report_tells_what_was_undone_and_what_was_kept(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a/b"))
        await nursery.makedirs(stage.at("c"))
        Path(stage.at("a/file")).touch()
        nursery.cancel_scope.cancel()
    report = nursery.report
    assert report.created == tuple(map(stage.at, ["a", "a/b", "c"]))
    assert report.removed == tuple(map(stage.at, ["c", "a/b"]))
    assert [(kept.path, kept.why) for kept in report.kept] == [(stage.at("a"), "it is not empty")]
    assert report.pending == ()


async def test_the_report_tells_of_calls_inside_that_failed(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy(retries={})) as nursery:
        stage.refuse("mkdir", "a/b", errno.ENOENT, errno.EROFS)
        with pytest.raises(OSError) as caught:
            await nursery.makedirs(stage.at("a/b"))
    assert nursery.report.created == (stage.at("a"),)
    assert nursery.report.removed == (stage.at("a"),)
    assert caught.value.report.removed == (stage.at("a"),)  # type: ignore[attr-defined]


async def test_the_elapsed_time_is_that_of_the_block_and_its_rollback(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_rollback_nursery(policy=Policy(rollback_timeout=10)) as nursery:
        nursery.push_undo(trio.sleep, 5)
        await trio.sleep(2)
        assert nursery.report.elapsed == pytest.approx(2)
        nursery.cancel_scope.cancel()
    await trio.sleep(7)
    assert nursery.report.elapsed == pytest.approx(7)


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
async def test_paths_are_told_as_they_were_given(
    stage: Stage, kind: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stage.root)
    async with open_rollback_nursery() as nursery:
        report = await nursery.makedirs(kind("a/b"))
        nursery.cancel_scope.cancel()
    given: Callable[[str], str | bytes] = os.fsencode if kind is os.fsencode else str
    assert report.created == (given("a"), given("a/b"))
    assert nursery.report.created == report.created
    assert nursery.report.removed == (given("a/b"), given("a"))


async def test_a_relative_path_is_undone_where_it_was_made(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkdir(stage.at("here"))
    os.makedirs(stage.at("there/a"))
    monkeypatch.chdir(stage.at("here"))
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs("a")
        monkeypatch.chdir(stage.at("there"))
        nursery.cancel_scope.cancel()
    assert await stage.settled() == ["here", "there", "there/a"]


async def test_modes_are_those_of_the_plain_functions(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a/b"), 0o700, parent_mode=0o750)
        await nursery.mkdir(stage.at("c"), 0o711)
        await nursery.mkdir(stage.at("c"), exist_ok=True)
        with pytest.raises(FileExistsError):
            await nursery.mkdir(stage.at("c"))
        with pytest.raises(FileNotFoundError):
            await nursery.mkdir(stage.at("d/e"))
    modes = {path: os.stat(stage.at(path)).st_mode & 0o777 for path in stage.tree()}
    assert modes == {"a": 0o750, "a/b": 0o700, "c": 0o711}


async def test_bad_arguments_are_a_checkpoint_and_undo_nothing_else(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a"))
        with assert_checkpoints(), pytest.raises(TypeError):
            await nursery.makedirs(5)  # type: ignore[arg-type]
        with assert_checkpoints(), pytest.raises(ValueError, match="null"):
            await nursery.mkdir("a\0b")
    assert await stage.settled() == ["a"]


async def test_observers_are_told_of_the_calls_and_of_the_rollback(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("a/b"))
        nursery.cancel_scope.cancel()
    assert stage.tells(Made) == ["a", "a/b"]
    assert stage.tells(Removed) == ["a/b", "a"]
    assert stage.tells(RetryScheduled) == []
    made, removed = ({e.call for e in stage.told if type(e) is kind} for kind in (Made, Removed))
    assert len(made) == len(removed) == 1
    assert made != removed  # the rollback is the block's
    assert sum(type(event) is StepStarted for event in stage.told) == nursery.report.steps


async def test_an_observer_that_fails_changes_nothing(stage: Stage) -> None:
    def failing(event: object) -> NoReturn:
        oops()

    policy = attrs.evolve(stage.policy(), observers=[failing])
    async with open_rollback_nursery(policy=policy) as nursery:
        await nursery.makedirs(stage.at("a"))
        nursery.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_plain_calls_inside_the_block_are_final(stage: Stage) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await makedirs(stage.at("a/b"))
        await mkdir(stage.at("c"))
        nursery.cancel_scope.cancel()
    assert await stage.settled() == ["a", "a/b", "c"]


# What is inside a block


async def test_a_service_started_from_inside_into_a_nursery_around_it_is_not_inside(
    stage: Stage,
) -> None:
    made = trio.Event()

    async def service() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as own:
            await own.makedirs(stage.at("service"))
        made.set()

    async with (
        trio.open_nursery() as around,
        open_rollback_nursery(policy=stage.policy()) as nursery,
    ):
        around.start_soon(service)
        await made.wait()
        nursery.cancel_scope.cancel()
    assert await stage.settled() == ["service"]


async def test_a_service_that_outlives_the_block_it_was_started_from_is_not_inside(
    stage: Stage,
) -> None:
    async def service(ended: trio.Event) -> None:
        await ended.wait()
        async with open_rollback_nursery(policy=stage.policy()) as own:
            await own.makedirs(stage.at("service"))

    ended = trio.Event()
    async with trio.open_nursery() as around:
        async with open_rollback_nursery(policy=stage.policy()):
            around.start_soon(service, ended)
        ended.set()
    assert await stage.settled() == ["service"]


async def test_another_run_in_a_thread_is_not_inside(stage: Stage) -> None:
    async def other() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as own:
            await own.makedirs(stage.at("other"))

    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await trio.to_thread.run_sync(trio.run, other)
        nursery.cancel_scope.cancel()
    assert await stage.settled() == ["other"]


@pytest.mark.filterwarnings("ignore::trio.TrioDeprecationWarning")
def test_without_strict_groups_the_one_error_comes_out_as_it_is(stage: Stage) -> None:
    async def main() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            raise KeyError

    with pytest.raises(KeyError):
        trio.run(main, strict_exception_groups=False)
