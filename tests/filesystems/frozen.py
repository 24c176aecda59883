"""A filesystem on which every change waits.

While it is frozen, mkdir(2) sleeps uninterruptibly.
It is the plainest way to a stuck system call: no server is needed, and nothing but a thaw ends it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .loop import FilesystemType, loop_mount
from .needs import needs_root
from .watchdog import Watchdog

_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878

_THAW = f"import fcntl, sys; fcntl.ioctl(int(sys.argv[1]), {_FITHAW}, 0)"


class ThawedByWatchdog(RuntimeError):
    """The failsafe had to thaw the filesystem, so that what the test saw proves nothing."""


class FreezableMount:
    """A mounted filesystem that can be frozen and thawed.

    While it is frozen a second process waits to thaw it: after *failsafe* seconds, or as soon as
    the test process dies.
    """

    def __init__(self, path: Path, *, failsafe: float) -> None:
        self.path = path
        self._failsafe = failsafe
        # Opened beforehand: thawing must not depend on what a path means by then, nor on the mount
        # being in the tree.
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.fstat(self._root).st_dev in {os.stat("/").st_dev, os.stat(path.parent).st_dev}:
            os.close(self._root)
            raise ValueError(f"{path} is no filesystem of its own: others would be frozen with it")
        self._watchdog: Watchdog | None = None

    @property
    def frozen(self) -> bool:
        """Whether `freeze` was called, and `thaw` not since."""
        return self._watchdog is not None

    def freeze(self) -> None:
        """Let every change wait from now on. Nothing happens if it is frozen already."""
        if self._watchdog is not None:
            return
        thaw = [sys.executable, "-I", "-S", "-c", _THAW, str(self._root)]
        watchdog = Watchdog(thaw, after=self._failsafe, pass_fds=[self._root])
        watchdog.wait_ready()
        try:
            _ioctl(self._root, _FIFREEZE)
        except BaseException:
            watchdog.call_off()
            raise
        self._watchdog = watchdog

    def thaw(self) -> None:
        """Let everything that waits go on. Nothing happens if it is not frozen.

        Raises `ThawedByWatchdog` if the failsafe had to do it.
        """
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is None:
            return
        try:
            _ioctl(self._root, _FITHAW)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ThawedByWatchdog(
                f"{self.path} was frozen for more than {self._failsafe} seconds"
            ) from None
        finally:
            watchdog.call_off()

    def close(self) -> None:
        """Thaw it and let go of it."""
        try:
            self.thaw()
        finally:
            os.close(self._root)


def _ioctl(fd: int, request: int) -> None:
    import fcntl  # noqa: PLC0415 - not on Windows, where this module must still be importable

    fcntl.ioctl(fd, request, 0)


@contextmanager
def freezable_mount(
    directory: Path, fstype: FilesystemType = "ext4", *, failsafe: float = 30.0
) -> Iterator[FreezableMount]:
    """Mount a filesystem that can be frozen, and thaw and unmount it whatever happens."""
    needs_root()
    with loop_mount(directory, fstype) as point:
        mount = FreezableMount(point.path, failsafe=failsafe)
        try:
            yield mount
        finally:
            mount.close()
