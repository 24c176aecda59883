"""What one call does to the tree: it makes, says what it made and relies on, and takes it back.

Programs, as in `_walk`: each yields the system call that it starts next, and whoever drives it can
stop there. What they share between threads is in the undo log and in the shared tree.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from ._causes import RootCause, root_cause
from ._entries import BeingRemoved, Holder, State
from ._events import Kept, Made, PendingRollback, ReliedOn, Removed
from ._paths import AnyPath, parent_of
from ._undo_log import Item, UndoLog
from ._walk import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator

    from ._entries import Entry, Identity, Look
    from ._events import Recorder
    from ._handshake import Handshake, Operation
    from ._os import Filesystem
    from ._policy import Policy
    from ._registry import Registry
    from ._walk import Program
    from ._workers import Workers

T = TypeVar("T")


class Way(Protocol):
    """What leads to all that a call is to make."""

    mine: set[AnyPath]
    """What the call has made and not met since."""

    def run(self) -> Program:
        """Make what is still missing."""
        ...


_A_MOMENT: Final = 0.001
"""Seconds until another call has said that a directory is gone, as a rule,"""
_A_WHILE: Final = 0.1
"""and between two questions where it has not, because its removal hangs."""
_NOTHING_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_NOT_EMPTY: Final = {errno.ENOTEMPTY, errno.EEXIST}


class Transaction(UndoLog):
    """The undo log of one call, or of one block, and the programs that fill and empty it.

    ``prefixes`` are those of the path on which it may make something; ``outer`` gets what it
    made when it succeeds.
    """

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
        super().__init__(shared.workers, workers)
        self.holder: Holder = Holder()
        self.shared = shared
        self.tree = shared.tree
        self.filesystem = filesystem
        self.recorder = recorder
        self._policy = policy
        self._prefixes = prefixes
        self._outer = outer

    def take_over(
        self,
        visit: Handshake,
        holder: Holder,
        items: list[Item],
        ambiguous: dict[AnyPath, int],
    ) -> None:
        """Go on with what the first visit of a call has made until now, under its lock."""
        self.lock = visit.lock
        self.holder = holder
        self._items = items
        self.ambiguous = ambiguous
        self._payers = (visit,)

    # What was made and what is relied on

    def workers_on(self, path: AnyPath) -> Workers:
        """Who may undo what is at ``path``."""
        return self._workers or self.shared.workers.on(self.filesystem.mount(path))

    def made(self, path: AnyPath, since: float, workers: Workers | None = None) -> Item:
        """A ``mkdir`` that began at ``since`` has made ``path``."""
        item = super().made(path, since, workers)
        self.recorder.tell(Made, path)
        return item

    def tell_batches(self) -> None:
        """Tell what was made in batches: only when somebody asks, so nobody may be listening."""
        with self.lock:
            self._tell_batches()

    def _tell_batches(self) -> None:
        told = self.recorder.told
        for batch in self._batches:
            made = batch.made or []
            told += [(Made, since, path, ()) for path, since in made[batch.told :]]
            batch.told = len(made)
        told.sort(key=itemgetter(1))

    def _unfold(self) -> None:
        if self._batches:
            self._tell_batches()
            super()._unfold()

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
                if error.errno == errno.ENOENT:
                    walk.mine.discard(item.path)
        if not alone:
            yield from self.hold(walk.mine)

    def enter(self) -> Program:
        """Tell the shared tree which directories this call made, as far as that can be told now.

        What cannot be looked at now is looked at again when it is undone.
        """
        for item in self.not_entered():
            with suppress(OSError, BeingRemoved):
                yield from self._enter(item)

    def _enter(self, item: Item) -> Program:
        identity = item.identity or (yield from self._identify(item.path))
        yield from self._check_elsewhere(identity, item.path)
        with self.lock:
            # Undone meanwhile, by somebody who did not wait for us? Then nothing there is ours.
            if not item.taken:
                item.entry = self.tree.made(self.holder, identity, item.path, item.since)

    def _check_elsewhere(self, identity: Identity, path: AnyPath) -> Program:
        """Another path to our directory, or to what had its inode number before us?"""
        sight = self.tree.seen_elsewhere(identity, path)
        if sight is None:
            return
        try:
            same = identity == (yield from self._identify(sight.path, follow=True))
        except OSError as error:
            same = error.errno not in _NOTHING_THERE  # any other failure tells nothing
        if not same:
            self.tree.forget(sight)

    def _identify(
        self, path: AnyPath, *, follow: bool = False
    ) -> Generator[Operation, None, Identity]:
        name = "stat" if follow else "lstat"
        yield name, path
        status = (self.filesystem.stat if follow else self.filesystem.lstat)(path)
        return status.st_dev, status.st_ino

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
                identity = yield from self._identify(path, follow=True)
            except OSError as error:
                raise _failed(error, path) from None
            looks.append((identity, path, time.monotonic()))
        return looks

    def _rely(self, entries: list[Entry], looks: list[Look]) -> None:
        known = self.known()
        for entry, (_, path, _) in zip(entries, looks, strict=False):
            if entry in known:
                continue
            known.add(entry)
            self._found(path, self.workers_on(path), entry)
            if self.tree.shared(entry, self.holder, self._outer):
                self.recorder.tell(ReliedOn, path)

    def _found(
        self, path: AnyPath, workers: Workers | None, entry: Entry, position: int = 0
    ) -> None:
        item = Item(path, workers, made=False)
        item.entry = entry
        item.position = position
        self.insert(item)

    def _drop_but(self, entries: Iterable[Entry]) -> Program:
        """Rely no more on what is not on the path any more; the last to do so removes it."""
        for item in self.take_found(but=set(entries)):
            try:
                yield from self._undo(item)
            except GeneratorExit:  # the call ends here, and undoes it with the rest
                self.insert(item)
                raise

    def commit(self) -> None:
        """Nothing of this is undone any more."""
        self._payers = ()  # they know us: what knows each other waits for the garbage collector
        self.tree.commit(self.holder)

    def move_to(self, outer: Transaction) -> None:
        """What this one made and found is undone with ``outer`` from now on."""
        items = self.clear()
        known = {item.entry for item in items if item.entry in outer.holder.entries}
        self.tree.hand_on(self.holder, outer.holder)
        outer.adopt([item for item in items if item.entry not in known])
        # What ``outer`` had made or found, too, is undone with what was completed first.
        outer.put_back({item.entry: item.position for item in items if item.entry in known})

    # Undoing

    def undo(self, payer: Handshake, only: Workers | None = None) -> Program:
        """Undo whatever no system call is in the way of; what is left is somebody else's duty.

        ``only`` what is on one mount.
        """
        while (item := self.next_for(payer, only)) is not None:
            yield from self._undo(item)

    def _undo(self, item: Item) -> Program:
        if item.doubt is not None:
            yield from self._tell_doubt(item, item.doubt)
            return
        try:
            entry = item.entry or (yield from self._insist(item.path, partial(self._known, item)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._keep(item, f"lstat: {error.strerror}", error.errno)
            yield from self._inherit(item.path, item)
            return
        state = self.tree.release(self.holder, entry)
        if state is State.REMOVING:
            yield from self._remove(item, entry)
        elif state is State.GONE:
            yield from self._inherit(item.path, item)
        elif item.made:
            self._keep(item, "another call relies on it")

    def _known(self, item: Item) -> Generator[Operation, None, Entry]:
        delay = _A_MOMENT
        while True:
            identity = item.identity or (yield from self._identify(item.path))
            yield from self._check_elsewhere(identity, item.path)
            try:
                return self.tree.made(self.holder, identity, item.path, item.since)
            except BeingRemoved:
                # What had its number before; whoever removes that may not have said so yet.
                item.identity = None
            yield "sleep", item.path
            self.filesystem.sleep(delay)
            delay = min(2 * delay, _A_WHILE)

    def _remove(self, item: Item, entry: Entry) -> Program:
        told = False
        where = entry.path
        try:
            while True:
                others = self.in_other_hands(item)
                try:
                    where = yield from self._insist(entry.path, partial(self._rmdir, item, entry))
                except OSError as error:
                    full = error.errno in _NOT_EMPTY
                    if full and others:
                        self._stop_removing(entry)
                        told = True
                        self.put_off(item, others)
                        return
                    if not full and (yield from self._is_gone(item, entry)):
                        self.recorder.tell(Removed, item.path)
                        break  # what stands there decides, as the reply can be lost
                    if self.tree.removed(entry, gone=False, full=full):
                        continue  # somebody has turned away from it meanwhile
                    told = True
                    yield from self._keep_above(entry.path)
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
        yield from self._inherit(where, item)

    def _stop_removing(self, entry: Entry) -> None:
        """It may be tried once more, but not now, whoever has turned away from it."""
        while self.tree.removed(entry, gone=False):
            pass

    def _rmdir(self, item: Item, entry: Entry) -> Generator[Operation, None, AnyPath]:
        """Remove it where it was made, or where it was found; tells where."""
        for path in dict.fromkeys([entry.path, item.path]):
            with suppress(FileNotFoundError):
                identity = yield from self._identify(path)
                # Otherwise it is somebody else's by now, whatever the answer to the last attempt.
                if identity == entry.identity:
                    yield "rmdir", path
                    self.filesystem.rmdir(path)
                    self.recorder.tell(Removed, item.path)
                    return path
        return entry.path

    def _is_gone(self, item: Item, entry: Entry) -> Generator[Operation, None, bool]:
        """Whether it is nowhere that is known."""
        for path in dict.fromkeys([entry.path, item.path]):
            try:
                yield from self._identify(path)
            except FileNotFoundError:
                continue
            except OSError:
                pass
            return False
        return True

    def _keep_above(self, path: AnyPath) -> Program:
        """What was left standing above ``path`` has to be known for as long as ``path`` stands."""
        while (parent := parent_of(path)) is not None:  # pragma: no branch - the root stands
            path = parent
            try:
                identity = yield from self._insist(path, partial(self._identify, path, follow=True))
            except OSError:
                return
            if not self.tree.keep(identity):
                return

    def _inherit(self, path: AnyPath, child: Item) -> Program:
        """Take over the directory above ``path``, if its maker could not remove it because of us.

        By the path at which it was made: a symbolic link has other directories above it.
        """
        parent = parent_of(path)
        if parent is None or not self.tree.loose:
            return
        identity = self.tree.loose_at(parent)
        if identity is None:
            look = partial(self._identify, parent, follow=True)
            try:
                identity = yield from self._insist(parent, look)
            except OSError as error:
                if error.errno not in _NOTHING_THERE:
                    why = f"what was in it is removed, and it cannot be looked at: {error.strerror}"
                    self.recorder.tell(Kept, parent, why, error.errno)
                return
        born = child.since if child.entry is None else child.entry.born
        entry = self.tree.inherit(self.holder, identity, born)
        if entry is not None and not self.knows(entry):
            self._found(parent, child.workers, entry, child.position)

    def _insist(
        self, path: AnyPath, attempt: Callable[[], Generator[Operation, None, T]]
    ) -> Generator[Operation, None, T]:
        """The result of ``attempt``, tried again as the policy says."""
        delays: dict[RootCause, Iterator[float]] = {}
        while True:
            try:
                return (yield from attempt())
            except OSError as error:
                cause = root_cause(error.errno)
                backoff = self._policy.retries.get(cause)
                if error.errno in _NOT_EMPTY or backoff is None:
                    raise
                delay = next(delays.setdefault(cause, backoff.delays(self.shared.random)), None)
                if delay is None:
                    raise
            yield "sleep", path
            self.filesystem.sleep(delay)

    def _tell_doubt(self, item: Item, number: int) -> Program:
        """What may be ours, and cannot be told from another's, is left, but not in silence."""
        answer = errno.errorcode.get(number, str(number))
        why = f"mkdir was answered {answer}: it may be ours or another's"
        try:
            yield from self._insist(item.path, partial(self._identify, item.path))
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return
            why += f", and cannot be looked at: {error.strerror}"
        self._keep(item, why)

    def _keep(self, item: Item, why: str, number: int | None = None) -> None:
        self.recorder.tell(Kept, item.path, why, number)

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
            debts.append(PendingRollback(item.path, "undo", mount.mount_point, since))
        return debts


def _failed(error: OSError, path: AnyPath) -> Failed:
    cause = RootCause.VANISHED if error.errno == errno.ENOENT else None
    return Failed(error.errno or errno.EIO, path, cause)
