"""Directories that are written to the disk, and what was removed from them and is to stay away.

fsync(2) on a directory writes its inode and the names that are in it. So what was removed comes
back after a power cut unless the directory that it was in is written after that: once, when all is
removed from it that had to go. Until then that is owed, like the removal of a directory.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ._items import Item
from ._os import Opening
from ._undo_log import UndoLog

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from ._entries import Entry
    from ._handshake import Handshake, Operation
    from ._items import Batch
    from ._os import Filesystem
    from ._paths import AnyPath
    from ._workers import Workers, WorkerTable


def write(path: AnyPath, via: Filesystem) -> Generator[Operation, None, None]:
    """Have the directory at ``path`` written to the disk; raises OSError, its ``path`` unsaid."""
    if not isinstance(via, Opening):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    yield "open", path
    try:
        directory = via.open(path)
    except NotADirectoryError:
        # A symbolic link is not opened, and what is above a directory may be one.
        path = f"{path}/." if isinstance(path, str) else path + b"/."
        yield "open", path
        directory = via.open(path)
    try:
        yield "fsync", path
        directory.fsync()
    finally:
        directory.close()


class Unwritten(Item):
    """A directory from which something was removed, and that is not written since."""

    def __init__(self, path: AnyPath, workers: Workers | None, via: Filesystem) -> None:
        super().__init__(path, workers, made=False)
        self.written_by = via

    @property
    def may_be_removed(self) -> bool:
        """Not it, but what it still holds on the disk."""
        return True


class SyncLog(UndoLog):
    """An undo log that also has what is to be written once something was removed from it."""

    durable = False
    """Whether a power cut must not bring back what is made and undone here."""

    def __init__(self, table: WorkerTable, workers: Workers | None) -> None:
        super().__init__(table, workers)
        self._unwritten: dict[AnyPath, Unwritten] = {}

    def made(self, path: AnyPath, since: float, workers: Workers | None = None) -> Item:
        """A ``mkdir`` that began at ``since`` has made ``path``."""
        item = super().made(path, since, workers)
        item.durable = self.durable
        return item

    def _from_batch(self, batch: Batch, made: Sequence[tuple[AnyPath, float]]) -> list[Item]:
        items = super()._from_batch(batch, made)
        for item in items:
            item.durable = self.durable
        return items

    def relied_on(self) -> list[tuple[Item, Entry]]:
        """What others have made, or may have, parents first."""
        with self.lock:
            self._unfold()
            return [(item, item.entry) for item in self._items if item.entry and not item.made]

    def removed_from(self, parent: AnyPath, via: Filesystem, child: Item, path: AnyPath) -> None:
        """``child`` is gone from ``path`` in ``parent``, and must not come back there.

        Told of each that is gone: one that was to be written need not be any more, but then its own
        removal has to be.
        """
        with self.lock:
            gone = self._unwritten.pop(path, None)
            if gone is not None:
                with suppress(ValueError):  # somebody is at it
                    self._items.remove(gone)
            if not (child.durable or gone) or parent in self._unwritten:
                return
            item = self._unwritten[parent] = Unwritten(parent, child.workers, via)
            self._items.insert(0, item)  # after everything else

    def next_for(self, payer: Handshake, only: Workers | None) -> Item | None:
        """What ``payer`` is to undo; after None the rest is somebody else's duty."""
        item = super().next_for(payer, only)
        if isinstance(item, Unwritten):
            with self.lock:  # what is removed from now on needs another one
                self._unwritten.pop(item.path, None)
        return item

    def take_found(self, *, but: set[Entry]) -> Iterator[Item]:
        """The same, and then what is to be written because of that."""
        yield from super().take_found(but=but)
        while (item := self._take_unwritten()) is not None:
            yield item

    def _take_unwritten(self) -> Unwritten | None:
        with self.lock:
            for path, item in self._unwritten.items():
                if item in self._items:  # otherwise somebody is at it
                    del self._unwritten[path]
                    self._items.remove(item)
                    return item
            return None
