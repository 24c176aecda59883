"""Undoing what a call has made: what was left to nobody is removed, the rest is told of.

Programs, as in `_walk`: each yields the system call that it starts next, and whoever drives it can
stop there. What they share between threads is in the undo log and in the shared tree.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from ._causes import root_cause
from ._entries import BeingRemoved, Holder, State
from ._events import Kept, Made, Removed, Restored, Unsynced
from ._items import Item
from ._metadata import restore
from ._os import Confined, Opening
from ._paths import parent_of
from ._preview import Preview, asking
from ._sync_log import SyncLog, Unwritten, write

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from ._causes import RootCause
    from ._entries import Entry, Identity, Via
    from ._events import Recorder
    from ._handshake import Handshake, Operation
    from ._items import Batch
    from ._metadata import Metadata
    from ._os import Filesystem
    from ._paths import AnyPath
    from ._policy import Policy
    from ._registry import Registry
    from ._walk import Program
    from ._workers import Workers

T = TypeVar("T")
Way: TypeAlias = "tuple[AnyPath, Filesystem]"
"""A path, and by what it is walked."""

_A_MOMENT: Final = 0.001
"""Seconds until another call has said that a directory is gone, as a rule,"""
_A_WHILE: Final = 0.1
"""and between two questions where it has not, because its removal hangs."""
_NOTHING_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_NOT_EMPTY: Final = {errno.ENOTEMPTY, errno.EEXIST}


class Undoing(SyncLog):
    """The undo log of one call, or of one block, and the programs that empty it."""

    confined: Confined | None = None
    """The filesystem, if that is only what is beneath a root."""

    def __init__(
        self,
        shared: Registry,
        workers: Workers | None,
        filesystem: Filesystem,
        recorder: Recorder,
        policy: Policy,
    ) -> None:
        super().__init__(shared.workers, workers)
        self.holder: Holder = Holder()
        self.shared = shared
        self.tree = shared.tree
        self.filesystem = filesystem
        self.recorder = recorder
        self._policy = policy

    def workers_on(self, path: AnyPath) -> Workers:
        """Who may undo what is at ``path``."""
        return self._workers or self.shared.workers.on(self.filesystem.mount(path))

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

    def _hidden(self, item: Item) -> AnyPath | None:
        """Where it is, if nobody has seen it."""
        via = self._via(item)
        return via.hidden(item.path) if isinstance(via, Preview) else None

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

    # Where it is done

    @property
    def outside(self) -> Filesystem:
        """The filesystem; also where it is otherwise only what is beneath a root."""
        return self._policy.filesystem or self.shared.operating_system

    def _via(self, item: Item) -> Filesystem:
        return item.via or self.filesystem

    def _ways(self, item: Item, path: AnyPath, made: tuple[AnyPath, Via]) -> list[Way]:
        """How ``item`` leads to what is at ``path``: the way it was ``made``, or our own.

        What is beneath its root is reached from that root, never by another's path. The root itself
        cannot be, nor what is above: what their maker has left to us goes the way it came.
        """
        own = path, self._via(item)
        root = item.via or self.confined
        if root is not None and root.holds(path):
            return [own]
        first = made[0], made[1] or own[1]
        if first == own or (root is not None and not isinstance(first[1], Confined)):
            return [first]  # ours leads nowhere
        return [first, own]  # theirs may be closed

    def _check_elsewhere(self, identity: Identity, path: AnyPath, via: Filesystem) -> Program:
        """Another path to our directory, or to what had its inode number before us?"""
        sight = self.tree.seen_elsewhere(identity, path)
        if sight is None:
            return
        try:
            same = identity == (yield from self._identify(sight.path, via, follow=True))
        except OSError as error:
            same = error.errno not in _NOTHING_THERE  # any other failure tells nothing
        if not same:
            self.tree.forget(sight)

    def _identify(
        self, path: AnyPath, via: Filesystem, *, follow: bool = False
    ) -> Generator[Operation, None, Identity]:
        if isinstance(via, Preview) and via.in_doubt:
            yield from via.settle(path)
        yield asking(via, "stat" if follow else "lstat", path)
        status = (via.stat if follow else via.lstat)(path)
        return status.st_dev, status.st_ino

    def _found(
        self, path: AnyPath, workers: Workers | None, entry: Entry, child: Item | None = None
    ) -> None:
        item = Item(path, workers, made=False)
        item.entry = entry
        if child is not None:
            item.position, item.via = child.position, child.via
        self.insert(item)

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
        attempt = partial(restore, via, item.path, item.identity, before)
        try:
            found = yield from self._insist(item.path, attempt)
        except OSError as error:
            found = False
            if error.errno not in _NOTHING_THERE:
                doing = getattr(error, "doing", "") or "open"
                self._keep(item, f"{doing}: {error.strerror}", error.errno)
                return
        if found:
            self.recorder.tell(Restored, item.path)
        else:
            self._keep(item, "it is not there any more, and was changed")

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
                    full = error.errno in _NOT_EMPTY
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
            yield from self._insist(item.path, partial(write, item.path, item.written_by))
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

    def _keep_above(self, item: Item, entry: Entry) -> Program:
        """What was left standing above ``item`` has to be known for as long as ``item`` stands."""
        path, via = self._ways(item, item.path, (entry.path, entry.via))[0]
        climbed = {entry.identity}  # as a link may lead elsewhere by now, and in a circle
        while self.tree.loose and (parent := parent_of(path)) is not None:
            look = partial(self._identify, parent, via, follow=True)
            try:
                identity = yield from self._insist(parent, look)
            except OSError:
                self.tree.keep_all()
                return
            above = self.tree.keep(identity)
            if above is None or identity in climbed:
                return
            climbed.add(identity)
            path, via = self._ways(item, above[0], above)[0]

    def _inherit(self, way: Way, child: Item, *, gone: bool) -> Program:
        """Take over the directory above ``child``, if its maker could not remove it because of us.

        By the way it was made: a symbolic link has other directories above it.
        ``gone`` if others removed ``child``: they may have removed what is above it, too.
        """
        path, via = way
        parent = parent_of(path)
        if parent is None or not self.tree.loose:
            return
        born = child.since if child.entry is None else child.entry.born
        above: list[tuple[Identity, AnyPath]] = []
        try:
            look = partial(self._identify, parent, via, follow=True)
            above.append(((yield from self._insist(parent, look)), parent))
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                gone = True
            else:
                above += [(identity, parent) for identity in self.tree.loose_at(parent)]
                if not above and error.errno != errno.EXDEV:  # above a root
                    why = f"what was in it is removed, and it cannot be looked at: {error.strerror}"
                    self.recorder.tell(Kept, parent, why, error.errno)
        if gone:
            above += yield from self._gone_since(born, child, via)
        for identity, where in above:
            entry = self.tree.inherit(self.holder, identity, born)
            if entry is not None and not self.knows(entry):
                self._found(where, child.workers, entry, child)

    def _gone_since(
        self, born: float, child: Item, via: Filesystem
    ) -> Generator[Operation, None, list[tuple[Identity, AnyPath]]]:
        """What was left standing, maybe because of something made at ``born``, and is gone.

        It may have been because of something else: that does not hurt what is gone. What cannot be
        looked at is told of when its removal is tried. Other mounts than ours are not touched, nor
        from beneath a root what others made elsewhere, unless we came there by ``via``.
        """
        root = child.via or self.confined
        gone: list[tuple[Identity, AnyPath]] = []
        for identity, path, maker in self.tree.left_since(born):
            there = root is None or maker is via or root.holds(path)
            if not there or self._table.on(self.filesystem.mount(path)) is not child.workers:
                continue
            if not (yield from self._stands(identity, self._ways(child, path, (path, maker)))):
                gone.append((identity, path))
        return gone

    def _stands(self, identity: Identity, ways: list[Way]) -> Generator[Operation, None, bool]:
        for path, via in ways:
            with suppress(OSError):
                if identity == (yield from self._insist(path, partial(self._identify, path, via))):
                    return True
        return False

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
            look = partial(self._identify, item.path, self._via(item))
            yield from self._insist(item.path, look)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return
            why += f", and cannot be looked at: {error.strerror}"
        self._keep(item, why)

    def _tell_removed(self, item: Item) -> None:
        if self._hidden(item) is None:  # otherwise nobody knows that it was made
            self.recorder.tell(Removed, item.path)

    def _keep(self, item: Item, why: str, number: int | None = None) -> None:
        hidden = self._hidden(item)
        why = why if hidden is None else f"{why}; it is still hidden, as {hidden!r}"
        self.recorder.tell(Kept, item.path, why, number)
