"""What is done to all that a call has made, before anybody may count on it.

Programs, as in `_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._atomic import AtomicWalk
from ._durability import sync
from ._os import Opening
from ._ownership import give

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._demands import Demands
    from ._paths import AnyPath, Target
    from ._transaction import Transaction
    from ._undo_log import Item
    from ._walk import Program, Walk


class Finish:
    """A walk, and what is done to the directories that were made on it."""

    def __init__(
        self, walk: Walk, wanted: Demands, target: Target, transaction: Transaction
    ) -> None:
        if not isinstance(transaction.filesystem, Opening):
            raise NotImplementedError(f"{transaction.filesystem!r} cannot open directories")
        if isinstance(walk, AtomicWalk):
            walk.finish = self._finish
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
        if self._wanted.atomic:
            # Here what is above the tree is synced, where that is to be `durable`.
            return
        yield from self._finish(self._transaction.made_here())

    def _finish(self, made: Sequence[Item]) -> Program:
        if self._wanted.ownership is not None:
            yield from give(self._wanted.ownership, made, self._target, self._transaction)
        if self._wanted.durable:
            yield from sync(made, self._transaction)
