"""The one seam to the operating system: every system call of a worker goes through it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from . import _accounts
from ._directory import FLAGS, OpenDirectory, check_supported, rename_noreplace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._mounts import Mount, MountTable
    from ._paths import AnyPath


class Filesystem(Protocol):
    """What the library asks of a filesystem.

    Every method may block for as long as the kernel does, may be called from any thread, and
    raises OSError exactly as the function of the same name in `os` does; only `mount` must
    never block and never touch the filesystem that it speaks of.
    """

    @property
    def turn(self) -> Callable[[tuple[str, AnyPath] | None], Awaitable[object]] | None:
        """None if its calls may block, and so belong in a worker thread.

        A double that never blocks gives an async function instead. It is awaited in trio's own
        thread before each system call, with its name and path, and with None after the last one,
        and may take as long as that call would; so trio's autojump clock can be used.
        """
        ...

    def mkdir(self, path: AnyPath, mode: int) -> None:
        """`os.mkdir`."""

    def rmdir(self, path: AnyPath) -> None:
        """`os.rmdir`."""

    def stat(self, path: AnyPath) -> os.stat_result:
        """`os.stat`."""
        ...

    def lstat(self, path: AnyPath) -> os.stat_result:
        """`os.lstat`."""
        ...

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        """`os.statvfs`."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """`time.sleep`, between two attempts at undoing something."""

    def mount(self, path: AnyPath) -> Mount:
        """The mount on which ``path`` (absolute) lies, by the text of the mount table."""
        ...


class Directory(Protocol):
    """A directory that is open, with what `OpenDirectory` does."""

    def stat(self) -> os.stat_result:
        """`os.fstat`."""
        ...

    def chmod(self, mode: int) -> None:
        """`os.chmod`."""

    def chown(self, uid: int, gid: int) -> None:
        """`os.chown`; -1 leaves one as it is."""

    def listxattr(self) -> list[str]:
        """`os.listxattr`."""
        ...

    def getxattr(self, name: str) -> bytes:
        """`os.getxattr`."""
        ...

    def setxattr(self, name: str, value: bytes) -> None:
        """`os.setxattr`."""

    def removexattr(self, name: str) -> None:
        """`os.removexattr`."""

    def fsync(self) -> None:
        """`os.fsync`."""

    def close(self) -> None:
        """Give it back; must never block."""


@runtime_checkable
class Opening(Filesystem, Protocol):
    """A filesystem that can do what is only asked for in a call's `Demands`."""

    def open(self, path: AnyPath) -> Directory:
        """The directory that stands at ``path``; ENOTDIR for anything else, also for a link."""
        ...

    def rename(self, source: AnyPath, destination: AnyPath) -> None:
        """`os.rename`, but EEXIST where something stands at ``destination``."""


@runtime_checkable
class Owning(Opening, Protocol):
    """One that knows, too, whose directories can be and what a new one does not get."""

    def umask(self) -> int:
        """What the kernel takes from the mode of a new directory."""
        ...

    def getpwnam(self, name: str, path: AnyPath) -> int:
        """The number of a user, for ``path``; KeyError, as `pwd.getpwnam`, if there is none."""
        ...

    def getgrnam(self, name: str, path: AnyPath) -> int:
        """The number of a group, for ``path``; KeyError, as `grp.getgrnam`, if there is none."""
        ...


@runtime_checkable
class Confined(Filesystem, Protocol):
    """The same from one directory, the root, down: nothing is done or looked at elsewhere.

    Paths are absolute all the same. Those that lead out, by their text, by ``..`` or by a symbolic
    link, are answered EXDEV. It may be closed, from any thread, and after that nothing is there.
    """

    @property
    def root(self) -> AnyPath:
        """The text of the root."""
        ...

    def holds(self, path: AnyPath) -> bool:
        """Whether ``path`` is below the root, not the root itself, by its text."""
        ...

    @property
    def anchor(self) -> object:
        """Equal for two of which each can undo what the other did."""
        ...

    def close(self) -> None:
        """Give the root's descriptor back; must never block."""


class OperatingSystem:
    """The real one."""

    turn = None
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    stat = staticmethod(os.stat)
    lstat = staticmethod(os.lstat)
    rename = staticmethod(rename_noreplace)
    sleep = staticmethod(time.sleep)
    if hasattr(os, "statvfs"):  # pragma: no branch
        statvfs = staticmethod(os.statvfs)

    def __init__(self, mounts: MountTable) -> None:
        self.mount = mounts.find

    def open(self, path: AnyPath) -> Directory:
        """By a descriptor."""
        return OpenDirectory(os.open(path, FLAGS))

    def umask(self) -> int:
        """As /proc tells it; it is never set."""
        return _accounts.process_umask()

    def getpwnam(self, name: str, path: AnyPath) -> int:  # noqa: ARG002
        """`pwd.getpwnam`."""
        return _accounts.uid_of(name)

    def getgrnam(self, name: str, path: AnyPath) -> int:  # noqa: ARG002
        """`grp.getgrnam`."""
        return _accounts.gid_of(name)


def owning(filesystem: Filesystem) -> Owning:
    """``filesystem``, if it can change whose directories are.

    Raises NotImplementedError if it, or the platform, cannot.
    """
    if isinstance(filesystem, OperatingSystem):
        check_supported(os)
    if not isinstance(filesystem, Owning):
        raise NotImplementedError(f"{filesystem!r} cannot change whose directories are")
    return filesystem
