"""Mount, unmount, and look beneath.

Unmounting asks the kernel directly. The program umount(8) first looks at the mount point, and that
look never returns where the filesystem has stopped to answer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .programs import run_or_unavailable
from .watchdog import Watchdog

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


class MountInfo(NamedTuple):
    """One line of ``/proc/self/mountinfo``, as far as it is needed here."""

    path: Path
    fstype: str
    device: str  # "major:minor"


def mount_table() -> list[MountInfo]:
    """Return what is mounted, oldest first, without touching any mount."""
    table = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        # Blanks and backslashes are written in octal.
        path = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        table.append(MountInfo(Path(path), after.split(" ", 1)[0], fields[2]))
    return table


def _umount2(path: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), flags | _UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def unmount_all(path: Path, *, lazily: bool = False) -> None:
    """Unmount all that is on *path*, or take it out of the tree if somebody still uses it."""
    while any(mount.path == path for mount in mount_table()):
        try:
            _umount2(path, _MNT_DETACH if lazily else 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                continue  # somebody else was faster
            if error.errno != errno.EBUSY or lazily:
                raise
            lazily = True


class MountPoint:
    """A directory on the disk to mount something on, and to look at beneath what is mounted."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        path.chmod(0o755)
        self.path = path.resolve()
        # A descriptor opened before the mount goes on showing the directory that the mount covers.
        self._disk = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def mount(self, fstype: str, source: str = "none", options: str = "") -> None:
        """Mount something here; a kernel that cannot is a reason to skip the test."""
        option_args = ["-o", options] if options else []
        run_or_unavailable("mount", "-t", fstype, *option_args, source, str(self.path))

    def info(self) -> MountInfo:
        """Return what is mounted here."""
        for mount in reversed(mount_table()):
            if mount.path == self.path:
                return mount
        raise RuntimeError(f"nothing is mounted on {self.path}")

    def is_mounted(self) -> bool:
        """Whether something is mounted here."""
        return any(mount.path == self.path for mount in mount_table())

    def beneath(self) -> list[str]:
        """Return the relative paths of all that lies on the disk beneath the mount, sorted."""
        found = []
        for directory, names, files, _ in os.fwalk(".", dir_fd=self._disk):
            found += [os.path.normpath(os.path.join(directory, name)) for name in (*names, *files)]
        return sorted(found)

    def vanish(self) -> None:
        """Take the mount out of the tree, whoever uses it, as a dead network mount disappears."""
        unmount_all(self.path, lazily=True)

    def close(self) -> None:
        """Unmount for good."""
        unmount_all(self.path)
        os.close(self._disk)


@contextmanager
def mount_point(path: Path) -> Iterator[MountPoint]:
    """Make a mount point, and unmount what is on it, also when the test process is killed."""
    point = MountPoint(path)
    watchdog = Watchdog(["umount", "--lazy", "--no-canonicalize", str(point.path)])
    try:
        yield point
    finally:
        point.close()
        watchdog.call_off()


@contextmanager
def tmpfs_mount(directory: Path, options: str = "mode=755") -> Iterator[MountPoint]:
    """Mount a tmpfs on a new directory in *directory*."""
    home = Path(tempfile.mkdtemp(prefix="tmpfs-", dir=directory))
    home.chmod(0o755)
    with mount_point(home / "mnt") as point:
        point.mount("tmpfs", options=options)
        yield point


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Make a directory that every user may traverse, and remove it.

    pytest's ``tmp_path`` lies below a directory of mode 0700, where another user gets EACCES
    whatever the test does.
    """
    path = Path(tempfile.mkdtemp(prefix="trio-mkdir-tests-")).resolve()
    path.chmod(0o755)
    try:
        yield path
    finally:
        # Removing a tree that still has a mount in it would empty the mount, or never return.
        for mount in reversed(mount_table()):
            if path in mount.path.parents:
                unmount_all(mount.path, lazily=True)
        shutil.rmtree(path)
