"""What is missing is made in the right order, and every answer of the kernel means the right thing.

The walk is driven by hand: no thread and no event loop.
"""

from __future__ import annotations

import errno
import os
import stat

import pytest
from doubles import Operation, Scripted, drive, drive_to, first, lose, refuse

from trio_mkdir._causes import AMBIGUOUS, RootCause
from trio_mkdir._items import Item
from trio_mkdir._paths import AnyPath, target
from trio_mkdir._walk import Failed, Walk, who_may_write


class Trip:
    """A walk over a double, and what it said it made."""

    def __init__(
        self,
        path: AnyPath,
        *there: str,
        exist_ok: bool = False,
        parents: bool = True,
        mode: int = 0o750,
        parent_mode: int | None = None,
    ) -> None:
        self.filesystem = Scripted()
        for path_there in there:
            self.filesystem.below.put(path_there)
        asked = target(path, mode=mode, parent_mode=parent_mode, exist_ok=exist_ok, parents=parents)
        self.items: list[Item] = []
        self.ambiguous: dict[AnyPath, int] = {}
        self.walk = Walk(asked, self.filesystem, self)

    def made(self, path: AnyPath, since: float) -> Item:
        self.items.append(Item(path, None, made=True, since=since))
        return self.items[-1]

    @property
    def new(self) -> list[AnyPath]:
        return [item.path for item in self.items]

    def run(self) -> list[Operation]:
        return drive(self.walk.run())

    def fails(self) -> Failed:
        with pytest.raises(Failed) as failed:
            self.run()
        return failed.value

    @property
    def calls(self) -> list[str]:
        return [f"{name} {os.fsdecode(path)}" for name, path in self.filesystem.calls]


# The order


def test_a_new_directory_in_an_old_one_is_one_system_call() -> None:
    trip = Trip("/a/new", "/a")
    assert trip.run() == [("mkdir", "/a/new")]
    assert trip.new == ["/a/new"]
    assert trip.walk.arrived


def test_the_leaf_is_tried_first_then_up_then_down() -> None:
    trip = Trip("/a/b/c/d", "/a")
    trip.run()
    assert trip.calls == [
        "mkdir /a/b/c/d",
        "mkdir /a/b/c",
        "mkdir /a/b",
        "lstat /a/b",
        "mkdir /a/b/c",
        "lstat /a/b/c",
        "mkdir /a/b/c/d",
    ]
    assert trip.new == ["/a/b", "/a/b/c", "/a/b/c/d"]


def test_it_climbs_to_the_root_and_no_further() -> None:
    trip = Trip("/a/b")
    trip.run()
    assert trip.calls == ["mkdir /a/b", "mkdir /a", "lstat /a", "mkdir /a/b"]


def test_what_was_made_is_known_by_its_identity_before_the_next_system_call() -> None:
    # The next one may hang for long, and somebody else may put another in its place meanwhile.
    trip = Trip("/a/b")
    run = trip.walk.run()
    drive_to(run, "mkdir", "/a/b")
    drive_to(run, "mkdir", "/a/b")
    (item,) = trip.items
    status = trip.filesystem.below.stat("/a")
    assert item.identity == (status.st_dev, status.st_ino)


def test_what_cannot_be_looked_at_is_made_all_the_same() -> None:
    trip = Trip("/a/b")
    trip.filesystem.script("lstat", "/a", refuse(errno.EINTR))
    trip.run()
    assert trip.new == ["/a", "/a/b"]
    assert trip.items[0].identity is None


def test_every_system_call_is_announced_right_before_it_starts() -> None:
    trip = Trip("/a/b/c", exist_ok=True)
    trip.filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.EACCES))
    announced: list[Operation] = []
    with pytest.raises(Failed):
        for operation in trip.walk.run():
            assert trip.filesystem.calls == announced
            announced.append(operation)
    assert trip.filesystem.calls == announced
    assert ("stat", "/a/b") in announced


def test_only_the_leaf_gets_the_mode() -> None:
    trip = Trip("/a/b/c", mode=0o700)
    trip.run()
    modes = [trip.filesystem.below.mode(path) for path in trip.new]
    assert modes == [0o777, 0o777, 0o700]


def test_parents_get_the_parent_mode() -> None:
    trip = Trip("/a/b/c", mode=0o700, parent_mode=0o711)
    trip.run()
    modes = [trip.filesystem.below.mode(path) for path in trip.new]
    assert modes == [0o711, 0o711, 0o700]


def test_bytes_stay_bytes() -> None:
    trip = Trip(b"/a/b")
    trip.run()
    assert all(isinstance(path, bytes) for _, path in trip.filesystem.calls)
    assert trip.new == [b"/a", b"/a/b"]


def test_repeated_and_trailing_slashes_name_the_same_directories() -> None:
    trip = Trip("/a//b/")
    trip.run()
    assert trip.calls == ["mkdir /a//b/", "mkdir /a", "lstat /a", "mkdir /a//b/"]


@pytest.mark.parametrize("path", ["/new/.", "/new/./", "/new/./."])
def test_a_dot_at_the_end_is_there_as_soon_as_its_directory_is(path: str) -> None:
    trip = Trip(path)
    trip.run()
    assert trip.new == ["/new"]
    assert trip.walk.arrived


def test_a_dot_in_the_middle_is_there_as_soon_as_its_directory_is() -> None:
    trip = Trip("/new/./x")
    trip.run()
    assert trip.new == ["/new", "/new/./x"]


def test_two_dots_are_left_to_the_kernel() -> None:
    # What `..` means depends on the symbolic links before it, so "/a" is needed for "/a/../b".
    trip = Trip("/a/../b")
    trip.run()
    assert trip.new == ["/a", "/a/../b"]
    assert trip.filesystem.below.tree() == ["/a", "/b"]


def test_a_symbolic_link_on_the_way_is_followed() -> None:
    trip = Trip("/link/b/c", "/real")
    trip.filesystem.below.put("/link", stat.S_IFLNK, "/real")
    trip.run()
    assert trip.new == ["/link/b", "/link/b/c"]
    assert trip.filesystem.below.tree() == ["/link", "/real", "/real/b", "/real/b/c"]


def test_without_parents_nothing_is_climbed() -> None:
    trip = Trip("/a/b", parents=False)
    failed = trip.fails()
    assert (failed.number, failed.path, failed.cause) == (errno.ENOENT, "/a/b", RootCause.MISSING)
    assert trip.calls == ["mkdir /a/b"]


def test_an_empty_path_is_missing() -> None:
    trip = Trip("")
    trip.filesystem.always("mkdir", "", refuse(errno.ENOENT))
    failed = trip.fails()
    assert (failed.number, failed.path, failed.cause) == (errno.ENOENT, "", RootCause.MISSING)


def test_the_working_directory_of_a_relative_path_is_never_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/gone/here")
    trip = Trip("a/b")
    failed = trip.fails()
    assert trip.calls == ["mkdir /gone/here/a/b", "mkdir /gone/here/a"]
    assert (failed.path, failed.cause) == ("/gone/here/a", RootCause.MISSING)


# What stands already


def test_a_leaf_that_stands_is_in_the_way() -> None:
    trip = Trip("/a", "/a")
    failed = trip.fails()
    assert (failed.number, failed.path, failed.cause) == (errno.EEXIST, "/a", RootCause.IN_THE_WAY)
    assert trip.calls == ["mkdir /a"]
    assert not trip.walk.arrived


def test_a_leaf_that_stands_is_welcome_if_the_caller_says_so() -> None:
    trip = Trip("/a", "/a", exist_ok=True)
    trip.run()
    assert trip.calls == ["mkdir /a", "stat /a"]
    assert trip.new == []
    assert trip.walk.arrived


def test_a_parent_that_another_has_made_meanwhile_is_not_looked_at() -> None:
    trip = Trip("/a/b")
    trip.filesystem.script("mkdir", "/a", first(lambda: trip.filesystem.below.put("/a")))
    trip.run()
    assert trip.calls == ["mkdir /a/b", "mkdir /a", "mkdir /a/b"]
    assert trip.new == ["/a/b"]


@pytest.mark.parametrize(
    "number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSYS, errno.EISDIR]
)
def test_whatever_is_answered_about_a_parent_that_stands_is_no_error(number: int) -> None:
    trip = Trip("/a/b/c", "/a")
    trip.filesystem.script("mkdir", "/a/b/c", refuse(errno.ENOENT))
    trip.filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT))
    trip.filesystem.script("mkdir", "/a", refuse(number))
    trip.run()
    assert trip.new == ["/a/b", "/a/b/c"]
    assert trip.calls.count("stat /a") == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTCONN])
def test_whatever_is_answered_about_a_leaf_that_stands_is_no_error_where_it_may_exist(
    number: int,
) -> None:
    trip = Trip("/a/b", "/a", "/a/b", exist_ok=True)
    trip.filesystem.script("mkdir", "/a/b", refuse(number))
    assert trip.run() == [("mkdir", "/a/b"), ("stat", "/a/b")]
    assert trip.walk.arrived


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMLINK])
def test_an_answer_about_a_parent_that_does_not_stand_is_the_error(number: int) -> None:
    trip = Trip("/a/b/c", "/a")
    trip.filesystem.always("mkdir", "/a/b", refuse(number))
    failed = trip.fails()
    assert (failed.number, failed.path) == (number, "/a/b")
    assert trip.calls == ["mkdir /a/b/c", "mkdir /a/b", "stat /a/b"]


def test_a_read_only_leaf_that_must_be_new_is_not_looked_at() -> None:
    trip = Trip("/a/b", "/a")
    trip.filesystem.always("mkdir", "/a/b", refuse(errno.EROFS))
    assert trip.fails().cause is RootCause.READ_ONLY
    assert trip.calls == ["mkdir /a/b"]


def test_what_cannot_be_looked_at_keeps_the_first_answer() -> None:
    trip = Trip("/a", "/a", exist_ok=True)
    trip.filesystem.always("mkdir", "/a", refuse(errno.EROFS))
    trip.filesystem.always("stat", "/a", refuse(errno.EIO))
    assert trip.fails().number == errno.EROFS


# Files, links and other things in the way


def test_a_file_in_place_of_the_leaf_is_in_the_way() -> None:
    trip = Trip("/file", exist_ok=True)
    trip.filesystem.below.put("/file", stat.S_IFREG)
    failed = trip.fails()
    assert (failed.number, failed.cause) == (errno.EEXIST, RootCause.IN_THE_WAY)
    assert trip.calls == ["mkdir /file", "stat /file"]


@pytest.mark.parametrize("exist_ok", [False, True])
@pytest.mark.parametrize("path", ["/file/a", "/file/a/b"])
def test_a_file_in_place_of_a_parent_is_in_the_way(path: str, exist_ok: bool) -> None:
    trip = Trip(path, exist_ok=exist_ok)
    trip.filesystem.below.put("/file", stat.S_IFREG)
    failed = trip.fails()
    assert (failed.number, failed.cause) == (errno.ENOTDIR, RootCause.IN_THE_WAY)


def test_a_file_that_took_the_place_of_a_parent_is_in_the_way() -> None:
    trip = Trip("/a/b")
    put = trip.filesystem.below.put
    trip.filesystem.script("mkdir", "/a", first(lambda: put("/a", stat.S_IFREG)))
    failed = trip.fails()
    assert (failed.number, failed.path) == (errno.ENOTDIR, "/a/b")


@pytest.mark.parametrize("exist_ok", [False, True])
def test_a_dangling_link_in_place_of_the_leaf_is_in_the_way(exist_ok: bool) -> None:
    trip = Trip("/link", exist_ok=exist_ok)
    trip.filesystem.below.put("/link", stat.S_IFLNK, "/nowhere")
    failed = trip.fails()
    assert (failed.number, failed.cause) == (errno.EEXIST, RootCause.IN_THE_WAY)


def test_a_dangling_link_on_the_way_is_missing_and_not_tried_for_ever() -> None:
    trip = Trip("/link/b")
    trip.filesystem.below.put("/link", stat.S_IFLNK, "/nowhere")
    failed = trip.fails()
    assert (failed.number, failed.path, failed.cause) == (
        errno.ENOENT,
        "/link/b",
        RootCause.MISSING,
    )
    assert failed.note == "'/link' is a symbolic link that leads nowhere"


# What vanishes


def test_a_parent_that_vanishes_has_vanished() -> None:
    trip = Trip("/a/b")
    trip.filesystem.script(
        "mkdir", "/a/b", refuse(errno.ENOENT), first(lambda: trip.filesystem.below.take("/a"))
    )
    failed = trip.fails()
    assert (failed.number, failed.path, failed.cause) == (errno.ENOENT, "/a/b", RootCause.VANISHED)
    assert trip.calls == ["mkdir /a/b", "mkdir /a", "lstat /a", "mkdir /a/b", "lstat /a"]


def test_a_parent_that_is_back_already_has_vanished_all_the_same() -> None:
    trip = Trip("/a/b")
    trip.filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.ENOENT))
    assert trip.fails().cause is RootCause.VANISHED


def test_a_leaf_that_vanishes_before_it_is_looked_at_has_vanished() -> None:
    trip = Trip("/a", "/a", exist_ok=True)
    trip.filesystem.script("stat", "/a", first(lambda: trip.filesystem.below.take("/a")))
    failed = trip.fails()
    assert (failed.number, failed.path, failed.cause) == (errno.ENOENT, "/a", RootCause.VANISHED)
    assert trip.calls == ["mkdir /a", "stat /a", "lstat /a"]


def test_a_run_after_a_failure_goes_on_where_it_happened() -> None:
    trip = Trip("/a/b/c")
    trip.filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.EBUSY))
    assert trip.fails().cause is RootCause.BUSY
    del trip.filesystem.calls[:]
    trip.run()
    assert trip.calls == ["mkdir /a/b", "lstat /a/b", "mkdir /a/b/c"]


def test_a_restart_begins_at_the_leaf_again() -> None:
    trip = Trip("/a/b/c")
    trip.filesystem.script("mkdir", "/a/b", refuse(errno.ENOENT), refuse(errno.ESTALE))
    assert trip.fails().cause is RootCause.STALE
    trip.walk.restart()
    trip.filesystem.below.take("/a")
    del trip.filesystem.calls[:]
    trip.run()
    assert trip.calls[0] == "mkdir /a/b/c"
    assert trip.filesystem.below.tree() == ["/a", "/a/b", "/a/b/c"]


def test_a_stopped_walk_has_started_nothing_more() -> None:
    trip = Trip("/a/b")
    run = trip.walk.run()
    drive_to(run, "mkdir", "/a")
    run.close()
    assert trip.filesystem.below.tree() == []


def test_progress_is_the_longest_path_that_is_reached() -> None:
    trip = Trip("/a/b/c")
    assert trip.walk.progress == 0
    trip.filesystem.script("mkdir", "/a/b/c", refuse(errno.ENOENT), refuse(errno.ESTALE))
    trip.fails()
    assert trip.walk.progress == len("/a/b")
    trip.run()
    assert trip.walk.progress == len("/a/b/c")


# Answers that leave open whether it worked


@pytest.mark.parametrize("number", sorted(AMBIGUOUS))
def test_a_parent_whose_reply_was_lost_is_there(number: int) -> None:
    trip = Trip("/a/b")
    trip.filesystem.script("mkdir", "/a", lose(number))
    trip.run()
    assert trip.ambiguous == {"/a": number}
    assert trip.new == ["/a/b"]  # nobody can tell whose "/a" is, so it is not undone


def test_a_leaf_whose_reply_was_lost_is_there_if_it_may_exist() -> None:
    trip = Trip("/a", exist_ok=True)
    trip.filesystem.script("mkdir", "/a", lose(errno.EIO))
    trip.run()
    assert trip.walk.arrived
    assert trip.ambiguous == {"/a": errno.EIO}


def test_a_leaf_that_exists_after_a_lost_reply_may_be_ours_and_the_error_says_so() -> None:
    trip = Trip("/a")
    trip.filesystem.script("mkdir", "/a", lose(errno.EINTR))
    assert trip.fails().number == errno.EINTR
    failed = trip.fails()
    assert failed.number == errno.EEXIST
    assert "answered EINTR and may have made it" in failed.note


def test_a_number_without_a_name_is_told_as_a_number() -> None:
    trip = Trip("/a", "/a")
    trip.ambiguous["/a"] = 512
    assert "answered 512 and may have made it" in trip.fails().note


def test_the_first_of_several_lost_replies_is_remembered() -> None:
    trip = Trip("/a")
    trip.filesystem.script("mkdir", "/a", refuse(errno.EINTR), refuse(errno.EIO))
    trip.fails()
    trip.fails()
    assert trip.ambiguous == {"/a": errno.EINTR}


def test_a_definite_error_leaves_nothing_open() -> None:
    trip = Trip("/a")
    trip.filesystem.script("mkdir", "/a", refuse(errno.ENOSPC))
    trip.fails()
    assert trip.ambiguous == {}


def test_the_last_answer_is_known() -> None:
    trip = Trip("/a/b")
    run = trip.walk.run()
    answers = [trip.walk.answer]
    drive_to(run, "mkdir", "/a")
    answers.append(trip.walk.answer)
    drive(run)
    answers.append(trip.walk.answer)
    assert answers == [None, errno.ENOENT, None]


def test_an_error_without_a_number_counts_as_eio() -> None:
    trip = Trip("/a")

    def answer(do: object) -> None:
        raise OSError("a double with nothing to say")

    trip.filesystem.script("mkdir", "/a", answer)
    assert trip.fails().number == errno.EIO


# What the error tells


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_who_may_write_to_the_parent_is_told(number: int) -> None:
    trip = Trip("/a/b", "/a")
    trip.filesystem.script("mkdir", "/a/b", refuse(number))
    failed = trip.fails()
    assert failed.cause is RootCause.NOT_PERMITTED
    assert failed.note.startswith("'/a' has mode 0755, uid 1000, gid 100; this process has uid ")
    assert trip.calls == ["mkdir /a/b", "stat /a"]


def test_a_parent_that_cannot_be_looked_at_is_told_too() -> None:
    trip = Trip("/a/b", "/a")
    trip.filesystem.script("mkdir", "/a/b", refuse(errno.EACCES))
    trip.filesystem.script("stat", "/a", refuse(errno.EACCES))
    note = trip.fails().note
    assert note == "whoever may write to '/a' cannot be told: Permission denied"


def test_where_there_is_no_parent_the_path_itself_is_told() -> None:
    trip = Trip("/")
    trip.filesystem.script("mkdir", "/", refuse(errno.EACCES))
    assert trip.fails().note.startswith("'/' has mode 0755")


def test_permissions_are_told_of_the_directory_and_of_the_process() -> None:
    status = os.stat_result((stat.S_IFDIR | 0o1777, 7, 7, 2, 5, 6, 0, 0, 0, 0))
    process = f"this process has uid {os.geteuid()}, gid {os.getegid()}"
    assert who_may_write("/a", status) == f"'/a' has mode 1777, uid 5, gid 6; {process}"


def test_a_failure_knows_its_cause_unless_it_is_told_another() -> None:
    assert Failed(errno.ENOSPC, "/a").cause is RootCause.NO_SPACE
    assert Failed(errno.ENOENT, "/a", RootCause.VANISHED).cause is RootCause.VANISHED


def test_a_link_that_cannot_be_looked_at_is_a_failure_like_any_other() -> None:
    # The plain OSError went past the policy, the report and the caller's `except MkdirError`.
    trip = Trip("/link", exist_ok=True)
    trip.filesystem.below.put("/link", stat.S_IFLNK, "/nowhere")
    trip.filesystem.script("lstat", "/link", refuse(errno.EIO))
    assert trip.fails().path == "/link"
