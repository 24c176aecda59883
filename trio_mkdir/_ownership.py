"""Owner, group, mode and attributes of what a call has made.

Programs, as in `_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._demands import Ownership
    from ._paths import Target
    from ._transaction import Transaction
    from ._undo_log import Item
    from ._walk import Program


def give(
    wanted: Ownership, made: Sequence[Item], target: Target, transaction: Transaction
) -> Program:
    """Give ``made`` what is wanted, the deepest first."""
    raise NotImplementedError
