"""What is done to all that a call has made, before anybody may count on it.

Programs, as in `_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._atomic import AtomicWalk
from ._durability import sync, sync_above, sync_entries, sync_made, sync_relied_on
from ._os import Opening, owning
from ._ownership import check_whose, give, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._demands import Demands
    from ._items import Item
    from ._ownership import Grant
    from ._paths import AnyPath, Target
    from ._transaction import Transaction
    from ._walk import Program, Walk


class Finishing:
    """What is ``wanted`` of what a call makes.

    ``asked`` tells of a path the mode, as it was asked for, and whether that is a leaf's. Raises
    NotImplementedError if the filesystem cannot do it.
    """

    def __init__(
        self,
        wanted: Demands,
        transaction: Transaction,
        asked: Callable[[AnyPath], tuple[int, bool]],
    ) -> None:
        if not isinstance(transaction.filesystem, Opening):
            raise NotImplementedError(f"{transaction.filesystem!r} cannot open directories")
        if wanted.ownership is not None:
            self._system = owning(transaction.outside)
        self._filesystem = transaction.filesystem
        self._wanted = wanted
        self._transaction = transaction
        self._asked = asked
        self._grant: Grant | None = None

    @property
    def is_prepared(self) -> bool:
        """Whether all is known that has to be known before anything is made."""
        return self._wanted.ownership is None or self._grant is not None

    def prepare(self, path: AnyPath) -> Program:
        """Look up whatever has to be known before anything is made at ``path``."""
        ownership = self._wanted.ownership
        if ownership is not None and self._grant is None:
            self._grant = yield from prepare(ownership, path, self._system)

    def finish(self, made: Sequence[Item]) -> Program:
        """Do it to ``made``, parents first."""
        if self._grant is not None:
            yield from check_whose(self._transaction)
            yield from give(self._grant, made, self._asked, self._transaction, self._filesystem)
        if self._wanted.durable:
            yield from sync(made, self._transaction)

    def finish_hidden(self, made: Sequence[Item]) -> Program:
        """The same for what is not in its place yet; `sync_above` is left for when it is."""
        if self._grant is not None:
            yield from give(self._grant, made, self._asked, self._transaction, self._filesystem)
        if self._wanted.durable:
            yield from sync_made(made, self._transaction)

    def last(self, forward: Program) -> Program:
        """Go ``forward``; then what can be done only once it is known what the call relies on."""
        yield from forward
        if self._wanted.durable:
            yield from sync_relied_on(self._transaction.made_here(), self._transaction)


class FinishTrees(Finishing):
    """What is done to trees that appear one after the other: nearly all of it before they do."""

    def __init__(
        self,
        wanted: Demands,
        transaction: Transaction,
        asked: Callable[[AnyPath], tuple[int, bool]],
    ) -> None:
        super().__init__(wanted, transaction, asked)
        self._tops: set[Item] = set()

    def finish_hidden(self, made: Sequence[Item]) -> Program:
        """Do it to one tree."""
        self._tops.add(made[0])
        yield from super().finish_hidden(made)

    def finish(self, made: Sequence[Item]) -> Program:
        """Do what is left when all of them have appeared."""
        if self._wanted.durable:
            tops = [item for item in made if item in self._tops]
            yield from sync_entries(tops, self._transaction)


class Finish(Finishing):
    """A walk, and what is done to the directories that were made on it."""

    def __init__(
        self, walk: Walk, wanted: Demands, target: Target, transaction: Transaction
    ) -> None:
        super().__init__(wanted, transaction, target.asked)
        self._shows = isinstance(walk, AtomicWalk)
        if isinstance(walk, AtomicWalk):
            walk.finish = self.finish_hidden
        self._walk = walk
        self._path = target.path

    @property
    def mine(self) -> set[AnyPath]:
        """What the call has made and not met since."""
        return self._walk.mine

    def run(self) -> Program:
        """Make what is still missing, and finish it."""
        yield from self.prepare(self._path)
        yield from self._walk.run()
        made = standing(self._transaction.made_here(), self._walk.mine)
        if not self._shows:
            yield from self.finish(made)
        elif self._wanted.durable:
            yield from sync_above(made, self._transaction)


def standing(made: Iterable[Item], mine: set[AnyPath]) -> list[Item]:
    """Those of ``made`` that are still ``mine``, parents first; each path once."""
    last = {item.path: item for item in made if item.path in mine}
    return sorted(last.values(), key=lambda item: len(item.path))
