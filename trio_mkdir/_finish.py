"""What is done to all that a call has made, before anybody may count on it.

Programs, as in `_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._durability import sync
from ._os import Opening, owning
from ._ownership import check_whose, give, prepare

if TYPE_CHECKING:
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
        if wanted.ownership is not None:
            self._system = owning(transaction.outside)
        self._filesystem = transaction.filesystem
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
        ownership, transaction, target = self._wanted.ownership, self._transaction, self._target
        grant = None
        if ownership is not None:
            grant = yield from prepare(ownership, target.path, self._system)
        yield from self._walk.run()
        made = self._made()
        if grant is not None:
            yield from check_whose(transaction)
            yield from give(grant, made, target.asked, transaction, self._filesystem)
        if self._wanted.durable:
            yield from sync(made, transaction)

    def _made(self) -> list[Item]:
        """What this call has made and not met since, parents first; each path once."""
        made = self._transaction.made_here()
        last = {item.path: item for item in made if item.path in self._walk.mine}
        return sorted(last.values(), key=lambda item: len(item.path))
