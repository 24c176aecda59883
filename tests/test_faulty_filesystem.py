"""The filesystem double: it answers as the kernel does, except where its script says otherwise."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_mkdir
from trio_mkdir import MkdirError, Policy, RootCause, StepTimeout, makedirs, mkdir
from trio_mkdir._registry import registry
from trio_mkdir.testing import FaultyFilesystem, MemoryFilesystem, OperationRecord, Rule
from trio_mkdir.testing._script import When

PATIENCE = 10.0
"""Seconds after which a test fails instead of waiting for a thread that does not come."""


def errno_of(fn: Callable[[], object]) -> str | None:
    try:
        fn()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def done(filesystem: FaultyFilesystem) -> list[tuple[str, object, str | None]]:
    """The record, errnos by name."""
    return [
        (each.operation, each.path, each.errno and errno.errorcode[each.errno])  # type: ignore[misc]
        for each in filesystem.operations
    ]


@contextmanager
def thread(fn: Callable[[], object]) -> Iterator[None]:
    """Run ``fn`` beside the block; by the end of the block it has returned."""
    worker = threading.Thread(target=fn, daemon=True)
    worker.start()
    yield
    worker.join(PATIENCE)
    assert not worker.is_alive()


# The tree in memory


class TestMemory:
    def test_is_empty_at_first(self) -> None:
        assert MemoryFilesystem().paths() == []

    def test_has_what_a_test_puts_there(self) -> None:
        memory = MemoryFilesystem()
        memory.add_directory("/srv/www", mode=0o700)
        memory.add_directory("/srv")  # stands
        memory.add_file("/srv/www/index.html")
        memory.add_symlink("/srv/current", "www")
        assert memory.paths() == ["/srv", "/srv/current", "/srv/www", "/srv/www/index.html"]
        assert stat.S_IMODE(memory.stat("/srv/current").st_mode) == 0o700
        assert stat.S_ISLNK(memory.lstat("/srv/current").st_mode)
        memory.remove("/srv/www")
        assert memory.paths() == ["/srv", "/srv/current"]

    def test_does_not_put_a_directory_over_a_file(self) -> None:
        memory = MemoryFilesystem()
        memory.add_file("/file")
        with pytest.raises(FileExistsError):
            memory.add_directory("/file")

    def test_renames_nothing_into_itself(self) -> None:
        memory = MemoryFilesystem()
        memory.add_directory("/a/b")
        with pytest.raises(OSError, match="Invalid argument"):
            memory.rename("/a", "/a/b/c")
        assert memory.paths() == ["/a", "/a/b"]

    def test_renames(self) -> None:
        memory = MemoryFilesystem()
        memory.add_directory("/a/b")
        memory.add_directory("/c")
        memory.rename("/a/b", "/c/d")
        assert memory.paths() == ["/a", "/c", "/c/d"]
        with pytest.raises(FileExistsError):
            memory.rename("/a", "/c")
        memory.mount_at("/c")
        with pytest.raises(OSError, match="cross-device"):
            memory.rename("/a", "/c/e")

    def test_takes_bytes_and_names_the_whole_path_in_its_answers(self) -> None:
        memory = MemoryFilesystem()
        memory.mkdir(b"/a")
        with pytest.raises(FileNotFoundError) as caught:
            memory.mkdir(b"/a/b/c")
        assert caught.value.filename == b"/a/b/c"

    def test_a_mode_is_cut_by_its_own_umask_and_loses_setuid_and_setgid(self) -> None:
        memory = MemoryFilesystem(umask=0o027)
        memory.mkdir("/a", 0o7777)
        assert stat.S_IMODE(memory.stat("/a").st_mode) == 0o1750

    def test_setgid_is_inherited(self) -> None:
        memory = MemoryFilesystem()
        memory.mkdir("/a")
        memory.chmod("/a", 0o2755)
        memory.mkdir("/a/b", 0o700)
        assert stat.S_IMODE(memory.stat("/a/b").st_mode) == 0o2700

    def test_gives_the_inode_number_of_what_was_removed_to_the_next_comer(self) -> None:
        memory = MemoryFilesystem()
        memory.mkdir("/a")
        inode = memory.stat("/a").st_ino
        memory.rmdir("/a")
        memory.mkdir("/b")
        assert memory.stat("/b").st_ino == inode

    def test_keeps_inode_numbers_apart_if_asked_to(self) -> None:
        memory = MemoryFilesystem(reuse_inodes=False)
        memory.mkdir("/a")
        inode = memory.stat("/a").st_ino
        memory.rmdir("/a")
        memory.mkdir("/b")
        assert memory.stat("/b").st_ino != inode

    def test_is_no_device_that_there_is_or_that_another_one_is(self) -> None:
        one, other = MemoryFilesystem(), MemoryFilesystem()
        assert one.stat("/").st_dev != other.stat("/").st_dev
        assert one.mount("/") != other.mount("/")
        assert max(one.stat("/").st_dev, other.stat("/").st_dev) < 0

    def test_counts_links(self) -> None:
        memory = MemoryFilesystem()
        memory.add_directory("/a/b")
        memory.add_file("/a/c")
        assert [memory.stat(path).st_nlink for path in ("/a", "/a/b", "/a/c")] == [3, 2, 1]

    def test_tells_of_space(self) -> None:
        space = MemoryFilesystem().statvfs("/")
        assert space.f_frsize * space.f_bavail == 1 << 29
        with pytest.raises(FileNotFoundError):
            MemoryFilesystem().statvfs("/missing")

    def test_follows_forty_symbolic_links_and_no_more(self) -> None:
        memory = MemoryFilesystem()
        memory.mkdir("/0")
        for number in range(41):
            memory.add_symlink(f"/{number + 1}", f"/{number}")
        assert errno_of(partial(memory.stat, "/40")) is None
        assert errno_of(partial(memory.stat, "/41")) == "ELOOP"

    def test_a_mount_covers_what_is_beneath_until_it_goes(self) -> None:
        memory = MemoryFilesystem()
        memory.add_directory("/nas/beneath")
        disk = memory.mount("/nas")
        beneath = memory.stat("/nas")
        nas = memory.mount_at("/nas", type="nfs4", source="nas:/export", options="ro")
        memory.mkdir("/nas/a")
        assert memory.paths() == ["/nas", "/nas/a"]
        assert memory.mount("/nas/a") == nas != disk
        assert (nas.mount_point, nas.type, nas.source, nas.options) == (
            *("/nas", "nfs4", "nas:/export", "ro"),
        )
        assert memory.stat("/nas").st_dev != beneath.st_dev
        assert errno_of(partial(memory.rmdir, "/nas")) == "EBUSY"
        memory.unmount("/nas")
        assert memory.paths() == ["/nas", "/nas/beneath"]
        assert memory.mount("/nas/a") == disk
        assert memory.stat("/nas").st_ino == beneath.st_ino

    def test_mounts_lie_on_top_of_each_other(self) -> None:
        memory = MemoryFilesystem()
        memory.mkdir("/nas")
        first = memory.mount_at("/nas")
        second = memory.mount_at("/nas")
        assert memory.mount("/nas") == second
        memory.unmount("/nas")
        assert memory.mount("/nas") == first
        memory.unmount("/nas")
        with pytest.raises(KeyError):
            memory.unmount("/nas")

    def test_only_a_directory_can_be_mounted_on(self) -> None:
        memory = MemoryFilesystem()
        memory.add_file("/file")
        with pytest.raises(NotADirectoryError):
            memory.mount_at("/file")

    def test_locates_directories_however_they_are_called(self) -> None:
        memory = MemoryFilesystem()
        memory.add_directory("/a/b")
        memory.add_symlink("/link", "a")
        memory.add_file("/file")
        assert memory.locate("/link/b/..") == memory.locate("/a") != memory.locate("/a/b")
        assert memory.locate("/missing") is memory.locate("/file") is None

    def test_says_what_it_is(self) -> None:
        assert "MemoryFilesystem 0:-" in repr(MemoryFilesystem())


NAMES = ["a", "b", "link", "file", ".", "..", "", "x" * 256]
PATHS = st.lists(st.sampled_from(NAMES), max_size=4).map("/".join)


class TestMemoryAnswersAsTheKernel:
    """Whatever is asked of both, on the same tree, is answered alike."""

    # Deep enough that no `..` leads out of it.
    DEPTH = "1/2/3/4/5"

    @given(st.lists(st.tuples(st.sampled_from(["mkdir", "rmdir", "stat", "lstat"]), PATHS)))
    @example([("mkdir", "link/a"), ("rmdir", "link/"), ("rmdir", "link"), ("lstat", "link/")])
    @example([("mkdir", "a/."), ("rmdir", "a/."), ("mkdir", "a"), ("rmdir", "a/."), ("mkdir", "")])
    @example([("stat", "file/"), ("mkdir", "file/a"), ("lstat", "file/.."), ("rmdir", "a/..")])
    @settings(deadline=None)
    def test_to_any_sequence_of_calls(
        self, tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[str, str]]
    ) -> None:
        root = tmp_path_factory.mktemp("real")
        real, memory = str(root / self.DEPTH), MemoryFilesystem()
        os.makedirs(real)
        memory.add_directory(f"/{self.DEPTH}")
        os.symlink("a", f"{real}/link")
        memory.add_symlink(f"/{self.DEPTH}/link", "a")
        Path(real, "file").touch()
        memory.add_file(f"/{self.DEPTH}/file")
        for name, path in calls:
            by_kernel = errno_of(partial(getattr(os, name), f"{real}/{path}"))
            by_memory = errno_of(partial(getattr(memory, name), f"/{self.DEPTH}/{path}"))
            assert (name, path, by_memory) == (name, path, by_kernel)
        there = sorted(f"/{path.relative_to(root)}" for path in root.rglob("*"))
        assert memory.paths() == there

    @pytest.mark.parametrize("name", ["mkdir", "rmdir", "stat", "lstat"])
    @pytest.mark.parametrize("path", ["", "/", "/.", "/" + "x/" * 2048])
    def test_to_a_special_path(self, name: str, path: str) -> None:
        by_memory = errno_of(partial(getattr(MemoryFilesystem(), name), path))
        assert by_memory == errno_of(partial(getattr(os, name), path))


# What the script says


class TestScript:
    """In plain calls, which is how a worker thread makes them."""

    def test_without_one_everything_works_and_is_recorded(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.mkdir("/a", 0o700)
        filesystem.mkdir(b"/a/b")
        assert stat.S_IMODE(filesystem.stat("/a").st_mode) == 0o700
        assert filesystem.lstat("/a").st_ino == filesystem.stat("/a").st_ino
        assert filesystem.statvfs("/").f_bsize == 4096
        filesystem.rmdir("/a/b")
        with pytest.raises(FileNotFoundError):
            filesystem.rmdir("/a/b")
        filesystem.sleep(100)  # no time passes in memory
        assert done(filesystem) == [
            ("mkdir", "/a", None),
            ("mkdir", b"/a/b", None),
            ("stat", "/a", None),
            ("lstat", "/a", None),
            ("stat", "/a", None),
            ("statvfs", "/", None),
            ("rmdir", "/a/b", None),
            ("rmdir", "/a/b", "ENOENT"),
        ]

    def test_an_errno_is_answered_so_many_times(self) -> None:
        filesystem = FaultyFilesystem()
        rule = filesystem.fail("mkdir", "/a", errno.EBUSY, times=2)
        assert [errno_of(partial(filesystem.mkdir, "/a")) for _ in range(4)] == [
            *("EBUSY", "EBUSY", None, "EEXIST"),
        ]
        assert rule.hits == (("mkdir", "/a"), ("mkdir", "/a"))

    def test_patterns_match_names_and_paths(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.fail("*stat", "/a/*", errno.EACCES, times=float("inf"))
        assert errno_of(partial(filesystem.stat, "/a/b/c")) == "EACCES"
        assert errno_of(partial(filesystem.lstat, b"/a/b")) == "EACCES"
        assert errno_of(partial(filesystem.mkdir, "/a/b")) == "ENOENT"
        assert errno_of(partial(filesystem.stat, "/a")) == "ENOENT"

    def test_errnos_come_one_after_the_other_and_add_up_with_the_rest(self) -> None:
        filesystem = FaultyFilesystem()
        order: list[str] = []
        filesystem.fail("mkdir", "*", errno.EIO)
        filesystem.lose_reply("mkdir", "*", errno.ETIMEDOUT)
        filesystem.interfere("mkdir", "*", partial(order.append, "before"))
        filesystem.interfere("mkdir", "*", partial(order.append, "after"), when="after")
        answers = [errno_of(partial(filesystem.mkdir, "/a")) for _ in range(3)]
        assert answers == ["EIO", "ETIMEDOUT", "EEXIST"]
        assert order == ["before", "after"]

    def test_the_work_is_done_although_the_reply_is_lost(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.lose_reply("mkdir", "/a", errno.EIO)
        with pytest.raises(OSError, match="Input/output error") as caught:
            filesystem.mkdir("/a")
        assert caught.value.filename == "/a"
        assert filesystem.memory.paths() == ["/a"]

    def test_a_reply_is_lost_whatever_it_was(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.lose_reply("rmdir", "/missing", errno.EIO)
        assert errno_of(partial(filesystem.rmdir, "/missing")) == "EIO"

    def test_the_nth_operation_fails(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.mkdir("/a")
        rule = filesystem.fail_nth(2, errno.EIO, operations={"mkdir"})
        answers = [
            errno_of(partial(filesystem.mkdir, "/b")),
            errno_of(partial(filesystem.stat, "/b")),
            errno_of(partial(filesystem.mkdir, "/c")),
            errno_of(partial(filesystem.mkdir, "/c")),
        ]
        assert answers == [None, None, "EIO", None]
        assert rule.hits == (("mkdir", "/c"),)

    def test_the_nth_operation_loses_its_reply(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.fail_nth(1, errno.EIO, lost_reply=True)
        assert errno_of(partial(filesystem.mkdir, "/a")) == "EIO"
        assert filesystem.memory.paths() == ["/a"]

    def test_a_rule_can_be_withdrawn_and_forgotten(self) -> None:
        filesystem = FaultyFilesystem()
        always = filesystem.fail("mkdir", "*", errno.EIO, times=float("inf"))
        assert errno_of(partial(filesystem.mkdir, "/a")) == "EIO"
        always.withdraw()
        assert errno_of(partial(filesystem.mkdir, "/a")) is None
        filesystem.forget(always)
        with pytest.raises(ValueError, match="not in list"):
            filesystem.forget(always)

    def test_an_interference_comes_first_or_after(self) -> None:
        filesystem = FaultyFilesystem()
        memory = filesystem.memory
        filesystem.interfere("mkdir", "/a", partial(memory.mkdir, "/a"))
        filesystem.interfere("mkdir", "/b", partial(memory.rmdir, "/b"), when="after")
        assert errno_of(partial(filesystem.mkdir, "/a")) == "EEXIST"
        assert errno_of(partial(filesystem.mkdir, "/b")) is None
        assert memory.paths() == ["/a"]

    def test_a_delay_takes_its_time(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.delay("mkdir", "/a", 0.05)
        before = time.monotonic()
        filesystem.mkdir("/a")
        filesystem.mkdir("/b")
        assert 0.05 <= time.monotonic() - before < PATIENCE

    @pytest.mark.parametrize(
        ("give", "message"),
        [
            (lambda it: it.fail("mkdir", "*", 5, times=0), "times must be"),
            (lambda it: it.fail("mkdir", "*", 5, times=1.5), "times must be"),
            (lambda it: it.fail_nth(0, 5), "nth must be"),
            (lambda it: it.delay("mkdir", "*", -1), "seconds must be"),
            (lambda it: it.delay("mkdir", "*", float("nan")), "seconds must be"),
            (lambda it: it.hold("mkdir", "*", when="later"), "when must be one of 'before'"),
        ],
        ids=["no times", "half a time", "0th", "negative", "no number", "at no moment"],
    )
    def test_a_rule_that_makes_no_sense_is_refused_at_once(
        self, give: Callable[[FaultyFilesystem], object], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            give(FaultyFilesystem())

    def test_a_rule_says_what_it_is(self) -> None:
        rule: Rule = FaultyFilesystem().hold("mkdir", "/a")
        assert repr(rule) == "<Hold mkdir '/a', 0 of 1 times>"

    def test_the_double_says_what_it_is(self) -> None:
        assert repr(FaultyFilesystem()).startswith("<FaultyFilesystem around <MemoryFilesystem ")


class TestHoldingThreads:
    def test_an_operation_is_held_until_it_is_released(self) -> None:
        filesystem = FaultyFilesystem()
        hold = filesystem.hold("mkdir", "/a")
        with thread(partial(filesystem.mkdir, "/a")):
            trio.run(hold.wait_arrived)
            assert hold.arrived == ("/a",)
            assert filesystem.memory.paths() == []
            assert filesystem.operations == (OperationRecord("mkdir", "/a", answered=False),)
            hold.release()
        assert filesystem.memory.paths() == ["/a"]
        assert filesystem.operations == (OperationRecord("mkdir", "/a"),)

    def test_once_released_it_holds_nothing_any_more(self) -> None:
        filesystem = FaultyFilesystem()
        hold = filesystem.hold("mkdir", "*", times=float("inf"))
        with thread(partial(filesystem.mkdir, "/a")):
            trio.run(hold.wait_arrived)
            hold.release()
            hold.release()
        filesystem.mkdir("/b")

    def test_all_holds_can_be_released_at_once(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.memory.add_directory("/a")
        one, other = filesystem.hold("mkdir", "/a/a"), filesystem.hold("mkdir", "/b")
        with thread(partial(filesystem.mkdir, "/a/a")), thread(partial(filesystem.mkdir, "/b")):
            trio.run(one.wait_arrived)
            trio.run(other.wait_arrived)
            filesystem.release_all()

    def test_waits_until_so_many_have_arrived(self) -> None:
        filesystem = FaultyFilesystem()
        hold = filesystem.hold("stat", "*", times=2)
        with thread(partial(filesystem.stat, "/")):
            trio.run(hold.wait_arrived)
            with thread(partial(filesystem.stat, "/")):
                trio.run(hold.wait_arrived, 2)
                hold.release()

    @pytest.mark.parametrize("when", ["inside", "after"])
    @pytest.mark.parametrize(
        "waits",
        ["stat /a/b", "lstat /a/b", "stat /link/b", "mkdir /a/c", "rmdir /a", "rmdir /a/b"],
    )
    def test_as_in_the_kernel_others_wait_for_its_directory(self, waits: str, when: When) -> None:
        # Above all nobody finds a directory whose mkdir has not returned.
        filesystem = FaultyFilesystem()
        filesystem.memory.add_directory("/a")
        filesystem.memory.add_symlink("/link", "a")
        hold = filesystem.hold("mkdir", "/a/b", when=when)
        name, path = waits.split()
        returned = threading.Event()

        def wait() -> None:
            errno_of(partial(getattr(filesystem, name), path))
            returned.set()

        with thread(partial(filesystem.mkdir, "/a/b")):
            trio.run(hold.wait_arrived)
            with thread(wait):
                # Whoever does not wait for the lock comes to this soon.
                assert not returned.wait(0.02)
                assert [each.answered for each in filesystem.operations] == [False, False]
                hold.release()

    @pytest.mark.parametrize("goes_on", ["stat /a", "stat /c", "mkdir /d", "rmdir /c"])
    def test_elsewhere_everybody_goes_on(self, goes_on: str) -> None:
        filesystem = FaultyFilesystem()
        for path in ("/a", "/c"):
            filesystem.memory.add_directory(path)
        hold = filesystem.hold("mkdir", "/a/b")
        name, path = goes_on.split()
        with thread(partial(filesystem.mkdir, "/a/b")):
            trio.run(hold.wait_arrived)
            getattr(filesystem, name)(path)
            hold.release()

    def test_a_held_rmdir_holds_what_it_removes(self) -> None:
        filesystem = FaultyFilesystem()
        filesystem.memory.add_directory("/a")
        hold = filesystem.hold("rmdir", "/a")
        answers: list[str | None] = []
        with thread(partial(filesystem.rmdir, "/a")):
            trio.run(hold.wait_arrived)
            with thread(lambda: answers.append(errno_of(partial(filesystem.mkdir, "/a/b")))):
                hold.release()
        # Whoever was first: nothing was made in a directory that is gone.
        assert filesystem.memory.paths() == ["/a", "/a/b"] * (answers == [None])

    def test_before_it_asks_the_kernel_it_is_in_nobodys_way(self) -> None:
        filesystem = FaultyFilesystem()
        hold = filesystem.hold("mkdir", "/a", when="before")
        answers: list[str | None] = []
        with thread(lambda: answers.append(errno_of(partial(filesystem.mkdir, "/a")))):
            trio.run(hold.wait_arrived)
            filesystem.mkdir("/a")
            hold.release()
        assert answers == ["EEXIST"]


# Around the real filesystem


class TestWrapped:
    def test_does_what_the_real_one_does(self, tmp_path: Path) -> None:
        filesystem = FaultyFilesystem.wrap()
        made = str(tmp_path / "made")
        filesystem.mkdir(made, 0o700)
        assert stat.S_IMODE(os.stat(made).st_mode) == 0o700
        assert filesystem.stat(made) == os.stat(made)
        assert filesystem.lstat(made) == os.lstat(made)
        assert filesystem.statvfs(made).f_bsize == os.statvfs(made).f_bsize
        filesystem.rmdir(made)
        assert not os.path.exists(made)
        filesystem.sleep(0)

    def test_is_not_in_memory(self) -> None:
        with pytest.raises(RuntimeError, match="not in memory"):
            FaultyFilesystem.wrap().memory  # noqa: B018

    def test_can_be_around_a_tree_that_one_has(self) -> None:
        memory = MemoryFilesystem(umask=0)
        assert FaultyFilesystem.wrap(memory).memory is memory

    def test_obeys_its_script(self, tmp_path: Path) -> None:
        filesystem = FaultyFilesystem.wrap()
        filesystem.fail("mkdir", f"{tmp_path}/*", errno.EROFS)
        assert errno_of(partial(filesystem.mkdir, f"{tmp_path}/a")) == "EROFS"
        assert errno_of(partial(filesystem.mkdir, f"{tmp_path}/a")) is None

    def test_a_link_to_a_locked_directory_is_locked_too(self, tmp_path: Path) -> None:
        filesystem = FaultyFilesystem.wrap()
        (tmp_path / "a").mkdir()
        (tmp_path / "link").symlink_to("a")
        hold = filesystem.hold("mkdir", "*/a/b", when="after")
        with thread(partial(filesystem.mkdir, str(tmp_path / "a/b"))):
            trio.run(hold.wait_arrived)
            found = threading.Event()

            def look() -> None:
                filesystem.stat(str(tmp_path / "link/b"))
                found.set()

            with thread(look):
                assert not found.wait(0.02)
                hold.release()

    def test_its_mounts_are_the_real_ones_and_those_that_it_is_told(self, tmp_path: Path) -> None:
        filesystem = FaultyFilesystem.wrap()
        real = registry.operating_system.mount(str(tmp_path))
        assert filesystem.mount(str(tmp_path)) == real
        nas = filesystem.mount_at(tmp_path / "nas", source="nas:/export")
        assert filesystem.mount(f"{tmp_path}/nas/a/b") == nas != real
        assert filesystem.mount(f"{tmp_path}/nasty") == real
        filesystem.unmount(f"{tmp_path}/nas")
        assert filesystem.mount(f"{tmp_path}/nas/a/b") == real


# In the library's hands

Make = Callable[[], FaultyFilesystem]
WITH_AND_WITHOUT_THREADS = [True, False]


@pytest.fixture(params=WITH_AND_WITHOUT_THREADS, ids=["threads", "no threads"])
def filesystem(request: pytest.FixtureRequest) -> Iterator[FaultyFilesystem]:
    filesystem = FaultyFilesystem(threads=request.param)
    yield filesystem
    filesystem.release_all()


@pytest.fixture
def without_threads() -> FaultyFilesystem:
    return FaultyFilesystem(threads=False)


async def test_the_library_makes_directories_in_it(filesystem: FaultyFilesystem) -> None:
    policy = Policy(filesystem=filesystem)
    report = await makedirs("/a/b", 0o700, policy=policy)
    assert report.created == ("/a", "/a/b")
    assert filesystem.memory.paths() == ["/a", "/a/b"]
    assert stat.S_IMODE(filesystem.memory.stat("/a/b").st_mode) == 0o700
    assert [each for each in done(filesystem) if each[0] == "mkdir"] == [
        ("mkdir", "/a/b", "ENOENT"),
        ("mkdir", "/a", None),
        ("mkdir", "/a/b", None),
    ]


async def test_an_errno_comes_out_of_the_library(filesystem: FaultyFilesystem) -> None:
    filesystem.fail("mkdir", "/a/b", errno.EROFS)
    with pytest.raises(OSError, match="Read-only") as caught:
        await makedirs("/a/b", policy=Policy(filesystem=filesystem))
    assert (caught.value.errno, caught.value.filename) == (errno.EROFS, "/a/b")
    assert filesystem.memory.paths() == []


@pytest.mark.parametrize("when", ["before", "inside", "after"])
async def test_what_is_held_when_its_call_is_cancelled_is_undone_once_it_returns(
    filesystem: FaultyFilesystem, when: When
) -> None:
    hold = filesystem.hold("mkdir", "/a", when=when)
    policy = Policy(filesystem=filesystem, rollback_timeout=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs, "/a", policy=policy))
        await hold.wait_arrived()
        nursery.cancel_scope.cancel()
    owed = trio_mkdir.pending_rollbacks()
    assert [(debt.operation, debt.path) for debt in owed] == [("mkdir", "/a")]
    hold.release()
    with trio.fail_after(PATIENCE):
        await trio_mkdir.wait_settled()
    assert filesystem.memory.paths() == []


async def test_nobody_finds_what_has_not_returned(filesystem: FaultyFilesystem) -> None:
    hold = filesystem.hold("mkdir", "/a", when="after")
    policy = Policy(filesystem=filesystem)
    order = []

    async def make(path: str) -> None:
        await makedirs(path, exist_ok=True, policy=policy)
        order.append(path)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, "/a")
        await hold.wait_arrived()
        nursery.start_soon(make, "/a/")
        await wait_all_tasks_blocked(0.02)
        assert order == []
        assert filesystem.memory.paths() == ["/a"]
        hold.release()
    assert filesystem.memory.paths() == ["/a"]


async def test_a_mount_that_vanishes_is_noticed(filesystem: FaultyFilesystem) -> None:
    filesystem.memory.add_directory("/nas")
    filesystem.mount_at("/nas", type="fuse.sshfs")
    filesystem.fail("mkdir", "/nas/a/b", errno.EBUSY)
    filesystem.interfere("mkdir", "/nas/a/b", partial(filesystem.unmount, "/nas"), when="after")
    with pytest.raises(MkdirError) as caught:
        await mkdir("/nas/a/b", policy=Policy(filesystem=filesystem))
    assert caught.value.root_cause is RootCause.DISCONNECTED
    assert filesystem.memory.paths() == ["/nas"]


async def test_rules_add_up() -> None:
    # As docs/testing.md shows it.
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/srv")
    filesystem.fail("mkdir", "/srv/a/*", errno.EBUSY, times=2)
    filesystem.delay("rmdir", "*", 0.1)
    hung = filesystem.hold("mkdir", "/srv/a/b/c", when="after")
    policy = trio_mkdir.Policy(filesystem=filesystem, rollback_timeout=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_mkdir.makedirs, "/srv/a/b/c", policy=policy))
        await hung.wait_arrived()
        nursery.cancel_scope.cancel()
    assert [debt.path for debt in trio_mkdir.pending_rollbacks()][:1] == ["/srv/a/b/c"]
    hung.release()
    await trio_mkdir.wait_settled()
    assert filesystem.memory.paths() == ["/srv"]


class TestWithoutThreads:
    async def test_no_thread_is_started(
        self, without_threads: FaultyFilesystem, autojump_clock: MockClock
    ) -> None:
        before = threading.active_count()
        await makedirs("/a/b/c", policy=Policy(filesystem=without_threads))
        assert threading.active_count() <= before

    async def test_not_even_debts_are_paid_in_a_thread(
        self, without_threads: FaultyFilesystem, autojump_clock: MockClock
    ) -> None:
        threads: set[str] = set()

        def remember() -> None:
            threads.add(threading.current_thread().name)

        without_threads.interfere("*", "*", remember, times=float("inf"))
        without_threads.delay("*", "*", 0.1)
        policy = Policy(filesystem=without_threads, rollback_timeout=0)
        for deadline in range(1, 30):
            with trio.move_on_after(deadline * 0.05):
                async with trio_mkdir.open_rollback_nursery(policy=policy) as nursery:
                    nursery.start_soon(nursery.makedirs, "/a/b")
                    nursery.start_soon(nursery.makedirs, "/a/c/d")
                    await trio.sleep_forever()
            await trio_mkdir.wait_settled()
            assert without_threads.memory.paths() == []
        assert threads == {threading.current_thread().name}

    async def test_every_operation_is_a_checkpoint(
        self, without_threads: FaultyFilesystem, autojump_clock: MockClock
    ) -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            for beats in itertools.count():  # noqa: B007
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            await makedirs("/a/b/c", policy=Policy(filesystem=without_threads))
            nursery.cancel_scope.cancel()
        assert beats >= len(without_threads.operations)

    @pytest.mark.parametrize("when", ["before", "inside", "after"])
    async def test_delays_pass_by_trios_clock(
        self, without_threads: FaultyFilesystem, autojump_clock: MockClock, when: When
    ) -> None:
        without_threads.delay("mkdir", "*", 100, when=when)
        policy = Policy(filesystem=without_threads, step_timeout=1000)
        before, by_the_wall = trio.current_time(), time.monotonic()
        await makedirs("/a/b", policy=policy)
        assert trio.current_time() - before == pytest.approx(300)
        assert time.monotonic() - by_the_wall < PATIENCE

    async def test_a_step_times_out_by_trios_clock(
        self, without_threads: FaultyFilesystem, autojump_clock: MockClock
    ) -> None:
        hold = without_threads.hold("mkdir", "/a")
        policy = Policy(filesystem=without_threads, step_timeout=5, retries={})
        before = trio.current_time()
        with pytest.raises(StepTimeout):
            await mkdir("/a", policy=policy)
        assert trio.current_time() - before == pytest.approx(5 + policy.rollback_timeout)
        hold.release()
        await trio_mkdir.wait_settled()
        assert without_threads.memory.paths() == []

    async def test_sleeps_between_two_attempts_at_undoing_pass_by_trios_clock(
        self, without_threads: FaultyFilesystem, autojump_clock: MockClock
    ) -> None:
        without_threads.fail_nth(3, errno.EROFS, operations={"mkdir"})
        without_threads.fail("rmdir", "/a", errno.EBUSY, times=3)
        before = trio.current_time()
        with pytest.raises(OSError, match="Read-only"):
            await makedirs("/a/b", policy=Policy(filesystem=without_threads))
        assert trio.current_time() - before == pytest.approx(0.31)
        assert without_threads.memory.paths() == []

    @pytest.mark.parametrize("mode", [0o700, 0o777, 0o1770])
    async def test_a_mode_is_right_once_mkdir_has_returned(
        self, without_threads: FaultyFilesystem, autojump_clock: MockClock, mode: int
    ) -> None:
        without_threads.delay("mkdir", "*", 1, when="after")
        await mkdir("/a", mode, policy=Policy(filesystem=without_threads))
        made = stat.S_IMODE(without_threads.memory.stat("/a").st_mode)
        assert made == mode & ~0o022

    async def test_a_mode_is_right_on_the_real_filesystem_too(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        filesystem = FaultyFilesystem.wrap(threads=False)
        filesystem.delay("mkdir", "*", 1, when="after")
        (tmp_path / "parent").mkdir()
        (tmp_path / "parent").chmod(0o2777)
        for mode in (0o750, 0o1777):
            (tmp_path / f"parent/by kernel {mode:o}").mkdir(mode)
            made = tmp_path / f"parent/by us {mode:o}"
            await mkdir(made, mode, policy=Policy(filesystem=filesystem))
            assert made.stat().st_mode == (tmp_path / f"parent/by kernel {mode:o}").stat().st_mode

    def test_what_is_in_progress_when_trio_ends_is_carried_out_at_once(self) -> None:
        # As by a thread that outlives trio.run; here somebody has to do it before.
        filesystem = FaultyFilesystem(threads=False)
        policy = Policy(filesystem=filesystem, rollback_timeout=0)

        async def leave_behind(when: When) -> None:
            path = f"/{when}"
            hold = filesystem.hold("mkdir", path, when=when)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(mkdir, path, policy=policy))
                await hold.wait_arrived()
                nursery.cancel_scope.cancel()

        for when in get_args(When):
            trio.run(leave_behind, when)
            assert trio_mkdir.pending_rollbacks() == ()
            assert filesystem.memory.paths() == []

    def test_a_plain_call_waits_for_nothing(self) -> None:
        filesystem = FaultyFilesystem(threads=False)
        filesystem.hold("mkdir", "*")
        filesystem.delay("mkdir", "*", 1000)
        filesystem.mkdir("/a")
        filesystem.sleep(1000)
        assert filesystem.memory.paths() == ["/a"]

    async def test_others_wait_for_a_directory_that_is_locked(
        self, without_threads: FaultyFilesystem, autojump_clock: MockClock
    ) -> None:
        without_threads.memory.add_directory("/a")
        without_threads.delay("mkdir", "/a/b", 10)
        policy = Policy(filesystem=without_threads, step_timeout=100)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(mkdir, "/a/b", policy=policy))
            await wait_all_tasks_blocked()
            await mkdir("/a/c", policy=policy)
            assert trio.current_time() - before == pytest.approx(10)


class TestPerforming:
    """Operations that are not the library's, in the same script and record."""

    async def test_an_operation_of_ones_own_is_recorded_and_returns(
        self, autojump_clock: MockClock
    ) -> None:
        filesystem = FaultyFilesystem(threads=False)
        files: dict[str, bytes] = {}

        async def write(path: str, data: bytes) -> int:
            files[path] = data
            return len(data)

        assert await filesystem.perform("write", "/a", write, "/a", b"data") == 4
        filesystem.fail("write", "/b", errno.ENOSPC)
        filesystem.lose_reply("write", "/c", errno.EIO)
        filesystem.delay("write", "/d", 10)
        filesystem.delay("write", "/d", 20, when="after")
        called: list[str] = []
        filesystem.interfere("write", "/d", partial(called.append, "before"))
        filesystem.interfere("write", "/d", partial(called.append, "after"), when="after")
        with pytest.raises(OSError, match="No space left"):
            await filesystem.perform("write", "/b", write, "/b", b"data")
        with pytest.raises(OSError, match="Input/output error"):
            await filesystem.perform("write", "/c", write, "/c", b"data")
        before = trio.current_time()
        await filesystem.perform("write", "/d", write, "/d", b"data")
        assert trio.current_time() - before == pytest.approx(30)
        assert called == ["before", "after"]
        assert list(files) == ["/a", "/c", "/d"]
        assert done(filesystem) == [
            ("write", "/a", None),
            ("write", "/b", "ENOSPC"),
            ("write", "/c", "EIO"),
            ("write", "/d", None),
        ]

    async def test_what_it_raises_is_recorded(self) -> None:
        filesystem = FaultyFilesystem()

        async def fail() -> None:
            raise FileExistsError(errno.EEXIST, "there")

        with pytest.raises(FileExistsError):
            await filesystem.perform("rename", "/a", fail)
        assert done(filesystem) == [("rename", "/a", "EEXIST")]

    async def test_one_that_is_cancelled_stays_unanswered(self, autojump_clock: MockClock) -> None:
        filesystem = FaultyFilesystem()
        with trio.move_on_after(1):
            await filesystem.perform("write", "/a", trio.sleep_forever)
        assert filesystem.operations == (OperationRecord("write", "/a", answered=False),)
