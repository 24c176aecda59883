"""The faults themselves: each fixture makes the kernel give the answer that it promises."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from filesystems.faults import ControlGroup, MortalMount, Quota
from filesystems.frozen import FreezableMount
from filesystems.mounts import MountPoint, mount_table
from filesystems.needs import REQUIRE_FAULTS, unavailable
from filesystems.processes import AnotherUser
from filesystems.stuck import stuck_threads, wait_stuck
from filesystems.waiting import PATIENCE


def answer(path: Path) -> int:
    """The kernel's answer to a mkdir(2)."""
    try:
        os.mkdir(path)
    except OSError as error:
        return error.errno or -1
    return 0


def test_a_frozen_filesystem_keeps_mkdir_asleep_until_it_is_thawed(
    freezable: FreezableMount,
) -> None:
    thread = threading.Thread(target=os.mkdir, args=[freezable.path / "new"], daemon=True)
    freezable.freeze()
    thread.start()
    wait_stuck()
    assert not (freezable.path / "new").exists()
    freezable.thaw()
    thread.join(PATIENCE)
    assert (freezable.path / "new").exists()
    assert stuck_threads() == []


def test_a_tmpfs_with_four_inodes_is_full_at_the_fourth_directory(no_space: Path) -> None:
    assert [answer(no_space / str(number)) for number in range(4)] == [0, 0, 0, errno.ENOSPC]


def test_a_btrfs_quota_that_is_used_up_refuses_directories(no_quota: Quota) -> None:
    assert answer(no_quota.path / "new") == errno.EDQUOT
    no_quota.lift()
    assert answer(no_quota.path / "new") == 0


def test_a_read_only_filesystem_refuses_directories_and_says_which_stand(read_only: Path) -> None:
    assert answer(read_only / "new") == errno.EROFS
    assert answer(read_only / "there/deep") == errno.EEXIST


def test_an_immutable_directory_refuses_directories(immutable: Path) -> None:
    assert answer(immutable / "new") == errno.EPERM


def test_a_directory_with_too_many_links_refuses_directories(too_many_links: Path) -> None:
    assert answer(too_many_links / "new") == errno.EMLINK


def test_a_filesystem_that_was_shut_down_answers_with_an_io_error(mortal: MortalMount) -> None:
    assert answer(mortal.path / "before") == 0
    mortal.shut_down()
    assert answer(mortal.path / "after") == errno.EIO


def test_a_cgroup_that_may_have_no_descendants_says_try_again(
    no_descendants: ControlGroup,
) -> None:
    assert answer(no_descendants.path / "new") == errno.EAGAIN
    no_descendants.allow("max")
    assert answer(no_descendants.path / "new") == 0


def test_a_mount_that_vanishes_uncovers_the_disk(vanishing_mount: MountPoint) -> None:
    (vanishing_mount.path / "on-the-mount").mkdir()
    assert vanishing_mount.beneath() == []
    vanishing_mount.vanish()
    assert not vanishing_mount.is_mounted()
    (vanishing_mount.path / "on-the-disk").mkdir()
    assert vanishing_mount.beneath() == ["on-the-disk"]


def test_another_user_may_not_write_where_only_root_may(
    as_user: AnotherUser, scratch: Path
) -> None:
    snippet = (
        "try: os.mkdir(sys.argv[1])\nexcept OSError as error: print(error.errno, os.geteuid())"
    )
    said = as_user.run(snippet, str(scratch / "new")).split()
    assert said == [str(errno.EACCES), str(as_user.uid)]


def test_a_process_at_its_limit_starts_no_thread(without_new_threads: AnotherUser) -> None:
    snippet = """
thread = threading.Thread(target=print, args=["started"])
try: thread.start()
except RuntimeError as error: print(error)
allow_threads()
thread = threading.Thread(target=print, args=["started"])
thread.start()
thread.join()
"""
    assert without_new_threads.run(snippet).splitlines() == ["can't start new thread", "started"]


def test_a_missing_requirement_skips_the_test_or_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE_FAULTS, raising=False)
    with pytest.raises(pytest.skip.Exception, match="a horse"):
        unavailable("needs a horse")
    monkeypatch.setenv(REQUIRE_FAULTS, "1")
    with pytest.raises(pytest.fail.Exception, match="a horse"):
        unavailable("needs a horse")


def test_every_mount_is_listed_with_its_type(tmpfs: Path) -> None:
    assert [mount.fstype for mount in mount_table() if mount.path == tmpfs] == ["tmpfs"]
