"""What is still owed by system calls that have not returned, and waiting for it."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._events import PendingRollback
    from ._handshake import Handshake, Operation
    from ._workers import Workers


class Undoing(Protocol):
    """What may be owed, as far as this module cares."""

    lock: threading.Lock

    def join(self, payer: Handshake) -> bool:
        """A thread is about to work for it; False if it is over."""
        ...

    def undo(self, payer: Handshake) -> Iterator[Operation]:
        """Undo what can be undone now."""
        ...

    def owed_on(self) -> list[Workers | None]:
        """The mount of each directory that is still to be undone."""
        ...


class Debts:
    """Transactions whose call has ended before they were undone; usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owed: dict[Undoing, Callable[[], list[PendingRollback]]] = {}
        self._waiters: dict[object, Callable[[], object]] = {}
        self._undoing: dict[Undoing, None] = {}

    def begin(self, transaction: Undoing) -> None:
        """``transaction`` is being undone, by whoever is not in its way."""
        with self._lock:
            self._undoing[transaction] = None

    def undoing(self) -> list[Undoing]:
        """Those of which something may have waited for a system call that has just returned."""
        with self._lock:
            return list(self._undoing)

    def take(self, transaction: Undoing, pending: Callable[[], list[PendingRollback]]) -> None:
        """``transaction`` owes what ``pending`` tells."""
        with self._lock:
            self._owed[transaction] = pending

    def paid(self, transaction: Undoing) -> None:
        """It is undone, and owes nothing any more."""
        with self._lock:
            self._undoing.pop(transaction, None)
            if self._owed.pop(transaction, None) is None or self._owed:
                return
            waiters, self._waiters = list(self._waiters.values()), {}
        for waiter in waiters:
            waiter()

    def pending(self) -> tuple[PendingRollback, ...]:
        """Everything that is owed, by every call of the process."""
        with self._lock:
            owed = list(self._owed.values())
        return tuple([debt for pending in owed for debt in pending()])

    def by_mount(self) -> Counter[Workers | None]:
        """How much of that is owed on which mount."""
        with self._lock:
            owed = list(self._owed)
        return Counter(workers for undoing in owed for workers in undoing.owed_on())

    def when_settled(self, key: object, waiter: Callable[[], object]) -> bool:
        """Have ``waiter`` called once nothing is owed; False if that is so already."""
        with self._lock:
            if not self._owed:
                return False
            self._waiters[key] = waiter
            return True

    def forget_waiter(self, key: object) -> None:
        """Whoever waited has gone."""
        with self._lock:
            self._waiters.pop(key, None)
