"""Filesystems in image files, to be frozen, filled and broken without harm to others."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from .mounts import MountPoint, mount_point
from .needs import needs_device, needs_program, needs_root
from .programs import ProgramFailed, run

FilesystemType = Literal["ext2", "ext4", "xfs", "btrfs"]

_MIB = 1 << 20

#: The smallest sizes that the mkfs programs take, with some room. The images are sparse, so that
#: size costs nothing.
_SIZES = {"ext2": 8 * _MIB, "ext4": 16 * _MIB, "xfs": 320 * _MIB, "btrfs": 128 * _MIB}

_QUIETLY = {"ext2": ["-q", "-F"], "ext4": ["-q", "-F"], "xfs": ["-q", "-f"], "btrfs": ["-q", "-f"]}

#: How long the kernel may take to let go of a loop device after its filesystem was unmounted.
_DETACH_WITHIN = 5.0


@contextmanager
def loop_mount(
    directory: Path,
    fstype: FilesystemType,
    size: int | None = None,
    mkfs_options: Sequence[str] = (),
    *,
    prepare: Callable[[Path], None] | None = None,
    options: str = "loop",
) -> Iterator[MountPoint]:
    """Make a filesystem in an image file in *directory*, and mount it beside the image.

    *prepare* is given the image before it is mounted, which is the time to write into it what no
    system call can.
    """
    needs_root()
    needs_device("/dev/loop-control")
    needs_program(f"mkfs.{fstype}")
    home = Path(tempfile.mkdtemp(prefix=f"{fstype}-", dir=directory))
    home.chmod(0o755)
    image = home / "image"
    with image.open("wb") as file:
        file.truncate(size or _SIZES[fstype])
    run(f"mkfs.{fstype}", *_QUIETLY[fstype], *mkfs_options, str(image))
    if prepare is not None:
        prepare(image)
    try:
        with mount_point(home / "mnt") as point:
            point.mount(fstype, str(image), options)
            yield point
    finally:
        _detach(image)
        image.unlink()


def loop_devices(image: Path) -> list[str]:
    """Return the loop devices that lie on an image."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # a device that goes away while it is looked at
            if backing.read_text().rstrip("\n") == str(image):
                found.append(f"/dev/{backing.parent.parent.name}")
    return found


def _detach(image: Path) -> None:
    """See the loop device off: the kernel frees it a little later than umount returns."""
    deadline = time.monotonic() + _DETACH_WITHIN
    while loop_devices(image):
        if time.monotonic() > deadline:
            for device in loop_devices(image):
                with suppress(ProgramFailed):
                    run("losetup", "--detach", device)
            return
        time.sleep(0.005)
