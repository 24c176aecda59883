"""What one call does to the tree: it makes, says what it made and what it relies on.

Programs, as in `_walk`: each yields the system call that it starts next, and whoever drives it can
stop there. What they share between threads is in the undo log and in the shared tree.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from ._causes import RootCause
from ._entries import BeingRemoved, Holder
from ._events import PendingRollback, ReliedOn
from ._items import Item
from ._paths import AnyPath
from ._sync_log import Unwritten
from ._undoing import Undoing
from ._walk import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Sequence

    from ._entries import Entry, Identity, Look
    from ._events import Recorder
    from ._handshake import Handshake, Operation
    from ._metadata import Metadata
    from ._os import Confined, Filesystem
    from ._policy import Policy
    from ._registry import Registry
    from ._walk import Program
    from ._workers import Workers


class Way(Protocol):
    """What leads to all that a call is to make."""

    @property
    def mine(self) -> set[AnyPath]:
        """What the call has made and not met since."""
        ...

    def run(self) -> Program:
        """Make what is still missing."""
        ...


class Transaction(Undoing):
    """What one call, or one block, makes and relies on.

    ``prefixes`` are those of the path on which it may make something; ``outer`` gets what it
    made when it succeeds.
    """

    roots: tuple[Confined, ...] = ()
    """What has to be closed in the end."""

    def __init__(
        self,
        shared: Registry,
        workers: Workers | None,
        filesystem: Filesystem,
        recorder: Recorder,
        policy: Policy,
        prefixes: Callable[[], Iterable[AnyPath]] = tuple[AnyPath, ...],
        outer: tuple[Holder, ...] = (),
    ) -> None:
        super().__init__(shared, workers, filesystem, recorder, policy)
        self._prefixes = prefixes
        self._outer = outer

    def take_over(
        self,
        first: Handshake,
        holder: Holder,
        items: list[Item],
        ambiguous: dict[AnyPath, int],
        *,
        sent: bool,
    ) -> None:
        """Go on with what the first visit of a call has made until now, under its lock."""
        self.lock = first.lock
        self.holder = holder
        self._items = items
        self.ambiguous = ambiguous
        self._payers = (first,) if sent else ()

    def forward(self, walk: Way, *, provisional: bool = False) -> Program:
        """Make the path; then tell the shared tree what this call made and what it relies on.

        ``provisional``: success is not final, so everything has to be entered, whoever is there.
        Raises `Failed` if something of it has vanished and `BeingRemoved` if it is about to.
        """
        yield from walk.run()
        alone = self.tree.alone(self.holder)
        if alone and not provisional:
            return
        # Entered, it is safe from a call that takes it for one of its own that is gone.
        for item in self.not_entered():
            try:
                yield from self._enter(item)
            except BeingRemoved:
                item.identity = None  # it may be another by then
                raise
            except OSError as error:
                if provisional:
                    raise _failed(error, item.path) from None
                walk.mine.discard(item.path)  # so that it is looked at as what is not
        if not alone:
            yield from self.hold(walk.mine)

    def altered(
        self, path: AnyPath, identity: Identity, before: Metadata, *, position: int = 0
    ) -> None:
        """``path`` is about to be changed, and had ``before`` until now."""
        item = Item(path, self.workers_on(path), made=False)
        item.identity, item.before, item.position = identity, before, position
        with self.lock:
            self._unfold()
            self._items.append(item)

    def enter(self) -> Program:
        """Tell the shared tree which directories this call made, as far as that can be told now.

        What cannot be looked at now is looked at again when it is undone.
        """
        for item in self.not_entered():
            with suppress(OSError, BeingRemoved):
                yield from self._enter(item)

    def _enter(self, item: Item) -> Program:
        via = self._via(item)
        identity = item.identity or (yield from self._identify(item.path, via))
        yield from self._check_elsewhere(identity, item.path, via)
        with self.lock:
            # Undone meanwhile, by somebody who did not wait for us? Then nothing there is ours.
            if not item.taken:
                entry = self.tree.made(self.holder, identity, item.path, item.since, via)
                entry.durable = entry.durable or item.durable
                item.entry = entry

    def hold(self, mine: Collection[AnyPath] = ()) -> Program:
        """Hold every directory on the call's path, so that no other call's rollback removes it.

        What is ``mine`` nobody else removes, and it need not be looked at. Only a removal whose
        reply was lost, and that is tried again, can take it for what had its inode number before.
        """
        before: list[Entry] | None = None
        while True:
            removals = self.tree.removals
            known = mine if removals == self.holder.removals else ()
            paths = [path for path in self._prefixes() if path not in known][::-1]
            looks = yield from self._look(paths)
            entries, removing = self.tree.hold(self.holder, looks)
            self._rely(entries, looks)
            if removing is not None:
                raise BeingRemoved(removing, looks[len(entries)][1])
            # What is held cannot be removed any more; only what was removed between the look and
            # the hold can have fooled us, and another look tells. Where it shows what was held
            # before it, that stays; or whoever looks for long would never be done.
            if self.tree.removals == removals or entries == before:
                break
            before = entries
        yield from self._drop_but(entries)

    def _look(self, paths: Iterable[AnyPath]) -> Generator[Operation, None, list[Look]]:
        looks: list[Look] = []
        for path in paths:
            try:
                identity = yield from self._identify(path, self.filesystem, follow=True)
            except OSError as error:
                raise _failed(error, path) from None
            looks.append((identity, path, time.monotonic()))
        return looks

    def _rely(self, entries: list[Entry], looks: list[Look]) -> None:
        known = self.known()
        for entry, (_, path, _) in zip(entries, looks, strict=False):
            if entry in known or entry not in self.holder.entries:  # final, and nobody's to undo
                continue
            known.add(entry)
            self._found(path, self.workers_on(path), entry)
            if self.tree.shared(entry, self.holder, self._outer):
                self.recorder.tell(ReliedOn, path)

    def _drop_but(self, entries: Iterable[Entry]) -> Program:
        """Rely no more on what is not on the path any more; the last to do so removes it."""
        for item in self.take_found(but=set(entries)):
            yield from self._undo_now(item)

    def take(self, item: Item) -> bool:
        """Take ``item`` out; False if it is not there, or somebody is undoing it."""
        with self.lock:
            self._unfold()
            there = item in self._items
            if there:
                self._items.remove(item)
            return there

    def take_back(self, made: Sequence[Item]) -> Program:
        """Undo what was ``made``, and what was done to it, in the middle of the call."""
        ours, identities = {*made}, {item.identity for item in made}
        with self.lock:
            self._unfold()
            mine = [
                item
                for item in self._items
                if item in ours or (item.before is not None and item.identity in identities)
            ]
        for item in reversed(mine):
            if self.take(item):
                yield from self._undo_now(item)

    def _undo_now(self, item: Item) -> Program:
        try:
            yield from self._undo(item)
        except GeneratorExit:  # the call ends here, and undoes it with the rest
            self.insert(item)
            raise

    def commit(self) -> None:
        """Nothing of this is undone any more."""
        self._payers = ()  # they know us: what knows each other waits for the garbage collector
        self.tree.commit(self.holder)
        self.close_roots()

    def move_to(self, outer: Transaction) -> None:
        """What this one made and found is undone with ``outer`` from now on."""
        items = self.clear()
        self.move_roots(items, outer)
        known = {item.entry for item in items if item.entry in outer.holder.entries}
        self.tree.hand_on(self.holder, outer.holder)
        outer.adopt([item for item in items if item.entry not in known])
        # What ``outer`` had made or found, too, is undone with what was completed first.
        outer.put_back({item.entry: item.position for item in items if item.entry in known})

    def pending(self, since: float) -> list[PendingRollback]:
        """What is still owed."""
        stuck, items = self.owed()
        where = self.filesystem.mount
        debts = [
            PendingRollback(path, operation, where(path).mount_point, since)
            for operation, path in stuck
        ]
        for item in items:  # there can be many of them: no look at the mount table for each
            mount = where(item.path) if item.workers is None else item.workers.mount
            operation = "fsync" if isinstance(item, Unwritten) else "undo"
            debts.append(PendingRollback(item.path, operation, mount.mount_point, since))
        return debts

    # The roots that it is beneath

    def stay_in(self, confined: Confined) -> None:
        """``confined`` is the filesystem, and closed in the end."""
        self.confined = confined
        self.roots = (confined,)

    def close_roots(self) -> None:
        """Nothing is done for this one any more."""
        roots, self.roots = self.roots, ()
        for root in roots:
            root.close()

    def move_roots(self, items: Iterable[Item], outer: Transaction) -> None:
        """``outer`` keeps what ``items`` are undone by; of the same roots, one."""
        roots, self.roots = self.roots, ()
        for root in roots:
            mine = [item for item in items if self._via(item) is root]
            same = (other for other in outer.roots if other.anchor == root.anchor)
            kept = next(same, root) if mine else None
            for item in mine:
                item.via = kept
            if kept is root:
                outer.roots += (root,)
            else:
                root.close()


def _failed(error: OSError, path: AnyPath) -> Failed:
    cause = RootCause.VANISHED if error.errno == errno.ENOENT else None
    return Failed(error.errno or errno.EIO, path, cause)
