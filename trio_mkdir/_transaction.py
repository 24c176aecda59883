"""What a call has made and not committed, and how it is taken back.

Undoing runs from the last to the first and stops short of every directory in or below which a
system call has not returned: ``rmdir`` would wait on the same kernel lock. Whoever comes out of
such a system call goes on from there, so there is always somebody whose duty the rest is.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs

from ._causes import RootCause, root_cause
from ._events import Kept, Made, PendingRollback, ReliedOn, Removed
from ._handshake import Phase
from ._paths import parent_of
from ._shared import Entry, Holder, State
from ._walk import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator
    from random import Random

    from ._events import Recorder
    from ._handshake import Handshake, Operation
    from ._os import Filesystem
    from ._paths import AnyPath
    from ._policy import Policy
    from ._shared import Identity, Look, SharedTree
    from ._walk import Program
    from ._workers import Workers, WorkerTable

T = TypeVar("T")

_OUT = {Phase.ANSWERED, Phase.CANCELLED}
_NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_NOT_EMPTY = {errno.ENOTEMPTY, errno.EEXIST}


class BeingRemoved(Exception):
    """A directory on the path is being removed by another call right now."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.path)
        self.entry = entry


@attrs.define(eq=False)
class Item:
    """One directory that may have to be undone."""

    path: AnyPath
    made: bool
    """By this call; otherwise it found what another call had made, and may be the last to fail."""
    workers: Workers | None = None
    """Of the mount it is on."""
    since: float = 0.0
    """`time.monotonic` before its ``mkdir``."""
    identity: Identity | None = None
    """What was found right after it was made."""
    entry: Entry | None = None
    epoch: int = 0
    """How many compensations of its block are older."""
    taken: bool = False
    """Whether somebody is undoing it."""

    @property
    def paths(self) -> set[str]:
        """Where it is looked at and removed, as `_spelling` has it."""
        paths = [self.path] if self.entry is None else [self.path, self.entry.path]
        return {_spelling(path) for path in paths}

    @property
    def may_be_removed(self) -> bool:
        """Whether undoing it can mean to remove it."""
        return self.made or (self.entry is not None and self.entry.state is State.PROVISIONAL)


class Transaction(Holder):
    """The undo log of one call, which holds what it made in the shared tree."""

    __slots__ = (
        "_ending",
        "_items",
        "_outer",
        "_over",
        "_payers",
        "_policy",
        "_prefixes",
        "_random",
        "_table",
        "_tree",
        "_waiting",
        "_workers",
        "ambiguous",
        "epoch",
        "filesystem",
        "floor",
        "lock",
        "recorder",
    )

    def __init__(
        self,
        tree: SharedTree,
        filesystem: Filesystem,
        policy: Policy,
        recorder: Recorder,
        random: Random,
        table: WorkerTable,
        workers: Workers | None,
        prefixes: Callable[[], Iterable[AnyPath]],
        outer: tuple[Transaction, ...] = (),
    ) -> None:
        super().__init__()
        self._outer = outer  # those that get what it made when it succeeds
        self.lock = threading.Lock()
        self.epoch = 0  # how many compensations its block has
        self.floor = 0  # what is older than so many of them has to wait, whoever undoes it
        self.recorder = recorder
        self._tree = tree
        self.filesystem = filesystem
        self._policy = policy
        self._random = random
        self._table = table
        self._workers = workers  # of the mount; None if there is more than one
        self._prefixes = prefixes  # of the path on which it may have made something
        self.ambiguous: dict[AnyPath, int] = {}
        """Where a ``mkdir`` was answered with an errno that leaves open whether it worked."""
        self._items: list[Item] = []
        self._payers: list[Handshake] = []
        self._waiting: list[Callable[[], object]] = []
        self._ending = False  # the call has ended
        self._over = False  # and nothing is left to do for it

    # What was made and what is relied on

    def made(self, path: AnyPath, since: float) -> Item:
        """A ``mkdir`` that began at ``since`` has made ``path``."""
        item = Item(path, True, self._workers, since)  # noqa: FBT003 - one for each directory
        with self.lock:
            self._items.append(item)
        self.recorder.tell(Made, path)
        return item

    def enter(self, *, strictly: bool = False) -> Program:
        """Tell the shared tree which directories this call made, by their identity.

        What cannot be looked at now is looked at again when it is undone; or, if everything has to
        be entered ``strictly``, it raises `Failed`.
        """
        with self.lock:
            new = [item for item in self._items if item.entry is None]
        for item in new:
            try:
                yield from self._enter(item)
            except OSError as error:
                if strictly:
                    raise _failed(error, item.path) from None

    def _enter(self, item: Item) -> Program:
        identity = item.identity or (yield from self._identify(item.path))
        yield from self._check_elsewhere(identity, item.path)
        with self.lock:
            # Undone meanwhile, by somebody who did not wait for us? Then nothing there is ours.
            if not item.taken:
                item.entry = self._tree.made(self, identity, item.path, item.since)

    def _check_elsewhere(self, identity: Identity, path: AnyPath) -> Program:
        """Another path to our directory, or to what had its inode number before us?"""
        elsewhere = self._tree.seen_elsewhere(identity, path)
        if elsewhere is None:
            return
        try:
            same = identity == (yield from self._identify(elsewhere.path, follow=True))
        except OSError as error:
            same = error.errno not in _NOTHING_THERE  # any other failure tells nothing
        if not same:
            self._tree.forget(elsewhere)

    def _identify(
        self, path: AnyPath, *, follow: bool = False
    ) -> Generator[Operation, None, Identity]:
        name = "stat" if follow else "lstat"
        yield name, path
        status = (self.filesystem.stat if follow else self.filesystem.lstat)(path)
        return status.st_dev, status.st_ino

    def hold(self, mine: Collection[AnyPath] = ()) -> Program:
        """Hold every directory on the call's path, so that no other call's rollback removes it.

        What is ``mine`` nobody else removes, and it is entered by its maker, not as a find.
        Raises `Failed` if one has vanished and `BeingRemoved` if one is about to.
        """
        paths = [path for path in self._prefixes() if path not in mine][::-1]
        while True:
            removals = self._tree.removals
            looks = yield from self._look(paths)
            entries, removing = self._tree.hold(self, looks)
            self._rely(entries, looks)
            if removing is not None:
                raise BeingRemoved(removing)
            # What is held cannot be removed any more; only what was removed between the look and
            # the hold can have fooled us, and another look tells.
            if self._tree.removals == removals:
                break
        self._drop_but(entries)

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
        for entry, (_, path, _) in zip(entries, looks, strict=False):
            with self.lock:
                known = any(item.entry is entry for item in self._items)
                if not known:
                    self._insert(Item(path, made=False, workers=self._workers, entry=entry))
            if not known and self._tree.shared(entry, self, self._outer):
                self.recorder.tell(ReliedOn, path)

    def _drop_but(self, entries: Iterable[Entry]) -> None:
        """Rely no more on what is not on the path any more."""
        with self.lock:
            stays = set(entries)
            gone = [
                item.entry
                for item in self._items
                if item.entry is not None and not item.made and item.entry not in stays
            ]
            self._items = [item for item in self._items if item.entry not in gone]
        for entry in gone:
            self._tree.drop(self, entry)

    def _insert(self, item: Item) -> None:
        # Above everything that is deeper, so that undoing from the end meets children first.
        place = len(self._items)
        while place and len(self._items[place - 1].path) > len(item.path):
            place -= 1
        self._items.insert(place, item)

    def commit(self) -> None:
        """Nothing of this is undone any more."""
        self._tree.commit(self)

    # Undoing

    def join(self, payer: Handshake) -> bool:
        """A thread is about to work for this call; False if there is nothing left to do."""
        with self.lock:
            if not self._over:
                self._payers.append(payer)
            return not self._over

    def part(self) -> None:
        """A thread was answered or cancelled and leaves the rest to others."""
        # Its phase says so already, to whoever looks; only who waits has to be told.
        if self._waiting:
            with self.lock:
                settled = self._take_waiting()
            self._call(settled)

    def _busy(self) -> list[Handshake]:
        """The threads that may be in a system call of this call, or are yet to come to it."""
        self._payers = [payer for payer in self._payers if payer.phase not in _OUT]
        return self._payers

    def undo(self, payer: Handshake, only: Workers | None = None) -> Program:
        """Undo whatever no system call is in the way of; what is left is somebody else's duty.

        ``only`` what is on one mount.
        """
        while (item := self._next(payer, only)) is not None:
            yield from self._undo(item)

    def _next(self, payer: Handshake, only: Workers | None) -> Item | None:
        with self.lock:
            payer.operation = None
            item = self._undoable(payer, only)
            if item is not None:
                self._items.remove(item)
                item.taken = True
                payer.operation = "lstat", item.path
                return item
            # In the same breath: whoever looks after this sees that we are not in the way.
            self._payers = [other for other in self._payers if other is not payer]
            settled = self._take_waiting()
        self._call(settled)
        return None

    def _undoable(self, payer: Handshake | None = None, only: Workers | None = None) -> Item | None:
        blocked = {
            path
            for operation in [
                *(other.operation for other in self._busy() if other is not payer),
                *self._table.stuck_in(),
            ]
            if operation is not None
            for path in _at_or_above(operation[1])
        }
        for item in reversed(self._items):
            mine = item.epoch >= self.floor and only in {None, item.workers}
            if mine and blocked.isdisjoint(item.paths):
                return item
        return None

    @property
    def undoable(self) -> bool:
        """Whether something can be undone right now."""
        with self.lock:
            return self._undoable() is not None

    def undoable_on(self) -> set[Workers]:
        """The mounts on which something can be undone right now."""
        with self.lock:
            return {
                item.workers
                for item in self._items
                if item.workers is not None and self._undoable(None, item.workers) is not None
            }

    def _undo(self, item: Item) -> Program:
        try:
            entry = item.entry or (yield from self._insist(item.path, partial(self._known, item)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._keep(item, f"lstat: {error.strerror}", error.errno)
            yield from self._inherit(item.path, item)
            return
        state = self._tree.release(self, entry)
        if state is State.REMOVING:
            yield from self._remove(item, entry)
        elif item.made and state is not State.GONE:
            self._keep(item, "another call relies on it")

    def _known(self, item: Item) -> Generator[Operation, None, Entry]:
        identity = item.identity or (yield from self._identify(item.path))
        yield from self._check_elsewhere(identity, item.path)
        return self._tree.made(self, identity, item.path, item.since)

    def _remove(self, item: Item, entry: Entry) -> Program:
        told = False
        try:
            while True:
                try:
                    yield from self._insist(entry.path, partial(self._rmdir, item, entry))
                except OSError as error:
                    if self._tree.removed(entry, gone=False):
                        continue  # somebody has turned away from it meanwhile
                    told = True
                    yield from self._keep_above(entry.path)
                    if error.errno in _NOT_EMPTY:
                        self._keep(item, "it is not empty")
                    else:
                        self._keep(item, f"rmdir: {error.strerror}", error.errno)
                    return
                break
            told = True
            self._tree.removed(entry, gone=True)
        finally:
            if not told:
                self._tree.removed(entry, gone=False)
        yield from self._inherit(entry.path, item)

    def _rmdir(self, item: Item, entry: Entry) -> Program:
        try:
            identity = yield from self._identify(entry.path)
            # Otherwise it is somebody else's by now, whatever the answer to the last attempt was.
            if identity == entry.identity and entry.state is State.REMOVING:
                yield "rmdir", entry.path
                self.filesystem.rmdir(entry.path)
                self.recorder.tell(Removed, item.path)
        except FileNotFoundError:
            pass

    def _keep_above(self, path: AnyPath) -> Program:
        """What was left standing above ``path`` has to be known for as long as ``path`` stands."""
        while (parent := parent_of(path)) is not None:  # pragma: no branch - the root stands
            path = parent
            try:
                identity = yield from self._insist(path, partial(self._identify, path, follow=True))
            except OSError:
                return
            if not self._tree.keep(identity):
                return

    def _inherit(self, path: AnyPath, child: Item) -> Program:
        """Take over the directory above ``path``, if its maker could not remove it because of us.

        By the path at which it was made: a symbolic link has other directories above it.
        """
        parent = parent_of(path)
        if parent is None or not self._tree.loose:
            return
        try:
            identity = yield from self._insist(parent, partial(self._identify, parent, follow=True))
        except OSError:
            return  # it is gone, or nothing can be done there
        entry = self._tree.inherit(self, identity)
        if entry is not None:
            with self.lock:
                self._insert(
                    Item(
                        parent,
                        made=False,
                        workers=child.workers,
                        entry=entry,
                        epoch=child.epoch,
                    )
                )

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
                delay = next(delays.setdefault(cause, backoff.delays(self._random)), None)
                if delay is None:
                    raise
            yield "sleep", path
            self.filesystem.sleep(delay)

    def tell_ambiguous(self) -> Program:
        """Tell of what may be ours, and cannot be told from another's, that it is left."""
        for path, number in self.ambiguous.items():
            answer = errno.errorcode.get(number, str(number))
            why = f"mkdir was answered {answer}: it may be ours or another's"
            try:
                yield from self._insist(path, partial(self._identify, path))
            except OSError as error:
                if error.errno in _NOTHING_THERE:
                    continue
                why += f", and cannot be looked at: {error.strerror}"
            self.recorder.tell(Kept, path, why, None)

    def _keep(self, item: Item, why: str, number: int | None = None) -> None:
        self.recorder.tell(Kept, item.path, why, number)

    # Being done

    def _settled(self) -> bool:
        return not self._items and not self._busy()

    def when_settled(self, callback: Callable[[], object], *, finally_: bool = False) -> bool:
        """Have ``callback`` called when nothing is left to undo; False if that is so already.

        ``finally_``: the call has ended, and after that nothing more is done for it.
        """
        with self.lock:
            settled = self._settled()
            if not settled:
                self._waiting.append(callback)
            self._ending = self._ending or finally_
            self._over = self._over or (settled and finally_)
            return not settled

    def _take_waiting(self) -> list[Callable[[], object]]:
        if not self._settled():
            return []
        self._over = self._over or self._ending
        waiting, self._waiting = self._waiting, []
        return waiting

    @staticmethod
    def _call(callbacks: list[Callable[[], object]]) -> None:
        for callback in callbacks:
            callback()

    def pending(self, since: float) -> list[PendingRollback]:
        """What is still owed."""
        with self.lock:
            stuck = [payer.operation for payer in self._busy() if payer.operation is not None]
            items = [item.path for item in reversed(self._items) if item.may_be_removed]
        return [
            PendingRollback(path, operation, self.filesystem.mount(path).mount_point, since)
            for operation, path in [*stuck, *(("undo", path) for path in items)]
        ]

    def move_to(self, outer: Transaction) -> None:
        """What this one made and found is undone with ``outer`` from now on."""
        with self.lock:
            items, self._items = self._items, []
        # What it found because ``outer`` had made or found it keeps its place there.
        new = [item for item in items if item.entry is None or item.entry not in outer.entries]
        self._tree.hand_on(self, outer)
        outer.ambiguous.update(self.ambiguous)
        with outer.lock:
            for item in new:
                item.epoch += outer.epoch
            outer._items += new
            outer.epoch += self.epoch


def _failed(error: OSError, path: AnyPath) -> Failed:
    cause = RootCause.VANISHED if error.errno == errno.ENOENT else None
    return Failed(error.errno or errno.EIO, path, cause)


def _spelling(path: AnyPath) -> str:
    """One for all that lead to the same directory, as far as the text tells."""
    text = os.fsdecode(path)
    return os.path.normpath(text) if "//" in text or "/." in text or text[-1:] == "/" else text


def _at_or_above(path: AnyPath) -> Iterator[AnyPath]:
    above: AnyPath | None = _spelling(path)
    while above is not None:
        yield above
        above = parent_of(above)
