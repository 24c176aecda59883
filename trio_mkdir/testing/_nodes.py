"""What a filesystem in memory consists of: nodes, on devices, of which some are open."""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import stat
from typing import NoReturn

from trio_mkdir._acl import ACCESS, after_chmod, mode_under

_devices = itertools.count(-1, -1)  # the kernel's are never negative


def refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


class Node:
    """A directory, a file (``children`` stays empty) or a symbolic link."""

    __slots__ = ("children", "cover", "device", "inode", "link", "mode", "owner", "xattrs")

    def __init__(self, device: Device, inode: int, mode: int, link: str = "") -> None:
        self.device = device
        self.inode = inode
        self.mode = mode
        self.link = link
        self.owner: tuple[int, int] = (0, 0)
        self.xattrs: dict[str, bytes] = {}
        self.children: dict[str, Node] = {}
        self.cover: Node | None = None  # the root of what is mounted here

    @property
    def visible(self) -> Node:
        node = self
        while node.cover is not None:
            node = node.cover
        return node

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Device:
    """One filesystem, with its inode numbers."""

    def __init__(self, *, reuse_inodes: bool) -> None:
        self.number = next(_devices)
        self._reuse = reuse_inodes
        self._fresh = itertools.count(2)
        self._free: list[int] = []
        self.root = Node(self, 1, stat.S_IFDIR | 0o755)

    def node(self, mode: int, link: str = "") -> Node:
        inode = heapq.heappop(self._free) if self._free else next(self._fresh)
        return Node(self, inode, mode, link)

    def free(self, node: Node) -> None:
        if self._reuse:
            heapq.heappush(self._free, node.inode)
        for child in node.children.values():
            self.free(child)


class OpenNode:
    """A directory that is open; nobody is asked for permission, and nothing is ever lost."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def stat(self) -> os.stat_result:
        return status_of(self._node)

    def chmod(self, mode: int) -> None:
        self._node.mode = stat.S_IFMT(self._node.mode) | mode
        if ACCESS in self._node.xattrs:
            self._node.xattrs[ACCESS] = after_chmod(self._node.xattrs[ACCESS], mode)

    def chown(self, uid: int, gid: int) -> None:
        before = self._node.owner
        self._node.owner = (
            before[0] if uid == -1 else uid,
            before[1] if gid == -1 else gid,
        )

    def listxattr(self) -> list[str]:
        return list(self._node.xattrs)

    def getxattr(self, name: str) -> bytes:
        try:
            return self._node.xattrs[name]
        except KeyError:
            refuse(errno.ENODATA)

    def setxattr(self, name: str, value: bytes) -> None:
        self._node.xattrs[name] = value
        if name == ACCESS:
            self._node.mode = self._node.mode & ~0o777 | mode_under(value, 0o777)

    def removexattr(self, name: str) -> None:
        self.getxattr(name)
        del self._node.xattrs[name]

    def fsync(self) -> None:
        pass

    def close(self) -> None:
        pass


def status_of(node: Node) -> os.stat_result:
    children = node.children.values()
    links = 2 + sum(child.is_directory for child in children) if node.is_directory else 1
    device = node.device.number
    return os.stat_result((node.mode, node.inode, device, links, *node.owner, 0, 0, 0, 0))
