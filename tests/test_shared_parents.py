"""Calls that share directories, in interleavings that once left one behind or took one away.

Each begins as the race did: threads stand in system calls of the real filesystem, and are let go
one by one. What must come out is always the same: what stood before, plus the whole path of every
call that succeeded.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import attrs
import pytest
import trio
from doubles import DISK, PATIENCE, Caller, Operation, World, fail, refuse
from filesystems.waiting import busy_threads, wait_until, wait_until_async
from gates import LONG, Attempt, Gate, Stage, as_usual, time_out
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mkdir import (
    BackoffPolicy,
    DebtPaid,
    Event,
    Kept,
    Mount,
    Removed,
    RetryScheduled,
    RootCause,
    StepStarted,
    StepTimedOut,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir._registry import registry
from trio_mkdir._visit import Visit

AT_ONCE = BackoffPolicy.constant(0, max_retries=3)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage.on(tmp_path) as stage:
        yield stage


# What somebody else keeps standing


async def test_who_empties_a_directory_while_its_maker_gives_it_up_leaves_it_to_the_maker(
    stage: Stage,
) -> None:
    """The maker's rmdir is answered ENOTEMPTY, and before that is known the last thing inside goes.

    Whoever removed that saw a removal going on and turned away, the maker saw something inside and
    turned away: the directory stayed for ever although both calls had failed.
    """
    proceed = trio.Event()
    made = trio.Event()

    async def block() -> None:
        async with open_rollback_nursery(policy=stage.policy()) as nursery:
            await nursery.makedirs(stage.at("a"))
            made.set()
            await proceed.wait()
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        maker = Attempt(nursery, block)
        await made.wait()
        inside = stage.stop("mkdir", "a/c/c", skip=1)
        other = stage.call(nursery, "a/c/c")
        await inside.entered()  # it has made a/c
        not_empty = stage.stop("rmdir", "a", after=True)
        proceed.set()
        await not_empty.entered()
        other.cancel()
        await wait_all_tasks_blocked()
        inside.open()
        assert await other.done() == "cancelled"
        assert stage.tree() == ["a"]
        not_empty.open()
        await maker.done()
    assert await stage.settled() == []


async def test_what_stands_above_the_target_of_a_symbolic_link_is_removed_too(stage: Stage) -> None:
    """A call that came by a link kept a/b of another; a/b had kept a.

    Going up from deep/y by its own path it came to the link's parent instead of to a, and a was
    nobody's.
    """
    os.symlink("a/b", stage.at("deep"))
    async with trio.open_nursery() as nursery:
        below = stage.stop("mkdir", "a/b/c", skip=1)
        direct = stage.call(nursery, "a/b/c")
        await below.entered()  # it has made a and a/b
        made = stage.stop("mkdir", "deep/y", after=True)
        by_link = stage.call(nursery, "deep/y")
        await made.entered()
        direct.cancel()
        await wait_all_tasks_blocked()
        below.open()
        assert await direct.done() == "cancelled"
        assert stage.tree() == ["a", "a/b", "a/b/y"]
        by_link.cancel()
        await wait_all_tasks_blocked()
        made.open()
        assert await by_link.done() == "cancelled"
    assert await stage.settled() == []


async def test_what_was_left_standing_is_known_for_as_long_as_a_nursery_holds_what_is_inside(
    stage: Stage,
) -> None:
    """A failed maker left a standing, because of a/b, which a nursery held by a symbolic link.

    No call was active any more, so a was forgotten; when the nursery failed later and removed a/b,
    nobody knew that a was to be removed too.
    """
    os.symlink(stage.at("a/b"), stage.at("deep"))
    async with trio.open_nursery() as nursery:
        made = stage.stop("mkdir", "a", after=True)
        maker = stage.call(nursery, "a")
        await made.entered()
        async with open_rollback_nursery(policy=stage.policy()) as block:
            inside = stage.stop("mkdir", "a/b/c", skip=1)
            other = stage.call(nursery, "a/b/c")
            await inside.entered()  # it has made a/b
            await block.makedirs(stage.at("deep"), exist_ok=True)  # holds a/b, and not a
            maker.cancel()
            made.open()
            await maker.done()
            other.cancel()
            inside.open()
            await other.done()
            await wait_settled()
            assert registry.tree.statistics[0] == 0
            assert stage.tree() == ["a", "a/b"]
            block.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_what_a_nursery_inherits_while_it_is_undone_is_removed_by_it(stage: Stage) -> None:
    """The directory above what the nursery held belonged to no mount of the nursery's own.

    So none of the workers that it sent, one for each mount, took it for its own work.
    """
    os.symlink(stage.at("a/b"), stage.at("deep"))
    async with trio.open_nursery() as nursery:
        elsewhere = stage.stop("mkdir", "z")
        bystander = stage.call(nursery, "z")  # so that there is always an active call
        await elsewhere.entered()
        made = stage.stop("mkdir", "a", after=True)
        maker = stage.call(nursery, "a")
        await made.entered()
        async with open_rollback_nursery(policy=stage.policy()) as block:
            inside = stage.stop("mkdir", "a/b/c", skip=1)
            other = stage.call(nursery, "a/b/c")
            await inside.entered()  # it has made a/b
            await block.makedirs(stage.at("deep"), exist_ok=True)  # holds a/b, and not a
            maker.cancel()
            made.open()
            await maker.done()
            other.cancel()
            inside.open()
            await other.done()
            await wait_settled()
            assert stage.tree() == ["a", "a/b"]
            block.cancel_scope.cancel()
        assert pending_rollbacks() == ()
        assert stage.tree() == []
        bystander.cancel()
        elsewhere.open()
        await bystander.done()
    assert await stage.settled() == []


async def test_a_chain_of_calls_each_of_which_keeps_the_one_above_is_removed_by_the_last(
    stage: Stage,
) -> None:
    """Three calls made a level each, and failed from the top down.

    The second kept what the first had left, and itself left something standing: with its end what
    it had kept was forgotten, and the third removed one level instead of two.
    """
    async with trio.open_nursery() as nursery:
        gates = [
            stage.stop("mkdir", "a", after=True),
            stage.stop("mkdir", "a/b/c", skip=1),
            stage.stop("mkdir", "a/b/c/d", skip=1),
        ]

        async def fail(number: int) -> None:
            calls[number].cancel()
            gates[number].open()
            await calls[number].done()

        calls = [stage.call(nursery, "a")]
        await gates[0].entered()
        calls.append(stage.call(nursery, "a/b/c"))
        await gates[1].entered()  # it has made a/b
        await fail(0)  # a is left
        calls.append(stage.call(nursery, "a/b/c/d"))
        await gates[2].entered()  # it has made a/b/c
        await fail(1)  # a/b is left
        await wait_until_async(lambda: registry.tree.statistics[0] == 1)
        assert stage.tree() == ["a", "a/b", "a/b/c"]
        await fail(2)
    assert await stage.settled() == []


# What is owed


async def test_undoing_for_which_no_worker_is_free_is_done_all_the_same(stage: Stage) -> None:
    """A call was cancelled while every worker of its mount was taken.

    What it had made waited for one of them to come back, and then only for one with work of its
    own to end.
    """
    retries = {RootCause.BUSY: BackoffPolicy.constant(PATIENCE, max_retries=1)}
    async with trio.open_nursery() as nursery:
        stage.script("mkdir", stage.at("a/b"), as_usual, refuse(errno.EAGAIN))
        options = {"workers": 1, "rollback_timeout": 0}
        waiting = stage.call(nursery, "a/b", stage.policy(retries=retries, **options))
        await stage.hears(RetryScheduled, "a/b")
        gate = stage.stop("mkdir", "x")
        hanging = stage.call(nursery, "x", stage.policy(**options))
        await gate.entered()  # with the only worker
        waiting.cancel()
        assert await waiting.done() == "cancelled"
        await stage.hears(Removed, "a")
        assert stage.tree() == []
        hanging.cancel()
        gate.open()
        await hanging.done()
    assert await stage.settled() == []


def test_a_worker_whose_caller_left_before_it_began_pays_what_is_owed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was the only worker of its mount, so it was what the rollback of its call waited for.

    It found that it was not wanted any more and went home, and what was owed stayed so.
    """

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", no_thread)
    world = World()
    workers = world.workers.on(DISK)

    def undo(visit: Visit) -> Generator[Operation, None, bool]:
        yield from visit.noted(visit.transaction.undo(visit))
        return True

    def visit(caller: Caller) -> Visit:
        return caller.visit(undo)

    caller, other = Caller(world, "/a/b"), Caller(world, "/x")
    caller.go()
    called_off = visit(other)
    assert not world.workers.owe(workers, visit(caller))
    assert world.memory.tree() == ["/a", "/a/b"]
    called_off.leave()
    called_off.run()
    assert world.memory.tree() == []


async def test_what_was_only_relied_on_is_owed_like_what_was_made(stage: Stage) -> None:
    """A nursery was the last to rely on a directory, and its removal of it had not been answered.

    As the nursery had not made it, nothing was said to be owed: `wait_settled` returned, and the
    directory went later.
    """
    async with trio.open_nursery() as nursery:
        below = stage.stop("mkdir", "a/x", skip=1)
        maker = stage.call(nursery, "a/x")
        await below.entered()  # it has made a
        async with open_rollback_nursery(policy=stage.policy(rollback_timeout=0)) as block:
            await block.makedirs(stage.at("a"), exist_ok=True)
            maker.cancel()
            below.open()
            await maker.done()  # a is left to the nursery
            gate = stage.stop("lstat", "a")
            block.cancel_scope.cancel()
        await gate.entered()
        assert stage.tree() == ["a"]
        assert [debt.path for debt in pending_rollbacks()] == [stage.at("a")]
        gate.open()
    assert await stage.settled() == []


async def test_a_call_that_has_settled_is_not_worked_for_again(
    stage: Stage, clock: MockClock
) -> None:
    """A thread that paid one debt after the other came to a call that had settled meanwhile.

    It entered that call's directories once more, among them one that another call had made again
    at the same path, and held them in the name of a call that had ended: for ever.
    """
    leave_at_once = stage.policy(rollback_timeout=0)
    async with trio.open_nursery() as nursery:
        in_w = stage.stop("mkdir", "v/w", skip=1)
        first = stage.call(nursery, "v/w", leave_at_once)
        await in_w.entered()  # it has made v
        in_v = stage.stop("mkdir", "v/v")
        payer = stage.call(nursery, "v/v", leave_at_once)
        await in_v.entered()
        first.cancel()
        payer.cancel()
        await first.done()
        await payer.done()
        in_w.open()
        await wait_until_async(lambda: len(busy_threads()) == 1)  # v waits for v/v
        assert stage.tree() == ["v"]

        in_t = stage.stop("mkdir", "a/t", skip=1)
        settling = stage.call(nursery, "a/t", leave_at_once)
        await in_t.entered()  # it has made a
        settling.cancel()
        await settling.done()
        at_v = stage.stop("lstat", "v")
        in_v.open()
        await at_v.entered()  # the payer is at v, and a/t is next on its list
        in_t.open()
        await stage.hears(DebtPaid, "a/t")  # but that settles by itself
        assert stage.tree() == ["v"]

        stage.refuse("mkdir", "a/b", errno.ENOENT, errno.EAGAIN)
        in_b = stage.stop("mkdir", "a/b")
        retries = dict.fromkeys([RootCause.BUSY, RootCause.TIMED_OUT], AT_ONCE)
        again = stage.call(nursery, "a/b", stage.policy(step_timeout=LONG, retries=retries))
        await time_out(clock, in_b.entered)  # it has made a again
        assert stage.tells(StepTimedOut) == ["a/b"]
        at_v.open()
        await wait_until_async(lambda: len(busy_threads()) == 1)  # the payer is through
        again.cancel()
        in_b.open()
        await again.done()
    assert await stage.settled() == []


async def test_what_a_late_removal_uncovers_in_a_nursery_is_somebodys_duty(stage: Stage) -> None:
    """A worker of a nursery's rollback was sent to undo what was made after a compensation.

    It hung, and ended when the last worker was gone already and the caller about to leave. It
    stopped at its compensation, and what was in its way until then was nobody's.
    """
    steps: list[Event] = []
    gate = stage.stop("rmdir", "y/z")

    async def let_go_before_the_caller_leaves(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while len(steps) < 2:
            await trio.lowlevel.checkpoint()
        # From here on trio stands still, and so does the caller.
        stage.wait_told(Removed, "x")
        wait_until(lambda: len(busy_threads()) == 1)
        gate.open()
        wait_until(lambda: not busy_threads())

    def count(event: Event) -> None:
        if isinstance(event, StepStarted) and not event.path:  # the block's own, not its calls'
            steps.append(event)

    policy = stage.policy(rollback_timeout=0)
    policy = attrs.evolve(policy, observers=[*policy.observers, count])
    async with trio.open_nursery() as nursery, open_rollback_nursery(policy=policy) as block:
        await block.makedirs(stage.at("x"))
        await block.makedirs(stage.at("y"))
        block.push_undo(gate.wait_entered)
        await block.makedirs(stage.at("y/z"))
        await nursery.start(let_go_before_the_caller_leaves)
        block.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_one_mounts_worker_goes_on_where_anothers_was_in_its_way(stage: Stage) -> None:
    """A nursery undid directories on two mounts, with a worker for each, the one inside the other.

    The upper one's worker found the lower one's in its way and ended; the lower one's did only
    what was on its own mount. Nobody came back to the upper one.
    """

    def mount(path: object) -> Mount:
        found = registry.operating_system.mount(os.fsdecode(str(path)))
        if os.path.relpath(str(path), stage.root).startswith("y/z"):
            return attrs.evolve(found, mount_point=stage.at("y/z"))
        return found

    stage.mounts = mount
    lower, upper = stage.stop("rmdir", "y/z/w"), stage.stop("rmdir", "q")

    async def let_go() -> None:
        await lower.entered()
        await upper.entered()
        upper.open()
        await wait_until_async(lambda: len(busy_threads()) == 1)
        assert stage.tree() == ["y", "y/z", "y/z/w"]
        lower.open()

    async with trio.open_nursery() as nursery:
        async with open_rollback_nursery(policy=stage.policy()) as block:
            await block.makedirs(stage.at("y"))
            await block.makedirs(stage.at("y/z/w"))
            await block.makedirs(stage.at("q"))
            nursery.start_soon(let_go)
            block.cancel_scope.cancel()
        assert stage.tree() == []
    assert block.report.kept == ()
    assert await stage.settled() == []


# Whose a directory is


async def cancelled_while_it_tells(stage: Stage, nursery: trio.Nursery) -> tuple[Attempt, Gate]:
    """A call that made a and a/b and whose rollback has undone a/b.

    Its thread is held where it looks at a, to tell others what it made; a/b is next.
    """
    telling = Gate()
    stops = False

    def look(do: Callable[[], object]) -> object:
        if not stops:
            fail(errno.EIO)  # not while it makes them, so that both are looked at again
        return do()

    def stop(do: Callable[[], object]) -> NoReturn:
        nonlocal stops
        stops = True
        stage.script("lstat", stage.at("a"), telling)
        fail(errno.EACCES)

    stage.always("lstat", stage.at("a"), look)
    stage.always("lstat", stage.at("a/b"), look)
    stage.script("mkdir", stage.at("a/b/c"), as_usual, stop)
    call = stage.call(nursery, "a/b/c/d")
    await telling.entered()
    call.cancel()
    await stage.hears(Removed, "a/b")
    assert "a/b" not in stage.tree()
    return call, telling


async def test_a_thread_does_not_claim_what_another_call_made_at_the_same_path(
    stage: Stage,
) -> None:
    """A thread that was about to tell what its call had made was overtaken by its call's rollback.

    It found another call's directory at the path and held that in the name of a call that was
    through with it: when the other call failed, the directory stayed.
    """
    async with trio.open_nursery() as nursery:
        elsewhere = stage.stop("mkdir", "x/x", skip=1, after=True)
        bystander = stage.call(nursery, "x/x")  # so that there is always an active call
        await elsewhere.entered()
        call, telling = await cancelled_while_it_tells(stage, nursery)
        made = stage.stop("mkdir", "a/b/e", skip=1, after=True)
        other = stage.call(nursery, "a/b/e")
        await made.entered()  # it has made a/b again
        removing = stage.stop("rmdir", "a")
        telling.open()
        await removing.entered()  # the thread has looked at a/b, and its call has not ended
        assert stage.tree() == ["a", "a/b", "a/b/e", "x", "x/x"]
        other.cancel()
        await wait_all_tasks_blocked()
        made.open()
        await other.done()
        removing.open()
        assert await call.done() == "cancelled"
        assert stage.tree() == ["x", "x/x"]
        bystander.cancel()
        elsewhere.open()
        await bystander.done()
    assert await stage.settled() == []


async def test_a_thread_does_not_claim_what_somebody_else_made_at_the_same_path(
    stage: Stage,
) -> None:
    """As above, and what it found was made by another program: it was removed."""
    async with trio.open_nursery() as nursery:
        elsewhere = stage.stop("mkdir", "x/x", skip=1, after=True)
        bystander = stage.call(nursery, "x/x")
        await elsewhere.entered()
        call, telling = await cancelled_while_it_tells(stage, nursery)
        os.mkdir(stage.at("a/b"))
        telling.open()
        assert await call.done() == "cancelled"
        bystander.cancel()
        elsewhere.open()
        await bystander.done()
    assert await stage.settled() == ["a", "a/b"]


async def test_a_directory_that_others_made_again_is_not_taken_for_the_calls_own(
    stage: Stage,
) -> None:
    """A call made a and hung below it, others removed a and made their own.

    What the call had made was looked at only when it was undone: it removed theirs.
    """
    async with trio.open_nursery() as nursery:
        below = stage.stop("mkdir", "a/b", skip=1)
        call = stage.call(nursery, "a/b")
        await below.entered()  # it has made a
        os.mkdir(stage.at("theirs"))  # while a stands, so that it has another inode number
        os.rmdir(stage.at("a"))
        os.rename(stage.at("theirs"), stage.at("a"))
        call.cancel()
        below.open()
        assert await call.done() == "cancelled"
    assert await stage.settled() == ["a"]


async def test_a_nurserys_call_that_cannot_look_at_what_it_made_fails(stage: Stage) -> None:
    """One lstat failed, so the nursery held a directory of which nobody else knew.

    Another call succeeded on it, and the nursery's rollback removed it: a success was not final.
    """
    stage.refuse("lstat", "a", errno.EIO)
    with pytest.RaisesGroup(
        pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EIO)
    ):
        async with open_rollback_nursery(policy=stage.policy()) as block:
            await block.makedirs(stage.at("a"))
    assert await stage.settled() == []


async def test_a_nurserys_call_looks_again_at_what_it_made_where_that_can_help(
    stage: Stage,
) -> None:
    """As above, with an error that passes: the call goes on, and what it made is known to all."""
    stage.refuse("lstat", "a", errno.EINTR, errno.EINTR)
    policy = stage.policy(retries={RootCause.BUSY: AT_ONCE})
    async with open_rollback_nursery(policy=policy) as block:
        await block.makedirs(stage.at("a"))
        await stage.make("a")
        block.cancel_scope.cancel()
    assert stage.tells(RetryScheduled) == ["a"]  # at the end of a step it looks twice
    assert [kept.path for kept in block.report.kept] == [stage.at("a")]
    assert await stage.settled() == ["a"]


async def test_an_error_that_passes_does_not_end_the_undoing(stage: Stage) -> None:
    """A signal interrupted the look that the rollback takes: the directory was given up."""
    async with trio.open_nursery() as nursery:
        below = stage.stop("mkdir", "a/b", skip=1)
        policy = stage.policy(retries={RootCause.BUSY: AT_ONCE})
        call = stage.call(nursery, "a/b", policy)
        await below.entered()  # it has made a
        stage.refuse("lstat", "a", errno.EINTR, errno.EINTR)
        stage.refuse("rmdir", "a", errno.EBUSY)
        call.cancel()
        below.open()
        assert await call.done() == "cancelled"
    assert stage.tells(Removed) == ["a/b", "a"]
    assert stage.tells(Kept) == []
    assert await stage.settled() == []


# Directories and compensations, in one order


async def test_an_inner_blocks_compensation_runs_after_what_came_later_is_undone(
    stage: Stage,
) -> None:
    """The inner block found what the outer one had made, and held it in its own place too.

    Its compensation ran before the directory that was made after it had been undone.
    """
    seen = []
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        await outer.makedirs(stage.at("a/b"))
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a/b"), exist_ok=True)
            inner.push_undo(lambda: seen.append(stage.tree()))
            await inner.makedirs(stage.at("a/b/c"))
        outer.cancel_scope.cancel()
    assert seen == [["a", "a/b"]]
    assert await stage.settled() == []


async def test_what_a_block_finds_again_does_not_change_the_order(stage: Stage) -> None:
    """A directory that was found again was put above its compensations, by the length of its path.

    The outer block's compensation then ran with the inner block's directories still there.
    """
    seen = []
    async with open_rollback_nursery(policy=stage.policy()) as outer:
        await outer.makedirs(stage.at("x"))
        outer.push_undo(lambda: seen.append(stage.tree()))
        async with open_rollback_nursery(policy=stage.policy()) as inner:
            await inner.makedirs(stage.at("a/b/c"))
            await inner.makedirs(stage.at("a/b/c"), exist_ok=True)
            inner.push_undo(lambda: seen.append(stage.tree()))
        await outer.makedirs(stage.at("q"))
        outer.cancel_scope.cancel()
    assert seen == [["a", "a/b", "a/b/c", "x"], ["x"]]
    assert await stage.settled() == []
