"""The argument for directories that several calls hold at once, sentence by sentence.

Calls are driven by hand, one system call at a time, on a filesystem that gives the inode number of
what was removed to the next comer, as ext4 and XFS do.
"""

from __future__ import annotations

import errno
import stat
import threading
from collections.abc import Callable, Generator

import pytest
from doubles import DISK, NAS, Caller, Operation, World, drive, drive_to, first, lose, refuse
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_mkdir import BackoffPolicy, Kept, ReliedOn, Removed, RootCause, _shared
from trio_mkdir._entries import BeingRemoved, Holder, State
from trio_mkdir._shared import SharedTree
from trio_mkdir._walk import Failed

LATER = 1e12
"""A time after everything."""


def begun(tree: SharedTree) -> Holder:
    holder = Holder()
    tree.begin(holder)
    return holder


# Success is final


def test_what_a_call_relied_on_stays_when_its_maker_fails() -> None:
    world = World()
    maker, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    maker.go()
    finder.succeed()
    maker.fail()
    assert world.memory.tree() == ["/x"]
    assert maker.tells(Kept) == ["/x"]
    assert world.tree.statistics == (0, 0)


def test_what_a_call_relies_on_stays_as_long_as_it_may_still_succeed() -> None:
    world = World()
    maker, finder = Caller(world, "/x/a"), Caller(world, "/x/b")
    maker.go()
    finder.go()
    maker.fail()
    assert world.memory.tree() == ["/x", "/x/b"]
    finder.commit()
    assert world.memory.tree() == ["/x", "/x/b"]


def test_the_last_who_fails_removes_what_all_relied_on() -> None:
    world = World()
    callers = [Caller(world, "/x", exist_ok=True) for _ in range(3)]
    for caller in callers:
        caller.go()
    for caller in callers:
        assert world.memory.tree() == ["/x"]
        caller.fail()
    assert world.memory.tree() == []
    assert [caller.tells(Removed) for caller in callers] == [[], [], ["/x"]]
    assert world.tree.statistics == (0, 0)


def test_a_finder_tells_what_it_relies_on() -> None:
    world = World("/old")
    maker, finder = Caller(world, "/old/x"), Caller(world, "/old/x", exist_ok=True)
    maker.go()
    drive(maker.transaction.enter())
    finder.go()
    assert finder.tells(ReliedOn) == ["/old/x"]


def test_what_is_final_is_never_removed_by_a_later_failure() -> None:
    world = World()
    other = Caller(world, "/other")
    Caller(world, "/x").succeed()
    later = Caller(world, "/x/a")
    later.go()
    later.fail()
    assert world.memory.tree() == ["/x"]
    other.fail()


def test_a_directory_known_by_two_paths_is_one_directory() -> None:
    world = World("/real")
    world.memory.put("/link", stat.S_IFLNK, "/real")
    maker, finder = Caller(world, "/real/x"), Caller(world, "/link/x", exist_ok=True)
    maker.go()
    finder.succeed()
    maker.fail()
    assert "/real/x" in world.memory.tree()


# The order of maker and finder


def test_a_finder_may_hold_before_the_maker_can_say_that_it_made_it() -> None:
    world = World()
    maker, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    drive(maker.walk.run())  # made, and not said yet
    finder.go()
    maker.fail()
    assert world.memory.tree() == ["/x"]
    finder.commit()
    assert world.memory.tree() == ["/x"]


def test_a_finder_may_even_succeed_before_the_maker_can_say_so() -> None:
    world = World()
    maker, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    drive(maker.walk.run())
    finder.succeed()
    maker.fail()
    assert world.memory.tree() == ["/x"]
    assert world.tree.statistics == (0, 0)


def test_a_finder_that_fails_before_the_maker_says_so_leaves_it_to_the_maker() -> None:
    world = World()
    maker, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    drive(maker.walk.run())
    finder.go()
    finder.fail()
    assert world.memory.tree() == ["/x"]
    maker.fail()
    assert world.memory.tree() == []


def test_a_success_is_remembered_for_as_long_as_a_maker_may_speak_of_it() -> None:
    world = World()
    maker, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    drive(maker.walk.run())
    finder.succeed()
    for number in range(3):
        Caller(world, f"/other{number}").succeed()
    maker.fail()
    assert "/x" in world.memory.tree()


def test_what_nobody_may_speak_of_any_more_is_forgotten() -> None:
    world = World()
    early = Caller(world, "/early")
    Caller(world, "/x").succeed()
    late = Caller(world, "/late")
    assert world.tree.statistics[1] > 0
    early.fail()
    assert world.tree.statistics == (1, 0)
    late.fail()


# A call that is alone


def test_a_call_that_is_alone_looks_at_nothing() -> None:
    world = World()
    Caller(world, "/x/a").succeed()
    assert not any(call.startswith("stat") for call in world.calls)


def test_a_call_beside_another_looks_at_all_that_it_has_found() -> None:
    world = World()
    Caller(world, "/other")
    Caller(world, "/x/a").succeed()
    assert world.calls[-1:] == ["stat /"]


def test_a_call_beside_another_does_not_look_again_at_what_it_has_made() -> None:
    world = World("/old")
    Caller(world, "/other")
    Caller(world, "/old/x/a").succeed()
    looks = [call for call in world.calls if call.startswith("stat")]
    assert looks == ["stat /", "stat /old"]


def test_a_call_during_which_something_was_removed_is_not_alone() -> None:
    world = World()
    call = Caller(world, "/x/a")
    drive_to(call.going(), "mkdir", "/x")
    other = Caller(world, "/x")
    other.go()
    other.fail()
    assert not world.tree.alone(call.transaction.holder)


def test_what_a_lonely_call_made_is_its_own_although_another_finds_it_before_it_fails() -> None:
    world = World()
    lonely = Caller(world, "/x")
    lonely.go()
    assert world.tree.statistics == (1, 0)
    finder = Caller(world, "/x/a")
    finder.go()
    lonely.fail()
    assert world.memory.tree() == ["/x", "/x/a"]
    finder.fail()
    assert world.memory.tree() == []


# Making below without looking


def test_the_one_who_made_something_inside_removes_what_the_maker_had_to_leave() -> None:
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a/b")
    maker.go()
    drive(inside.walk.run())  # made below, and not looked yet
    maker.fail()
    assert maker.tells(Kept) == ["/x"]
    inside.fail()
    assert world.memory.tree() == []
    assert world.tree.statistics == (0, 0)


def test_the_one_who_made_something_inside_keeps_it_all_by_succeeding() -> None:
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    inside.succeed()
    assert world.memory.tree() == ["/x", "/x/a"]


def test_what_was_left_is_known_for_as_long_as_what_keeps_it() -> None:
    # "/x" was left because of "/x/a", and that because of what a call made that began only later.
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    deeper = Caller(world, "/x/a/b")
    drive(deeper.walk.run())
    inside.fail()
    assert world.memory.tree() == ["/x", "/x/a", "/x/a/b"]
    deeper.fail()
    assert world.memory.tree() == []
    assert world.tree.statistics == (0, 0)


def test_nobody_takes_over_what_others_still_hold() -> None:
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(maker.transaction.enter())
    inside.go()
    left = Caller(world, "/left")
    left.go()
    world.memory.put("/left/file", stat.S_IFREG)
    left.fail()  # so that there is something to look for
    inside.fail()
    assert world.memory.tree() == ["/left", "/left/file", "/x"]
    maker.commit()
    assert "/x" in world.memory.tree()


def test_a_strangers_file_keeps_a_directory() -> None:
    world = World()
    call = Caller(world, "/x")
    call.go()
    world.memory.put("/x/file", stat.S_IFREG)
    call.fail()
    assert world.memory.tree() == ["/x", "/x/file"]
    assert call.tells(Kept) == ["/x"]


# While a directory is being removed


def test_who_finds_a_directory_that_is_being_removed_waits_and_makes_it_again() -> None:
    world = World()
    failing, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    failing.go()
    undoing = failing.undoing()
    drive_to(undoing, "rmdir", "/x")
    going = finder.going()
    drive_to(going, "wait", "/x")
    drive(undoing)
    failing.end()
    assert world.memory.tree() == []
    drive(going)
    finder.commit()
    assert world.memory.tree() == ["/x"]


def test_a_waiter_is_called_once_when_the_removal_has_ended() -> None:
    tree = SharedTree()
    holder = begun(tree)
    entry = tree.made(holder, (9, 1), "/x", 0)
    woken: list[str] = []
    assert not tree.when_removed(entry, lambda: woken.append("too soon"))
    assert tree.release(holder, entry) is State.REMOVING
    assert tree.when_removed(entry, lambda: woken.append("now"))
    assert woken == []
    tree.removed(entry, gone=True)
    assert woken == ["now"]
    assert not tree.when_removed(entry, lambda: woken.append("too late"))
    tree.end(holder)
    assert woken == ["now"]


def test_who_turns_away_from_a_directory_that_is_being_removed_leaves_it_to_its_remover() -> None:
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(inside.walk.run())
    undoing = maker.undoing()
    drive_to(undoing, "rmdir", "/x")
    # The first try comes too early: "/x/a" is still there. Who removed that has turned away.
    world.filesystem.script("rmdir", "/x", then_fail_first(inside))
    drive(undoing)
    maker.end()
    assert world.memory.tree() == []


def then_fail_first(call: Caller) -> Callable[[Callable[[], object]], object]:
    def act(do: Callable[[], object]) -> object:
        try:
            return do()
        finally:
            call.fail()

    return act


def test_a_removal_that_was_given_up_leaves_the_directory_to_whoever_finds_it() -> None:
    world = World()
    maker = Caller(world, "/x")
    maker.go()
    world.filesystem.script("rmdir", "/x", refuse(errno.EACCES))
    finder = Caller(world, "/x", exist_ok=True)
    maker.fail()
    assert maker.tells(Kept) == ["/x"]
    finder.go()
    finder.fail()
    assert world.memory.tree() == []


def test_who_makes_a_directory_with_the_number_of_one_that_is_being_removed_waits() -> None:
    # The remover may have had no answer to a removal that worked, and is about to try again.
    tree = SharedTree()
    one, other = begun(tree), begun(tree)
    entry = tree.made(one, (9, 1), "/x", 0)
    assert tree.release(one, entry) is State.REMOVING
    with pytest.raises(BeingRemoved) as raised:
        tree.made(other, (9, 1), "/x", 0)
    assert raised.value.entry is entry
    assert tree.removed(entry, gone=False)  # once more, for what was there after all
    assert not tree.removed(entry, gone=True)
    again = tree.made(other, (9, 1), "/x", 0)
    assert (entry.state, again.state) == (State.GONE, State.PROVISIONAL)
    tree.commit(other)
    tree.end(one)
    assert tree.statistics == (0, 0)


def test_a_success_leaves_what_is_gone_alone() -> None:
    tree = SharedTree()
    finder, maker = begun(tree), begun(tree)
    (entry,), _ = tree.hold(finder, [((9, 1), "/x", 5.0)])
    again = tree.made(maker, (9, 1), "/x", 6.0)  # nobody has seen it since
    tree.commit(finder)
    assert entry.state is State.GONE
    assert tree.release(maker, again) is State.REMOVING
    tree.removed(again, gone=True)
    tree.end(maker)
    assert tree.statistics == (0, 0)


def test_what_is_being_removed_is_not_forgotten() -> None:
    tree = SharedTree()
    maker = begun(tree)
    entry = tree.made(maker, (9, 1), "/x", 0)
    sight = tree.seen_elsewhere((9, 1), "/elsewhere")
    assert sight is not None
    tree.release(maker, entry)
    tree.forget(sight)
    assert tree.when_removed(entry, lambda: None)
    tree.removed(entry, gone=True)
    tree.forget(sight)
    assert entry.state is State.GONE
    tree.end(maker)


# Inode numbers


def test_a_new_directory_with_an_old_inode_number_is_not_taken_for_the_old_one() -> None:
    world = World()
    watcher = Caller(world, "/watcher")
    Caller(world, "/x").succeed()
    world.memory.take("/x")  # by the program itself, which needs it no more
    again = Caller(world, "/x")
    again.go()
    drive(again.transaction.enter())
    again.fail()
    assert world.memory.tree() == []
    watcher.fail()


def test_a_directory_that_was_replaced_by_somebody_else_is_left() -> None:
    world = World()
    call = Caller(world, "/x")
    call.go()
    drive(call.transaction.enter())
    world.memory.take("/x")
    world.memory.put("/other")  # takes the inode number
    world.memory.put("/x")
    call.fail()
    assert world.memory.tree() == ["/other", "/x"]
    assert call.tells(Removed) == call.tells(Kept) == []


def test_an_entry_speaks_of_another_path_only_while_that_leads_to_it() -> None:
    # While its mkdir hangs, others make and remove a directory elsewhere that has its inode number.
    world = World()
    call, other = Caller(world, "/new"), Caller(world, "/old")
    run = call.walk.run()
    drive_to(run, "mkdir", "/new")

    def meanwhile() -> None:
        other.succeed()
        finder = Caller(world, "/old", exist_ok=True)
        finder.succeed()
        world.memory.take("/old")

    world.filesystem.script("mkdir", "/new", first(meanwhile))
    drive(run)
    call.fail()
    assert world.memory.tree() == []
    assert world.tree.statistics == (0, 0)


# Handing on


def test_what_is_handed_on_is_held_by_the_one_who_got_it() -> None:
    world = World()
    inner, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    inner.go()
    drive(inner.transaction.enter())
    outer = Holder()
    world.tree.hand_on(inner.transaction.holder, outer)
    finder.go()
    finder.fail()
    assert world.memory.tree() == ["/x"]
    (entry,) = [entry for entry in outer.entries if entry.path == "/x"]
    assert world.tree.release(outer, entry) is State.REMOVING


def test_what_was_handed_on_is_final_when_the_one_who_got_it_succeeds() -> None:
    world = World()
    inner, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    inner.go()
    drive(inner.transaction.enter())
    outer = Holder()
    world.tree.hand_on(inner.transaction.holder, outer)
    finder.go()
    world.tree.commit(outer)
    finder.fail()
    assert world.memory.tree() == ["/x"]
    assert world.tree.statistics == (0, 0)


def test_an_open_nursery_keeps_nothing_of_others_in_the_table() -> None:
    world = World()
    inner = Caller(world, "/x")
    inner.go()
    drive(inner.transaction.enter())
    outer = Holder()
    world.tree.hand_on(inner.transaction.holder, outer)
    (active, known) = world.tree.statistics
    for number in range(20):
        Caller(world, f"/other{number}").succeed()
    assert world.tree.statistics == (active, known)
    world.tree.commit(outer)


# Threads


def test_of_many_threads_that_fail_at_once_exactly_one_removes() -> None:
    tree = SharedTree()
    holders = [begun(tree) for _ in range(8)]
    for _ in range(200):
        entry = tree.made(holders[0], (9, 1), "/x", 0)
        for holder in holders[1:]:
            tree.hold(holder, [((9, 1), "/x", LATER)])
        removers: list[Holder] = []
        ready = threading.Barrier(len(holders))

        def release(holder: Holder, entry: object = entry) -> None:
            ready.wait()  # noqa: B023 - joined before the next round
            if tree.release(holder, entry) is State.REMOVING:  # type: ignore[arg-type]
                removers.append(holder)  # noqa: B023

        threads = [threading.Thread(target=release, args=[holder]) for holder in holders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(removers) == 1
        tree.removed(entry, gone=True)


# Every schedule


PATHS = ["/x", "/x/a", "/x/a/b", "/x/c", "/y"]
plans = st.lists(
    st.tuples(
        st.sampled_from(PATHS),
        st.booleans(),  # exist_ok
        st.none() | st.integers(0, 8),  # cancelled before its n-th system call
    ),
    min_size=2,
    max_size=4,
)


def whole_call(
    caller: Caller, cancelled_after: int | None, done: list[str]
) -> Generator[Operation, None, None]:
    going = caller.going()
    try:
        for number, operation in enumerate(going):
            if number == cancelled_after:
                break
            yield operation
        else:
            yield "commit", caller.target.path
            caller.commit()
            done.append(str(caller.target.path))
            return
    except Failed:
        pass  # what stands already is in the way of one that must be new
    going.close()
    yield from caller.undoing()
    caller.end()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(plans, st.lists(st.integers(0, 3), max_size=60), st.sampled_from([(), ("/x",)]))
def test_whatever_the_schedule_only_what_succeeded_stands(
    plan: list[tuple[str, bool, int | None]], schedule: list[int], there: tuple[str, ...]
) -> None:
    world = World(*there)
    done: list[str] = list(there)
    calls = [
        whole_call(Caller(world, path, exist_ok=exist_ok), cancelled_after, done)
        for path, exist_ok, cancelled_after in plan
    ]
    for turn in schedule:
        if calls:
            call = calls[turn % len(calls)]
            if next(call, None) is None:
                calls.remove(call)
    for _ in range(1000):
        if not calls:
            break
        calls = [call for call in calls if next(call, None) is not None]
    assert not calls
    wanted = {path[:end] for path in done for end in range(2, len(path) + 1)}
    wanted &= set(PATHS)
    assert world.memory.tree() == sorted(wanted)
    assert world.tree.statistics == (0, 0)


# Single schedules in which it went wrong


def test_what_was_left_is_taken_over_from_the_deepest_up() -> None:
    # The one who removed "/x/a/b" had turned away from "/x", which was being removed, before it
    # removed "/x/a": the remover of "/x" came back too early, and nobody a second time.
    world = World("/disk")
    world.memory.put("/link", stat.S_IFLNK, "/disk")
    maker, inside = Caller(world, "/link/x/a"), Caller(world, "/disk/x/a/b")
    maker.go()
    drive(inside.walk.run())
    undoing = maker.undoing()
    drive_to(undoing, "rmdir", "/link/x")
    leaving = inside.undoing()
    drive_to(leaving, "stat", "/disk/x/a")
    drive(undoing)
    drive(leaving)
    maker.end()
    inside.end()
    assert world.memory.tree() == ["/disk", "/link"]


def test_who_turns_away_just_before_the_remover_gives_up_is_not_overlooked() -> None:
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(inside.walk.run())
    world.tree.before("removed", inside.fail)
    maker.fail()
    assert world.memory.tree() == []


def test_a_success_is_not_fooled_by_two_removals_and_one_inode_number() -> None:
    world = World()
    one = Caller(world, "/x")
    one.go()
    finder = Caller(world, "/x", exist_ok=True)
    other = Caller(world, "/x")

    def replace() -> None:
        one.fail()
        drive(other.walk.run())

    world.tree.before("hold", replace)
    world.tree.before("hold", other.fail)
    finder.succeed()
    assert world.memory.tree() == ["/x"]


def test_a_success_does_not_make_final_what_it_held_by_an_outdated_look() -> None:
    world = World()
    failing, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    failing.go()
    other = Caller(world, "/y")

    def reuse() -> None:
        failing.fail()
        other.go()  # "/y" has the inode number that "/x" had when the finder looked

    world.tree.before("hold", reuse)
    finder.succeed()
    other.fail()
    assert world.memory.tree() == ["/x"]


def test_what_was_held_by_an_outdated_look_is_removed_if_its_maker_failed_meanwhile() -> None:
    world = World()
    failing, finder = Caller(world, "/x"), Caller(world, "/x", exist_ok=True)
    failing.go()
    other = Caller(world, "/y")

    def reuse() -> None:
        failing.fail()
        drive(other.walk.run())  # "/y" has the inode number that "/x" had when the finder looked
        drive(other.transaction.enter())

    world.tree.before("hold", reuse)
    going = finder.going()
    drive_to(going, "mkdir", "/x")
    drive_to(going, "mkdir", "/x")  # again, as it has vanished
    other.fail()  # and leaves "/y" to the finder, which seems to rely on it
    drive(going)
    finder.commit()
    assert world.memory.tree() == ["/x"]


def test_a_removal_whose_reply_was_lost_does_not_remove_what_was_made_again() -> None:
    # The rmdir worked, its answer was ETIMEDOUT. While the remover waits to try again, another call
    # makes the directory, succeeds, and has the same inode number.
    world = World()
    retries = {RootCause.TIMED_OUT: BackoffPolicy.constant(0)}
    failing, again = Caller(world, "/x", retries=retries), Caller(world, "/x")
    failing.go()
    world.filesystem.script("rmdir", "/x", lose(errno.ETIMEDOUT))
    undoing = failing.undoing()
    drive_to(undoing, "sleep", "/x")
    going = again.going()
    for operation in going:
        if operation == ("wait", "/x"):
            drive(undoing)
    again.commit()
    drive(undoing)
    failing.end()
    assert world.memory.tree() == ["/x"]


def test_a_look_at_the_other_path_that_fails_does_not_make_a_success_void() -> None:
    world = World("/real")
    world.memory.put("/link", stat.S_IFLNK, "/real")
    maker, finder = Caller(world, "/real/x"), Caller(world, "/link/x", exist_ok=True)
    drive(maker.walk.run())
    finder.go()
    world.filesystem.script("stat", "/link/x", refuse(errno.EINTR))
    drive(maker.transaction.enter())
    finder.commit()
    maker.fail()
    assert "/real/x" in world.memory.tree()


def test_an_old_entry_that_somebody_holds_at_a_new_path_is_not_forgotten() -> None:
    # A program makes "/old" and removes it itself. "/new" gets the inode number; the finder holds
    # it by the entry of "/old", which its maker finds to be gone.
    world = World()
    watcher = Caller(world, "/watcher")
    Caller(world, "/old").succeed()
    world.memory.take("/old")
    maker, finder = Caller(world, "/new"), Caller(world, "/new", exist_ok=True)
    drive(maker.walk.run())
    finder.go()
    drive(maker.transaction.enter())
    finder.commit()
    maker.fail()
    assert world.memory.tree() == ["/new"]
    watcher.fail()


def test_a_look_elsewhere_that_is_out_of_date_does_not_make_a_success_void() -> None:
    # While the maker looks whether "/old" still leads to its inode number, the finder holds and
    # commits "/new" by the very entry that the maker then forgets.
    world = World()
    watcher = Caller(world, "/watcher")
    former = Caller(world, "/old", exist_ok=True)
    world.memory.put("/old")
    former.succeed()
    world.memory.take("/old")
    maker, finder = Caller(world, "/new"), Caller(world, "/new", exist_ok=True)
    drive(maker.walk.run())
    world.filesystem.script("stat", "/old", then_succeed(finder))
    drive(maker.transaction.enter())
    maker.fail()
    assert world.memory.tree() == ["/new"]
    watcher.fail()


def then_succeed(call: Caller) -> Callable[[Callable[[], object]], object]:
    def act(do: Callable[[], object]) -> object:
        call.succeed()
        return do()

    return act


def test_a_strangers_directory_is_not_removed_because_its_number_and_path_were_ours_once() -> None:
    world = World()
    watcher = Caller(world, "/watcher")
    failed = Caller(world, "/x")
    failed.go()
    world.memory.put("/x/file", stat.S_IFREG)
    failed.fail()  # kept, as it is not empty
    world.memory.take("/x/file")
    world.memory.take("/x")
    world.memory.put("/x")  # a stranger's, which stood before the next call began
    later = Caller(world, "/x/a")
    later.go()
    later.fail()
    assert world.memory.tree() == ["/x"]
    watcher.fail()


def test_what_was_left_goes_with_what_was_in_it_then_whoever_removes_that() -> None:
    # Here it is one that began after it was left, and relied on what was in it.
    world = World()
    watcher, maker, early = Caller(world, "/watcher"), Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    going = early.going()
    drive_to(going, "stat", "/x")
    maker.fail()
    assert maker.tells(Kept) == ["/x"]
    drive(going)
    late = Caller(world, "/x/a", exist_ok=True)
    late.go()
    early.fail()
    assert world.memory.tree() == ["/x", "/x/a"]
    late.fail()
    assert world.memory.tree() == []
    watcher.fail()


def test_one_call_that_never_returns_does_not_make_the_table_grow_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One mkdir that hangs for a week on a dead mount is active for a week.
    monkeypatch.setattr(_shared, "MEMORY", 20)
    world = World()
    Caller(world, "/nas/stuck")
    for number in range(100):
        world.memory.put(f"/user{number}")
        Caller(world, f"/user{number}/x").succeed()
    assert world.tree.statistics[1] == 20


def test_a_directory_that_was_replaced_does_not_become_final_with_its_old_entry() -> None:
    tree = SharedTree()
    early, late = begun(tree), begun(tree)
    old = tree.made(early, (1, 7), "/x", 1.0)
    sight = tree.seen_elsewhere((1, 7), "/elsewhere")
    assert sight is not None
    new = tree.made(late, (1, 7), "/x", LATER)
    tree.commit(early)
    assert (old.state, new.state) == (State.GONE, State.PROVISIONAL)
    tree.forget(sight)  # once more changes nothing
    assert tree.release(late, new) is State.REMOVING


def test_what_is_being_undone_is_not_entered_any_more() -> None:
    world = World()
    call = Caller(world, "/x")
    drive(call.walk.run())
    (item,) = call.transaction._items
    item.taken = True
    drive(call.transaction.enter())
    assert item.entry is None


def test_what_another_holder_is_removing_is_none_of_ours_any_more() -> None:
    tree = SharedTree()
    one, other = begun(tree), begun(tree)
    entry = tree.made(one, (9, 1), "/x", 0)
    assert tree.release(one, entry) is State.REMOVING
    assert tree.release(other, entry) is State.GONE
    tree.removed(entry, gone=True)
    tree.end(one)
    tree.end(other)
    assert tree.statistics == (0, 0)


def test_who_undoes_a_directory_with_the_number_of_one_that_is_being_removed_waits() -> None:
    # Its removal has worked, but whoever removes it does not know yet.
    world = World()
    removing, other = Caller(world, "/x"), Caller(world, "/y")
    removing.go()
    undoing = other.undoing()

    def meanwhile() -> None:
        drive(other.walk.run())
        drive_to(undoing, "sleep", "/y")

    world.tree.before("removed", meanwhile)
    removing.fail()
    assert world.memory.tree() == ["/y"]
    drive(undoing)
    other.end()
    assert world.memory.tree() == []
    assert world.tree.statistics == (0, 0)


def test_what_a_call_was_dropping_when_it_ended_is_undone_with_the_rest() -> None:
    world = World("/disk", "/disk/one", "/disk/two")
    world.memory.put("/link", stat.S_IFLNK, "/disk/one")
    maker, finder = Caller(world, "/disk/one/x"), Caller(world, "/link/x", exist_ok=True)
    maker.go()
    drive(maker.transaction.enter())
    drive(finder.walk.run())
    drive(finder.transaction.hold())
    maker.fail()  # and leaves it to the finder
    world.memory.take("/link")
    world.memory.put("/link", stat.S_IFLNK, "/disk/two")
    world.memory.put("/disk/two/x")
    holding = finder.transaction.hold()
    drive_to(holding, "rmdir", "/disk/one/x")
    holding.close()
    assert "/disk/one/x" in world.memory.tree()
    finder.fail()
    assert "/disk/one/x" not in world.memory.tree()
    assert "/disk/two/x" in world.memory.tree()


def test_a_removal_that_is_given_up_half_way_keeps_nobody_waiting() -> None:
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(inside.walk.run())
    undoing = maker.undoing()
    drive_to(undoing, "rmdir", "/x")
    inside.fail()  # turns away from "/x", as it is being removed
    entry = next(each for each in world.tree._entries.values() if each.path == "/x")
    undoing.close()
    assert not world.tree.when_removed(entry, lambda: None)


# What others remove meanwhile, and what links lead to


def taken(world: World, *paths: str) -> None:
    """Others remove them, and others get their inode numbers."""
    for path in paths:
        world.memory.take(path)
    for path in paths:
        world.memory.put(f"/in_place_of{path.replace('/', '_')}")


def ours(world: World) -> list[str]:
    """What stands of "/x"."""
    return [path for path in world.memory.tree() if path.split("/")[1] == "x"]


def test_what_was_left_is_known_although_another_was_made_at_its_path_before() -> None:
    # Others removed "/x", the call made it again and failed. Its first "/x" was found to be gone,
    # and with it the second was forgotten, which had been left because of "/x/a".
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    drive(maker.walk.run())
    drive(maker.transaction.enter())
    taken(world, "/x")
    maker.walk.restart()
    drive(maker.walk.run())
    drive(maker.transaction.enter())
    drive(inside.walk.run())
    maker.fail()
    assert maker.tells(Kept) == ["/x"]
    inside.fail()
    assert ours(world) == []
    assert world.tree.statistics == (0, 0)


def test_what_was_left_is_taken_over_although_one_that_is_gone_was_left_at_its_path() -> None:
    # By the path alone the one that was gone was meant, and the one that stands remained.
    world = World("/x")
    world.memory.put("/link", stat.S_IFLNK, "/x")
    early, inside = Caller(world, "/x/a"), Caller(world, "/x/a/b")
    early.go()
    drive(inside.walk.run())
    early.fail()
    taken(world, "/x/a/b", "/x/a")
    late, inside_late = Caller(world, "/link/a"), Caller(world, "/x/a/c")
    late.go()
    drive(inside_late.walk.run())
    late.fail()
    assert ours(world) == ["/x", "/x/a", "/x/a/c"]
    inside_late.fail()
    assert ours(world) == ["/x"]
    inside.fail()
    assert world.tree.statistics == (0, 0)


def test_who_takes_anothers_directory_for_his_own_hands_on_what_his_kept_standing() -> None:
    # "/x" was left because of the first "/x/a"; the one who removed the second had not kept it.
    world = World()
    maker, one, other = Caller(world, "/x"), Caller(world, "/x/a"), Caller(world, "/x/a")
    maker.go()
    drive(one.walk.run())
    maker.fail()
    taken(world, "/x/a")
    other.go()
    one.fail()  # before it has looked at what it made
    assert ours(world) == ["/x", "/x/a"]
    other.fail()
    assert ours(world) == []
    assert world.tree.statistics == (0, 0)


@pytest.mark.parametrize("inner", ["/x/a/b", "/link/b"])
@pytest.mark.parametrize("again", [False, True])
def test_what_was_left_because_of_what_others_removed_goes_with_what_was_in_that(
    inner: str, again: bool
) -> None:
    # "/x" was left because of "/x/a", and that because of "/x/a/b". Others removed both; who made
    # the last found nothing above it, or what another has made there, and "/x" remained.
    world = World()
    world.memory.put("/link", stat.S_IFLNK, "/x/a")
    maker, inside = Caller(world, "/x/a"), Caller(world, inner)
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    taken(world, "/x/a/b", "/x/a")
    another = Caller(world, "/x/a")
    if again:
        drive(another.walk.run())
    inside.fail()
    another.fail()
    assert ours(world) == []
    assert world.tree.statistics == (0, 0)


def test_what_was_left_because_of_others_stands_when_what_else_was_left_is_gone() -> None:
    world = World("/nas")
    world.filesystem.mounts = lambda path: NAS if str(path).startswith("/nas") else DISK
    watcher = Caller(world, "/watcher")
    inside = Caller(world, "/x/a")
    maker, keeper, dead, far = (Caller(world, path) for path in ["/x", "/y", "/z", "/nas/x"])
    for call in [maker, inside, keeper, dead, far]:
        drive(call.walk.run())
    for path in ["/y/file", "/z/file", "/nas/x/file"]:
        world.memory.put(path, stat.S_IFREG)
    for call in [maker, keeper, dead, far]:
        call.fail()
    taken(world, "/x/a", "/x")
    world.filesystem.always("lstat", "/z", refuse(errno.EIO))
    del world.filesystem.calls[:]
    inside.fail()
    assert {"/y", "/z", "/nas/x"} <= set(world.memory.tree())
    assert inside.tells(Kept) == ["/z"]  # it may have been because of ours
    assert "rmdir /y" not in world.calls  # it may be another's by now
    assert not [call for call in world.calls if "/nas" in call]  # which may hang
    watcher.fail()


def test_what_is_above_the_target_of_a_link_is_known_for_as_long_as_what_is_in_it() -> None:
    world = World()
    world.memory.put("/link", stat.S_IFLNK, "/x/a")
    maker, inside = Caller(world, "/x/a"), Caller(world, "/link/b")
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    deeper = Caller(world, "/link/b/c")
    drive(deeper.walk.run())
    inside.fail()
    deeper.fail()
    assert ours(world) == []
    assert world.tree.statistics == (0, 0)


def test_what_was_left_is_known_for_as_long_as_what_is_in_it_is_relied_on_by_a_link() -> None:
    # The finder holds "/x/a" and not "/x", which was left before it began.
    world = World()
    world.memory.put("/link", stat.S_IFLNK, "/x/a")
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    finder = Caller(world, "/link", exist_ok=True)
    finder.go()
    inside.fail()
    assert ours(world) == ["/x", "/x/a"]
    finder.fail()
    assert ours(world) == []
    assert world.tree.statistics == (0, 0)


def test_what_was_left_is_known_above_what_somebody_relies_on_too() -> None:
    # "/x" was left because of "/x/a", which the finder holds, and with it all that is left in it.
    world = World()
    world.memory.put("/link", stat.S_IFLNK, "/x/a")
    maker, inside = Caller(world, "/x/a"), Caller(world, "/x/a/b")
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    finder = Caller(world, "/link", exist_ok=True)
    finder.go()
    deeper = Caller(world, "/x/a/b/c")
    drive(deeper.walk.run())
    inside.fail()
    deeper.fail()
    assert ours(world) == ["/x", "/x/a"]
    finder.fail()
    assert ours(world) == []
    assert world.tree.statistics == (0, 0)


def test_what_was_left_is_known_although_it_could_not_be_looked_at_when_it_was_kept() -> None:
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    deeper = Caller(world, "/x/a/b")
    drive(deeper.walk.run())
    world.filesystem.script("stat", "/x", refuse(errno.EIO))
    inside.fail()
    deeper.fail()
    assert ours(world) == []
    assert world.tree.statistics == (0, 0)


def test_what_was_left_is_taken_over_although_it_cannot_be_looked_at() -> None:
    world = World()
    maker, inside = Caller(world, "/x"), Caller(world, "/x/a")
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    world.filesystem.script("stat", "/x", refuse(errno.EIO))
    inside.fail()
    assert ours(world) == []
    assert inside.tells(Kept) == []


def test_a_success_is_held_although_what_it_made_could_not_be_looked_at_at_first() -> None:
    # The other made "/x", others removed it, and it has not looked yet: it takes what the call made
    # for its own.
    world = World()
    other, call = Caller(world, "/x"), Caller(world, "/x")
    drive(other.walk.run())
    taken(world, "/x")
    world.filesystem.script("lstat", "/x", refuse(errno.EAGAIN))
    call.succeed()
    other.fail()
    assert ours(world) == ["/x"]


def test_links_that_lead_in_a_circle_by_now_hold_nobody_up() -> None:
    world = World("/x", "/y")
    world.memory.put("/one", stat.S_IFLNK, "/x")
    world.memory.put("/two", stat.S_IFLNK, "/y")
    watchers = [Caller(world, "/one/a"), Caller(world, "/two/a")]
    for watcher in watchers:
        watcher.go()
        drive(watcher.transaction.enter())
    for link, target in [("/one", "/y/a"), ("/two", "/x/a")]:
        world.memory.take(link)
        world.memory.put(link, stat.S_IFLNK, target)
    inside, deeper = Caller(world, "/x/a/b"), Caller(world, "/x/a/b/c")
    inside.go()
    drive(deeper.walk.run())
    inside.fail()
    assert inside.tells(Kept) == ["/x/a/b"]
    deeper.fail()
    assert "/x/a/b" not in world.memory.tree()
