"""The system calls of a call that stays beneath a root: every path is walked by descriptors.

The kernel is never given a path, only one name at a time and the descriptor of the directory that
it is looked up in, and is told not to follow links. A symbolic link is read through its own
descriptor and its text walked by the same rules, ``..`` goes back to the directory that one came
from, and at the root both end. So whatever others swap meanwhile, no step leads out: each one
starts from a directory that was reached from the root, and goes to something that is in it.

Nothing is kept from one system call to the next but the root's own descriptor, so a path means what
it means now, as it does to the kernel. Paths are text, the root's and a slash before what is
below, so that they can be compared with those of other calls; only what is below is ever walked.

The same is done by Go's ``os.Root``, libpathrs, cap-std and filepath-securejoin.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast, runtime_checkable

from ._causes import root_cause
from ._directory import OpenDirectory, rename_noreplace
from ._errors import mkdir_error
from ._os import Confined, OperatingSystem
from ._paths import AnyPath, Root, absolute, without_slashes, working_directory
from ._registry import registry
from ._walk import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ._mounts import Mount
    from ._os import Filesystem

MAX_LINKS: Final = 40
"""As many as the kernel follows, path_resolution(7)."""
_PATH_MAX: Final = 4096
"""As long as a path may be for the kernel, with a zero at its end."""
_OPEN: Final = 64
"""How many descriptors of one way are open at most: a path can have two thousand components."""

# No permission but that to search what is above it is needed for such a descriptor, and nothing
# happens to what it is opened on: a fifo does not wait, an unreadable directory does not refuse.
_ANYTHING: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC
_ROOT: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0) | os.O_CLOEXEC
# O_DIRECTORY also has the kernel mount what an automount point stands for.
_DIRECTORY: Final = _ANYTHING | _ROOT


@runtime_checkable
class _Confinable(Protocol):
    """A double that can stay beneath a root."""

    def beneath(self, root: Root) -> Confined:
        """What it is from there."""
        ...


def root_at(beneath: object, *, in_bytes: bool) -> Root:
    """The argument ``beneath``, its text in bytes or not.

    Raises TypeError or ValueError if it is neither a path nor a descriptor, and OSError if it is
    relative and the working directory is gone.
    """
    descriptor: int | None = None
    if isinstance(beneath, int) and not isinstance(beneath, bool):
        descriptor = beneath
        text: AnyPath = _name_of(beneath)
    else:
        if not isinstance(beneath, (str, bytes, os.PathLike)):
            what = "a path or the descriptor of an open directory"
            raise TypeError(f"beneath must be {what}, not {beneath!r}")
        text = os.fspath(cast("AnyPath", beneath))
        if b"\0" in os.fsencode(text):
            raise ValueError(f"beneath must not hold a null byte, not {text!r}")
    text = os.fsencode(text) if in_bytes else os.fsdecode(text)
    if text:  # otherwise it is no directory, and the working directory neither
        full = text if os.path.isabs(text) else absolute(text, working_directory(text))
        text = without_slashes(full) or full[:1]
    return Root(text, descriptor)


def _name_of(descriptor: int) -> AnyPath:
    """A path to an open directory, for people and for the mount table; nothing is done by it."""
    name = f"/proc/self/fd/{descriptor}"
    try:
        text = os.readlink(name)
    except OSError:
        return name
    return text if os.path.isabs(text) else name


def confine(filesystem: Filesystem, root: Root) -> Confined:
    """``filesystem`` as it is from ``root`` down.

    Raises NotImplementedError if it, or the platform, cannot do that, and MkdirError if ``root`` is
    a descriptor that is not open.
    """
    if isinstance(filesystem, _Confinable):
        return filesystem.beneath(root)
    if isinstance(filesystem, OperatingSystem):
        check_supported(os)
        try:
            return Beneath(root, filesystem.mount)
        except OSError as error:
            number = error.errno or errno.EBADF
            raise mkdir_error(number, root.text, root_cause(number), None) from None
    raise NotImplementedError(f"{filesystem!r} cannot keep a call beneath a root")


def check_supported(system: Any) -> None:
    """Raise NotImplementedError if ``system``, which is `os`, lacks what it takes."""
    flags = ("O_PATH", "O_DIRECTORY", "O_NOFOLLOW")
    functions = ("open", "mkdir", "rmdir", "stat", "readlink")
    able = system.supports_dir_fd
    lacking = [
        *[flag for flag in flags if not hasattr(system, flag)],
        *[f"{name}(dir_fd=...)" for name in functions if getattr(system, name) not in able],
    ]
    if lacking:
        raise NotImplementedError(f"beneath= needs what this platform lacks: {', '.join(lacking)}")


@contextmanager
def open_beneath(root: object, path: str) -> Generator[OpenDirectory]:
    """The directory ``path`` in ``root``, as `Beneath.open` has it."""
    where = root_at(root, in_bytes=False)
    beneath = Beneath(where, registry.operating_system.mount)
    with closing(beneath):
        directory = beneath.open(os.path.join(os.fsdecode(where.text), path))
        with closing(directory):
            yield directory


class Beneath:
    """The real filesystem, from one directory down; `Filesystem` says what its methods do."""

    turn = None
    sleep = staticmethod(time.sleep)

    def __init__(self, root: Root, mount: Callable[[AnyPath], Mount]) -> None:
        self.root = root.text
        self._mount = mount
        self._text = os.fsencode(root.text)
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._fd: int | None = None
        self._identity: tuple[int, int] | None = None
        self._uses = 0
        self._closed = False
        # The caller's own may be closed, and its number be another file's, before we come to it.
        self._fd = None if root.descriptor is None else os.dup(root.descriptor)

    def mount(self, path: AnyPath) -> Mount:
        """By the text of the path, of which the root's is the beginning."""
        return self._mount(path)

    # The root

    @contextmanager
    def _descriptor(self) -> Generator[int]:
        """That of the root, which is not closed meanwhile."""
        with self._lock:
            if self._closed:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._uses += 1
        try:
            yield self._opened()
        finally:
            with self._lock:
                self._uses -= 1
                self._close_unused()

    def _opened(self) -> int:
        with self._opening:  # which can hang, as every other system call
            if self._identity is None:
                try:
                    if self._fd is None:
                        self._fd = self._open(self._text, _ROOT)
                    status = os.fstat(self._fd)
                    if not stat.S_ISDIR(status.st_mode):
                        _fail(errno.ENOTDIR)
                except OSError as error:
                    # Not an answer about the path, of which the walk would make what is missing.
                    note = "it is the root that the path has to stay beneath"
                    raise Failed(error.errno or errno.EIO, self.root, note=note) from None
                self._identity = status.st_dev, status.st_ino
            assert self._fd is not None  # noqa: S101 - for the type checker
            return self._fd

    @property
    def anchor(self) -> object:
        """Equal for two that have one root, once it is open, and one text for it."""
        return self._identity, self._text

    def close(self) -> None:
        """Nothing is asked any more; a thread that is still in a system call finishes it."""
        with self._lock:
            self._closed = True
            self._close_unused()

    def __del__(self) -> None:
        """Also where a KeyboardInterrupt came before the call that it was made for had begun."""
        if hasattr(self, "_closed"):  # or before all of this was there
            self.close()

    def _close_unused(self) -> None:
        if self._closed and not self._uses and self._fd is not None:
            os.close(self._fd)
            self._fd = None

    # Paths

    def holds(self, path: AnyPath) -> bool:
        """Whether ``path`` is below the root by its text."""
        return bool(self._below(os.fsencode(path)))

    def _below(self, path: bytes) -> bytes | None:
        """What is to be walked from the root; None for what is elsewhere."""
        if path == self._text:
            return b""
        above = self._text if self._text.endswith(b"/") else self._text + b"/"
        return path[len(above) :] if path.startswith(above) else None

    @contextmanager
    def _way(self, path: AnyPath) -> Generator[_Way]:
        text = os.fsencode(path)
        if not text:
            _fail(errno.ENOENT)  # as the kernel has it
        below = self._below(text)
        if below is None:
            _fail(errno.EXDEV)
        if len(below) >= _PATH_MAX:
            _fail(errno.ENAMETOOLONG)
        with self._descriptor() as root:
            way = _Way(root, below, self._open)
            try:
                yield way
            finally:
                way.close()

    _open = staticmethod(os.open)

    # System calls

    def mkdir(self, path: AnyPath, mode: int) -> None:
        """`os.mkdir`."""
        with self._way(path) as way:
            os.mkdir(way.to_last(), mode, dir_fd=way.here)

    def rmdir(self, path: AnyPath) -> None:
        """`os.rmdir`; never the root."""
        with self._way(path) as way:
            os.rmdir(way.to_last(), dir_fd=way.here)

    def lstat(self, path: AnyPath) -> os.stat_result:
        """`os.lstat`."""
        with self._way(path) as way:
            return os.stat(way.to_last(), dir_fd=way.here, follow_symlinks=False)

    def stat(self, path: AnyPath) -> os.stat_result:
        """`os.stat` of a directory; ENOTDIR for anything else."""
        with self._way(path) as way:
            return os.fstat(way.to_end())

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        """`os.statvfs` of a directory."""
        with self._way(path) as way:
            return os.statvfs(way.to_end())

    def open(self, path: AnyPath) -> OpenDirectory:
        """The directory, no symbolic link, that is there."""
        with self._way(path) as way:
            return OpenDirectory(self._open(way.to_last(), _DIRECTORY, dir_fd=way.here))

    def rename(self, source: AnyPath, destination: AnyPath) -> None:
        """`os.rename`, but EEXIST where something stands at ``destination``; never the root."""
        with self._way(source) as way, self._way(destination) as there:
            rename_noreplace(
                way.to_last(), there.to_last(), src_dir_fd=way.here, dst_dir_fd=there.here
            )


class _Way:
    """The way from ``root`` along ``path``, whose slashes at the beginning count for nothing."""

    def __init__(self, root: int, path: bytes, open_at: Callable[..., int]) -> None:
        self._root = root
        self._open = open_at
        self._todo = path.split(b"/")[::-1]  # what comes next last
        self._names: list[bytes] = []
        """Those of the directories that were passed, none of them a link,"""
        self._fds: list[int] = []
        """and the descriptors of the last of them."""
        self._links = 0

    @property
    def here(self) -> int:
        """The descriptor of the directory that it has come to; not to be closed."""
        return self._fds[-1] if self._fds else self._root

    def to_last(self) -> bytes:
        """Go to the directory that the last name is to be looked up in, and tell the name."""
        while self._todo and not self._todo[0]:
            del self._todo[0]  # slashes at the end: it is to be a directory in any case
        last = self._todo.pop(0) if self._todo else b"."
        if last == b"..":  # it must not lead out, and what it leads to is no name in there
            self._todo.insert(0, last)
            last = b"."
        self.to_end()
        return last

    def to_end(self) -> int:
        """Go all the way; tells the descriptor of the directory that is there."""
        while self._todo:
            name = self._todo.pop()
            if name == b"..":
                self._up()
            elif name not in {b"", b"."}:
                self._down(name)
        return self.here

    def _up(self) -> None:
        if not self._names:
            _fail(errno.EXDEV)
        self._names.pop()
        os.close(self._fds.pop())
        if not self._fds:  # those above are closed long since, or it is the root
            self._todo += self._names[::-1]
            self._names = []

    def _down(self, name: bytes) -> None:
        try:
            self._enter(name, self._open(name, _DIRECTORY, dir_fd=self.here))
        except NotADirectoryError:
            self._look(name)

    def _enter(self, name: bytes, fd: int) -> None:
        self._names.append(name)
        self._fds.append(fd)
        if len(self._fds) > _OPEN:
            os.close(self._fds.pop(0))

    def _look(self, name: bytes) -> None:
        """What is called ``name`` is no directory, or was none."""
        fd = self._open(name, _ANYTHING, dir_fd=self.here)
        try:
            mode = os.fstat(fd).st_mode
            link = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(mode) else None
        finally:
            os.close(fd)
        if link is None and not stat.S_ISDIR(mode):
            _fail(errno.ENOTDIR)
        # Somebody may go on for ever with what he does here.
        self._links += 1
        if self._links > MAX_LINKS:
            _fail(errno.ELOOP)
        if link is None:  # somebody has just put a directory there
            self._todo.append(name)
        elif link.startswith(b"/"):
            # Also what /proc has of an open file. Elsewhere in there the kernel would jump, past
            # the text; we never do, and the text is no name.
            _fail(errno.EXDEV)
        else:
            self._todo += link.split(b"/")[::-1]

    def close(self) -> None:
        """Give its descriptors back."""
        for fd in self._fds:
            os.close(fd)


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
