"""What a worker thread does on one visit, and what it does when nobody waits for it any more.

Visits are driven by hand: no thread and no event loop.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Generator

import pytest
from doubles import (
    DISK,
    NAS,
    PATIENCE,
    Caller,
    Errand,
    NoThreads,
    Operation,
    World,
    drive,
    drive_to,
    refuse,
)

from trio_mkdir import LateAnswer, Made, Policy, Removed
from trio_mkdir._events import Recorder
from trio_mkdir._first_visit import FirstVisit
from trio_mkdir._handshake import Phase
from trio_mkdir._paths import target
from trio_mkdir._transaction import Transaction
from trio_mkdir._visit import SLICE, Sliced, Visit
from trio_mkdir._walk import Failed
from trio_mkdir._workers import Job, WorkerTable

Steps = Callable[[Visit], Generator[Operation, None, bool]]


def errand(*paths: str, record: list[str] | None = None, done: bool = True) -> Steps:
    """Something to do that makes a system call at each of ``paths``."""

    def steps(visit: Visit) -> Generator[Operation, None, bool]:
        for path in paths:
            yield "stat", path
            if record is not None:
                record.append(path)
        return done

    return steps


# In time


def test_a_visit_does_its_errand_and_the_caller_has_the_result() -> None:
    world = World()
    call = Caller(world, "/a/b")
    visit = call.visit()
    drive(visit.program())
    assert (visit.done, visit.failure, visit.answered) == (True, None, True)
    assert world.memory.tree() == ["/a", "/a/b"]
    call.commit()


def test_a_visit_can_be_run_at_once_in_a_thread() -> None:
    world = World()
    call = Caller(world, "/a/b")
    visit = call.visit()
    thread = threading.Thread(target=visit.run)
    thread.start()
    thread.join()
    assert visit.answered
    assert world.memory.tree() == ["/a", "/a/b"]
    call.commit()


def test_what_stops_an_errand_is_the_callers() -> None:
    world = World()
    world.filesystem.script("mkdir", "/a", refuse(errno.ENOSPC))
    call = Caller(world, "/a")
    visit = call.visit()
    drive(visit.program())
    assert isinstance(visit.failure, Failed)
    assert visit.failure.number == errno.ENOSPC
    assert (visit.done, visit.answered) == (False, True)


def test_even_what_is_no_exception_is_the_callers() -> None:
    class Strange(BaseException):
        pass

    def strange(visit: Visit) -> Generator[Operation, None, bool]:
        yield "stat", "/"
        raise Strange

    visit = Caller(World(), "/a").visit(strange)
    drive(visit.program())
    assert isinstance(visit.failure, Strange)
    assert visit.answered


def test_an_errand_that_is_not_finished_says_so() -> None:
    visit = Caller(World(), "/a").visit(errand("/", done=False))
    drive(visit.program())
    assert (visit.done, visit.answered) == (False, True)


# Slices


class Clock:
    """A clock of a machine on which everything takes long."""

    def __init__(self, step: float) -> None:
        self.now = 1000.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_a_quick_filesystem_needs_one_slice() -> None:
    world = World()
    call = Caller(world, "/a/b/c/d/e")
    visit = call.visit()
    drive(visit.program())
    assert visit.done
    call.commit()


def nothing() -> Generator[Operation, None, None]:
    yield from ()


def test_when_the_slice_is_used_up_the_next_visit_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    call = Caller(world, "/a/b")
    work = Sliced(call.walk.run(), nothing)  # and nothing in between
    monkeypatch.setattr(time, "monotonic", Clock(SLICE / 3))
    visits = 0
    while not call.walk.arrived:
        visit = call.visit(work.do)
        before = len(world.calls)
        drive(visit.program())
        assert visit.answered
        assert len(world.calls) > before
        visits += 1
    assert visits > 1
    assert [name for name, _ in world.filesystem.calls] == [
        "mkdir",
        "mkdir",
        "lstat",
        "mkdir",
    ]
    call.commit()


def test_a_visit_makes_at_least_one_system_call_however_slow_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Otherwise a call could go to and fro without ever getting on, and one that wants the answer
    # of a single system call would have none.
    world = World()
    call = Caller(world, "/a")
    monkeypatch.setattr(time, "monotonic", Clock(2 * SLICE))
    drive(call.visit().program())
    assert world.calls == ["mkdir /a"]


def test_what_was_announced_when_the_slice_ended_is_done_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    call = Caller(world, "/a")
    done: list[str] = []

    def program() -> Generator[Operation, None, None]:
        for path in "/a", "/b", "/c":
            yield "stat", path
            done.append(path)

    work = Sliced(program(), call.transaction.enter)
    monkeypatch.setattr(time, "monotonic", Clock(SLICE / 1.5))
    for _ in range(20):
        visit = call.visit(work.do)
        drive(visit.program())
        if visit.done:
            break
    assert done == ["/a", "/b", "/c"]


# When the caller has left


def test_a_visit_whose_caller_left_before_it_began_does_nothing() -> None:
    world = World()
    call = Caller(world, "/a")
    visit = call.visit()
    assert visit.leave() is Phase.CANCELLED
    assert drive(visit.program()) == []
    assert world.calls == []
    assert not call.transaction.when_settled(lambda: None)


def test_no_system_call_starts_after_the_caller_has_left() -> None:
    world = World()
    call = Caller(world, "/a/b/c")
    visit = call.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a/b")
    visit.leave()
    drive(work)
    assert world.calls == ["mkdir /a/b/c", "mkdir /a/b"]


def test_a_late_mkdir_is_undone_by_the_thread_that_was_stuck_in_it() -> None:
    world = World()
    call = Caller(world, "/a/b")
    visit = call.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a/b")
    drive_to(work, "mkdir", "/a/b")
    visit.leave()
    drive(work)
    call.end()
    assert call.tells(Made) == ["/a", "/a/b"]
    assert call.tells(Removed) == ["/a/b", "/a"]
    assert world.memory.tree() == []
    assert visit.phase is Phase.LATE


def late_answers(call: Caller) -> list[tuple[str, object, int | None]]:
    return [
        (event.operation, event.path, event.errno)
        for event in call.told
        if isinstance(event, LateAnswer)
    ]


def test_a_late_answer_is_told_when_it_comes() -> None:
    world = World()
    world.filesystem.script("mkdir", "/a", refuse(errno.ENOSPC))
    call = Caller(world, "/a")
    visit = call.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a")
    visit.leave()
    assert late_answers(call) == []
    drive(work)
    assert late_answers(call) == [("mkdir", "/a", errno.ENOSPC)]


def test_a_late_success_is_told_too() -> None:
    call = Caller(World(), "/a")
    visit = call.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a")
    visit.leave()
    drive(work)
    assert late_answers(call) == [("mkdir", "/a", None)]


def test_the_late_answer_of_a_look_is_its_own() -> None:
    world = World("/a")
    call = Caller(world, "/a", exist_ok=True)
    visit = call.visit()
    work = visit.program()
    drive_to(work, "stat", "/a")
    visit.leave()
    drive(work)
    assert late_answers(call) == [("stat", "/a", None)]


def test_a_visit_that_was_in_no_system_call_has_no_late_answer() -> None:
    call = Caller(World(), "/a")

    def leave_at_once(visit: Visit) -> Generator[Operation, None, bool]:
        visit.leave()
        yield from ()
        return False

    drive(call.visit(leave_at_once).program())
    assert late_answers(call) == []


def test_an_errand_without_a_walk_has_a_late_answer_without_a_number() -> None:
    call = Caller(World(), "/a")
    visit = Visit(call.transaction, call.world.workers.on(DISK), Errand(errand("/a")))
    work = visit.program()
    for operation in work:
        visit.operation = operation
        visit.leave()
    assert late_answers(call) == [("stat", "/a", None)]


# Stuck


def test_a_thread_counts_as_stuck_from_when_nobody_waits_in_time_until_it_is_back() -> None:
    world = World()
    call = Caller(world, "/a")
    visit = call.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a")
    visit.count_as_stuck()
    visit.count_as_stuck()
    assert world.workers.on(DISK).stuck == 1
    assert world.workers.on(NAS).stuck == 0
    assert world.workers.stuck_in() == [("mkdir", "/a")]
    drive(work)
    assert world.workers.on(DISK).stuck == 0
    assert world.workers.stuck_in() == []


def test_a_thread_that_was_on_its_way_when_its_caller_left_is_stuck_until_it_comes() -> None:
    world = World()
    visit = Caller(world, "/a").visit()
    visit.sent = True
    visit.count_as_stuck()
    visit.leave()
    assert world.workers.on(DISK).stuck == 1
    drive(visit.program())
    assert world.workers.on(DISK).stuck == 0
    assert world.memory.tree() == []


def test_a_caller_that_gives_up_right_before_the_end_counts_nobody_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    visit = Caller(world, "/a").visit()

    def finish() -> bool:
        visit.leave()
        visit.count_as_stuck()
        return Visit.finish(visit)

    monkeypatch.setattr(visit, "finish", finish)
    drive(visit.program())
    assert world.workers.on(DISK).stuck == 0
    assert world.workers.stuck_in() == []
    assert world.memory.tree() == []


def test_a_thread_that_is_done_or_has_not_begun_is_not_stuck() -> None:
    world = World()
    call = Caller(world, "/a")
    waiting, done = call.visit(), call.visit(errand("/"))
    waiting.count_as_stuck()
    drive(done.program())
    done.count_as_stuck()
    assert world.workers.on(DISK).stuck == 0


def test_a_thread_that_comes_back_while_it_is_being_counted_is_not_counted() -> None:
    # The thread died of a KeyError, and its caller waited for ever.
    class Slow(WorkerTable):
        def is_stuck(self, job: Job) -> None:
            thread.start()
            thread.join(0.1)  # it comes back right now; or waits until it has been counted
            super().is_stuck(job)

    world = World()
    world.workers = Slow()
    call = Caller(world, "/a")
    visit = call.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a")
    failures: list[BaseException] = []

    def come_back() -> None:
        try:
            drive(work)
        except BaseException as failure:  # noqa: BLE001 - told to the test's own thread
            failures.append(failure)

    thread = threading.Thread(target=come_back)
    visit.count_as_stuck()
    thread.join()
    assert failures == []
    assert visit.answered
    assert world.workers.on(DISK).stuck == 0
    assert world.workers.stuck_in() == []


def test_who_comes_back_undoes_what_others_could_not_undo_because_of_him() -> None:
    world = World()
    call, other = Caller(world, "/a/b"), Caller(world, "/a/c")
    call.go()
    visit = other.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/a/c")
    visit.count_as_stuck()
    world.debts.begin(call.transaction)
    drive(call.undoing())
    assert world.memory.tree() == ["/a"]
    visit.leave()
    drive(work)
    assert world.memory.tree() == []


def test_who_comes_back_leaves_alone_what_is_over() -> None:
    world = World()
    call, other = Caller(world, "/a"), Caller(world, "/b")
    world.debts.begin(call.transaction)
    call.transaction.when_settled(lambda: None, finally_=True)
    visit = other.visit()
    work = visit.program()
    drive_to(work, "mkdir", "/b")
    visit.count_as_stuck()
    drive(work)
    assert world.calls == ["mkdir /b"]


def test_what_a_call_kept_others_from_is_undone_also_if_it_commits_at_once() -> None:
    # Its thread, held up for a moment after it had answered, found a call that was over, and left
    # to nobody what had waited for it: owed for ever.
    world = World()
    call = Caller(world, "/a/b")
    call.go()
    policy = Policy(filesystem=world.filesystem)
    goal = target("/a/c", mode=0o777, parent_mode=None, exist_ok=True, parents=True)
    first = FirstVisit(goal, world, world.workers.on(DISK), world.filesystem, policy, ())
    world.tree.begin(first)
    _ = first.transaction
    work = first.program()
    drive_to(work, "mkdir", "/a/c")
    first.count_as_stuck()
    world.debts.begin(call.transaction)
    drive(call.undoing())
    assert [item.path for item in call.transaction.owed()[1]] == ["/a"]
    first.wake_with(first.commit)
    drive(work)
    assert call.transaction.owed() == ([], [])
    assert world.memory.tree() == ["/a", "/a/c"]
    assert world.workers._stuck == {}


# What is owed on the mount


def owe(world: World, call: Caller, visit: Visit) -> None:
    """Owe ``visit``, with no thread to spare for it."""
    workers = world.workers.on(DISK)
    workers.paying = True  # as if one were at it already
    world.workers.owe(workers, visit)


def test_a_worker_that_is_done_does_what_is_owed_on_its_mount() -> None:
    world = World()
    call = Caller(world, "/a")
    done: list[str] = []
    owe(world, call, call.visit(errand("/1", record=done)))
    owe(world, call, call.visit(errand("/2", record=done)))
    drive(call.visit(errand("/0", record=done)).program())
    assert done == ["/0", "/1", "/2"]


def test_even_a_worker_that_was_not_needed_any_more_does_what_is_owed() -> None:
    world = World()
    call = Caller(world, "/a")
    done: list[str] = []
    owe(world, call, call.visit(errand("/1", record=done)))
    visit = call.visit()
    visit.leave()
    drive(visit.program())
    assert done == ["/1"]


def test_what_is_owed_on_another_mount_is_none_of_its_business() -> None:
    world = World()
    call = Caller(world, "/a")
    done: list[str] = []
    elsewhere = world.workers.on(NAS)
    elsewhere.paying = True
    world.workers.owe(elsewhere, call.visit(errand("/1", record=done)))
    drive(call.visit(errand("/0")).program())
    assert done == []


def test_what_somebody_else_has_begun_is_not_begun_again() -> None:
    world = World()
    call = Caller(world, "/a")
    done: list[str] = []
    owed = call.visit(errand("/1", record=done))
    owe(world, call, owed)
    drive(owed.program())
    drive(call.visit(errand("/0", record=done)).program())
    assert done == ["/1", "/0"]


def test_thousands_of_debts_are_paid_one_after_the_other() -> None:
    # All calls of a program that were cancelled while a mount hung.
    world = World()
    call = Caller(world, "/a")
    done: list[str] = []
    for number in range(2000):
        owe(world, call, call.visit(errand(f"/{number}", record=done)))
    drive(call.visit(errand("/")).program())
    assert len(done) == 2000


# What is to be undone on another mount


def late_on_two_mounts(world: World) -> tuple[Transaction, Visit]:
    """A call that has made something on two mounts; its visit to one of them is under way."""
    on = {"/m": world.workers.on(DISK), "/n": world.workers.on(NAS)}
    transaction = Transaction(world, None, world.filesystem, Recorder(()), Policy())
    world.tree.begin(transaction.holder)
    for path in ("/n/a", "/m/a"):
        world.memory.put(path)
        transaction.made(path, 0.0, on[path[:2]])

    visit = Visit(transaction, on["/m"], Errand(errand("/m/b")))
    transaction.join(visit)
    return transaction, visit


def test_a_late_thread_undoes_nothing_on_another_mount() -> None:
    # It went on with whatever the call had made, also where a server was dead by then, and was
    # lost there: so calls on a mount on which nothing was wrong had no worker any more.
    world = World("/m", "/n")
    gate = world.filesystem.gate("rmdir", "/n/a")
    transaction, visit = late_on_two_mounts(world)
    is_settled = threading.Event()
    work = visit.program()
    drive_to(work, "stat", "/m/b")
    visit.leave()
    drive(work)
    assert visit.phase is Phase.LATE
    assert world.memory.tree() == ["/m", "/n", "/n/a"]
    gate.wait_entered()  # a thread of the other mount, beside its workers
    assert (world.workers.on(DISK).busy, len(world.workers.on(NAS).busy)) == ({}, 1)
    assert transaction.when_settled(is_settled.set)
    gate.open()
    assert is_settled.wait(PATIENCE)
    assert world.memory.tree() == ["/m", "/n"]


def test_a_late_thread_undoes_everything_if_there_is_no_other_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What it hands on to others must not be lost with them: nobody else would come for it.
    NoThreads(monkeypatch).lack(1)
    world = World("/m", "/n")
    transaction, visit = late_on_two_mounts(world)
    work = visit.program()
    drive_to(work, "stat", "/m/b")
    visit.leave()
    drive(work)
    assert world.memory.tree() == ["/m", "/n"]
    assert not transaction.when_settled(lambda: None)
