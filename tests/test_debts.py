"""What is owed can be seen and waited for from any thread, and there is always one that pays it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import attrs
import pytest
import trio
from doubles import DISK, NAS, PATIENCE, Caller, NoThreads, Operation, World

from trio_mkdir import PendingRollback
from trio_mkdir._debts import Debts
from trio_mkdir._visit import Visit
from trio_mkdir._workers import WorkerTable, limiter


class Owing:
    """A transaction, as far as its debts are concerned."""

    def __init__(self, debts: Debts, *paths: str) -> None:
        self.debts = debts
        self.pending = [PendingRollback(path, "undo", "/", 1.0) for path in paths]
        self.transaction = Caller(World(), "/x").transaction

    def begin(self) -> None:
        self.debts.begin(self.transaction)

    def take(self) -> None:
        self.debts.take(self.transaction, lambda: self.pending)

    def paid(self) -> None:
        self.debts.paid(self.transaction)


def test_at_first_nothing_is_owed() -> None:
    debts = Debts()
    assert debts.pending() == ()
    assert not debts.when_settled("me", lambda: None)
    assert debts.undoing() == []


def test_everything_that_is_owed_is_pending_until_it_is_paid() -> None:
    debts = Debts()
    one, other = Owing(debts, "/a/b", "/a"), Owing(debts, "/c")
    one.take()
    other.take()
    assert [debt.path for debt in debts.pending()] == ["/a/b", "/a", "/c"]
    one.paid()
    assert [debt.path for debt in debts.pending()] == ["/c"]
    other.paid()
    assert debts.pending() == ()


def test_what_is_pending_is_asked_for_anew_each_time() -> None:
    debts = Debts()
    owing = Owing(debts, "/a/b", "/a")
    owing.take()
    del owing.pending[0]
    assert [debt.path for debt in debts.pending()] == ["/a"]


def test_who_waits_is_called_once_when_the_last_debt_is_paid() -> None:
    debts = Debts()
    one, other = Owing(debts), Owing(debts)
    one.take()
    other.take()
    called: list[str] = []
    assert debts.when_settled("me", lambda: called.append("me"))
    assert debts.when_settled("you", lambda: called.append("you"))
    one.paid()
    assert called == []
    other.paid()
    assert called == ["me", "you"]
    other.take()
    other.paid()
    assert called == ["me", "you"]


def test_who_has_gone_is_not_called() -> None:
    debts = Debts()
    owing = Owing(debts)
    owing.take()
    called: list[str] = []
    debts.when_settled("me", lambda: called.append("me"))
    debts.when_settled("you", lambda: called.append("you"))
    debts.forget_waiter("me")
    debts.forget_waiter("never came")
    owing.paid()
    assert called == ["you"]


def test_paying_what_is_not_owed_wakes_nobody() -> None:
    debts = Debts()
    one, other = Owing(debts), Owing(debts)
    one.take()
    called: list[str] = []
    debts.when_settled("me", lambda: called.append("me"))
    other.paid()
    assert called == []
    one.paid()
    one.paid()
    assert called == ["me"]


def test_what_is_being_undone_is_known_before_it_is_owed() -> None:
    # A call may have left something to the thread that is stuck below it while it still waits.
    debts = Debts()
    owing = Owing(debts)
    owing.begin()
    assert debts.undoing() == [owing.transaction]
    assert debts.pending() == ()
    owing.take()
    assert debts.undoing() == [owing.transaction]
    owing.paid()
    assert debts.undoing() == []


def test_who_is_called_may_ask_for_debts() -> None:
    debts = Debts()
    owing = Owing(debts)
    owing.take()
    seen: list[object] = []
    debts.when_settled("me", lambda: seen.append(debts.pending()))
    owing.paid()
    assert seen == [()]


def test_threads_may_pay_at_once() -> None:
    for _ in range(50):
        debts = Debts()
        owing = [Owing(debts) for _ in range(4)]
        for each in owing:
            each.take()
        called: list[str] = []
        debts.when_settled("me", lambda called=called: called.append("me"))  # type: ignore[misc]
        ready = threading.Barrier(len(owing))

        def pay(each: Owing, ready: threading.Barrier = ready) -> None:
            ready.wait()
            each.paid()

        threads = [threading.Thread(target=pay, args=[each]) for each in owing]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert called == ["me"]
        assert debts.pending() == ()


# Who pays


class Job:
    """Something that is owed."""

    operation: Operation | None = None

    def __init__(self, table: WorkerTable, done: list[str], name: str) -> None:
        self.workers = table.on(DISK)
        self.name = name
        self.done = done
        self.over = threading.Event()

    def do(self) -> Iterator[Operation]:
        yield "rmdir", self.name
        self.done.append(self.name)
        self.over.set()

    def wait(self) -> None:
        assert self.over.wait(PATIENCE)


def test_what_is_owed_is_paid_by_a_thread_of_its_own() -> None:
    # Perhaps no other worker ever comes to that mount again.
    table = WorkerTable()
    job = Job(table, [], "/a")
    assert table.owe(table.on(DISK), job)
    job.wait()


def test_one_thread_pays_everything_in_order() -> None:
    table = WorkerTable()
    workers = table.on(DISK)
    done: list[str] = []
    jobs = [Job(table, done, f"/{number}") for number in range(5)]
    workers.paying = True  # keep it from beginning
    for job in jobs:
        assert table.owe(workers, job)
    assert done == []
    workers.paying = False
    assert table.start_paying(workers)
    jobs[-1].wait()
    assert done == ["/0", "/1", "/2", "/3", "/4"]


def test_where_nothing_is_owed_no_thread_is_started(no_threads: NoThreads) -> None:
    table = WorkerTable()
    no_threads.lack(1)
    assert table.start_paying(table.on(DISK))
    assert table.next_debt(table.on(DISK)) is None


def test_without_a_thread_it_stays_owed_until_one_can_be_had(no_threads: NoThreads) -> None:
    table = WorkerTable()
    workers = table.on(DISK)
    job = Job(table, [], "/a")
    no_threads.lack(2)
    assert not table.owe(workers, job)
    assert not table.start_paying(workers)
    assert table.start_paying(workers)
    job.wait()


def test_without_a_thread_the_next_worker_of_the_mount_pays(no_threads: NoThreads) -> None:
    world = World()
    done: list[str] = []
    no_threads.lack(1)
    assert not world.workers.owe(world.workers.on(DISK), Job(world.workers, done, "/a"))

    def errand(visit: Visit) -> Generator[Operation, None, bool]:
        yield "stat", "/"
        return True

    Caller(world, "/x").visit(errand).run()
    assert done == ["/a"]


def test_what_is_owed_after_the_thread_has_ended_is_paid_by_another() -> None:
    table = WorkerTable()
    for number in range(3):
        job = Job(table, [], f"/{number}")
        assert table.owe(table.on(DISK), job)
        job.wait()


# Workers


def test_each_mount_has_its_own_workers() -> None:
    table = WorkerTable()
    assert table.on(DISK) is table.on(DISK)
    assert table.on(DISK) is not table.on(NAS)


def test_mounts_that_come_and_go_are_forgotten_but_not_those_where_something_goes_on() -> None:
    table = WorkerTable()
    stuck, owing = table.on(DISK), table.on(NAS)
    busy = table.on(attrs.evolve(DISK, id=999))
    stuck.stuck = 1
    busy.busy[Job(table, [], "/b")] = 1.0
    owing.paying = True
    table.owe(owing, Job(table, [], "/a"))
    first = table.on(attrs.evolve(DISK, id=1000))
    for number in range(3000):
        table.on(attrs.evolve(DISK, id=1000 + number))
    assert table.on(DISK) is stuck
    assert table.on(NAS) is owing
    assert table.on(attrs.evolve(DISK, id=999)) is busy
    assert table.on(attrs.evolve(DISK, id=1000)) is not first


async def test_each_mount_and_number_of_workers_has_one_limiter_in_a_run() -> None:
    table = WorkerTable()
    disk, nas = table.on(DISK), table.on(NAS)
    assert limiter(disk, 4) is limiter(disk, 4)
    assert limiter(disk, 4) is not limiter(nas, 4)
    assert limiter(disk, 4).total_tokens == 4
    assert limiter(disk, 5).total_tokens == 5


def test_each_run_has_limiters_of_its_own() -> None:
    table = WorkerTable()

    async def main() -> trio.CapacityLimiter:
        await trio.lowlevel.checkpoint()
        return limiter(table.on(DISK), 4)

    assert trio.run(main) is not trio.run(main)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> NoThreads:
    return NoThreads(monkeypatch)
