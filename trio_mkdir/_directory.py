"""One directory that is open: whatever stands at its path by now, this one is meant.

Its descriptor is opened with O_PATH, for which no permission on the directory itself is needed: one
of mode 0 will do. Where a system call does not take such a descriptor, it is given its link in
/proc, which the kernel resolves to the open directory and to nothing else.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any, Final

# No symbolic link, so that it is what was made there and not where somebody has it lead.
FLAGS: Final = (
    getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | os.O_DIRECTORY | os.O_CLOEXEC
)
_LINKS: Final = "/proc/self/fd"
_NOREPLACE: Final = 1  # RENAME_NOREPLACE, linux/fs.h
_AT_FDCWD: Final = -100  # fcntl.h


def check_supported(system: Any) -> None:
    """Raise NotImplementedError if ``system``, which is `os`, lacks what changes take."""
    needed = ("O_PATH", "O_NOFOLLOW", "chown", "getxattr", "listxattr", "setxattr", "removexattr")
    lacking = [name for name in needed if not hasattr(system, name)]
    if not system.path.isdir(_LINKS):
        lacking.append(_LINKS)
    if lacking:
        what = "owner, group, exact_mode and like need"
        raise NotImplementedError(f"{what} what this platform lacks: {', '.join(lacking)}")


class OpenDirectory:
    """What is done by the descriptor ``fd``, which is its own from here on.

    Every method but `close` may block for as long as the kernel does, and raises OSError as the
    function of the same name in `os` does.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._link = f"{_LINKS}/{fd}"

    def stat(self) -> os.stat_result:
        """`os.fstat`."""
        return os.fstat(self._fd)

    def chmod(self, mode: int) -> None:
        """`os.chmod`."""
        os.chmod(self._link, mode)

    def chown(self, uid: int, gid: int) -> None:
        """`os.chown`; -1 leaves one as it is."""
        os.chown(self._link, uid, gid)

    def listxattr(self) -> list[str]:
        """`os.listxattr`."""
        return os.listxattr(self._link)

    def getxattr(self, name: str) -> bytes:
        """`os.getxattr`."""
        return os.getxattr(self._link, name)

    def setxattr(self, name: str, value: bytes) -> None:
        """`os.setxattr`."""
        os.setxattr(self._link, name, value)

    def removexattr(self, name: str) -> None:
        """`os.removexattr`."""
        os.removexattr(self._link, name)

    def fsync(self) -> None:
        """`os.fsync`; it needs permission to read the directory."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Give the descriptor back; never blocks."""
        os.close(self._fd)


def rename_noreplace(
    source: str | bytes,
    destination: str | bytes,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
) -> None:
    """`os.rename` that answers EEXIST where something stands at ``destination``.

    renameat2(2) with RENAME_NOREPLACE; EINVAL where the filesystem has no such thing. Raises
    NotImplementedError where the C library has not.
    """
    result = _renameat2()(
        _AT_FDCWD if src_dir_fd is None else src_dir_fd,
        os.fsencode(source),
        _AT_FDCWD if dst_dir_fd is None else dst_dir_fd,
        os.fsencode(destination),
        _NOREPLACE,
    )
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source, None, destination)


@cache
def _renameat2() -> Any:
    """That of the C library: Python has none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        raise NotImplementedError("this platform has no renameat2(2)") from None
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    )
    return function
