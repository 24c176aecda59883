"""Who has the result: the caller, who may leave at any time, or the thread, who may be late.

::

    WAITING --start()--> RUNNING --finish()--> ANSWERED      the caller has it
       |                    |
    leave()              leave()
       |                    |
       v                    v
    CANCELLED           ABANDONED --finish()--> LATE         the thread undoes it

One lock decides every transition, so each of ``leave`` and ``finish`` knows whether it came first.
A step timeout is no transition: the caller is still there and waits again (`wake_with`).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ._paths import AnyPath

Operation: TypeAlias = "tuple[str, AnyPath]"
"""A system call that is about to start: its name and path."""


class SpokenOf(tuple[str, "AnyPath"]):  # noqa: SLOT001 - those of a tuple would be empty
    """An `Operation` that is spoken of by another path than the filesystem is asked for."""

    asked: Operation

    @classmethod
    def as_(cls, name: str, path: AnyPath, asked: Operation) -> SpokenOf:
        """``asked``, spoken of as ``name`` of ``path``."""
        self = cls((name, path))
        self.asked = asked
        return self


def as_asked(operation: Operation) -> Operation:
    """``operation`` as the filesystem is asked for it."""
    return operation.asked if isinstance(operation, SpokenOf) else operation


class Phase(enum.Enum):
    """See the top of this module."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    ANSWERED = enum.auto()
    CANCELLED = enum.auto()
    ABANDONED = enum.auto()
    LATE = enum.auto()


class Handshake:
    """Between one caller and one thread; ``lock`` may be shared with what it decides about."""

    # One is made for every call: what it begins with is the class's, and costs nothing to make.
    phase = Phase.WAITING
    operation: Operation | None = None
    """The system call that the thread is in, or was in last while it is RUNNING."""
    _wake: Callable[[], object] | None = None

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock

    @property
    def answered(self) -> bool:
        """Whether the thread is done and the caller has the result."""
        return self.phase is Phase.ANSWERED

    @property
    def started(self) -> bool:
        """Whether a thread has begun."""
        return self.phase not in {Phase.WAITING, Phase.CANCELLED}

    def start(self) -> bool:
        """The thread is there; False if the caller has left already and nothing may be done."""
        with self.lock:
            if self.phase is not Phase.WAITING:
                return False
            self.phase = Phase.RUNNING
            return True

    def admit(self, operation: Operation) -> bool:
        """The thread is about to start ``operation``; False if its caller is gone.

        No lock, as it is asked before every system call: we write the operation and then read the
        phase; `leave` writes the phase, and whoever reads the operation does so after that. So
        either we see that the caller is gone, or the caller sees what we are about to start.
        """
        before, self.operation = self.operation, operation
        if self.phase is Phase.RUNNING:
            return True
        self.operation = before
        return False

    def finish(self) -> bool:
        """The thread is done; False if its caller is gone and the thread has to clean up."""
        with self.lock:
            answered = self.phase is Phase.RUNNING
            if answered:
                self.phase = Phase.ANSWERED
                self.operation = None
            else:
                self.phase = Phase.LATE
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()
        return answered

    def leave(self) -> Phase:
        """The caller goes: CANCELLED, ABANDONED, or ANSWERED if the thread was first."""
        with self.lock:
            if self.phase is Phase.WAITING:
                self.phase = Phase.CANCELLED
            elif self.phase is Phase.RUNNING:
                self.phase = Phase.ABANDONED
            self._wake = None
            return self.phase

    def wake_with(self, wake: Callable[[], object]) -> bool:
        """Have ``wake`` called by the thread when it finishes; False if it has finished."""
        with self.lock:
            if self.phase not in {Phase.WAITING, Phase.RUNNING}:
                return False
            self._wake = wake
            return True
