"""What a tree must look like once everything has settled, whatever has happened to it before.

Two promises as sets of paths. However calls, faults and cancellations interleave, the tree is what
stood before plus the whole path of every call that succeeded; and what stood before, or what others
made, is never touched. Others are whoever makes and removes directories without this library: what
they removed need not stand, and what they made stands and keeps everything above it.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Iterable, Iterator

import attrs


def prefixes(path: str) -> Iterator[str]:
    """``path``, relative to the tree, and everything above it in the tree; deepest first."""
    while path:
        yield path
        path = os.path.dirname(path)


def with_prefixes(paths: Iterable[str]) -> set[str]:
    return {prefix for path in paths for prefix in prefixes(path)}


def tree_below(root: str) -> dict[str, int]:
    """Every directory below ``root`` by its relative path, with its inode number."""
    found: dict[str, int] = {}
    pending = [""]
    while pending:
        above = pending.pop()
        with os.scandir(os.path.join(root, above)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    path = os.path.join(above, entry.name)
                    found[path] = entry.inode()
                    pending.append(path)
    return found


@attrs.frozen
class Difference:
    """One directory that is where it must not be, or is not where it must be."""

    path: str
    wrong: str

    def __str__(self) -> str:
        return f"{self.path or '.'}: {self.wrong}"


class Model:
    """Knows what has happened to one tree, and so what it may look like; usable from any thread."""

    def __init__(self, before: dict[str, int]) -> None:
        self._before = dict(before)
        self._lock = threading.Lock()
        self._now = itertools.count(1)
        self._wanted: dict[str, int] = {}  # by successful calls; when the last of them began
        self._theirs: set[str] = set()
        self._made_by_others: set[str] = set()
        self._removed_by_others: dict[str, float] = {}
        self._nobodys: set[str] = set()

    def call_begins(self) -> int:
        """A call starts now; what it returns is for `call_succeeded`."""
        with self._lock:
            return next(self._now)

    def call_succeeded(self, path: str, began: int) -> None:
        """A call that asked for ``path`` has returned, or the nursery around it has ended well."""
        with self._lock:
            for prefix in prefixes(path):
                self._wanted[prefix] = max(began, self._wanted.get(prefix, 0))

    def others_made(self, path: str) -> None:
        """Others made ``path``.

        Where they have removed one before, a call that had just made that one may take it for its
        own: no more than device and inode tell them apart, and not before it has looked.
        """
        with self._lock:
            self._theirs.add(path)
            if path not in self._removed_by_others:
                self._made_by_others.add(path)

    def others_removed(self, path: str, *, looked_at: bool = False) -> None:
        """Others removed ``path``; nobody can expect it to stand but a call that begins later.

        And nobody at all if somebody has ``looked_at`` it, whose ``rmdir`` may follow: that asks
        the kernel for a path and not for an inode number, and takes what has been made there since.
        """
        with self._lock:
            self._made_by_others.discard(path)
            self._removed_by_others[path] = math.inf if looked_at else next(self._now)

    def is_nobodys(self, path: str) -> None:
        """``path`` may stand: the reply to its ``mkdir`` was lost, or its ``rmdir`` was refused."""
        with self._lock:
            self._nobodys.add(path)

    @property
    def removed_by_others(self) -> set[str]:
        """What others removed, whoever has made it again since."""
        with self._lock:
            return set(self._removed_by_others)

    @property
    def required(self) -> set[str]:
        """What must stand."""
        wanted = {
            path
            for path, began in self._wanted.items()
            if began > self._removed_by_others.get(path, 0)
        }
        before = {path for path in self._before if path not in self._removed_by_others}
        # What others made inside keeps everything above it, which they cannot have removed either.
        return wanted | before | self._made_by_others

    @property
    def allowed(self) -> set[str]:
        """What may stand, and nothing else."""
        # What others put inside for a moment can have kept a directory from being undone.
        kept = self._theirs | self._nobodys
        return set(self._before) | set(self._wanted) | with_prefixes(kept)

    def differences(self, tree: dict[str, int]) -> list[Difference]:
        """What is wrong with ``tree``; empty if it keeps the promises."""
        with self._lock:
            wrong = [
                *(Difference(path, "is missing") for path in self.required - tree.keys()),
                *(Difference(path, "is left over") for path in tree.keys() - self.allowed),
                *(
                    Difference(path, "is another directory than before")
                    for path, inode in self._before.items()
                    if path in tree and path not in self._removed_by_others and tree[path] != inode
                ),
            ]
        return sorted(wrong, key=lambda difference: difference.path)
