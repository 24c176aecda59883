"""What a power cut must not take: every new directory, and its entry in the one above it.

fsync(2) on a directory writes the directory with what is in it, but not its own entry in the one
above: so both are written, and so is what another call has made above them and not committed.
Each directory once, those above first.

Programs, as in `_walk`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ._causes import RootCause, root_cause
from ._entries import State
from ._paths import parent_of
from ._sync_log import write
from ._walk import Failed, who_may_write

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from ._items import Item
    from ._os import Filesystem
    from ._paths import AnyPath
    from ._transaction import Transaction
    from ._walk import Program

_UNWRITTEN: Final = "it could not be written to the disk, by fsync(2), as durable= asks for"


def sync(made: Sequence[Item], transaction: Transaction) -> Program:
    """Have ``made`` written to the disk, with the entries that lead to them.

    And what may be the call's own, as nobody can tell whose it is.
    """
    paths = [*_paths(made), *transaction.ambiguous]
    yield from _write_above(paths, transaction)
    for path in paths:
        yield from _write(path, transaction.filesystem)


def sync_made(made: Iterable[Item], transaction: Transaction) -> Program:
    """Only the directories ``made`` themselves, with what is in them."""
    for path in _paths(made):
        yield from _write(path, transaction.filesystem)


def sync_above(made: Iterable[Item], transaction: Transaction) -> Program:
    """Only those in which ``made`` are, and which are not among them."""
    yield from _write_above(_paths(made), transaction)


def sync_entries(tops: Iterable[Item], transaction: Transaction) -> Program:
    """Those in which ``tops`` have appeared, each once, also if it was written before that."""
    for path in _above(_paths(tops), transaction):
        yield from _write(path, transaction.filesystem)


def sync_relied_on(made: Sequence[Item], transaction: Transaction) -> Program:
    """What ``made`` are in and another call may have made; not what `sync` has written already.

    While others are active, a directory that stands may be one's that has not said so yet; so all
    that the call holds are written then. One that nobody has called his, and that may not be read,
    is passed over.
    """
    active, _ = transaction.tree.statistics
    paths = [*_paths(made), *transaction.ambiguous]
    already = {*paths, *_above(paths, transaction)}
    new: dict[AnyPath, bool] = {}
    for item, entry in transaction.relied_on():
        somebodys = entry.state is not State.FOUND
        if not somebodys and active == 1:
            continue
        entry.durable = True  # before it may be on the disk
        for path in (*_above([item.path], transaction), item.path):
            if path not in already:
                new[path] = new.get(path, False) or somebodys
    for path, somebodys in new.items():
        try:
            yield from _write(path, transaction.filesystem)
        except Failed as failure:
            if somebodys or failure.cause is not RootCause.NOT_PERMITTED:
                raise


def _paths(items: Iterable[Item]) -> list[AnyPath]:
    return [item.path for item in items]


def _above(paths: Iterable[AnyPath], transaction: Transaction) -> Iterator[AnyPath]:
    """The directories that have the entries of ``paths``, each once; none above a root."""
    confined = transaction.confined
    for parent in dict.fromkeys(map(parent_of, paths)):
        if parent is None:
            continue
        if confined is None or parent == confined.root or confined.holds(parent):
            yield parent


def _write_above(paths: Collection[AnyPath], transaction: Transaction) -> Program:
    for path in _above(paths, transaction):
        if path not in paths:
            yield from _write(path, transaction.filesystem)


def _write(path: AnyPath, via: Filesystem) -> Program:
    try:
        yield from write(path, via)
    except OSError as error:
        number = error.errno or errno.EIO
    else:
        return
    cause = root_cause(number)
    if cause is RootCause.MISSING:
        raise Failed(number, path, RootCause.VANISHED)
    note = _UNWRITTEN
    if number == errno.EINVAL:
        cause, note = RootCause.OTHER, f"{note}: its filesystem has no such thing"
    if cause is RootCause.NOT_PERMITTED:
        yield "stat", path
        try:
            note += f": that needs permission to read, and {who_may_write(path, via.stat(path))}"
        except OSError as error:
            note += f": its permissions cannot be told: {error.strerror}"
    raise Failed(number, path, cause, note, operation="fsync")
