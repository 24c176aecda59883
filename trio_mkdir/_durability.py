"""What a power cut must not take: every new directory, and its entry in the one above it.

Programs, as in `_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._transaction import Transaction
    from ._undo_log import Item
    from ._walk import Program


def sync(made: Sequence[Item], transaction: Transaction) -> Program:
    """Have ``made`` written to the disk."""
    raise NotImplementedError
