"""Undoing what a call has made: what was left to nobody is removed, the rest is told of.

Programs, as in `_walk`: each yields the system call that it starts next, and whoever drives it can
stop there. What they share between threads is in the undo log and in the shared tree.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from ._entries import BeingRemoved, State
from ._events import Made, Removed, Restored, Unsynced
from ._inheriting import NOT_EMPTY, NOTHING_THERE, Inheriting
from ._items import Item
from ._metadata import restore
from ._os import Opening
from ._paths import parent_of
from ._preview import Preview, asking, through
from ._sync_log import Unwritten, write

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from ._entries import Entry
    from ._handshake import Handshake, Operation
    from ._inheriting import Way
    from ._items import Batch
    from ._metadata import Metadata
    from ._paths import AnyPath
    from ._walk import Program
    from ._workers import Workers

_A_MOMENT: Final = 0.001
"""Seconds until another call has said that a directory is gone, as a rule,"""
_A_WHILE: Final = 0.1
"""and between two questions where it has not, because its removal hangs."""


class Undoing(Inheriting):
    """The undo log of one call, or of one block, and the programs that empty it."""

    def made(self, path: AnyPath, since: float, workers: Workers | None = None) -> Item:
        """A ``mkdir`` that began at ``since`` has made ``path``."""
        item = super().made(path, since, workers)
        self.recorder.tell(Made, path)
        return item

    def made_unseen(self, path: AnyPath, since: float) -> Item:
        """The same of what is hidden as yet, and will be at ``path``: nobody is told."""
        return super().made(path, since)

    def seen(self, items: Iterable[Item]) -> None:
        """What was made unseen has appeared."""
        for item in items:
            self.recorder.tell(Made, item.path)

    def tell_batches(self) -> None:
        """Tell what was made in batches: only when somebody asks, so nobody may be listening."""
        with self.lock:
            for batch in self._batches:
                self._tell_made(batch, batch.made[:])
        self.recorder.told.sort(key=itemgetter(1))

    def _tell_made(self, batch: Batch, made: Sequence[tuple[AnyPath, float]]) -> None:
        self.recorder.told += [(Made, since, path, ()) for path, since in made[batch.told :]]
        batch.told = len(made)

    def _from_batch(self, batch: Batch, made: Sequence[tuple[AnyPath, float]]) -> list[Item]:
        self._tell_made(batch, made)
        batch.told = 0
        return super()._from_batch(batch, made)

    # Undoing

    def undo(self, payer: Handshake, only: Workers | None = None) -> Program:
        """Undo whatever no system call is in the way of; what is left is somebody else's duty.

        ``only`` what is on one mount.
        """
        while (item := self.next_for(payer, only)) is not None:
            yield from self._undo(item)

    def _undo(self, item: Item) -> Program:
        if isinstance(item, Unwritten):
            yield from self._write(item)
            return
        if item.doubt is not None:
            yield from self._tell_doubt(item, item.doubt)
            return
        if item.before is not None:
            yield from self._put_back(item, item.before)
            return
        way = item.path, self._via(item)
        try:
            entry = item.entry or (yield from self._insist(item.path, partial(self._known, item)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                self.removed_from(parent_of(way[0]) or way[0], way[1], item, way[0])
            else:
                self._keep(item, f"lstat: {error.strerror}", error.errno)
            yield from self._inherit(way, item, gone=error.errno == errno.ENOENT)
            return
        entry.durable = entry.durable or item.durable
        state = self.tree.release(self.holder, entry)
        if state is State.REMOVING:
            yield from self._remove(item, entry)
        elif state is State.GONE:
            yield from self._inherit(way, item, gone=True)
        else:
            if state is State.PROVISIONAL:
                yield from self._keep_above(item, entry)
            if item.made:
                self._keep(item, "another call relies on it")

    def _put_back(self, item: Item, before: Metadata) -> Program:
        via = self._via(item)
        assert isinstance(via, Opening)  # noqa: S101 - or it could not have been changed
        attempt = partial(self._restore, item, via, before)
        try:
            found = yield from through(via, self._insist(item.path, attempt))
        except OSError as error:
            found = False
            if error.errno not in NOTHING_THERE:
                doing = getattr(error, "doing", "") or "open"
                self._keep(item, f"{doing}: {error.strerror}", error.errno)
                return
        if found:
            self.recorder.tell(Restored, item.path)
        else:
            self._keep(item, "it is not there any more, and was changed")

    def _restore(
        self, item: Item, via: Opening, before: Metadata
    ) -> Generator[Operation, None, bool]:
        if isinstance(via, Preview) and via.in_doubt:
            yield from via.settle(item.path)
        return (yield from restore(via, item.path, item.identity, before))

    def _known(self, item: Item) -> Generator[Operation, None, Entry]:
        delay = _A_MOMENT
        via = self._via(item)
        while True:
            identity = item.identity or (yield from self._identify(item.path, via))
            yield from self._check_elsewhere(identity, item.path, via)
            try:
                return self.tree.made(self.holder, identity, item.path, item.since, via)
            except BeingRemoved:
                # What had its number before; whoever removes that may not have said so yet.
                item.identity = None
            yield "sleep", item.path
            self.filesystem.sleep(delay)
            delay = min(2 * delay, _A_WHILE)

    def _remove(self, item: Item, entry: Entry) -> Program:
        told = False
        way: Way | None = None
        ways = self._ways(item, item.path, (entry.path, entry.via))
        try:
            while True:
                others = self.in_other_hands(item)
                try:
                    attempt = partial(self._rmdir, item, entry, ways)
                    way = yield from self._insist(ways[0][0], attempt)
                except OSError as error:
                    full = error.errno in NOT_EMPTY
                    if full and others:
                        self._stop_removing(entry)
                        told = True
                        self.put_off(item, others)
                        return
                    if not full and (yield from self._is_gone(ways)):
                        self._tell_removed(item)
                        break  # what stands there decides, as the reply can be lost
                    if self.tree.removed(entry, gone=False, full=full):
                        continue  # somebody has turned away from it meanwhile
                    told = True
                    yield from self._keep_above(item, entry)
                    if full:
                        self._keep(item, "it is not empty")
                    else:
                        self._keep(item, f"rmdir: {error.strerror}", error.errno)
                    return
                break
            told = True
            self.tree.removed(entry, gone=True)
        finally:
            if not told:
                self._stop_removing(entry)
        item.durable = entry.durable
        path, via = way or ways[0]
        self.removed_from(parent_of(path) or path, via, item, path)
        yield from self._inherit((path, via), item, gone=way is None)

    def _write(self, item: Unwritten) -> Program:
        """Without it, what was removed from there comes back after a power cut."""
        try:
            attempt = partial(write, item.path, item.written_by)
            yield from through(item.written_by, self._insist(item.path, attempt))
        except FileNotFoundError:  # and so is all that was in it
            pass
        except OSError as error:
            self.recorder.tell(Unsynced, item.path, f"fsync: {error.strerror}", error.errno)

    def _stop_removing(self, entry: Entry) -> None:
        """It may be tried once more, but not now, whoever has turned away from it."""
        while self.tree.removed(entry, gone=False):
            pass

    def _rmdir(
        self, item: Item, entry: Entry, ways: list[Way]
    ) -> Generator[Operation, None, Way | None]:
        """Remove it in one of these ways; tells in which, if it was there."""
        for path, via in ways:
            with suppress(FileNotFoundError):
                identity = yield from self._identify(path, via)
                # Otherwise it is somebody else's by now, whatever the answer to the last attempt.
                if identity == entry.identity:
                    yield asking(via, "rmdir", path)
                    via.rmdir(path)
                    self._tell_removed(item)
                    return path, via
        return None

    def _is_gone(self, ways: list[Way]) -> Generator[Operation, None, bool]:
        """Whether it is nowhere that is known."""
        for path, via in ways:
            try:
                yield from self._identify(path, via)
            except FileNotFoundError:
                continue
            except OSError:
                pass
            return False
        return True

    def _tell_doubt(self, item: Item, number: int) -> Program:
        """What may be ours, and cannot be told from another's, is left, but not in silence."""
        answer = errno.errorcode.get(number, str(number))
        why = f"mkdir was answered {answer}: it may be ours or another's"
        try:
            look = partial(self._identify, item.path, self._via(item))
            yield from self._insist(item.path, look)
        except OSError as error:
            if error.errno in NOTHING_THERE:
                return
            why += f", and cannot be looked at: {error.strerror}"
        self._keep(item, why)

    def _tell_removed(self, item: Item) -> None:
        if self._hidden(item) is None:  # otherwise nobody knows that it was made
            self.recorder.tell(Removed, item.path)
