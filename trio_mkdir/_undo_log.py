"""What a call has made and not committed: from which any thread may take the next thing to undo.

The last comes first, and nothing is handed out in or below which a system call has not returned:
``rmdir`` would wait on the same kernel lock. Whoever comes out of such a system call asks again,
so there is always somebody whose duty the rest is. Nothing here calls the filesystem.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Final

from ._handshake import Phase
from ._items import Batch, Item, spelling
from ._paths import AnyPath, parent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._entries import Entry
    from ._handshake import Handshake, Operation
    from ._items import Hands
    from ._workers import Workers, WorkerTable

positions: Final = itertools.count(1)
"""The order in which what a rollback nursery has to undo was completed, in the whole process."""

_OUT: Final = (Phase.ANSWERED, Phase.CANCELLED)  # no set: an enum hashes its members in Python


class UndoLog:
    """The items of one call, and the threads that work for it.

    ``workers`` are those of the call's mount; None if there is more than one.
    """

    # One is made for every call: what it begins with is the class's, and costs nothing to make.
    floor = 0
    """What has a lower position has to wait, whoever undoes it."""
    waiting: tuple[Callable[[], object], ...] = ()
    """Called when nothing is left to undo."""
    _payers: tuple[Handshake, ...] = ()
    _hands: Hands = ()
    _ending = False
    """The call has ended,"""
    _over = False
    """and nothing is left to do for it."""

    def __init__(self, table: WorkerTable, workers: Workers | None) -> None:
        self.lock = threading.Lock()
        self._table = table
        self._workers = workers
        self._items: list[Item] = []
        self._batches: list[Batch] = []
        self.ambiguous: dict[AnyPath, int] = {}
        """Where a ``mkdir`` was answered with an errno that leaves open whether it worked."""

    def workers_on(self, path: AnyPath) -> Workers | None:  # noqa: ARG002
        """Who may undo what is at ``path``."""
        return self._workers

    def made(self, path: AnyPath, since: float, workers: Workers | None = None) -> Item:
        """A ``mkdir`` that began at ``since`` has made ``path``."""
        item = Item(path, workers or self.workers_on(path), made=True, since=since)
        with self.lock:
            self._items.append(item)
        if self.ambiguous:
            self.ambiguous.pop(path, None)
        return item

    # Batches: what only a failure, or another call, needs as items

    def begin_batch(self, workers: Workers) -> Batch:
        """For directories that nothing else of this call is made in."""
        with self.lock:
            batch = Batch(workers, len(self._items))
            self._batches.append(batch)
        return batch

    def batched(self) -> list[AnyPath]:
        """What is in batches."""
        with self.lock:
            return [path for batch in self._batches for path, _ in batch.made[:]]

    def _unfold(self) -> None:
        if not self._batches:
            return
        still_open = [batch for batch in self._batches if batch.is_open]  # asked before, not after
        items: list[Item] = []
        place = 0
        for batch in self._batches:
            made = batch.made[:]
            del batch.made[: len(made)]
            items += self._items[place : batch.place]
            items += self._from_batch(batch, made)
            place = batch.place
        items += self._items[place:]
        self._items = items
        for batch in still_open:
            batch.place = len(items)
        self._batches = still_open

    def _from_batch(self, batch: Batch, made: Sequence[tuple[AnyPath, float]]) -> list[Item]:
        return [Item(path, batch.workers, made=True, since=since) for path, since in made]

    # Items

    def insert(self, item: Item) -> None:
        """Above everything that is deeper, so that undoing from the end meets children first."""
        with self.lock:
            self._insert(item)

    def _insert(self, item: Item) -> None:
        self._unfold()
        place = len(self._items)
        while place and len(self._items[place - 1].path) > len(item.path):
            place -= 1
        self._items.insert(place, item)

    def not_entered(self) -> list[Item]:
        """What the shared tree does not know of yet."""
        with self.lock:
            self._unfold()
            return [item for item in self._items if item.made and item.entry is None]

    def made_here(self) -> list[Item]:
        """What this call has made, parents first."""
        with self.lock:
            self._unfold()
            return [item for item in self._items if item.made]

    def knows(self, entry: Entry) -> bool:
        """Whether there is an item for ``entry``."""
        with self.lock:
            self._unfold()
            return any(item.entry is entry for item in self._items)

    def known(self) -> set[Entry | None]:
        """The entries for which there is an item."""
        with self.lock:
            self._unfold()
            return {item.entry for item in self._items}

    def take_found(self, *, but: set[Entry]) -> Iterator[Item]:
        """Take what others have made and this call relies on, one by one, ``but`` not these."""
        while True:
            with self.lock:
                self._unfold()
                items = (item for item in self._items if item.entry and not item.made)
                item = next((item for item in items if item.entry not in but), None)
                if item is None:
                    return
                self._items.remove(item)
            yield item

    def adopt(self, items: Iterable[Item]) -> None:
        """What a call or a block inside this one has made is undone with this one."""
        completed = next(positions)
        with self.lock:
            self._unfold()
            for item in items:
                item.position = item.position or completed
            for item in items:
                # A block's have their places already, and others may have come in between.
                place = len(self._items)
                while place and self._items[place - 1].position > item.position:
                    place -= 1
                self._items.insert(place, item)

    def put_back(self, positions: dict[Entry | None, int]) -> None:
        """Give items that are there already an earlier place, where there is one."""
        if not any(positions.values()):
            return  # those of a call have none yet
        with self.lock:
            for item in self._items:
                item.position = min(item.position, positions.get(item.entry, item.position))
            self._items.sort(key=lambda item: item.position)

    def clear(self) -> list[Item]:
        """Everything that was in it."""
        with self.lock:
            self._unfold()
            self._doubt()
            items, self._items = self._items, []
            return items

    # Threads

    def join(self, payer: Handshake) -> bool:
        """A thread is about to work for this call; False if there is nothing left to do."""
        with self.lock:
            if not self._over:
                self._payers = (*self._busy(), payer)
            return not self._over

    def part(self) -> None:
        """A thread was answered or cancelled and leaves the rest to others."""
        # Its phase says so already, to whoever looks; only who waits has to be told.
        with self.lock:
            settled = self._take_waiting()
        _call(settled)

    def _busy(self) -> tuple[Handshake, ...]:
        """The threads that may be in a system call of this call, or are yet to come to it."""
        self._payers = tuple([payer for payer in self._payers if payer.phase not in _OUT])
        return self._payers

    # Taking what can be undone

    def next_for(self, payer: Handshake, only: Workers | None) -> Item | None:
        """What ``payer`` is to undo; after None the rest is somebody else's duty."""
        with self.lock:
            payer.operation = None
            self._hands = tuple([hand for hand in self._hands if hand[0] is not payer])
            place = self._undoable(payer, only)
            if place is not None:
                item = self._items.pop(place)
                item.taken = True
                self._hands += ((payer, item),)
                payer.operation = "lstat", item.path
                return item
            # In the same breath: whoever looks after this sees that we are not in the way.
            self._payers = tuple([other for other in self._payers if other is not payer])
            settled = self._take_waiting()
        _call(settled)
        return None

    def _undoable(self, payer: Handshake | None = None, only: Workers | None = None) -> int | None:
        """Where the next item is that no system call is in the way of."""
        self._unfold()
        self._doubt()
        others = (other.operation for other in self._busy() if other is not payer)
        ours = [operation for operation in others if operation is not None]
        operations = [*ours, *self._table.stuck_in()]
        blocked = {path for _, where in operations for path in _at_or_above(where)}
        # It locks the directory that it writes.
        locked = {spelling(path) for name, path in operations if name == "fsync"}
        # What is below one that is to be changed back first may not let us in before.
        changed = {spelling(item.path) for _, item in self._hands if item.before is not None}
        # What is below one that is being renamed is not where it will be.
        changed |= {spelling(path) for name, path in ours if name == "rename"}
        for place in reversed(range(len(self._items))):
            item = self._items[place]
            mine = item.position >= self.floor and only in {None, item.workers}
            mine = mine and not any(hand in self._hands for hand in item.after)
            mine = mine and not (locked and locked.intersection(map(parent_of, item.paths)))
            mine = mine and (not changed or changed.isdisjoint(_at_or_above(item.path)))
            if mine and blocked.isdisjoint(item.paths):
                return place
            if item.before is not None:
                changed |= item.paths
        return None

    def in_other_hands(self, item: Item) -> Hands:
        """What others are undoing while ``item`` is undone."""
        with self.lock:
            return tuple([hand for hand in self._hands if hand[1] is not item])

    def put_off(self, item: Item, after: Hands) -> None:
        """``item`` is undone once more when ``after`` is, by whoever asks then."""
        item.after = after
        item.taken = False
        self.insert(item)

    def _doubt(self) -> None:
        """What may be ours is told of as soon as anything is undone, also by a late thread."""
        while self.ambiguous:
            path, number = self.ambiguous.popitem()
            item = Item(path, self.workers_on(path), made=False)
            item.doubt = number
            self._insert(item)

    def undoable(self) -> bool:
        """Whether something can be undone right now."""
        with self.lock:
            return self._undoable() is not None

    def undoable_on(self) -> set[Workers]:
        """The mounts on which something can be undone right now."""
        with self.lock:
            self._unfold()
            self._doubt()
            mounts = {item.workers for item in self._items if item.workers is not None}
            return {workers for workers in mounts if self._undoable(None, workers) is not None}

    def owed(self) -> tuple[list[Operation], list[Item]]:
        """The system calls that are in the way, and what is still to be undone."""
        with self.lock:
            self._unfold()
            stuck = [payer.operation for payer in self._busy() if payer.operation is not None]
            return stuck, [item for item in reversed(self._items) if item.may_be_removed]

    def owed_on(self) -> list[Workers | None]:
        """On which mount each of these is."""
        with self.lock:
            undoing = {payer: item.workers for payer, item in self._hands}
            stuck = [payer for payer in self._busy() if payer.operation is not None]
            items = [item.workers for item in self._items if item.may_be_removed]
        return [*(undoing.get(payer, self._workers) for payer in stuck), *items]

    # Being done

    def _settled(self) -> bool:
        batched = any([batch.made for batch in self._batches])  # noqa: C419 - half the time
        return not (self._items or batched or self.ambiguous) and not self._busy()

    def when_settled(self, callback: Callable[[], object], *, finally_: bool = False) -> bool:
        """Have ``callback`` called when nothing is left to undo; False if that is so already.

        ``finally_``: the call has ended, and after that nothing more is done for it.
        """
        with self.lock:
            settled = self._settled()
            if not settled:
                self.waiting += (callback,)
            self._ending = self._ending or finally_
            self._over = self._over or (settled and finally_)
            return not settled

    def _take_waiting(self) -> tuple[Callable[[], object], ...]:
        if not self._settled():
            return ()
        self._over = self._over or self._ending
        waiting, self.waiting = self.waiting, ()
        return waiting


def _call(callbacks: Iterable[Callable[[], object]]) -> None:
    for callback in callbacks:
        callback()


def _at_or_above(path: AnyPath) -> Iterator[AnyPath]:
    # Also what the text goes through before a `..`: without it the path would lead nowhere.
    above: AnyPath | None = path
    while above is not None:
        yield spelling(above)
        above = parent_of(above)
