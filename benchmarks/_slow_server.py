"""A FUSE server whose every operation takes the same time: passes on to a directory, and waits.

The tests have a server that can do far more, and tells of each request: that costs more than what
is to be measured here. This one keeps to its time to a tenth of a millisecond, and lets the kernel
remember what it has answered, as network filesystems do.

It is run by its path, and ends when it is unmounted.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import mfusepy

_REMEMBERED = 3600.0
"""Seconds for which the kernel need not ask again."""
_THREADS = 64

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _slow(function: _Function) -> _Function:
    """Answer when the time is over that one operation takes, counted from its arrival."""

    @functools.wraps(function)
    def wrapper(self: Slow, *args: Any) -> Any:
        arrived = time.perf_counter()
        try:
            return function(self, *args)
        finally:
            with self.counting:
                self.operations += 1
            time.sleep(max(0.0, arrived + self.seconds - time.perf_counter()))

    return wrapper  # type: ignore[return-value]


class Slow:
    """The operations, on a directory *root*; mfusepy takes any object that has their names."""

    use_ns = True

    def __init__(self, root: str, seconds: float) -> None:
        self._root = root
        self.seconds = seconds
        self.counting = threading.Lock()
        self.operations = 0

    @_slow
    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:  # noqa: ARG002
        """Also what a look-up asks for, and what libfuse asks after a mkdir."""
        status = os.lstat(self._root + path)
        return {name: getattr(status, name) for name in ("st_mode", "st_ino", "st_nlink")}

    @_slow
    def mkdir(self, path: str, mode: int) -> None:
        """Make a directory."""
        os.mkdir(self._root + path, mode)

    # What clears up, and so need not be slow

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        os.rmdir(self._root + path)

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:  # noqa: ARG002
        """List a directory. A name whose inode is 0 would not be seen."""
        listed: list[tuple[str, dict[str, int], int]] = []
        for name in [".", "..", *os.listdir(self._root + path)]:
            status = os.lstat(os.path.join(self._root + path, name))
            listed.append((name, {"st_mode": status.st_mode, "st_ino": status.st_ino}, 0))
        return listed

    def statfs(self, path: str) -> dict[str, int]:  # noqa: ARG002
        """Tell how many operations there were, as the number of files."""
        return {"f_files": self.operations}


def main() -> None:
    """Serve until unmounted; arguments: backing directory, mount point, seconds."""
    backing, mount_point, seconds = sys.argv[1:]
    options: dict[str, Any] = {
        "foreground": True,
        "fsname": "trio-mkdir-benchmark",
        "use_ino": True,
        "entry_timeout": _REMEMBERED,
        "attr_timeout": _REMEMBERED,
    }
    if (mfusepy.fuse_version_major, mfusepy.fuse_version_minor) >= (3, 12):
        options |= {"max_threads": _THREADS, "max_idle_threads": _THREADS}
    mfusepy.FUSE(Slow(backing, float(seconds)), mount_point, **options)


if __name__ == "__main__":
    main()
