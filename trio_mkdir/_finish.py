"""What is done to all that a call has made, before anybody may count on it.

Programs, as in `_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._durability import sync, sync_relied_on
from ._os import Opening
from ._ownership import give

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._demands import Demands
    from ._os import Filesystem
    from ._paths import AnyPath, Target
    from ._transaction import Transaction
    from ._undo_log import Item
    from ._walk import Program, Walk


def check_able(wanted: Demands | None, filesystem: Filesystem) -> Demands | None:
    """``wanted``, if something is to be finished; NotImplementedError if that cannot be done."""
    if wanted is None or not (wanted.ownership or wanted.durable):
        return None
    if not isinstance(filesystem, Opening):
        raise NotImplementedError(f"{filesystem!r} cannot open directories")
    return wanted


def finish(
    wanted: Demands, made: Sequence[Item], target: Target, transaction: Transaction
) -> Program:
    """Do it to ``made``: what each is to be is known to ``target``."""
    if wanted.ownership is not None:
        yield from give(wanted.ownership, made, target, transaction)
    if wanted.durable:
        yield from sync(made, transaction)


def last(wanted: Demands | None, forward: Program, transaction: Transaction) -> Program:
    """Go ``forward``; then what can be done only once it is known what the call relies on."""
    yield from forward
    if wanted is not None and wanted.durable:
        yield from sync_relied_on(transaction.made_here(), transaction)


class Finish:
    """A walk, and what is done to the directories that were made on it."""

    def __init__(
        self, walk: Walk, wanted: Demands, target: Target, transaction: Transaction
    ) -> None:
        if not isinstance(transaction.filesystem, Opening):
            raise NotImplementedError(f"{transaction.filesystem!r} cannot open directories")
        self._walk = walk
        self._wanted = wanted
        self._target = target
        self._transaction = transaction

    @property
    def mine(self) -> set[AnyPath]:
        """What the call has made and not met since."""
        return self._walk.mine

    def run(self) -> Program:
        """Make what is still missing, and finish it."""
        yield from self._walk.run()
        made = self._transaction.made_here()
        yield from finish(self._wanted, made, self._target, self._transaction)

    def last(self, forward: Program) -> Program:
        """Go ``forward``; then what has to come after that."""
        yield from last(self._wanted, forward, self._transaction)
