"""What is done to all that a call has made, before anybody may count on it.

Programs, as in `_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._durability import sync, sync_relied_on
from ._os import Opening
from ._ownership import give

if TYPE_CHECKING:
    from ._demands import Demands
    from ._paths import AnyPath, Target
    from ._transaction import Transaction
    from ._walk import Program, Walk


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
        if self._wanted.ownership is not None:
            yield from give(self._wanted.ownership, made, self._target, self._transaction)
        if self._wanted.durable:
            yield from sync(made, self._transaction)

    def last(self, forward: Program) -> Program:
        """Go ``forward``; then what can be done only once it is known what the call relies on."""
        yield from forward
        if self._wanted.durable:
            yield from sync_relied_on(self._transaction.made_here(), self._transaction)
