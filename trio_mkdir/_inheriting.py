"""What is left standing above a directory, and who takes it over when that goes.

Programs, as in `_walk`.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from ._causes import root_cause
from ._entries import Holder
from ._events import Kept
from ._items import Item
from ._os import Confined
from ._paths import parent_of
from ._preview import Preview, asking
from ._sync_log import SyncLog

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ._causes import RootCause
    from ._entries import Entry, Identity, Via
    from ._events import Recorder
    from ._handshake import Operation
    from ._os import Filesystem
    from ._paths import AnyPath
    from ._policy import Policy
    from ._registry import Registry
    from ._walk import Program
    from ._workers import Workers

T = TypeVar("T")
Way: TypeAlias = "tuple[AnyPath, Filesystem]"
"""A path, and by what it is walked."""

NOTHING_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
NOT_EMPTY: Final = {errno.ENOTEMPTY, errno.EEXIST}


class Inheriting(SyncLog):
    """A log whose directories may be in others, that were left because of them; `_shared` says why.

    And by which ways any of them is reached.
    """

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
            same = error.errno not in NOTHING_THERE  # any other failure tells nothing
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

    def _hidden(self, item: Item) -> AnyPath | None:
        """Where it is, if nobody has seen it."""
        via = self._via(item)
        return via.hidden(item.path) if isinstance(via, Preview) else None

    # What is above

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
            if error.errno in NOTHING_THERE:
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
                if error.errno in NOT_EMPTY or backoff is None:
                    raise
                delay = next(delays.setdefault(cause, backoff.delays(self.shared.random)), None)
                if delay is None:
                    raise
            yield "sleep", path
            self.filesystem.sleep(delay)

    def _keep(self, item: Item, why: str, number: int | None = None) -> None:
        via, hidden = self._via(item), self._hidden(item)
        if hidden is not None:
            in_doubt = isinstance(via, Preview) and via.in_doubt
            why += f"; it {'may still be' if in_doubt else 'is still'} hidden, as {hidden!r}"
        self.recorder.tell(Kept, item.path, why, number)
