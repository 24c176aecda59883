"""An operator sees which mount hangs, since when and in what; nothing has to be tried for it."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from doubles import DISK, NAS, PATIENCE, Caller, Gate, Scripted, World, drive, drive_to, refuse
from filesystems.mounts import mount_point
from filesystems.needs import needs_root
from filesystems.programs import run_or_unavailable
from filesystems.waiting import busy_threads, wait_until, wait_until_async
from gates import LONG, time_out
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mkdir import (
    BackoffPolicy,
    MkdirError,
    Mount,
    MountStalled,
    MountStatistics,
    Policy,
    RootCause,
    StepTimeout,
    makedirs,
    mounts,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._registry import registry
from trio_mkdir.testing import FaultyFilesystem

_numbers = itertools.count(100_000)


def another_mount() -> Mount:
    """One that no other test has used."""
    number = next(_numbers)
    return attrs.evolve(NAS, id=number, mount_point=f"/nas/{number}")


class Held(Scripted):
    """A filesystem on a mount of its own, with gates."""

    def __init__(self) -> None:
        super().__init__()
        self.is_on = another_mount()
        self.mounts = lambda path: self.is_on
        self.gates: list[Gate] = []

    def hold(self, path: str, answer: int | None = None, name: str = "mkdir") -> Gate:
        gate = self.gate(name, path, answer)
        self.gates.append(gate)
        return gate

    def policy(self, **options: object) -> Policy:
        """As impatient as can be, and nothing is tried again."""
        options = {"step_timeout": LONG, "rollback_timeout": 0, "retries": {}, **options}
        return Policy(filesystem=self, **options)  # type: ignore[arg-type]

    @property
    def statistics(self) -> MountStatistics:
        (found,) = [each for each in mounts() if each.mount == self.is_on]
        return found


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture(autouse=True)
def nothing_is_left(held: Held) -> Iterator[None]:
    yield
    for gate in held.gates:
        gate.open()
    wait_until(lambda: not busy_threads())
    assert registry.workers._stuck == {}
    assert not any(workers.busy for workers in registry.workers._workers.values())


async def entered(gate: Gate) -> None:
    await trio.to_thread.run_sync(gate.wait_entered)


async def in_peace(async_fn: Callable[[], Awaitable[object]]) -> None:
    """Whoever is cancelled meanwhile."""
    with trio.CancelScope(shield=True):
        await async_fn()


async def settled() -> None:
    with trio.fail_after(PATIENCE):
        await wait_settled()


async def time_out_at(
    clock: MockClock, gate: Gate, path: str, policy: Policy
) -> tuple[float, StepTimeout]:
    """Have a call time out at a gate; when it came to it at the latest, and its error."""
    came = 0.0

    async def arrived() -> None:
        nonlocal came
        await entered(gate)
        came = time.monotonic()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out, clock, arrived)
        with pytest.raises(StepTimeout) as raised:
            await makedirs(path, policy=policy)
    return came, raised.value


# A mount that answers


def test_a_mount_on_which_nothing_happened_is_not_listed() -> None:
    mount = another_mount()
    registry.workers.on(mount)
    assert mount not in [each.mount for each in mounts()]


async def test_an_answer_is_known_with_its_time(held: Held) -> None:
    before = time.monotonic()
    await makedirs("/a/b", policy=held.policy())
    after = time.monotonic()
    found = held.statistics
    assert found.last_answer is not None
    assert before <= found.last_answer <= after <= found.time <= time.monotonic()
    expected = MountStatistics(held.is_on, found.time, last_answer=found.last_answer)
    assert found == expected


async def test_an_answer_that_stopped_a_step_is_known_until_the_next(held: Held) -> None:
    held.script("mkdir", "/a", refuse(errno.EROFS))
    with pytest.raises(MkdirError):
        await makedirs("/a", policy=held.policy())
    assert held.statistics.last_errno == errno.EROFS
    await makedirs("/a", policy=held.policy())
    assert held.statistics.last_errno is None


async def test_what_is_no_answer_of_the_kernels_has_no_errno(held: Held) -> None:
    class Broken(Exception):
        pass

    def act(do: object) -> None:
        raise Broken

    held.script("mkdir", "/a", act)
    with pytest.raises(Broken):
        await makedirs("/a", policy=held.policy())
    assert held.statistics.last_errno is None


async def test_a_visit_that_made_no_system_call_is_no_answer() -> None:
    world = World()
    visit = Caller(world, "/a").visit()
    visit.start()
    visit.leave()
    drive(visit._carry_out())
    workers = world.workers.on(DISK)
    assert world.calls == []
    assert (workers.last_answer, workers.busy) == (None, {})


async def test_mounts_come_in_the_order_of_their_mount_points() -> None:
    for _ in range(3):
        filesystem = Held()
        filesystem.is_on = attrs.evolve(filesystem.is_on, mount_point="/nas")
        await makedirs("/a", policy=filesystem.policy())
    told = [(each.mount.mount_point, each.mount.id) for each in mounts()]
    assert told == sorted(told)
    assert len([point for point, _ in told if point == "/nas"]) >= 3


async def test_a_mount_without_threads_is_told_as_any_other() -> None:
    filesystem = FaultyFilesystem()
    await makedirs("/a", policy=Policy(filesystem=filesystem))
    (found,) = [each for each in mounts() if each.mount == filesystem.mount("/a")]
    assert (found.busy, found.stuck, found.last_errno) == (0, 0, None)
    assert found.last_answer is not None


async def test_options_are_those_of_now_as_a_remount_changes_them(scratch: Path) -> None:
    needs_root()
    with mount_point(scratch / "remounted") as point:
        point.mount("tmpfs")
        await makedirs(point.path / "a")
        run_or_unavailable("mount", "-o", "remount,ro", str(point.path))
        (found,) = [each for each in mounts() if each.mount.mount_point == str(point.path)]
        assert "ro" in found.mount.options.split(",")
        point.vanish()
        (found,) = [each for each in mounts() if each.mount.mount_point == str(point.path)]
        assert found.mount.type == "tmpfs"  # it is known all the same


# A mount that hangs


async def test_a_thread_is_busy_before_it_is_stuck(held: Held) -> None:
    gate = held.hold("/a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, "/a", policy=held.policy()))
        await entered(gate)
        found = held.statistics
        assert (found.busy, found.stuck, found.debts) == (1, 0, 0)
        assert (found.stuck_since, found.stuck_operation, found.stuck_path) == (None, None, None)
        gate.open()
    await wait_until_async(lambda: held.statistics.busy == 0)


async def test_a_step_timeout_tells_what_hangs_where_and_since_when(
    held: Held, clock: MockClock
) -> None:
    gate = held.hold("/a/b")
    held.below.put("/a")
    before = time.monotonic()
    came, error = await time_out_at(clock, gate, "/a/b", held.policy())
    found = error.statistics
    assert found.mount == error.mount == held.is_on
    assert (found.busy, found.stuck) == (1, 1)
    assert (found.stuck_operation, found.stuck_path) == ("mkdir", "/a/b")
    assert found.stuck_since is not None
    assert before <= found.stuck_since <= came
    assert found.stuck_seconds == found.time - found.stuck_since
    assert found.last_answer is None
    assert f"on the mount {found}" in error.__notes__
    assert "(mkdir of '/a/b'); no answer yet" in str(found)
    assert held.statistics.debts == len(pending_rollbacks()) == 1
    gate.open()
    await settled()


async def test_a_call_that_still_waits_is_counted_as_stuck_after_its_time(
    held: Held, clock: MockClock
) -> None:
    gate = held.hold("/a")
    retries = {RootCause.TIMED_OUT: BackoffPolicy.constant(0, max_retries=1)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, "/a", policy=held.policy(retries=retries)))
        await time_out(clock, partial(entered, gate))
        found = held.statistics
        assert (found.busy, found.stuck, found.debts) == (1, 1, 0)
        gate.open()
    assert held.statistics.stuck == 0


async def test_a_refused_call_is_told_what_the_others_are_stuck_in(
    held: Held, clock: MockClock
) -> None:
    gates = [held.hold("/a", errno.EIO), held.hold("/b")]
    policy = held.policy(stall_after=2)
    came = [
        (await time_out_at(clock, gate, path, policy))[0]
        for gate, path in zip(gates, ("/a", "/b"), strict=True)
    ]
    with pytest.raises(MountStalled) as raised:
        await makedirs("/c", policy=policy)
    found = raised.value.statistics
    assert (found.busy, found.stuck, found.debts) == (2, 2, 2)
    assert (found.stuck_operation, found.stuck_path) == ("mkdir", "/a")
    assert found.stuck_since is not None
    assert found.stuck_since <= came[0]
    assert raised.value.mount == held.is_on
    assert f"on the mount {found}" in raised.value.__notes__

    # The one that is stuck longest answers, late and with an error: the other is named now.
    answered = time.monotonic()
    gates[0].open()
    await wait_until_async(lambda: held.statistics.busy == 1)
    later = held.statistics
    assert (later.stuck, later.stuck_path, later.debts) == (1, "/b", 1)
    assert later.stuck_since is not None
    assert came[0] <= later.stuck_since <= came[1]
    assert later.last_answer is not None
    assert answered <= later.last_answer <= later.time
    assert later.last_errno == errno.EIO
    gates[1].open()
    await settled()
    assert held.statistics.last_errno is None


async def test_each_mount_is_told_its_own(held: Held, clock: MockClock) -> None:
    other = Held()
    gates = [held.hold("/a"), other.hold("/b")]
    await time_out_at(clock, gates[0], "/a", held.policy())
    await time_out_at(clock, gates[1], "/b", other.policy())
    assert (held.statistics.stuck, held.statistics.stuck_path) == (1, "/a")
    assert (other.statistics.stuck, other.statistics.stuck_path) == (1, "/b")
    assert held.statistics.debts == other.statistics.debts == 1
    for gate in gates:
        gate.open()
    await settled()
    assert held.statistics.debts == other.statistics.debts == 0


async def test_every_directory_that_is_owed_counts_as_a_debt(held: Held, clock: MockClock) -> None:
    held.script("mkdir", "/a/b/c", refuse(errno.ENOENT))
    held.script("mkdir", "/a/b", refuse(errno.ENOENT))
    gate = held.hold("/a/b")
    _, error = await time_out_at(clock, gate, "/a/b/c", held.policy())
    assert [debt.operation for debt in error.report.pending] == ["mkdir", "undo"]
    assert held.statistics.debts == len(pending_rollbacks()) == 2
    gate.open()
    await settled()
    assert held.below.tree() == []


async def test_an_undoing_that_hangs_is_told_by_its_own_system_call(held: Held) -> None:
    held.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.EROFS))
    removing = held.hold("/a", name="rmdir")
    before = time.monotonic()
    with pytest.raises(MkdirError) as raised:
        await makedirs("/a/b", policy=held.policy())
    assert raised.value.errno == errno.EROFS
    assert not hasattr(raised.value, "statistics")  # the kernel has answered
    await entered(removing)
    found = held.statistics
    assert (found.busy, found.stuck, found.debts) == (1, 1, 1)
    assert (found.stuck_operation, found.stuck_path) == ("rmdir", "/a")
    assert found.stuck_since is not None
    assert before <= found.stuck_since
    removing.open()
    await settled()
    await wait_until_async(lambda: held.statistics.busy == 0)


async def test_a_late_undoing_that_hangs_again_keeps_its_thread_busy(
    held: Held, clock: MockClock
) -> None:
    making, removing = held.hold("/a"), held.hold("/a", name="rmdir")
    await time_out_at(clock, making, "/a", held.policy())
    making.open()
    await entered(removing)
    found = held.statistics
    assert (found.busy, found.stuck, found.debts) == (1, 0, 1)
    removing.open()
    await settled()
    await wait_until_async(lambda: held.statistics.busy == 0)


async def test_a_late_undoing_that_outlasts_its_rollback_is_stuck(
    held: Held, clock: MockClock
) -> None:
    # The thread had come back from its mkdir while the call still waited for its rollback, so it
    # was not looked at as one that could be stuck. All workers of a mount could be lost so, and
    # the next call waited for one of them for ever instead of being told that the mount hangs.
    making, removing = held.hold("/a"), held.hold("/a", name="rmdir")
    policy = held.policy(rollback_timeout=LONG, workers=1, stall_after=1)
    with trio.CancelScope() as scope:

        async def cancel() -> None:
            await entered(making)
            scope.cancel()
            await wait_all_tasks_blocked()  # the call has left
            making.open()
            await time_out(clock, partial(entered, removing))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_peace, cancel)
            await makedirs("/a", policy=policy)
    found = held.statistics
    assert (found.busy, found.stuck, found.debts) == (1, 1, 1)
    assert (found.stuck_operation, found.stuck_path) == ("rmdir", "/a")
    assert registry.workers.stuck_in() == [("rmdir", "/a")]  # where no other undoing begins
    with trio.fail_after(PATIENCE), pytest.raises(MountStalled):
        await makedirs("/b", policy=policy)
    removing.open()
    await settled()
    await wait_until_async(lambda: held.statistics.busy == 0)
    assert held.statistics.stuck == 0
    await makedirs("/b", policy=policy)


def test_a_thread_that_has_undone_what_it_can_is_not_stuck_any_more() -> None:
    world = World()
    call = Caller(world, "/a")
    visit = call.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a")
    visit.leave()
    drive_to(work, "rmdir", "/a")
    visit.count_as_stuck()
    assert world.workers.on(DISK).stuck == 1
    drive(work)
    visit.count_as_stuck()
    assert world.workers.on(DISK).stuck == 0
    assert world.workers._stuck == {}


def test_a_thread_that_pays_for_others_is_busy_meanwhile() -> None:
    world = World()
    call, other = Caller(world, "/a/b"), Caller(world, "/a/c")
    call.go()
    visit = other.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a/c")
    visit.count_as_stuck()
    world.debts.begin(call.transaction)
    drive(call.undoing())
    visit.leave()
    drive_to(work, "rmdir", "/a")
    assert list(world.workers.on(DISK).busy) == [visit]
    drive(work)
    assert world.workers.on(DISK).busy == {}


def test_a_thread_that_is_only_on_its_way_is_stuck_in_nothing_yet() -> None:
    world = World()
    visit = Caller(world, "/a").visit()
    visit.sent = True
    before = time.monotonic()
    visit.count_as_stuck()
    found = world.workers.statistics(visit.workers, DISK, 0)
    assert (found.busy, found.stuck) == (0, 1)
    assert found.stuck_since is not None
    assert before <= found.stuck_since <= found.time
    assert (found.stuck_operation, found.stuck_path) == (None, None)


async def test_the_question_is_answered_in_any_thread_while_a_mount_hangs(
    held: Held, clock: MockClock
) -> None:
    gate = held.hold("/a")
    await time_out_at(clock, gate, "/a", held.policy())
    calls = list(held.calls)
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(lambda: held.statistics) for _ in range(8)]
        told = [future.result(PATIENCE) for future in futures]
    assert {(each.stuck, each.debts, each.stuck_path) for each in told} == {(1, 1, "/a")}
    assert held.calls == calls  # nobody went there for it
    gate.open()
    await settled()


async def test_what_a_block_owes_counts_on_the_mount_where_it_is(held: Held) -> None:
    other = Held()
    policy = held.policy()
    removing = held.hold("/a/b", name="rmdir")
    # A block has one policy; where its paths are is the filesystem's to say.
    held.mounts = lambda path: held.is_on if str(path).startswith("/a") else other.is_on
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_rollback_nursery(policy=policy) as nursery:
            await nursery.makedirs("/a/b")
            await nursery.makedirs("/c")
            raise ZeroDivisionError
    await entered(removing)
    (elsewhere,) = [each for each in mounts() if each.mount == other.is_on]
    assert (held.statistics.debts, elsewhere.debts) == (2, 0)
    assert [debt.path for debt in pending_rollbacks()] == ["/a/b", "/a"]
    removing.open()
    await settled()
    assert held.below.tree() == []


# A mount that answers again


async def test_a_mount_that_was_stalled_is_used_again_as_soon_as_it_has_answered(
    held: Held, clock: MockClock
) -> None:
    # No pause and no probe: the thread that has come back is still at its undoing meanwhile.
    making, removing = held.hold("/a"), held.hold("/a", name="rmdir")
    policy = held.policy(stall_after=1)
    await time_out_at(clock, making, "/a", policy)
    with pytest.raises(MountStalled):
        await makedirs("/b", policy=policy)
    making.open()
    await entered(removing)
    await makedirs("/b", policy=policy)
    assert held.below.tree() == ["/a", "/b"]
    removing.open()
    await settled()
    assert held.below.tree() == ["/b"]
