"""The locks that the kernel takes on directories, so that a held call holds up what it would.

mkdir(2) and rmdir(2) lock the directory in which they work, and rmdir also the one that it
removes; a look-up waits while the directory that it looks into is locked.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from ._news import News

if TYPE_CHECKING:
    from collections.abc import Hashable


@attrs.frozen
class Claim:
    """The directories that one system call needs."""

    exclusive: frozenset[Hashable] = frozenset()
    shared: frozenset[Hashable] = frozenset()


class DirectoryLocks:
    """Who is in which directory; usable from any thread."""

    def __init__(self) -> None:
        self.news = News()
        """Told whenever somebody has left."""
        self._lock = threading.Lock()
        self._exclusive: Counter[Hashable] = Counter()
        self._shared: Counter[Hashable] = Counter()

    def acquire(self, claim: Claim) -> bool:
        """Take all of ``claim`` at once, if all of it is free."""
        with self._lock:
            if any(
                self._exclusive[directory] for directory in claim.exclusive | claim.shared
            ) or any(self._shared[directory] for directory in claim.exclusive):
                return False
            self._exclusive.update(claim.exclusive)
            self._shared.update(claim.shared)
            return True

    def release(self, claim: Claim) -> None:
        """Give ``claim`` back."""
        with self._lock:
            self._exclusive.subtract(claim.exclusive)
            self._shared.subtract(claim.shared)
        self.news.tell()
