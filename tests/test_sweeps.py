"""Cancelled at every point and disturbed at every operation: the tree is whole, or as before.

First what a sweep itself promises. Then the proof: whatever is swept, once everything has settled,
the tree is exactly what stood before plus the whole path of every call that succeeded, and nothing
is leaked.
"""

from __future__ import annotations

import errno
import itertools
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from worlds import (
    PASSING,
    RealWorld,
    Scenario,
    Unobserved,
    World,
    cancel_everywhere,
    check,
    disturb_everywhere,
    each_in_its_own,
    each_scenario,
    name_of,
)

import trio_mkdir
from trio_mkdir import (
    MkdirError,
    Policy,
    RollbackError,
    mkdir,
)
from trio_mkdir.testing import (
    FaultyFilesystem,
    Outcome,
    SweepFailed,
    SweepSummary,
    sweep_cancellations,
    sweep_faults,
)
from trio_mkdir.testing._script import When

# What a sweep is


def fine(outcome: Outcome[object]) -> None:
    """A check that finds nothing."""


class TestSweepingCancellations:
    async def test_a_run_is_cancelled_at_each_point_and_one_is_not(self) -> None:
        got: list[list[int]] = []
        outcomes: list[Outcome[list[int]]] = []

        def setup() -> list[int]:
            got.append([])
            return got[-1]

        async def count(steps: list[int]) -> str:
            for step in range(3):
                await trio.lowlevel.checkpoint()
                steps.append(step)
            return "done"

        summary = await sweep_cancellations(count, setup=setup, check=outcomes.append)
        assert summary == SweepSummary(points=4, cancelled=4, failed=0, completed=1)
        # Before it begins, and while it waits at each of its checkpoints.
        assert got == [[], [], [0], [0, 1], [0, 1, 2]]
        assert [outcome.state for outcome in outcomes] == got
        assert [outcome.point for outcome in outcomes] == [1, 2, 3, 4, None]
        assert [outcome.cancelled for outcome in outcomes] == [True, True, True, True, False]
        assert [outcome.value for outcome in outcomes] == [None, None, None, None, "done"]
        assert [outcome.completed for outcome in outcomes] == [False, False, False, False, True]

    async def test_setup_and_check_may_be_async(self) -> None:
        states = itertools.count()
        seen = []

        async def setup() -> int:
            await trio.lowlevel.checkpoint()
            return next(states)

        async def check(outcome: Outcome[int]) -> None:
            await trio.lowlevel.checkpoint()
            seen.append(outcome.state)

        async def wait(state: int) -> None:
            await trio.lowlevel.checkpoint()

        await sweep_cancellations(wait, setup=setup, check=check)
        assert seen == [0, 1, 2]

    async def test_children_have_points_too(self) -> None:
        steps: list[str] = []

        async def child() -> None:
            await trio.lowlevel.checkpoint()
            steps.append("child")
            await trio.lowlevel.checkpoint()

        async def parent() -> None:
            steps.clear()
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - a child is what it is about
                nursery.start_soon(child)

        ends = set()

        def check(outcome: Outcome[None]) -> None:
            ends.add((outcome.cancelled, tuple(steps)))

        await sweep_cancellations(parent, check=check)
        assert {(True, ()), (True, ("child",)), (False, ("child",))} <= ends

    async def test_between_a_wake_up_and_the_next_step_is_a_point(
        self, autojump_clock: MockClock
    ) -> None:
        # Its waiting was over before it was cancelled: what it waited for has happened.
        limits = iter(range(1000))
        seen = []

        async def wait_and_say_so() -> str:
            with trio.move_on_after(1) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            return "it was time"

        def check(outcome: Outcome[None]) -> None:
            next(limits)
            seen.append((outcome.point, outcome.cancelled))

        await sweep_cancellations(wait_and_say_so, check=check)
        assert seen == [(1, True), (2, True), (3, True), (None, False)]

    async def test_a_run_that_is_nearly_done_completes_all_the_same(self) -> None:
        async def shielded() -> int:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            return 1

        outcomes: list[Outcome[None]] = []
        summary = await sweep_cancellations(shielded, check=outcomes.append)
        assert summary == SweepSummary(points=2, cancelled=0, completed=3)
        assert [(each.point, each.completed) for each in outcomes] == [
            *((1, True), (2, True), (None, True)),
        ]

    async def test_points_are_the_same_every_time(self) -> None:
        orders: list[list[str]] = []

        async def child(name: str) -> None:
            for _ in range(3):
                orders[-1].append(name)
                await trio.lowlevel.checkpoint()

        async def many() -> None:
            orders.append([])
            async with trio.open_nursery() as nursery:
                for name in "abcdef":
                    nursery.start_soon(child, name)

        async def sweep(seed: int) -> list[list[str]]:
            orders.clear()
            await sweep_cancellations(many, check=fine, seed=seed)
            return list(orders)

        first = await sweep(1)
        assert first == await sweep(1)
        assert first != await sweep(2)
        longest = first[-1]
        assert all(order == longest[: len(order)] for order in first if len(order) <= 6)

    async def test_a_check_that_fails_is_told_with_point_and_stack(self) -> None:
        async def inner() -> None:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

        async def child() -> None:
            await trio.sleep_forever()

        async def outer() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
                await inner()
                nursery.cancel_scope.cancel()

        def check(outcome: Outcome[None]) -> None:
            assert outcome.point != 4, "the fourth is wrong"

        with pytest.raises(SweepFailed) as caught:
            await sweep_cancellations(outer, check=check)
        failure = caught.value
        text = str(failure)
        assert text.startswith(
            "the check failed in the run that was cancelled at point 4, where it was in\ntask "
        )
        assert ", in outer\n" in text
        assert "    await inner()\n" in text
        assert ", in child\n    await trio.sleep_forever()\n" in text
        assert "in sweep_cancellations" not in text  # nor anything else around the function
        assert "_core" not in text  # nor how trio waits
        assert isinstance(failure.__cause__, AssertionError)
        assert "the fourth is wrong" in str(failure.__cause__)
        assert failure.outcome.point == 4
        assert failure.summary.points == 3

    async def test_pytests_own_failures_count_as_failures(self) -> None:
        def check(outcome: Outcome[None]) -> None:
            pytest.fail("no")

        with pytest.raises(SweepFailed, match="at point 1, before it began"):
            await sweep_cancellations(trio.lowlevel.checkpoint, check=check)

    async def test_an_unexpected_exception_is_told(self) -> None:
        async def fail() -> None:
            try:
                await trio.lowlevel.checkpoint()
            finally:
                raise KeyError("unexpected")

        with pytest.raises(SweepFailed, match="KeyError came out unexpectedly") as caught:
            await sweep_cancellations(fail, check=fine)
        assert isinstance(caught.value.__cause__, KeyError)

    async def test_an_undisturbed_run_that_fails_is_told(self) -> None:
        async def fail() -> None:
            await trio.lowlevel.checkpoint()
            raise KeyError

        with pytest.raises(SweepFailed, match="in the run that was left undisturbed"):
            await sweep_cancellations(fail, check=fine)

    async def test_expected_exceptions_are_outcomes_also_in_groups(self) -> None:
        async def fail() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)
                raise KeyError

        errors: list[Exception | None] = []
        summary = await sweep_cancellations(
            fail, check=lambda outcome: errors.append(outcome.error), expected=KeyError
        )
        assert summary.failed == len(errors) == summary.points + 1
        with pytest.raises(SweepFailed, match="ExceptionGroup came out unexpectedly"):
            await sweep_cancellations(fail, check=fine, expected=OSError)

    async def test_a_run_that_does_not_settle_is_told(self, autojump_clock: MockClock) -> None:
        filesystem = FaultyFilesystem(threads=False)
        policy = Policy(filesystem=filesystem, rollback_timeout=0, step_timeout=float("inf"))
        hold = filesystem.hold("mkdir", "/a")
        with pytest.raises(SweepFailed, match="after 5 s it still owes\nPendingRollback"):
            await sweep_cancellations(
                partial(mkdir, "/a", policy=policy), check=fine, settle_timeout=5
            )
        hold.release()
        await trio_mkdir.wait_settled()

    async def test_a_cancellation_from_outside_goes_through(self) -> None:
        with trio.CancelScope() as scope:
            await sweep_cancellations(trio.sleep_forever, check=lambda outcome: scope.cancel())
        assert scope.cancelled_caught

    async def test_it_leaves_trio_as_it_was(self) -> None:
        before = trio.lowlevel.current_statistics()
        await sweep_cancellations(trio.lowlevel.checkpoint, check=fine)
        assert trio.lowlevel.current_statistics().tasks_living == before.tasks_living
        with pytest.raises(SweepFailed):
            await sweep_cancellations(trio.lowlevel.checkpoint, check=lambda outcome: 1 / 0)


class TestSweepingFaults:
    @staticmethod
    def setup() -> FaultyFilesystem:
        filesystem = FaultyFilesystem(threads=False)
        filesystem.memory.add_directory("/a/b")
        return filesystem

    @staticmethod
    def same(filesystem: FaultyFilesystem) -> FaultyFilesystem:
        return filesystem

    async def test_each_operation_fails_once_and_in_the_end_none(self) -> None:
        async def three(filesystem: FaultyFilesystem) -> int:
            for path in ("/", "/a", "/a/b"):
                filesystem.stat(path)
            await trio.lowlevel.checkpoint()
            return 3

        outcomes: list[Outcome[FaultyFilesystem]] = []
        summary = await sweep_faults(
            three, self.same, errno=errno.EIO, setup=self.setup, check=outcomes.append, faults=1
        )
        assert summary == SweepSummary(points=3, cancelled=0, failed=3, completed=1)
        assert [[fault.path for fault in each.faults] for each in outcomes] == [
            *(["/"], ["/a"], ["/a/b"], []),
        ]
        assert [each.error and each.error.errno for each in outcomes] == [  # type: ignore[attr-defined]
            *(errno.EIO, errno.EIO, errno.EIO, None),
        ]

    async def test_a_second_fault_comes_after_each_first_one(self) -> None:
        async def stubborn(filesystem: FaultyFilesystem) -> None:
            await trio.lowlevel.checkpoint()
            for path in ("/", "/a", "/a/b"):
                try:
                    filesystem.stat(path)
                except OSError:
                    filesystem.lstat(path)

        faults = set()

        def check(outcome: Outcome[FaultyFilesystem]) -> None:
            faults.add(tuple(f"{each.operation} {each.path!s}" for each in outcome.faults))

        await sweep_faults(stubborn, self.same, errno=errno.EIO, setup=self.setup, check=check)
        assert faults == {
            (),
            ("stat /",),
            ("stat /", "lstat /"),
            ("stat /", "stat /a"),
            ("stat /", "stat /a/b"),
            ("stat /a",),
            ("stat /a", "lstat /a"),
            ("stat /a", "stat /a/b"),
            ("stat /a/b",),
            ("stat /a/b", "lstat /a/b"),
        }

    async def test_only_the_operations_that_are_named_fail(self) -> None:
        filesystem = self.setup()

        async def some() -> None:
            await trio.lowlevel.checkpoint()
            filesystem.stat("/")
            filesystem.lstat("/")

        summary = await sweep_faults(
            some, filesystem, errno=errno.EIO, check=fine, operations={"lstat"}
        )
        assert summary.points == 1

    async def test_replies_can_be_lost(self) -> None:
        async def make(filesystem: FaultyFilesystem) -> None:
            await trio.lowlevel.checkpoint()
            filesystem.mkdir("/a/c")

        def check(outcome: Outcome[FaultyFilesystem]) -> None:
            assert "/a/c" in outcome.state.memory.paths()

        summary = await sweep_faults(
            make, self.same, errno=errno.EIO, setup=self.setup, check=check, lost_reply=True
        )
        assert (summary.failed, summary.completed) == (1, 1)

    async def test_what_is_undone_late_fails_too(self, autojump_clock: MockClock) -> None:
        async def leave_it_to_the_thread(filesystem: FaultyFilesystem) -> None:
            filesystem.delay("mkdir", "/a/c", 10)
            with trio.move_on_after(1):
                await mkdir("/a/c", policy=Policy(filesystem=filesystem))

        faults = []

        def check(outcome: Outcome[FaultyFilesystem]) -> None:
            faults.append([fault.operation for fault in outcome.faults])

        await sweep_faults(
            leave_it_to_the_thread,
            self.same,
            errno=errno.EIO,
            setup=self.setup,
            check=check,
            faults=1,
            settle_timeout=100,
        )
        assert ["rmdir"] in faults

    async def test_a_check_that_fails_is_told_with_its_faults(self) -> None:
        def check(outcome: Outcome[FaultyFilesystem]) -> None:
            assert len(outcome.faults) < 2

        async def stubborn(filesystem: FaultyFilesystem) -> None:
            await trio.lowlevel.checkpoint()
            for name in ("stat", "lstat"):
                try:
                    getattr(filesystem, name)("/a")
                except OSError:
                    continue

        with pytest.raises(SweepFailed) as caught:
            await sweep_faults(stubborn, self.same, errno=errno.EIO, setup=self.setup, check=check)
        assert str(caught.value) == (
            "the check failed in the run that had stat '/a' answered EIO,"
            " then lstat '/a' answered EIO"
        )

    async def test_an_unexpected_exception_is_told(self) -> None:
        async def fail(filesystem: FaultyFilesystem) -> None:
            await trio.lowlevel.checkpoint()
            try:
                filesystem.stat("/")
            except OSError:
                raise KeyError from None

        with pytest.raises(SweepFailed, match="KeyError came out unexpectedly"):
            await sweep_faults(fail, self.same, errno=errno.EIO, setup=self.setup, check=fine)

    async def test_no_faults_are_no_sweep(self) -> None:
        with pytest.raises(ValueError, match="faults must be 1 or more"):
            await sweep_faults(
                trio.lowlevel.checkpoint, FaultyFilesystem(), errno=5, check=fine, faults=0
            )


# The proof


async def one_call(world: World) -> None:
    await world.makedirs("a/b/c")


async def one_call_to_where_something_stands(world: World) -> None:
    await world.makedirs("there", exist_ok=True)
    await world.makedirs("there/a", exist_ok=True)


async def one_level(world: World) -> None:
    await world.mkdir("a")


async def a_rollback_nursery(world: World) -> None:
    marks: list[str] = []

    async def unmark() -> None:
        marks.remove("async")
        await trio.lowlevel.checkpoint()  # which may be too late

    try:
        async with world.nursery() as nursery:
            await nursery.makedirs(world.path("a/b"), exist_ok=True)
            marks.append("sync")
            nursery.push_undo(marks.remove, "sync")
            nursery.start_soon(nursery.makedirs, world.path("a/c/d"))
            nursery.start_soon(nursery.mkdir, world.path("there/e"))
            marks.append("async")
            nursery.push_undo(unmark)
            await nursery.mkdir(world.path("a/b/f"))
        world.succeed("a/b", "a/c/d", "there/e", "a/b/f")
        assert marks == ["sync", "async"]
    except BaseException:
        assert marks == []
        raise


async def nested_nurseries(world: World) -> None:
    async with world.nursery() as outer:
        await outer.makedirs(world.path("a/b"), exist_ok=True)
        async with world.nursery() as inner:
            await inner.makedirs(world.path("a/b/c/d"))
            await inner.makedirs(world.path("a/e"))
        async with world.nursery() as undone:
            await undone.makedirs(world.path("a/b/f/g"))
            undone.cancel_scope.cancel()
        await outer.makedirs(world.path("a/b/f/h"))
    world.succeed("a/b/c/d", "a/e", "a/b/f/h")


async def a_nursery_that_fails(world: World) -> None:
    async with world.nursery() as nursery:
        nursery.start_soon(nursery.makedirs, world.path("a/b/c"))
        nursery.start_soon(nursery.makedirs, world.path("a/b/d"))
        await nursery.makedirs(world.path("file/in/the/way"))


async def concurrent_calls(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.makedirs, "a/b/c")
        nursery.start_soon(world.makedirs, "a/b/d")
        nursery.start_soon(world.makedirs, "a/e")


async def concurrent_calls_of_which_some_fail(world: World) -> None:
    async def fail(name: str) -> None:
        async with world.nursery() as nursery:
            await nursery.makedirs(world.path(name))
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, "a/b/c")
        nursery.start_soon(world.makedirs, "a/b/d")
        nursery.start_soon(fail, "a/e")


async def many(world: World) -> None:
    await world.makedirs_many("a/b/c", "a/b/i", "a/e", "there/a", "j")


async def many_where_something_stands(world: World) -> None:
    await world.makedirs_many("there", "there/a/b", "a/b", "a", exist_ok=True)


async def many_that_fail(world: World) -> None:
    await world.makedirs_many("a/b", "a/c", "file/in/the/way")


async def many_beside_others(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(world.makedirs_many, "a/b/c", "a/b/d", "a/e", exist_ok=True))
        nursery.start_soon(partial(world.makedirs_many, "a/b/f", "a/e/g", exist_ok=True))
        nursery.start_soon(world.makedirs, "a/b/h")


async def many_beside_some_that_fail(world: World) -> None:
    async def fail() -> None:
        async with world.nursery() as nursery:
            await nursery.makedirs_many([world.path("a/b/c"), world.path("a/e")])
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(partial(world.makedirs_many, "a/b/d", "a/e", "a/f", exist_ok=True))


async def many_in_nested_nurseries(world: World) -> None:
    async with world.nursery() as outer:
        await outer.makedirs_many([world.path("a/b"), world.path("a/c/d")])
        async with world.nursery() as inner:
            inner.start_soon(inner.makedirs_many, [world.path("a/b/e"), world.path("f/g")])
        async with world.nursery() as undone:
            await undone.makedirs_many([world.path("a/h"), world.path("f/i/j")])
            undone.cancel_scope.cancel()
    world.succeed("a/b/e", "a/c/d", "f/g")


MANY: list[Scenario] = [
    many,
    many_where_something_stands,
    many_that_fail,
    many_beside_others,
    many_beside_some_that_fail,
    many_in_nested_nurseries,
]
SCENARIOS: list[Scenario] = [
    one_call,
    one_call_to_where_something_stands,
    one_level,
    a_rollback_nursery,
    nested_nurseries,
    a_nursery_that_fails,
    concurrent_calls,
    concurrent_calls_of_which_some_fail,
    *MANY,
]
QUICK: list[Scenario] = [one_call, a_rollback_nursery, concurrent_calls_of_which_some_fail, many]


def expected(scenario: Scenario) -> tuple[type[Exception], ...]:
    return (MkdirError,) if scenario in {a_nursery_that_fails, many_that_fail} else ()


@pytest.mark.sweep
@each_scenario(SCENARIOS)
@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_at_any_point_it_is_whole_or_nothing(
    scenario: Scenario, seed: int, autojump_clock: MockClock
) -> None:
    summary = await cancel_everywhere(scenario, expected=expected(scenario), seed=seed)
    assert summary.cancelled > 3


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("scenario", "when"),
    [
        *((scenario, "after") for scenario in SCENARIOS),
        *((scenario, when) for scenario in QUICK for when in ("before", "inside")),
    ],
    ids=name_of,
)
async def test_cancelled_while_a_slow_disk_is_at_it(
    scenario: Scenario, when: When, autojump_clock: MockClock
) -> None:
    # So that what is cancelled is in the middle of a system call, before or after its effect.
    def setup() -> World:
        world = World(rollback_timeout=0.25)
        world.filesystem.delay("*", "*", 0.1, when=when)
        return world

    await cancel_everywhere(scenario, setup, expected=(*expected(scenario), RollbackError))


@pytest.mark.sweep
@each_scenario(SCENARIOS)
async def test_cancelled_without_any_time_to_undo(
    scenario: Scenario, autojump_clock: MockClock
) -> None:
    # Everything is then a debt, and paid without the call.
    def setup() -> World:
        world = World(rollback_timeout=0)
        world.filesystem.delay("*", "*", 0.1)
        return world

    await cancel_everywhere(scenario, setup, expected=(*expected(scenario), RollbackError))


@pytest.mark.sweep
@each_scenario(SCENARIOS)
@pytest.mark.parametrize("number", [errno.EBUSY, errno.ESTALE], ids=errno.errorcode.get)
async def test_cancelled_while_it_tries_again(
    scenario: Scenario, number: int, autojump_clock: MockClock
) -> None:
    def setup() -> World:
        world = World()
        for name in ("a", "a/b", "a/b/c", "a/e", "there/a"):
            world.filesystem.fail("mkdir", world.path(name), number)
            world.filesystem.fail("rmdir", world.path(name), number)
        return world

    await cancel_everywhere(scenario, setup, check=check, expected=expected(scenario))


@pytest.mark.sweep
@each_scenario(SCENARIOS)
@pytest.mark.parametrize("seconds", [0, 0.002], ids=["quick", "slow"])
async def test_cancelled_at_any_point_with_threads_on_the_real_filesystem(
    scenario: Scenario, seconds: float, tmp_path: Path
) -> None:
    setup = each_in_its_own(tmp_path, lambda root: RealWorld(root, seconds))

    summary = await cancel_everywhere(scenario, setup, expected=expected(scenario))
    assert summary.cancelled > 1


@pytest.mark.sweep
@each_scenario(MANY)
async def test_cancelled_at_any_point_while_many_are_made_in_one_go(
    scenario: Scenario, tmp_path: Path
) -> None:
    setup = each_in_its_own(tmp_path, Unobserved)

    summary = await cancel_everywhere(
        scenario, setup, check=lambda outcome: outcome.state.check(), expected=expected(scenario)
    )
    assert summary.cancelled > 1


@pytest.mark.sweep
@each_scenario(MANY)
@pytest.mark.parametrize(
    ("number", "lost_reply", "operations"),
    [
        (errno.EBUSY, False, {"mkdir", "rmdir"}),
        (errno.EBUSY, True, {"mkdir", "rmdir"}),
        (errno.EIO, False, {"mkdir", "rmdir"}),
        (errno.EIO, True, {"mkdir", "rmdir"}),
        (errno.ENOENT, False, {"mkdir"}),
    ],
    ids=["EBUSY", "EBUSY, lost reply", "EIO", "EIO, lost reply", "ENOENT"],
)
async def test_a_fault_while_many_are_made_in_one_go(
    scenario: Scenario,
    number: int,
    lost_reply: bool,
    operations: set[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def check(outcome: Outcome[Unobserved]) -> None:
        outcome.state.hear(caplog)
        outcome.state.check()

    await disturb_everywhere(
        scenario, number, Unobserved, lost_reply=lost_reply, operations=operations, check=check
    )


@pytest.mark.sweep
@each_scenario(SCENARIOS)
@pytest.mark.parametrize("number", [*PASSING, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
async def test_a_fault_at_any_operation_leaves_it_whole_or_nothing(
    scenario: Scenario, number: int, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number)


@pytest.mark.sweep
@each_scenario(SCENARIOS)
@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
async def test_a_lost_reply_to_any_operation_leaves_it_whole_or_nothing(
    scenario: Scenario, number: int, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number, lost_reply=True)


@pytest.mark.sweep
@each_scenario(QUICK)
async def test_cancelled_while_a_reply_is_lost(
    scenario: Scenario, autojump_clock: MockClock
) -> None:
    def setup() -> World:
        world = World()
        world.filesystem.lose_reply("mkdir", world.path("a"), errno.EIO)
        return world

    await cancel_everywhere(scenario, setup, check=check, expected=MkdirError)


@each_scenario(SCENARIOS)
async def test_a_parent_that_is_gone_for_a_moment_is_made_again(
    scenario: Scenario, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, errno.ENOENT, operations={"mkdir"}, faults=2)


@pytest.mark.sweep
@each_scenario(QUICK)
@pytest.mark.parametrize("number", [errno.EBUSY, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("lost_reply", [False, True], ids=["refused", "lost reply"])
async def test_a_second_fault_while_the_first_one_is_undone(
    scenario: Scenario, number: int, lost_reply: bool, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number, lost_reply=lost_reply, faults=2)


class Neighbours:
    """A world in which others make directories while something else is swept."""

    def __init__(self, nursery: trio.Nursery, *others: Scenario) -> None:
        self.world = World()
        self._left = len(others)
        self._done = trio.Event()
        for other in others:
            nursery.start_soon(self._run, other)

    async def _run(self, other: Scenario) -> None:
        await other(self.world)
        self._left -= 1
        if not self._left:
            self._done.set()

    async def check(self) -> None:
        await self._done.wait()
        await trio_mkdir.wait_settled()
        self.world.check()
        assert {"/srv/a/b/d", "/srv/a/g"} <= self.world.tree()


async def neighbour_that_succeeds(world: World) -> None:
    await world.makedirs("a/b/d")
    await world.makedirs("a/g")


async def neighbour_that_gives_up(world: World) -> None:
    async with world.nursery() as nursery:
        await nursery.makedirs(world.path("a/b/x"))
        nursery.cancel_scope.cancel()


@pytest.mark.sweep
@each_scenario([one_call, a_rollback_nursery, nested_nurseries, many])
@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_at_any_point_it_hurts_nobody_else(
    scenario: Scenario, seed: int, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:

        def setup() -> Neighbours:
            return Neighbours(nursery, neighbour_that_succeeds, neighbour_that_gives_up)

        async def run(neighbours: Neighbours) -> None:
            await scenario(neighbours.world)

        summary = await sweep_cancellations(
            run, setup=setup, check=lambda outcome: outcome.state.check(), seed=seed
        )
    assert summary.cancelled > 3
