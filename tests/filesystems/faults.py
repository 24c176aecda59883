"""Filesystems that answer mkdir(2) with an error, each by a fault of its own."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .loop import loop_mount
from .mounts import MountPoint, mount_table, tmpfs_mount
from .needs import needs_program, needs_root, unavailable
from .programs import run, run_or_unavailable
from .waiting import wait_until

#: What a directory of an ext2 can be told to have; mkdir(2) refuses more than 32000.
_MANY_LINKS = 65000


@contextmanager
def no_space(directory: Path) -> Iterator[MountPoint]:
    """ENOSPC: a tmpfs with inodes for its root and three more."""
    with tmpfs_mount(directory, "mode=755,nr_inodes=4") as point:
        yield point


@contextmanager
def read_only(directory: Path) -> Iterator[MountPoint]:
    """EROFS: a tmpfs that was made read-only when ``there/deep`` stood on it."""
    with tmpfs_mount(directory) as point:
        (point.path / "there/deep").mkdir(parents=True)
        run_or_unavailable("mount", "-o", "remount,ro", str(point.path))
        yield point


class Quota:
    """A subvolume of a btrfs whose quota is used up."""

    def __init__(self, top: Path) -> None:
        self.path = top / "limited"
        self._top = top

    def lift(self) -> None:
        """Let it have as much as it likes."""
        # From above: even this is refused within what is used up.
        run("btrfs", "qgroup", "limit", "none", self._group, str(self._top))

    def limit(self) -> None:
        """Refuse any further directory."""
        run("btrfs", "qgroup", "limit", "16k", self._group, str(self._top))

    @property
    def _group(self) -> str:
        return "0/" + run("btrfs", "inspect-internal", "rootid", str(self.path)).strip()


@contextmanager
def no_quota(directory: Path) -> Iterator[Quota]:
    """EDQUOT: a btrfs subvolume with a qgroup limit below what a directory takes."""
    needs_program("btrfs")
    with loop_mount(directory, "btrfs") as point:
        quota = Quota(point.path)
        run_or_unavailable("btrfs", "quota", "enable", str(point.path))
        run("btrfs", "subvolume", "create", str(quota.path))
        quota.limit()
        yield quota


@contextmanager
def immutable(path: Path) -> Iterator[Path]:
    """EPERM: a new directory at *path* that not even root may change."""
    needs_root()
    needs_program("chattr")
    path.mkdir()
    try:
        run_or_unavailable("chattr", "+i", str(path))
        yield path
    finally:
        run("chattr", "-i", str(path))
        path.rmdir()


@contextmanager
def too_many_links(directory: Path) -> Iterator[Path]:
    """EMLINK: a directory on an ext2 that believes to have as many subdirectories as it can."""
    needs_program("debugfs")

    def prepare(image: Path) -> None:
        run("debugfs", "-w", "-R", "mkdir /full", str(image))
        run("debugfs", "-w", "-R", f"sif /full links_count {_MANY_LINKS}", str(image))

    with loop_mount(directory, "ext2", prepare=prepare) as point:
        yield point.path / "full"


class MortalMount:
    """A mounted ext4 that can be shut down for good, as if its disk had been pulled out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def shut_down(self) -> None:
        """From now on every change is answered with EIO."""
        run_or_unavailable("xfs_io", "-x", "-c", "shutdown", str(self.path))


@contextmanager
def mortal(directory: Path) -> Iterator[MortalMount]:
    """EIO: an ext4 that can be shut down."""
    needs_program("xfs_io")
    with loop_mount(directory, "ext4") as point:
        yield MortalMount(point.path)


class ControlGroup:
    """A cgroup of its own that may have no children at first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def allow(self, descendants: int | str) -> None:
        """Let it have so many descendants, or "max"."""
        (self.path / "cgroup.max.descendants").write_text(str(descendants))

    def close(self) -> None:
        """Remove it with all that is in it; the kernel lets go of the emptied ones bit by bit."""
        for directory, names, _ in os.walk(self.path, topdown=False):
            for name in names:
                os.rmdir(os.path.join(directory, name))
        wait_until(self._removed)

    def _removed(self) -> bool:
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True


@contextmanager
def no_descendants() -> Iterator[ControlGroup]:
    """EAGAIN: a control group of version 2 with ``cgroup.max.descendants`` of 0."""
    needs_root()
    mounts = [mount.path for mount in mount_table() if mount.fstype == "cgroup2"]
    if not mounts:
        unavailable("needs cgroup2 mounted")
    try:
        path = Path(tempfile.mkdtemp(prefix="trio-mkdir-tests-", dir=mounts[-1]))
    except OSError as error:
        unavailable(f"needs a cgroup2 that can be written to: {error}")
    group = ControlGroup(path)
    try:
        group.allow(0)
        yield group
    finally:
        group.close()
