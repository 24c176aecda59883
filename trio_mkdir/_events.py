"""What happened, as a stream of frozen records; everything that tells of it is made from these.

The report is a fold over them, the log lines are made from them, and `Policy.observers` get
them one by one, in the thread in which they happen.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._causes import RootCause
    from ._paths import AnyPath

    Observer = Callable[["Event"], object]

logger: Final = logging.getLogger("trio_mkdir")
_serial = itertools.count(1)


@attrs.frozen
class PendingRollback:
    """A directory whose undoing has to wait for a system call that has not returned."""

    path: AnyPath
    """Absolute."""
    operation: str
    """The system call at ``path`` that has not returned: ``"mkdir"`` where it may still appear,
    ``"rmdir"``, ``"lstat"`` or ``"stat"`` in its removal, ``"chmod"``, ``"chown"`` and the like in
    a change. Or ``"undo"``, where it stands until something else is answered; ``"fsync"``, where
    what was removed from it may come back after a power cut until then."""
    mount_point: str
    """Where the mount is that does not answer."""
    since: float
    """`time.monotonic` when the call ended."""


@attrs.frozen
class Event:
    """One thing that happened in one call."""

    call: int
    """A number of its own for each call of this process."""
    time: float
    """`time.monotonic`, seconds."""
    path: AnyPath
    """Absolute."""


@attrs.frozen
class StepStarted(Event):
    """A worker thread is asked to go on with the call at ``path``."""


@attrs.frozen
class StepAnswered(Event):
    """The worker is back."""

    errno: int | None
    """The kernel's answer that stopped it, if one did."""


@attrs.frozen
class StepTimedOut(Event):
    """A system call at ``path`` has not returned within ``step_timeout``."""

    waited: float
    """Seconds."""


@attrs.frozen
class RetryScheduled(Event):
    """The policy decided to try again."""

    cause: RootCause
    errno: int
    delay: float
    """Seconds until then."""


@attrs.frozen
class Made(Event):
    """A ``mkdir(2)`` of this call has made ``path``."""


@attrs.frozen
class ReliedOn(Event):
    """``path`` was made by another call that has not committed yet; now both hold it."""


@attrs.frozen
class Removed(Event):
    """``path`` was made and is undone."""


@attrs.frozen
class Kept(Event):
    """``path`` was made, or changed, and is left as it is."""

    why: str
    errno: int | None = None
    """The kernel's answer to its removal or change; None where it is left on purpose."""


@attrs.frozen
class Correction(Event):
    """``path`` should have inherited something that the filesystem had not handed on."""

    what: str
    """``"group"``, ``"mode"`` for set-group-ID, or the name of an ACL's extended attribute."""
    before: int | str | None
    """What it had: a number, an ACL as setfacl(1) takes it, or None."""
    after: int | str
    """What it has."""


@attrs.frozen
class NotCopied(Event):
    """``path`` did not get an extended attribute that is the system's, as it may not be set."""

    what: str
    """The name of the attribute, ``security.`` or ``trusted.`` something."""
    errno: int


@attrs.frozen
class Changed(Event):
    """A rollback nursery is about to change ``path``; if it does not end well, back again."""

    before: str
    """Mode and owner, as ``0755 0:0``,"""
    after: str
    """and what they are to be."""


@attrs.frozen
class Restored(Event):
    """``path`` has what it had before it was changed."""


@attrs.frozen
class Unsynced(Event):
    """Something was removed from ``path``, and a power cut may bring it back: fsync(2) failed."""

    why: str
    errno: int


@attrs.frozen
class DebtTaken(Event):
    """The call has ended; this much of its undoing waits for the kernel."""

    debt: PendingRollback


@attrs.frozen
class DebtPaid(Event):
    """Nothing of the call is owed any more."""


@attrs.frozen
class LateAnswer(Event):
    """A system call has returned after its caller was gone."""

    operation: str
    errno: int | None
    """Of a ``mkdir``; None if it succeeded, and for every other operation."""


@attrs.frozen(slots=False)  # half the time to make one
class Report:
    """What one call did. Paths are in the form in which the caller wrote them."""

    path: AnyPath
    """The path that was asked for."""
    created: tuple[AnyPath, ...] = ()
    """Every directory that this call made, in order; after a failure see ``removed``."""
    relied_on: tuple[AnyPath, ...] = ()
    """Directories made by other calls that had not committed when this one found them."""
    retries: tuple[RetryScheduled, ...] = ()
    """Each retry, with its ``cause``, ``errno``, ``path`` and ``delay``."""
    elapsed: float = 0.0
    """Seconds, by trio's clock."""
    steps: int = 0
    """Visits to a worker thread, the rollback's included."""
    removed: tuple[AnyPath, ...] = ()
    """After a failure: what was undone, deepest first."""
    kept: tuple[Kept, ...] = ()
    """After a failure: what was made but not undone, each with ``path`` and ``why``."""
    pending: tuple[PendingRollback, ...] = ()
    """After a failure: what is still owed, and paid when the kernel answers."""
    unsynced: tuple[Unsynced, ...] = ()
    """After a failure of a durable call: from where something was removed that a power cut may
    bring back, each with ``path`` and ``why``."""
    audit: tuple[Correction | NotCopied | Changed | Restored, ...] = ()
    """What became of owners, modes and attributes beside what was asked for, in order."""


_AUDITED: Final = {Correction, NotCopied, Changed, Restored}

_LEVELS: Final[dict[type[Event], int]] = {
    DebtTaken: logging.WARNING,
    Kept: logging.WARNING,
    Unsynced: logging.WARNING,
    DebtPaid: logging.INFO,
    LateAnswer: logging.INFO,
}


_LOGGED: Final = 10
"""How many events of one kind are logged that happen at once, if nobody asks for all of them."""


def _log(event: Event) -> None:
    level = _LEVELS.get(type(event), logging.DEBUG)
    if logger.isEnabledFor(level):
        fields = attrs.asdict(event, recurse=False)
        told = {
            name: value for name, value in fields.items() if name not in {"call", "time", "path"}
        }
        details = ", ".join(f"{name}={value!r}" for name, value in told.items())
        logger.log(
            level,
            "%s %r%s",
            type(event).__name__,
            os.fsdecode(event.path),
            f" ({details})" if details else "",
            # Prefixed: a LogRecord has attributes of its own and refuses to overwrite them.
            extra={f"trio_mkdir_{name}": value for name, value in fields.items()},
        )


def listening(observers: Sequence[Observer]) -> bool:
    """Whether anybody wants to know each event at once."""
    return bool(observers) or logger.isEnabledFor(logging.DEBUG)


class Recorder:
    """Keeps what happened in one call and hands it on to whoever listens, from any thread."""

    __slots__ = ("_observers", "call", "listening", "steps", "told")

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.call = next(_serial)
        self.told: list[tuple[type[Event], float, AnyPath, tuple[object, ...]]] = []
        self.steps = 0
        self._observers = observers
        self.listening = listening(observers)
        """Whether anybody wants to know each event at once."""

    def tell(self, kind: type[Event], path: AnyPath, *details: object) -> None:
        """Record one event; it becomes an `Event` only if somebody listens or the report asks."""
        told = kind, time.monotonic(), path, details
        self.told.append(told)
        if self.listening or kind in _LEVELS:
            self._announce(_event(self.call, told))

    def tell_all(self, kind: type[Event], told: Sequence[tuple[AnyPath, object]]) -> None:
        """Record events of one kind, of which there may be thousands: the log tells the first."""
        logged = len(told) if self.listening else _LOGGED
        for path, detail in told[:logged]:
            self.tell(kind, path, detail)
        rest = told[logged:]
        if rest:
            now = time.monotonic()
            self.told += [(kind, now, path, (detail,)) for path, detail in rest]
            logger.log(_LEVELS.get(kind, logging.DEBUG), "%d more %s", len(rest), kind.__name__)

    def step(self, path: AnyPath) -> None:
        """A step starts: only a number, unless somebody listens."""
        self.steps += 1
        if self.listening:
            self.tell(StepStarted, path)

    def _announce(self, event: Event) -> None:
        for observer in (_log, *self._observers):
            try:
                observer(event)
            except Exception:
                logger.exception("observer %r failed on %r", observer, event)

    def report(
        self, given: AnyPath, as_given: Callable[[AnyPath], AnyPath], elapsed: float
    ) -> Report:
        """Fold what happened into a report."""
        if all([told[0] is Made for told in self.told]):  # noqa: C419 - half the time
            created = tuple([as_given(told[2]) for told in self.told])
            return Report(given, created, (), (), elapsed, self.steps)
        told: dict[type[Event], list[Any]] = {}
        for kind, at, path, details in self.told:
            told.setdefault(kind, []).append((kind, at, as_given(path), details))

        def paths(kind: type[Event]) -> tuple[AnyPath, ...]:
            return tuple([path for _, _, path, _ in told.get(kind, ())])

        def events(kind: type[Event]) -> tuple[Any, ...]:
            return tuple([_event(self.call, item) for item in told.get(kind, ())])

        return Report(
            given,
            created=paths(Made),
            relied_on=paths(ReliedOn),
            retries=events(RetryScheduled),
            elapsed=elapsed,
            steps=self.steps,
            removed=paths(Removed),
            kept=events(Kept),
            pending=tuple([event.debt for event in events(DebtTaken)]),
            unsynced=events(Unsynced),
            audit=tuple(
                [
                    cast("Any", _event(self.call, (kind, at, as_given(path), details)))
                    for kind, at, path, details in self.told
                    if kind in _AUDITED
                ]
            ),
        )


def _event(call: int, told: tuple[type[Event], float, AnyPath, tuple[object, ...]]) -> Event:
    kind, at, path, details = told
    return kind(call, at, path, *details)
