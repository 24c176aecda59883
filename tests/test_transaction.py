"""What a call made is taken back: in order, only what is its own, never where a thread is stuck."""

from __future__ import annotations

import errno
import stat

import pytest
from doubles import Caller, World, drive, drive_to, first, refuse

from trio_mkdir import BackoffPolicy, Event, Kept, Made, ReliedOn, Removed, RootCause
from trio_mkdir._entries import BeingRemoved
from trio_mkdir._paths import AnyPath
from trio_mkdir._walk import Failed

BUSY_TWICE = {RootCause.BUSY: BackoffPolicy(0.5, 2, 5, max_retries=2)}


def removals(world: World) -> list[AnyPath]:
    return [path for name, path in world.filesystem.calls if name == "rmdir"]


# The order


def test_undoing_runs_from_the_deepest_up() -> None:
    world = World()
    call = Caller(world, "/a/b/c")
    call.go()
    call.fail()
    assert removals(world) == ["/a/b/c", "/a/b", "/a"]
    assert call.tells(Made) == ["/a", "/a/b", "/a/b/c"]
    assert call.tells(Removed) == ["/a/b/c", "/a/b", "/a"]
    assert world.memory.tree() == []


def test_what_stood_before_is_not_even_looked_at() -> None:
    world = World("/a", "/a/b")
    call = Caller(world, "/a/b/c")
    call.go()
    call.fail()
    assert removals(world) == ["/a/b/c"]
    assert "lstat /a/b" not in world.calls
    assert world.memory.tree() == ["/a", "/a/b"]


def test_a_call_that_made_nothing_undoes_nothing() -> None:
    world = World("/a")
    call = Caller(world, "/a", exist_ok=True)
    call.go()
    assert not call.transaction.undoable()
    call.fail()
    assert removals(world) == []
    assert world.memory.tree() == ["/a"]


def test_a_committed_call_has_nothing_to_undo() -> None:
    world = World()
    call = Caller(world, "/a/b")
    call.succeed()
    assert world.memory.tree() == ["/a", "/a/b"]
    assert world.tree.statistics == (0, 0)


# Only its own


def test_a_directory_that_was_replaced_after_it_was_made_is_left() -> None:
    world = World()
    call = Caller(world, "/a/b")
    run = call.walk.run()
    drive_to(run, "mkdir", "/a/b")
    drive_to(run, "mkdir", "/a/b")  # "/a" is made, and the next system call takes long
    world.memory.take("/a")
    world.memory.put("/other")  # takes the inode number
    world.memory.put("/a")
    drive(run)
    call.fail()
    assert world.memory.tree() == ["/a", "/other"]
    assert call.tells(Kept) == []


def test_a_directory_that_is_gone_already_is_no_trouble() -> None:
    world = World()
    call = Caller(world, "/a/b")
    call.go()
    world.memory.take("/a/b")
    call.fail()
    assert world.memory.tree() == []
    assert call.tells(Removed) == ["/a"]
    assert call.tells(Kept) == []


def test_a_directory_that_goes_right_before_its_removal_is_no_trouble() -> None:
    world = World()
    call = Caller(world, "/a")
    call.go()
    world.filesystem.script("rmdir", "/a", first(lambda: world.memory.take("/a")))
    call.fail()
    assert call.tells(Removed) == call.tells(Kept) == []
    assert world.tree.statistics == (0, 0)


def test_a_directory_that_was_made_twice_is_removed_once_and_not_said_to_be_kept() -> None:
    # It vanished between two attempts and was made again.
    world = World()
    call = Caller(world, "/a/b")
    going = call.going()
    drive_to(going, "mkdir", "/a/b")
    drive_to(going, "mkdir", "/a/b")
    world.memory.take("/a")
    drive(going)
    assert call.tells(Made) == ["/a", "/a", "/a/b"]
    call.fail()
    assert world.memory.tree() == []
    assert call.tells(Removed) == ["/a/b", "/a"]
    assert call.tells(Kept) == []


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFLNK])
def test_what_is_no_directory_any_more_is_left(kind: int) -> None:
    world = World()
    call = Caller(world, "/a")
    call.go()
    world.memory.take("/a")
    world.memory.put("/a", kind, "/nowhere")
    call.fail()
    assert world.memory.tree() == ["/a"]


# What is kept, and why


def kept(call: Caller) -> list[tuple[AnyPath, str, int | None]]:
    return [(event.path, event.why, event.errno) for event in call.told if isinstance(event, Kept)]


def test_a_directory_into_which_somebody_put_something_is_kept() -> None:
    world = World()
    call = Caller(world, "/a/b")
    call.go()
    world.memory.put("/a/b/file", stat.S_IFREG)
    call.fail()
    assert kept(call) == [("/a/b", "it is not empty", None), ("/a", "it is not empty", None)]
    assert world.memory.tree() == ["/a", "/a/b", "/a/b/file"]


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EEXIST])
def test_either_word_for_not_empty_is_understood_and_never_tried_again(number: int) -> None:
    world = World()
    retries = {RootCause.IN_THE_WAY: BackoffPolicy(), RootCause.OTHER: BackoffPolicy()}
    call = Caller(world, "/a", retries=retries)
    call.go()
    world.filesystem.always("rmdir", "/a", refuse(number))
    call.fail()
    assert kept(call) == [("/a", "it is not empty", None)]
    assert removals(world) == ["/a"]


def test_a_removal_that_may_work_later_is_tried_again_as_the_policy_says() -> None:
    world = World()
    call = Caller(world, "/a", retries=BUSY_TWICE)
    call.go()
    world.filesystem.script("rmdir", "/a", refuse(errno.EBUSY), refuse(errno.EBUSY))
    call.fail()
    assert world.memory.tree() == []
    assert [path for name, path in world.filesystem.calls if name == "sleep"] == ["0.5", "1"]
    assert call.tells(Removed) == ["/a"]


def test_a_removal_that_never_works_is_given_up_and_the_kernels_answer_is_told() -> None:
    world = World()
    call = Caller(world, "/a", retries=BUSY_TWICE)
    call.go()
    world.filesystem.always("rmdir", "/a", refuse(errno.EBUSY))
    call.fail()
    assert removals(world) == ["/a"] * 3
    assert kept(call) == [("/a", "rmdir: Device or resource busy", errno.EBUSY)]
    assert world.tree.statistics == (0, 0)


def test_a_removal_for_which_the_policy_knows_no_retry_is_tried_once() -> None:
    world = World()
    call = Caller(world, "/a", retries=BUSY_TWICE)
    call.go()
    world.filesystem.always("rmdir", "/a", refuse(errno.EACCES))
    call.fail()
    assert removals(world) == ["/a"]
    assert kept(call) == [("/a", "rmdir: Permission denied", errno.EACCES)]


def test_a_look_that_may_work_later_is_tried_again_too() -> None:
    world = World()
    call = Caller(world, "/a", retries=BUSY_TWICE)
    call.go()
    world.filesystem.script("lstat", "/a", refuse(errno.EINTR))
    call.fail()
    assert world.memory.tree() == []


def test_what_cannot_be_looked_at_is_kept() -> None:
    world = World()
    call = Caller(world, "/a")
    call.go()
    world.filesystem.always("lstat", "/a", refuse(errno.EIO))
    call.fail()
    assert [(path, number) for path, _, number in kept(call)] == [("/a", errno.EIO)]
    assert world.memory.tree() == ["/a"]
    assert world.tree.statistics == (0, 0)


def test_one_that_is_kept_does_not_keep_the_others_from_being_tried() -> None:
    world = World()
    call = Caller(world, "/a/b/c")
    call.go()
    world.filesystem.always("rmdir", "/a/b/c", refuse(errno.EACCES))
    call.fail()
    assert removals(world) == ["/a/b/c", "/a/b", "/a"]
    assert [path for path, _, _ in kept(call)] == ["/a/b/c", "/a/b", "/a"]


def test_an_observer_that_breaks_the_thread_leaves_nobody_waiting() -> None:
    class Broken(BaseException):
        pass

    def broken(event: Event) -> None:
        if isinstance(event, Removed):
            raise Broken

    world = World()
    call, other = Caller(world, "/a", observers=[broken]), Caller(world, "/a", exist_ok=True)
    call.go()
    with pytest.raises(Broken):
        call.fail()
    other.succeed()
    assert world.memory.tree() == ["/a"]


def test_a_success_leaves_nothing_open() -> None:
    world = World()
    call = Caller(world, "/a")
    call.transaction.ambiguous["/a"] = errno.EINTR
    call.go()
    assert call.transaction.ambiguous == {}
    call.commit()


def test_what_may_be_ours_or_anothers_is_told_where_it_stands() -> None:
    world = World("/a")
    call = Caller(world, "/a/b")
    ambiguous = call.transaction.ambiguous
    ambiguous.update({"/a": errno.EIO, "/gone": errno.EINTR, "/dark": 512})
    world.filesystem.always("lstat", "/dark", refuse(errno.ENOTCONN))
    call.fail()
    stands, dark = sorted(kept(call))
    assert stands == ("/a", "mkdir was answered EIO: it may be ours or another's", None)
    assert dark[0] == "/dark"
    assert dark[1].startswith("mkdir was answered 512: it may be ours or another's, and cannot be")
    assert dark[1].endswith("Transport endpoint is not connected")


@pytest.mark.parametrize(
    ("kind", "number"),
    [("keeping", errno.EIO), ("removing", errno.EIO), ("removing", errno.ENOENT)],
)
def test_a_directory_above_that_cannot_be_looked_at_is_left_to_others(
    kind: str, number: int
) -> None:
    world = World("/disk")
    world.memory.put("/link", stat.S_IFLNK, "/disk")
    maker, inside = Caller(world, "/link/x"), Caller(world, "/disk/x/a")
    maker.go()
    drive(inside.walk.run())
    maker.fail()
    if kind == "keeping":
        world.memory.put("/disk/x/a/file", stat.S_IFREG)
    world.filesystem.always("stat", "/disk/x", refuse(number))
    inside.fail()
    assert "/disk/x" in world.memory.tree()
    if number == errno.ENOENT:
        assert inside.tells(Kept) == []  # it is gone, as far as anybody can tell
    else:
        assert inside.tells(Kept) == ["/disk/x/a" if kind == "keeping" else "/disk/x"]
    assert world.tree.statistics == (0, 0)


def test_what_another_thread_is_emptying_by_another_path_is_not_given_up() -> None:
    # Through a symbolic link, so the text of the paths does not tell that one is in the other.
    world = World("/disk")
    world.memory.put("/link", stat.S_IFLNK, "/disk")
    outer, inner = Caller(world, "/disk/x"), Caller(world, "/link/x/y")
    outer.go()
    inner.go()
    inner.transaction.move_to(outer.transaction)
    emptying, other = outer.undoing(), outer.undoing()
    drive_to(emptying, "rmdir", "/link/x/y")
    drive(other)
    assert "/disk/x" in world.memory.tree()
    drive(emptying)
    assert world.memory.tree() == ["/disk", "/link"]
    assert outer.tells(Kept) == []
    outer.end()


def misplaced(world: World) -> Caller:
    """A call that made "/x", which another claims to have made elsewhere."""
    call = Caller(world, "/x")
    call.go()
    drive(call.transaction.enter())
    (item,) = call.transaction._items
    assert item.entry is not None
    item.entry.path = "/elsewhere"
    return call


def test_a_directory_is_removed_where_it_was_found_if_it_is_not_where_it_was_made() -> None:
    world = World()
    call = misplaced(world)
    call.fail()
    assert world.memory.tree() == []
    assert call.tells(Removed) == ["/x"]


def test_a_refused_removal_is_no_lost_reply_where_it_stands_at_another_path() -> None:
    world = World()
    call = misplaced(world)
    world.filesystem.script("rmdir", "/x", refuse(errno.EACCES))
    call.fail()
    assert world.memory.tree() == ["/x"]
    assert call.tells(Kept) == ["/x"]


def test_what_an_inner_block_made_first_is_undone_last() -> None:
    world = World()
    outer, inner = Caller(world, "/outer"), Caller(world, "/inner")
    first, second = Caller(world, "/first"), Caller(world, "/second")
    first.go()
    first.transaction.move_to(inner.transaction)
    second.go()
    second.transaction.move_to(outer.transaction)
    inner.transaction.move_to(outer.transaction)
    outer.fail()
    assert removals(world) == ["/second", "/first"]


# Not where a thread is stuck


def test_nothing_at_or_above_a_stuck_system_call_is_undone() -> None:
    world = World()
    call = Caller(world, "/a/b/c")
    run = call.walk.run()
    stuck = call.payer()
    for operation in run:
        stuck.operation = operation
        if operation == ("mkdir", "/a/b/c") and "mkdir /a/b" in world.calls[2:]:
            break
    assert not call.transaction.undoable()
    drive(call.undoing())
    assert removals(world) == []
    assert [(debt.operation, debt.path) for debt in call.transaction.pending(1.0)] == [
        ("mkdir", "/a/b/c"),
        ("undo", "/a/b"),
        ("undo", "/a"),
    ]


def test_the_thread_that_was_stuck_undoes_what_had_to_wait_for_it() -> None:
    world = World()
    call = Caller(world, "/a/b")
    run = call.walk.run()
    stuck = call.payer()
    drive_to(run, "mkdir", "/a/b")
    drive_to(run, "mkdir", "/a/b")
    stuck.operation = "mkdir", "/a/b"
    drive(call.undoing())
    assert world.memory.tree() == ["/a"]
    drive(run)  # it returns after all, and has made it
    drive(call.transaction.undo(stuck))
    assert world.memory.tree() == []
    assert call.transaction.pending(1.0) == []


def test_what_lies_beside_a_stuck_system_call_is_undone() -> None:
    world = World()
    call = Caller(world, "/a/b")
    call.go()
    stuck = call.payer()
    stuck.operation = "mkdir", "/ab/c"
    drive(call.undoing())
    assert world.memory.tree() == []


def test_the_stuck_system_call_of_another_call_is_in_the_way_too() -> None:
    # Its rmdir would wait on the same kernel lock.
    world = World()
    call, other = Caller(world, "/a/b"), Caller(world, "/a/c")
    call.go()
    visit = other.visit()
    visit.start()
    visit.operation = "mkdir", "/a/c"
    visit.count_as_stuck()
    drive(call.undoing())
    assert world.memory.tree() == ["/a"]
    assert [debt.path for debt in call.transaction.pending(1.0)] == ["/a"]


def test_two_threads_that_undo_never_take_the_same_directory() -> None:
    world = World()
    call = Caller(world, "/a/b/c")
    call.go()
    one, other = call.undoing(), call.undoing()
    drive_to(one, "rmdir", "/a/b/c")
    drive(other)  # "/a/b" has to wait for what the first one is at
    assert removals(world) == []
    drive(one)
    assert removals(world) == ["/a/b/c", "/a/b", "/a"]


def test_who_comes_too_late_to_be_needed_is_told_so() -> None:
    world = World()
    call = Caller(world, "/a")
    call.go()
    drive(call.undoing())
    assert not call.transaction.when_settled(lambda: None, finally_=True)
    assert not call.transaction.join(call.payer())


def test_what_somebody_else_undoes_meanwhile_is_not_entered_again() -> None:
    world = World()
    call = Caller(world, "/a")
    call.go()
    entering = call.transaction.enter()
    drive_to(entering, "lstat", "/a")
    drive(call.undoing())
    world.memory.put("/a")  # a stranger's
    drive(entering)
    drive(call.undoing())
    call.end()
    assert world.memory.tree() == ["/a"]
    assert world.tree.statistics == (0, 0)


# Being done


def test_who_waits_is_called_when_nothing_is_left_to_undo() -> None:
    world = World()
    call = Caller(world, "/a")
    call.go()
    called: list[str] = []
    assert call.transaction.when_settled(lambda: called.append("settled"))
    undoing = call.undoing()
    drive_to(undoing, "rmdir", "/a")
    assert called == []
    drive(undoing)
    assert called == ["settled"]


def test_who_waits_is_called_when_the_last_thread_is_out_of_its_system_call() -> None:
    world = World()
    call = Caller(world, "/a")
    payer = call.payer()
    called: list[str] = []
    assert call.transaction.when_settled(lambda: called.append("settled"))
    payer.finish()
    call.transaction.part()
    assert called == ["settled"]
    assert not call.transaction.when_settled(lambda: None)


def test_a_thread_that_parts_while_another_is_at_it_leaves_the_rest_to_that() -> None:
    world = World()
    call = Caller(world, "/a")
    call.go()
    payer = call.payer()
    called: list[str] = []
    call.transaction.when_settled(lambda: called.append("settled"))
    payer.finish()
    call.transaction.part()
    assert called == []
    drive(call.undoing())
    assert called == ["settled"]


# Relying on others


def test_holding_what_has_vanished_says_so() -> None:
    world = World()
    call = Caller(world, "/a/b")
    drive(call.walk.run())
    world.memory.take("/a")
    with pytest.raises(Failed) as failed:
        drive(call.transaction.hold())
    assert (failed.value.path, failed.value.cause) == ("/a", RootCause.VANISHED)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_holding_what_cannot_be_looked_at_fails_with_the_kernels_answer(number: int) -> None:
    world = World("/a")
    call = Caller(world, "/a", exist_ok=True)
    drive(call.walk.run())
    world.filesystem.script("stat", "/a", refuse(number))
    with pytest.raises(Failed) as failed:
        drive(call.transaction.hold())
    assert (failed.value.number, failed.value.path) == (number, "/a")


def test_holding_what_is_being_removed_says_which() -> None:
    world = World()
    failing, finder = Caller(world, "/a"), Caller(world, "/a", exist_ok=True)
    failing.go()
    undoing = failing.undoing()
    drive_to(undoing, "rmdir", "/a")
    with pytest.raises(BeingRemoved) as raised:
        drive(finder.transaction.hold())
    assert raised.value.entry.path == "/a"


def test_what_a_call_relies_on_is_told_once() -> None:
    world = World()
    maker, finder = Caller(world, "/a"), Caller(world, "/a", exist_ok=True)
    maker.go()
    drive(maker.transaction.enter())
    drive(finder.walk.run())
    drive(finder.transaction.hold())
    drive(finder.transaction.hold())
    assert finder.tells(ReliedOn) == ["/a"]


def test_what_is_held_by_nobody_else_is_not_relied_on() -> None:
    world = World("/old")
    Caller(world, "/other")
    call = Caller(world, "/old/a")
    call.go()
    assert call.tells(ReliedOn) == []


def test_entering_what_cannot_be_looked_at_fails_only_where_it_has_to_be_known() -> None:
    world = World()
    call = Caller(world, "/a")
    call.go()
    world.filesystem.script("lstat", "/a", refuse(errno.EIO), refuse(errno.EIO))
    drive(call.transaction.enter())
    with pytest.raises(Failed) as failed:
        drive(call.transaction.forward(call.walk, provisional=True))
    assert (failed.value.number, failed.value.path) == (errno.EIO, "/a")
    call.fail()
    assert world.memory.tree() == []


# Handing on


def test_what_is_handed_on_is_undone_with_the_one_who_got_it() -> None:
    world = World()
    outer, inner = Caller(world, "/a"), Caller(world, "/a/b/c")
    outer.go()
    inner.go()
    inner.transaction.move_to(outer.transaction)
    assert inner.transaction.pending(1.0) == []
    outer.fail()
    assert removals(world) == ["/a/b/c", "/a/b", "/a"]
    assert world.tree.statistics == (0, 0)


def test_holding_many_ends_though_others_keep_removing_theirs() -> None:
    # It looked again for as long as anything was removed between a look and the hold.
    world = World("/a", "/b")
    nursery = Caller(world, "/n")
    nursery.go()  # somebody else is there
    call = Caller(world, "/a", exist_ok=True)

    def another_fails() -> None:
        other = Caller(world, "/b/x")
        other.go()
        other.fail()
        world.tree.before("hold", another_fails)

    world.tree.before("hold", another_fails)
    call.succeed()
    assert world.calls.count("stat /a") == 3  # by the walk, and at two looks
    nursery.fail()
