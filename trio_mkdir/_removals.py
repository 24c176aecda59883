"""Taking back what one call has made: from the deepest directory up, each only if it is still ours.

Programs, as in `_walk`: each yields the system call that it starts next, and whoever drives it can
stop there. What they share between threads is in the undo log and in the shared tree.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from ._causes import RootCause, root_cause
from ._entries import BeingRemoved, Holder, State
from ._events import Kept, Removed
from ._paths import parent_of
from ._undo_log import Item, UndoLog

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ._entries import Entry, Identity
    from ._events import Recorder
    from ._handshake import Handshake, Operation
    from ._os import Confined, Filesystem
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


class Removals(UndoLog):
    """An undo log, and the programs that empty it."""

    confined: Confined | None = None
    """The filesystem, if that is only what is beneath a root."""
    roots: tuple[Confined, ...] = ()
    """What has to be closed in the end."""

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

    # Where it is done

    def stay_in(self, confined: Confined) -> None:
        """``confined`` is the filesystem, and closed in the end."""
        self.confined = confined
        self.roots = (confined,)

    def close_roots(self) -> None:
        """Nothing is done for this one any more."""
        roots, self.roots = self.roots, ()
        for root in roots:
            root.close()

    def move_roots(self, items: Iterable[Item], outer: Removals) -> None:
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

    def _via(self, item: Item) -> Filesystem:
        return item.via or self.filesystem

    def _identify(
        self, path: AnyPath, via: Filesystem, *, follow: bool = False
    ) -> Generator[Operation, None, Identity]:
        name = "stat" if follow else "lstat"
        yield name, path
        status = (via.stat if follow else via.lstat)(path)
        return status.st_dev, status.st_ino

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

    # What there is to take back

    def _found(
        self,
        path: AnyPath,
        workers: Workers | None,
        entry: Entry,
        position: int = 0,
        via: Confined | None = None,
    ) -> None:
        item = Item(path, workers, made=False)
        item.entry = entry
        item.via = via
        item.position = position
        self.insert(item)

    # Taking it back

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
            yield from self._inherit(item.path, self._via(item), item)
            return
        state = self.tree.release(self.holder, entry)
        if state is State.REMOVING:
            yield from self._remove(item, entry)
        elif state is State.GONE:
            yield from self._inherit(item.path, self._via(item), item)
        elif item.made:
            self._keep(item, "another call relies on it")

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
        ways = self._ways(item, entry)
        where, via = ways[0]
        try:
            while True:
                others = self.in_other_hands(item)
                try:
                    attempt = partial(self._rmdir, item, entry, ways)
                    removed = yield from self._insist(where, attempt)
                except OSError as error:
                    full = error.errno in _NOT_EMPTY
                    if full and others:
                        self._stop_removing(entry)
                        told = True
                        self.put_off(item, others)
                        return
                    if not full and (yield from self._is_gone(ways)):
                        self.recorder.tell(Removed, item.path)
                        break  # what stands there decides, as the reply can be lost
                    if self.tree.removed(entry, gone=False, full=full):
                        continue  # somebody has turned away from it meanwhile
                    told = True
                    yield from self._keep_above(where, via)
                    if full:
                        self._keep(item, "it is not empty")
                    else:
                        self._keep(item, f"rmdir: {error.strerror}", error.errno)
                    return
                where, via = removed
                break
            told = True
            self.tree.removed(entry, gone=True)
        finally:
            if not told:
                self._stop_removing(entry)
        yield from self._inherit(where, via, item)

    def _ways(self, item: Item, entry: Entry) -> list[Way]:
        """Where and how to remove it: where it was made, or where it was found.

        What is beneath a root is removed from that root, never by another's path. The root itself
        cannot be: where another call made it and left it to us, it goes the way it came.
        """
        via = self._via(item)
        own = item.path, via
        root = item.via or self.confined
        if root is not None and root.holds(item.path):
            return [own]
        made = entry.path, entry.via or via
        return [made] if made == own else [made, own]

    def _stop_removing(self, entry: Entry) -> None:
        """It may be tried once more, but not now, whoever has turned away from it."""
        while self.tree.removed(entry, gone=False):
            pass

    def _rmdir(self, item: Item, entry: Entry, ways: list[Way]) -> Generator[Operation, None, Way]:
        """Remove it in one of these ways; tells in which."""
        for path, via in ways:
            with suppress(FileNotFoundError):
                identity = yield from self._identify(path, via)
                # Otherwise it is somebody else's by now, whatever the answer to the last attempt.
                if identity == entry.identity:
                    yield "rmdir", path
                    via.rmdir(path)
                    self.recorder.tell(Removed, item.path)
                    return path, via
        return ways[0]

    def _is_gone(self, ways: Iterable[Way]) -> Generator[Operation, None, bool]:
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

    def _keep_above(self, path: AnyPath, via: Filesystem) -> Program:
        """What was left standing above ``path`` has to be known for as long as ``path`` stands."""
        while (parent := parent_of(path)) is not None:  # pragma: no branch - the root stands
            path = parent
            look = partial(self._identify, path, via, follow=True)
            try:
                identity = yield from self._insist(path, look)
            except OSError:
                return
            if not self.tree.keep(identity):
                return

    def _inherit(self, path: AnyPath, via: Filesystem, child: Item) -> Program:
        """Take over the directory above ``path``, if its maker could not remove it because of us.

        By the path at which it was made: a symbolic link has other directories above it.
        """
        parent = parent_of(path)
        if parent is None or not self.tree.loose:
            return
        identity = self.tree.loose_at(parent)
        if identity is None:
            look = partial(self._identify, parent, via, follow=True)
            try:
                identity = yield from self._insist(parent, look)
            except OSError as error:
                if error.errno not in {*_NOTHING_THERE, errno.EXDEV}:  # above a root
                    why = f"what was in it is removed, and it cannot be looked at: {error.strerror}"
                    self.recorder.tell(Kept, parent, why, error.errno)
                return
        born = child.since if child.entry is None else child.entry.born
        entry = self.tree.inherit(self.holder, identity, born)
        if entry is not None and not self.knows(entry):
            self._found(parent, child.workers, entry, child.position, child.via)

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

    def _keep(self, item: Item, why: str, number: int | None = None) -> None:
        self.recorder.tell(Kept, item.path, why, number)
