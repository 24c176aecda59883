"""The first visit of a call: it makes the path, and an undo log only where one is needed."""

from __future__ import annotations

import errno
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from doubles import DISK, Gate, World, drive, first, refuse
from trio.testing import wait_all_tasks_blocked

from trio_mkdir import Made, Policy, open_rollback_nursery
from trio_mkdir._entries import Holder
from trio_mkdir._first_visit import FirstVisit
from trio_mkdir._handshake import Phase
from trio_mkdir._paths import target
from trio_mkdir._visit import SLICE, Visit
from trio_mkdir._walk import Failed
from trio_mkdir.testing import FaultyFilesystem


@pytest.fixture(autouse=True)
def _no_slice_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # However long a busy machine takes.
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)


def first_visit(world: World, path: str = "/a/b", *, exist_ok: bool = False) -> FirstVisit:
    asked = target(path, mode=0o777, parent_mode=None, exist_ok=exist_ok, parents=True)
    visit = FirstVisit(asked, world, world.workers.on(DISK), world.filesystem, Policy(), ())
    world.tree.begin(visit)
    visit.sent = True
    return visit


@contextmanager
def in_a_thread(visit: FirstVisit, gate: Gate) -> Iterator[None]:
    """Until the end of the block ``visit`` is held at ``gate``; after it, it is over."""
    thread = threading.Thread(target=visit.run)
    thread.start()
    gate.wait_entered()
    try:
        yield
    finally:
        gate.open()
        thread.join()


def undo(visit: FirstVisit) -> None:
    if visit.phase is not Phase.LATE:
        payer = Visit(visit.transaction, visit.workers, visit.rest())
        visit.transaction.join(payer)
        payer.start()
        drive(visit.transaction.undo(payer))
    visit.shared.tree.end(visit)


@pytest.mark.parametrize("there", [[], ["/a"], ["/a", "/a/b"]])
def test_who_meets_nobody_and_nothing_in_its_way_needs_no_undo_log(there: list[str]) -> None:
    world = World(*there)
    visit = first_visit(world, exist_ok=True)
    visit.run()
    assert (visit.done, visit.failure, visit.answered, visit.plain) == (True, None, True, True)
    visit.commit()
    assert world.memory.tree() == ["/a", "/a/b"]
    assert world.tree.statistics == (0, 0)


def test_a_new_leaf_needs_no_walk_either() -> None:
    world = World("/a")
    visit = first_visit(world)
    visit.run()
    assert visit._walk is None
    assert world.calls == ["mkdir /a/b"]
    visit.commit()


def test_who_is_not_alone_has_an_undo_log_and_holds_its_path() -> None:
    world = World("/a")
    other = Holder()
    world.tree.begin(other)
    visit = first_visit(world)
    visit.run()
    assert (visit.done, visit.plain) == (True, False)
    assert "stat /a" in world.calls
    visit.commit()
    world.tree.end(other)
    assert world.tree.statistics == (0, 0)


@contextmanager
def without_garbage_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_who_was_not_alone_and_succeeded_leaves_nothing_to_the_garbage_collector() -> None:
    # The undo log knows its call, as the one that holds; and the call kept what was left to do,
    # which knows the undo log. So every call beside another was garbage that only a collector
    # finds: of a program that makes thousands side by side, each time they pile up, a pause.
    world = World("/a")
    other = Holder()
    world.tree.begin(other)
    visit = first_visit(world)
    visit.run()
    visit.commit()
    world.tree.end(other)
    with without_garbage_collector():
        was = weakref.ref(visit)
        del visit
        assert was() is None


async def test_what_succeeded_in_a_nursery_leaves_nothing_to_the_garbage_collector() -> None:
    # The same, and the call even kept its undo log after it had handed everything on.
    filesystem = FaultyFilesystem(threads=False)
    with without_garbage_collector():
        before = {id(each) for each in gc.get_objects() if isinstance(each, FirstVisit)}
        async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
            await nursery.makedirs("/a")
        await wait_all_tasks_blocked()
        left = [each for each in gc.get_objects() if isinstance(each, FirstVisit)]
        assert [each for each in left if id(each) not in before] == []


@pytest.mark.parametrize("path", ["/a", "/a/b/c"])
def test_what_was_made_before_there_was_an_undo_log_is_in_it(path: str) -> None:
    world = World()
    visit = first_visit(world, path)
    visit.run()
    assert visit.plain
    assert visit.transaction.undoable()
    undo(visit)
    assert world.memory.tree() == []


def test_the_events_of_before_are_in_the_record_and_so_is_the_step() -> None:
    world = World()
    visit = first_visit(world, "/a/b")
    visit.run()
    told = [(kind, path) for kind, _, path, _ in visit.transaction.recorder.told]
    assert told == [(Made, "/a"), (Made, "/a/b")]
    assert visit.transaction.recorder.steps == 1
    visit.commit()


@pytest.mark.parametrize("there", [["/a"], []])
def test_what_is_made_while_the_caller_asks_for_the_undo_log_is_in_it(there: list[str]) -> None:
    # The thread was in the mkdir of the leaf, or of its parent, when the step's time was up.
    world = World(*there)
    visit = first_visit(world)
    with in_a_thread(visit, world.filesystem.gate("mkdir", "/a/b" if there else "/a")):
        assert not visit.transaction.undoable()
    assert (visit.done, visit.walk.arrived) == (True, True)
    assert world.memory.tree() == ["/a", "/a/b"]
    undo(visit)
    assert world.memory.tree() == there


def test_what_is_made_while_the_caller_asks_how_far_it_is_is_known() -> None:
    world = World("/a")
    visit = first_visit(world)
    with in_a_thread(visit, world.filesystem.gate("mkdir", "/a/b")):
        assert visit.walk.progress == 0
    assert visit.walk.progress == len("/a/b")
    undo(visit)
    assert world.memory.tree() == ["/a"]


@pytest.mark.parametrize("asks_first", [False, True])
def test_a_late_thread_undoes_what_it_made(asks_first: bool) -> None:
    world = World("/a")
    visit = first_visit(world)
    with in_a_thread(visit, world.filesystem.gate("mkdir", "/a/b")):
        if asks_first:
            assert visit.transaction is visit.transaction
        visit.leave()
    assert visit.phase is Phase.LATE
    assert world.memory.tree() == ["/a"]
    undo(visit)


def test_nothing_is_made_after_the_caller_has_left() -> None:
    world = World()
    visit = first_visit(world)
    with in_a_thread(visit, world.filesystem.gate("mkdir", "/a/b")):
        visit.leave()
    assert world.calls == ["mkdir /a/b"]
    undo(visit)


def test_nothing_is_begun_if_the_caller_leaves_right_after_the_thread_has_come() -> None:
    world = World()
    visit = first_visit(world)
    begin = visit.begin

    def begin_and_be_left() -> bool:
        begun = begin()
        visit.leave()
        return begun

    visit.begin = begin_and_be_left  # type: ignore[method-assign]
    visit.run()
    assert (visit.phase, world.calls) == (Phase.LATE, [])
    undo(visit)


def test_what_stops_it_is_the_callers_and_what_was_made_is_entered() -> None:
    world = World()
    world.filesystem.script("mkdir", "/a/b/c", refuse(errno.ENOENT), refuse(errno.ENOSPC))
    visit = first_visit(world, "/a/b/c")
    visit.run()
    assert isinstance(visit.failure, Failed)
    assert (visit.done, visit.answered, visit.plain) == (False, True, False)
    assert world.tree.statistics == (1, 2)
    undo(visit)
    assert world.memory.tree() == []


def test_even_what_is_no_oserror_is_the_callers() -> None:
    def strange(do: Callable[[], object]) -> object:
        raise KeyboardInterrupt

    world = World("/a")
    world.filesystem.script("mkdir", "/a/b", strange)
    visit = first_visit(world)
    visit.run()
    assert isinstance(visit.failure, KeyboardInterrupt)
    assert visit.answered
    undo(visit)


def test_it_ends_when_its_slice_is_used_up_and_another_visit_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    now = [1000.0]

    def takes_long() -> None:
        now[0] += SLICE

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    world.filesystem.script("mkdir", "/a/b/c", first(takes_long))
    visit = first_visit(world, "/a/b/c")
    visit.run()
    assert (visit.done, visit.failure, visit.answered) == (False, None, True)
    assert world.calls == ["mkdir /a/b/c"]
    drive(visit.rest().do(FakeVisit()))  # type: ignore[arg-type]
    assert visit.walk.arrived
    visit.commit()
    assert world.memory.tree() == ["/a", "/a/b", "/a/b/c"]


class FakeVisit:
    """One whose caller stays for as long as it takes."""

    workers = World().workers.on(DISK)

    def admit(self, operation: object) -> bool:
        return True
