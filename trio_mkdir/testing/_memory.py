"""A filesystem in memory that answers as a POSIX one does, down to its reuse of inode numbers."""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ._mount_points import MountPoints, new_mount
from ._nodes import Device, Node, OpenNode, refuse, status_of

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Iterator

    from trio_mkdir._mounts import Mount
    from trio_mkdir._os import Directory
    from trio_mkdir._paths import AnyPath, StrOrBytesPath

_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4095
_MOST_LINKS: Final = 40
"""Symbolic links that Linux follows in one path, path_resolution(7)."""
_MKDIR_MODE: Final = 0o1777
"""What mkdir(2) takes of its mode: no setuid and no setgid."""


class MemoryFilesystem:
    """A tree of directories, files and symbolic links, empty at first but for ``/``.

    System calls (`mkdir`, `rmdir`, `stat`, `lstat`, `statvfs`, `rename`, `open` and what is done
    with an open directory) raise what Linux answers; nobody is asked for permission.
    ``add_directory`` and the like change the tree behind the back of whoever uses it. All methods
    may be called from any thread, and none is async. The library uses worker threads for it; to run
    without any, see `FaultyFilesystem`.

    Args:
      umask: What new directories do not get of their mode. The umask of the process is not used.
      reuse_inodes: Whether the inode number of what was removed goes to the next comer at once, as
          on ext4. The device number is negative and each instance's own.
    """

    turn = None
    """Its calls belong in a worker thread, as far as the library can see."""

    def __init__(self, *, umask: int = 0o022, reuse_inodes: bool = True) -> None:
        self._lock = threading.RLock()
        self._umask = umask
        self._reuse = reuse_inodes
        self._root = Device(reuse_inodes=reuse_inodes).root
        self._mounts = MountPoints()
        self._covered: dict[Mount, Node] = {}
        self._users = {"root": 0}
        self._groups = {"root": 0}
        self._mount = new_mount("/", type="memory", source="trio_mkdir.testing", options="rw")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._mount.device}>"

    @contextmanager
    def _asked_for(self, path: StrOrBytesPath) -> Generator[str, None, None]:
        """One at a time; whatever is refused names the whole path, as the kernel's answers do."""
        with self._lock:
            try:
                yield os.fsdecode(path)
            except OSError as error:
                error.filename = path
                raise

    # What a test looks at and prepares

    def paths(self) -> list[str]:
        """Every path but ``/``, sorted, without following symbolic links."""
        with self._lock:
            return sorted(self._below("", self._root))

    def _below(self, path: str, node: Node) -> Iterator[str]:
        for name, child in node.visible.children.items():
            yield f"{path}/{name}"
            yield from self._below(f"{path}/{name}", child)

    def add_directory(self, path: StrOrBytesPath, mode: int = 0o755) -> None:
        """Make a directory and whatever is missing above it; one that is there is left as it is.

        Raises:
          OSError: Something else is in the way.
        """
        with self._asked_for(path) as text:
            above = text.rstrip("/").rpartition("/")[0]
            if above:
                self.add_directory(above)
            try:
                self._add(text, stat.S_IFDIR | mode)
            except FileExistsError:
                if not self._find(text).is_directory:
                    raise

    def add_file(self, path: StrOrBytesPath, mode: int = 0o644) -> None:
        """Make an empty file; its directory has to be there."""
        with self._asked_for(path) as text:
            self._add(text, stat.S_IFREG | mode)

    def add_symlink(self, path: StrOrBytesPath, target: StrOrBytesPath) -> None:
        """Make a symbolic link at ``path``; its directory has to be there, ``target`` need not."""
        with self._asked_for(path) as text:
            self._add(text, stat.S_IFLNK | 0o777, os.fsdecode(target))

    def add_user(self, name: str, number: int) -> None:
        """Let there be a user; at first there is only root."""
        self._users[name] = number

    def add_group(self, name: str, number: int) -> None:
        """Let there be a group; at first there is only root's."""
        self._groups[name] = number

    def remove(self, path: StrOrBytesPath) -> None:
        """Remove whatever stands at ``path`` and all that is in it."""
        with self._asked_for(path) as text:
            parent, name = self._parent(text)
            node = self._child(parent, name)
            del parent.children[name]
            node.device.free(node)

    def chmod(self, path: StrOrBytesPath, mode: int) -> None:
        """`os.chmod`."""
        with self._asked_for(path) as text:
            node = self._find(text)
            node.mode = stat.S_IFMT(node.mode) | mode

    def rename(self, source: StrOrBytesPath, destination: StrOrBytesPath) -> None:
        """`os.rename`, where nothing stands at ``destination``; otherwise EEXIST."""
        with self._asked_for(source) as text:
            new = os.fsdecode(destination)
            parent, name = self._parent(text)
            self._child(parent, name)
            to, new_name = self._parent(new)
            if new_name in to.children:
                refuse(errno.EEXIST)
            if parent.device is not to.device:
                refuse(errno.EXDEV)
            if f"{new}/".startswith(f"{text}/"):
                refuse(errno.EINVAL)  # into itself
            to.children[new_name] = parent.children.pop(name)

    def mount_at(
        self,
        point: StrOrBytesPath,
        *,
        type: str = "nfs4",  # noqa: A002 - the name it has in `Mount`
        source: str = "server:/export",
        options: str = "rw",
    ) -> Mount:
        """Mount an empty filesystem, with a device number of its own, on a directory.

        Returns:
          Its line of the mount table.

        Raises:
          OSError: ``point`` is no directory.
        """
        with self._asked_for(point) as text:
            node = self._find(text)
            if not node.is_directory:
                refuse(errno.ENOTDIR)
            mount = self._mounts.add(point, type=type, source=source, options=options)
            node.cover = Device(reuse_inodes=self._reuse).root
            self._covered[mount] = node
            return mount

    def unmount(self, point: StrOrBytesPath) -> None:
        """Take a mount away, as a dead network filesystem goes: what is beneath shows again.

        Raises:
          KeyError: Nothing was mounted there.
        """
        with self._lock:
            self._covered.pop(self._mounts.remove(point)).cover = None

    def locate(self, path: StrOrBytesPath) -> Hashable | None:
        """Device and inode of the directory at ``path``, links followed; None if there is none."""
        with self._lock:
            try:
                node = self._find(os.fsdecode(path))
            except OSError:
                return None
            return (node.device.number, node.inode) if node.is_directory else None

    # System calls

    def mkdir(self, path: AnyPath, mode: int = 0o777) -> None:
        """`os.mkdir`."""
        with self._asked_for(path) as text:
            self._add(text, stat.S_IFDIR | (mode & _MKDIR_MODE & ~self._umask))

    def rmdir(self, path: AnyPath) -> None:
        """`os.rmdir`."""
        with self._asked_for(path) as text:
            last = text.rstrip("/").rpartition("/")[2]
            if last in {"", ".", ".."}:
                self._find(text)
                refuse({"": errno.EBUSY, ".": errno.EINVAL}.get(last, errno.ENOTEMPTY))
            parent, name = self._parent(text)
            node = self._child(parent, name)
            if not node.is_directory:
                refuse(errno.ENOTDIR)
            if node.cover is not None:
                refuse(errno.EBUSY)
            if node.children:
                refuse(errno.ENOTEMPTY)
            del parent.children[name]
            node.device.free(node)

    def stat(self, path: AnyPath) -> os.stat_result:
        """`os.stat`."""
        return self._status(path, follow=True)

    def lstat(self, path: AnyPath) -> os.stat_result:
        """`os.lstat`."""
        return self._status(path, follow=False)

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        """`os.statvfs`: one GiB, half of it free."""
        self._status(path, follow=True)
        return os.statvfs_result((4096, 4096, 1 << 18, 1 << 17, 1 << 17, 4096, 2048, 2048, 0, 255))

    def open(self, path: AnyPath) -> Directory:
        """The directory that stands there; it stays this one, whatever becomes of its name."""
        with self._asked_for(path) as text:
            node = self._find(text, follow=False)
            if not node.is_directory:
                refuse(errno.ENOTDIR)
            return OpenNode(node)

    def umask(self) -> int:
        """The one that it was given."""
        return self._umask

    def getpwnam(self, name: str, path: AnyPath) -> int:  # noqa: ARG002 - for a script
        """The number of a user; see `add_user`."""
        return self._users[name]

    def getgrnam(self, name: str, path: AnyPath) -> int:  # noqa: ARG002 - as above
        """The number of a group; see `add_group`."""
        return self._groups[name]

    def sleep(self, seconds: float) -> None:
        """Return at once: no time passes in here."""

    def mount(self, path: AnyPath) -> Mount:
        """The mount on which ``path`` lies, by its text."""
        return self._mounts.find(path) or self._mount

    # Paths

    def _status(self, path: AnyPath, *, follow: bool) -> os.stat_result:
        with self._asked_for(path) as text:
            return status_of(self._find(text, follow=follow))

    def _add(self, path: str, mode: int, link: str = "") -> None:
        if path.rstrip("/").rpartition("/")[2] in {"", ".", ".."}:
            self._find(path)
            refuse(errno.EEXIST)
        parent, name = self._parent(path)
        if name in parent.children:
            refuse(errno.EEXIST)
        if stat.S_ISDIR(mode):
            mode |= parent.mode & stat.S_ISGID
        node = parent.children[name] = parent.device.node(mode, link)
        if parent.mode & stat.S_ISGID:
            node.owner = 0, parent.owner[1]

    def _parent(self, path: str) -> tuple[Node, str]:
        """The directory in which ``path`` is the last name, and that name."""
        _check_length(path, _LONGEST_PATH)
        above, _, name = path.rstrip("/").rpartition("/")
        parent = self._find(above or "/")
        if not parent.is_directory:
            refuse(errno.ENOTDIR)
        _check_length(name, _LONGEST_NAME)
        return parent, name

    def _find(self, path: str, *, follow: bool = True) -> Node:
        if not path:
            refuse(errno.ENOENT)
        _check_length(path, _LONGEST_PATH)
        names = _names(path)
        trail = [self._root.visible]
        links = 0
        while names:
            name = names.pop(0)
            child = self._child(trail[-1], name, trail)
            if child is trail[-1]:
                continue
            if child.link and (follow or names):
                links += 1
                if links > _MOST_LINKS:
                    refuse(errno.ELOOP)
                names = _names(child.link) + names
                if child.link.startswith("/"):
                    del trail[1:]
            else:
                trail.append(child)
        return trail[-1]

    @staticmethod
    def _child(node: Node, name: str, trail: list[Node] | None = None) -> Node:
        if not node.is_directory:
            refuse(errno.ENOTDIR)
        if trail is not None and name in {"", ".", ".."}:
            if name == ".." and len(trail) > 1:
                trail.pop()
            return trail[-1]
        _check_length(name, _LONGEST_NAME)
        try:
            child = node.children[name]
        except KeyError:
            refuse(errno.ENOENT)
        return child.visible if trail is not None else child


def _check_length(text: str, longest: int) -> None:
    if len(os.fsencode(text)) > longest:
        refuse(errno.ENAMETOOLONG)


def _names(path: str) -> list[str]:
    """The names in ``path``; an empty last one if it ends in a slash and so means a directory."""
    names = [name for name in path.split("/") if name]
    return [*names, ""] if path.endswith("/") and names else names
