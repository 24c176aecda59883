"""Disks that lose their power: what is on them then is told by a copy of the image.

The copy is made while the filesystem is mounted and nobody has asked for a sync. It has what the
filesystem has given to its device by then, and nothing of what it still has in memory; so has a
disk that keeps nothing back. The copy is repaired, as after a power cut, and mounted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .loop import FilesystemType, loop_mount
from .mounts import MountPoint, mount_point
from .needs import needs_program
from .programs import run


class Kind(NamedTuple):
    """A filesystem, so that nothing but fsync(2) has it write anything within a test."""

    name: str
    fstype: FilesystemType
    mkfs: tuple[str, ...] = ()
    options: str = "loop"
    again: str = "loop"
    """The options for the copy, which is mounted beside the original."""

    @property
    def journals(self) -> bool:
        """Whether one fsync(2) can write all that was done before it."""
        return self.fstype in {"xfs", "btrfs"} or self.name == "ext4"


#: So that none gets to the disk with another.
_ONE_INODE_A_BLOCK = ("-b", "1024", "-I", "1024")

KINDS = (
    Kind("ext2", "ext2", _ONE_INODE_A_BLOCK),
    Kind("ext4 without a journal", "ext4", ("-O", "^has_journal", *_ONE_INODE_A_BLOCK)),
    Kind("ext4", "ext4", options="loop,commit=600"),
    Kind("xfs", "xfs", again="loop,nouuid"),
    Kind("btrfs", "btrfs", options="loop,commit=600"),
)


class Disk:
    """A mounted filesystem, at ``path``, that can lose its power as often as one likes."""

    def __init__(self, kind: Kind, point: MountPoint) -> None:
        self.kind = kind
        self.path = point.path
        self._home = point.path.parent
        self._copies = 0
        self._directories = 0

    def new_directory(self) -> Path:
        """A directory that is on the disk, for one test."""
        self._directories += 1
        path = self.path / str(self._directories)
        path.mkdir()
        run("sync", "--file-system", str(path))
        return path

    def after_power_cut(self, directory: Path) -> list[str]:
        """What is below *directory* when the power is back, by relative paths, sorted."""
        self._copies += 1
        copy = self._home / f"copy{self._copies}"
        run("cp", "--sparse=always", "--reflink=never", str(self._home / "image"), str(copy))
        try:
            if not self.kind.journals:
                _repair(copy)
            with mount_point(self._home / f"mnt{self._copies}") as point:
                point.mount(self.kind.fstype, str(copy), self.kind.again)
                there = point.path / directory.relative_to(self.path)
                return sorted(str(path.relative_to(there)) for path in there.rglob("*"))
        finally:
            copy.unlink()


def _repair(image: Path) -> None:
    """As at a boot after a power cut; it says with 1 that there was something to repair."""
    command = [needs_program("e2fsck"), "-f", "-y", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")


@contextmanager
def disk(directory: Path, kind: Kind) -> Iterator[Disk]:
    """Make a filesystem of this kind and mount it."""
    with loop_mount(directory, kind.fstype, None, kind.mkfs, options=kind.options) as point:
        yield Disk(kind, point)
