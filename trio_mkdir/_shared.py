"""Directories that several calls hold at once, so that no rollback hurts another call.

The promise: once everything has settled, the tree is what stood before plus the whole path of
every call that succeeded. A rollback may therefore remove a directory only if no call that has
succeeded or may still succeed needs it. This module answers that one question.

**What is kept.** One `Entry` for each directory of interest, found by device and inode, so that
a symbolic link or a bind mount to it is the same directory. It has the calls that *hold* it
(those that made it and those that found it) and a state:

- ``FOUND``: somebody found it; no call has said that it made it.
- ``PROVISIONAL``: a call of this process made it, and none that held it has succeeded.
- ``FINAL``: a call that held it succeeded. Nobody removes it any more, so nobody need hold it.
- ``REMOVING``: the last holder failed and is removing it. Who finds it so waits and looks again.
- ``GONE``: removed, or replaced by another directory that got the same inode.

**Who holds what.** A call holds the directories it made and, while it is not `alone`, every
directory on its path. It says so at the end of a visit, before the visit is answered: first the
``stat``, then `hold`, then, if anything has been removed in between, the ``stat`` once more.

**Why a success is safe.** A call commits only after it held its whole path, and after it held it,
everything was there. From then on no `release` of another call finds the holders empty; `commit`
makes the entries FINAL, and a FINAL entry is never removed.

**Why the order of maker and finder does not matter.** A finder may hold (and even commit)
before the maker's thread gets to say that it made the directory. Its entry is then there
already, FOUND or FINAL, and `made` keeps the holders and the FINAL. For that, an entry without
holders must outlive every call that may yet say so: it is dropped when all calls that were
active at the time have ended (`_retire`). A nursery is not among them, because its directories
are all entered when the call inside it ends; so what others found does not pile up while a nursery
is open.

**Why a call that is alone need not look.** If no other call is active, there are no entries and
nothing was removed since the call began, then no directory on its path is anybody's but final.
A call that begins later cannot make a directory above one that stands. What that later call
finds and holds is entered, because the first call is active then; the first call sees it when
it enters its own directories for its rollback.

**Why making below a provisional directory without looking is safe.** ``rmdir`` takes only empty
directories. The maker's rollback then finds its directory not empty: the entry stays PROVISIONAL
without holders. Whoever made something inside holds it before it commits; or, when it removes
what it made, it looks at the directory above and takes over one that nobody holds (`inherit`),
and so on upwards. A removal that is going on meanwhile is told, and tries once more (`missed`).
A directory that was left so must be known for as long as whatever keeps it may go: the calls that
were active then, the nurseries that hold something, and what those leave standing in it, or to
others that rely on it and came by a link (`keep`). Where it cannot be told what that is in,
everything that was left is known for longer (`keep_all`).
Only who removes something that was in it then takes it over (`Entry.left`). Who merely finds it
later may have found a stranger's directory with its number, and leaves it to the others.

**Others remove, too.** Strangers may take what was made away and, where a path is free again, a
call may make another directory there. So several entries can have one path, and only a look tells
which of them stands (`loose_at` is for where a look fails). Who takes what another made for his own
that is gone hands on to the other what that kept standing (`Entry.born` is the earliest). And who
finds that his is gone asks what is gone of all that was left standing then (`left_since`), and
takes it over: what he made may have been in it, and it in another that was left because of it.

**Inode numbers are reused at once.** So an entry is believed only if somebody saw the directory
after its maker's ``mkdir`` began (`Entry.seen`); an older one speaks of a former directory and
is GONE. A ``mkdir`` can hang for long, so an entry that was seen at another path is believed only
if that path still leads to it (`seen_elsewhere`). What is left is one that was made, removed by
somebody else and made again at the same path while one ``mkdir`` hung there: it is kept.
An ``rmdir`` may work and its reply be lost; tried again, it could take a new directory with the old
number. So who made a directory whose entry is REMOVING waits until the removal has ended, and who
has seen a removal end since he began looks at what he made once more before he commits.

**The table is bounded.** It holds what active calls hold and the last `MEMORY` directories that
nobody holds. To forget one earlier than argued above hurts only where a ``mkdir`` hangs while so
many come and go, and has worked all the same, and another call found and committed its directory.

Between processes there is no such table: only that ``rmdir`` takes empty directories, and that a
directory that vanishes is made again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ._entries import BeingRemoved, Entry, Sight, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ._entries import Holder, Identity, Look, Via
    from ._paths import AnyPath

MEMORY: Final = 65_536
"""How many directories without holders are remembered at most, some 30 MB: a call whose ``mkdir``
hangs for a week is active for a week."""


class SharedTree:
    """The table; all methods are quick, never call the filesystem and may be called anywhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Identity, Entry] = {}
        self._active: dict[Holder, int] = {}  # in the order in which they began
        self._nurseries: set[Holder] = set()  # those that hold something
        # Entries without holders, in order of retirement, and how many calls had begun by then.
        self._retired: OrderedDict[Entry, int] = OrderedDict()  # a dict is slow to lose its first
        self._left: OrderedDict[Entry, int] = OrderedDict()  # the same of those left standing
        self._loose: dict[Entry, None] = {}  # being removed, or left standing by a holder
        self._count = 0
        self._removals = 0

    @property
    def statistics(self) -> tuple[int, int]:
        """How many calls are active and how many directories are known."""
        with self._lock:
            return len(self._active), len(self._entries)

    def begin(self, holder: Holder) -> None:
        """A call starts: from now on it may make directories that are not entered yet."""
        with self._lock:
            self._count += 1
            holder.began = self._active[holder] = self._count
            holder.removals = self._removals

    def alone(self, holder: Holder) -> bool:
        """Whether nothing on the path of ``holder`` can be another call's."""
        with self._lock:
            return (
                not self._entries and len(self._active) == 1 and holder.removals == self._removals
            )

    @property
    def removals(self) -> int:
        """How many removals have ended: compare before and after a look."""
        return self._removals

    def seen_elsewhere(self, identity: Identity, path: AnyPath) -> Sight | None:
        """The last sight of ``identity``, if it was not at ``path``."""
        with self._lock:
            entry = self._entries.get(identity)
            if entry is None or entry.looked == path:
                return None
            return Sight(entry, entry.looked, entry.seen)

    def forget(self, sight: Sight) -> None:
        """The directory of ``sight`` was gone; unless somebody has seen it since."""
        with self._lock:
            entry = sight.entry
            if entry.seen == sight.seen and entry.state is not State.REMOVING:
                self._forget(entry)

    def made(
        self, holder: Holder, identity: Identity, path: AnyPath, since: float, via: Via = None
    ) -> Entry:
        """``holder`` made a directory with a ``mkdir`` of ``via`` that it started at ``since``.

        Raises `BeingRemoved` if somebody is removing what had the inode number before: he may have
        done so and not know it, and would try again.
        """
        with self._lock:
            entry = self._entries.get(identity)
            if entry is not None and entry.state is State.REMOVING:
                entry.missed = True
                raise BeingRemoved(entry, path)
            if entry is not None and entry.seen < since:
                self._forget(entry)
                entry = None
            if entry is None:
                entry = self._entries[identity] = Entry(identity, path, path)
            entry.seen, entry.looked = time.monotonic(), path
            self._trust(entry)
            if entry.state is State.FOUND:
                entry.born = since
                entry.state = State.PROVISIONAL
            if entry.state is State.PROVISIONAL:
                entry.path, entry.via = path, via
                entry.born = min(entry.born, since)  # of all for whom it stands
            self._add(holder, entry)
            return entry

    def hold(self, holder: Holder, looks: Iterable[Look]) -> tuple[list[Entry], Entry | None]:
        """``holder`` relies on directories that it saw.

        Returns the entries, and one of them that is being removed right now, if there is one.
        """
        with self._lock:
            held: list[Entry] = []
            for identity, path, seen in looks:
                entry = self._entries.get(identity)
                if entry is None:
                    entry = self._entries[identity] = Entry(identity, path, path)
                elif entry.state is State.REMOVING:
                    return held, entry
                if seen >= entry.seen:
                    entry.seen, entry.looked = seen, path
                if entry.state is State.FINAL and not entry.holders:
                    self._retire(entry)  # it is only to be known for as long as this call is active
                else:
                    self._add(holder, entry)
                held.append(entry)
            return held, None

    def shared(self, entry: Entry, holder: Holder, family: Collection[Holder]) -> bool:
        """Whether ``entry`` is provisional and others than ``holder`` and ``family`` hold it."""
        with self._lock:
            return entry.state is State.PROVISIONAL and any(
                other is not holder and other not in family for other in entry.holders
            )

    @property
    def loose(self) -> bool:
        """Whether there may be a directory that its maker could not remove."""
        return bool(self._loose)

    def loose_at(self, path: AnyPath) -> list[Identity]:
        """Which of them were made at ``path``: one that stands, and others that others removed."""
        with self._lock:
            return [entry.identity for entry in self._loose if entry.path == path]

    def left_since(self, born: float) -> list[tuple[Identity, AnyPath, Via]]:
        """What was left standing, maybe because of something made at ``born``; where, and how."""
        with self._lock:
            left = [entry for entry in self._loose if entry.left and born <= entry.left]
            return [(entry.identity, entry.path, entry.via) for entry in left]

    def inherit(self, holder: Holder, identity: Identity, born: float) -> Entry | None:
        """``holder`` has removed what was made in a directory at ``born``.

        It gets the directory, if that was left standing because of it, or is held by nobody.
        """
        with self._lock:
            entry = self._entries.get(identity)
            if entry is None:
                return None
            if entry.state is State.REMOVING:
                entry.missed = True  # whoever is at it tries once more
                return None
            known = born <= entry.left if entry.left else not entry.holders
            if entry.state is not State.PROVISIONAL or not known:
                return None
            self._trust(entry)
            self._add(holder, entry)
            return entry

    def keep(self, identity: Identity) -> tuple[AnyPath, Via] | None:
        """Something in a directory stands; where and how that was made, if it may be removed.

        If it was left standing before, it is to be known for as long as what is in it.
        """
        with self._lock:
            entry = self._entries.get(identity)
            if entry is None or entry.state not in {State.PROVISIONAL, State.REMOVING}:
                return None
            if entry in self._left:
                self._retire(entry)
                self._drop_outlived()
            return entry.path, entry.via

    def keep_all(self) -> None:
        """The same of all that were left standing, where it cannot be told in which one it is."""
        with self._lock:
            for entry in list(self._left):
                self._retire(entry)
            self._drop_outlived()

    def commit(self, holder: Holder) -> None:
        """``holder`` succeeded: what it holds is final."""
        with self._lock:
            for entry in holder.entries:
                if entry.state is not State.GONE:
                    entry.state = State.FINAL
                    self._trust(entry)
                self._drop(holder, entry)
            holder.entries.clear()
            self._end(holder)

    def hand_on(self, holder: Holder, to: Holder) -> None:
        """``holder`` ended well inside ``to``, which holds its directories from now on."""
        with self._lock:
            to.began = min(to.began or holder.began, holder.began)
            self._nurseries.add(to)
            for entry in holder.entries:
                self._add(to, entry)
                entry.holders.discard(holder)
            holder.entries.clear()
            self._end(holder)

    def release(self, holder: Holder, entry: Entry) -> State:
        """``holder`` failed; REMOVING if it is the one to remove it, and then to call `removed`."""
        with self._lock:
            holder.entries.pop(entry, None)
            entry.holders.discard(holder)
            state = entry.state
            if state is State.REMOVING:
                return State.GONE  # for this holder, as another one is at it
            if not entry.holders:
                if state is State.PROVISIONAL and not entry.left:
                    entry.state = State.REMOVING
                    self._loose[entry] = None
                    self._recall(entry)
                    return State.REMOVING
                self._retire(entry)
                self._drop_outlived()
            return state

    def removed(self, entry: Entry, *, gone: bool, full: bool = False) -> bool:
        """The removal has ended: the directory is ``gone``, or ``full``, or refuses to go.

        True if it is to be tried once more, because somebody turned away from it meanwhile.
        """
        with self._lock:
            if not gone and entry.missed:
                entry.missed = False
                return True
            if gone:
                self._forget(entry)
            else:
                entry.state = State.PROVISIONAL
                entry.left = time.monotonic() if full else 0
                self._retire(entry)
                self._drop_outlived()
            self._removals += 1
            waiters, entry.waiters = entry.waiters, ()
        for waiter in waiters:
            waiter()
        return False

    def when_removed(self, entry: Entry, waiter: Callable[[], object]) -> bool:
        """Have ``waiter`` called when ``entry`` is no longer being removed; False if it is not."""
        with self._lock:
            if entry.state is not State.REMOVING:
                return False
            entry.waiters += (waiter,)
            return True

    def end(self, holder: Holder) -> None:
        """``holder`` failed and everything is undone that can be."""
        with self._lock:
            for entry in holder.entries:
                self._drop(holder, entry)
            holder.entries.clear()
            self._end(holder)

    def _add(self, holder: Holder, entry: Entry) -> None:
        holder.entries[entry] = None
        entry.holders.add(holder)
        self._recall(entry)

    def _drop(self, holder: Holder, entry: Entry) -> None:
        entry.holders.discard(holder)
        if not entry.holders and entry.state is not State.REMOVING:
            self._retire(entry)

    def _trust(self, entry: Entry) -> None:
        entry.left = 0
        self._loose.pop(entry, None)

    def _recall(self, entry: Entry) -> None:
        self._retired.pop(entry, None)
        self._left.pop(entry, None)

    def _forget(self, entry: Entry) -> None:
        entry.state = State.GONE
        self._trust(entry)
        self._recall(entry)
        if self._entries.get(entry.identity) is entry:
            del self._entries[entry.identity]

    def _retire(self, entry: Entry) -> None:
        if entry.state is State.GONE:
            return
        self._recall(entry)
        if entry.state is State.PROVISIONAL:
            self._left[entry] = self._count
            self._loose[entry] = None
        else:
            self._retired[entry] = self._count

    def _end(self, holder: Holder) -> None:
        self._active.pop(holder, None)
        self._nurseries.discard(holder)
        if self._retired or self._left:
            self._drop_outlived()

    def _drop_outlived(self) -> None:
        """Forget entries that no active call can have anything to say about."""
        oldest = next(iter(self._active.values()), self._count + 1)
        self._forget_before(oldest, self._retired)
        if self._left:
            # What was left standing may be inherited by a nursery that holds what keeps it.
            began = [nursery.began for nursery in self._nurseries]
            self._forget_before(min([oldest, *began]), self._left)

    def _forget_before(self, oldest: int, retired: OrderedDict[Entry, int]) -> None:
        while retired:
            entry, at = next(iter(retired.items()))
            if at >= oldest and len(retired) <= MEMORY:
                return
            self._forget(entry)
