"""Filesystems for tests of durability: one with a disk, and one that does not write all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from trio_mkdir._paths import AnyPath
from trio_mkdir._registry import registry
from trio_mkdir.testing import MemoryFilesystem
from trio_mkdir.testing._nodes import Node, OpenNode


class _Written(OpenNode):
    """An open directory of a `Volatile`."""

    def __init__(self, node: Node, disk: dict[Node, dict[str, Node]]) -> None:
        super().__init__(node)
        self._disk = disk

    def fsync(self) -> None:
        self._disk[self._node] = dict(self._node.children)


class Volatile(MemoryFilesystem):
    """A filesystem that keeps to the letter of fsync(2), and to nothing beyond it.

    What is on its disk of a directory, itself and the names in it, is what it was when it was
    written last. No kernel is so strict: with a directory each writes others, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._disk: dict[Node, dict[str, Node]] = {}
        self.write_all()

    def write_all(self) -> None:
        """sync(2)."""
        with self._lock:
            self._disk.clear()
            above = [self._root]
            while above:
                node = above.pop()
                self._disk[node] = dict(node.children)
                above += node.children.values()

    def open(self, path: AnyPath) -> _Written:
        with self._asked_for(path) as text:
            opened = super().open(text)
            assert isinstance(opened, OpenNode)
            return _Written(opened._node, self._disk)

    def after_power_cut(self) -> set[str]:
        """The paths of all that is there when the power is back."""
        with self._lock:
            return set(self._on_disk("", self._root))

    def _on_disk(self, path: str, node: Node) -> Iterator[str]:
        for name, child in self._disk[node].items():
            if child in self._disk:  # otherwise it is a name of nothing
                yield f"{path}/{name}"
                yield from self._on_disk(f"{path}/{name}", child)


class _Forgetful:
    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def fsync(self) -> None:
        """Nothing happens."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)


class Forgetful:
    """Another filesystem, the real one as a rule, that does not write one of its directories."""

    def __init__(self, forgets: object = None, below: Any = None) -> None:
        self.forgets = forgets
        """The path of that one."""
        self._below: Any = registry.operating_system if below is None else below

    def open(self, path: AnyPath) -> Any:
        opened = self._below.open(path)
        if self.forgets is not None and os.fsdecode(path) == str(self.forgets):
            return _Forgetful(opened)
        return opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)
