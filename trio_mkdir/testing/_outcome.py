"""How the runs of a sweep ended, for its check and for whoever reads the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from ._operations import OperationRecord

StateT_co = TypeVar("StateT_co", covariant=True)


@attrs.frozen
class Outcome(Generic[StateT_co]):
    """How one run of a sweep ended, for its check."""

    state: StateT_co
    """What ``setup`` gave for this run; None without one."""
    point: int | None = None
    """At which point it was cancelled, 1 for right at its beginning; None if it was not."""
    cancelled: bool = False
    """Whether `trio.Cancelled` came out: a run that is nearly done may end well all the same."""
    value: object = None
    """What it returned."""
    error: Exception | None = None
    """What it raised instead, if that was expected."""
    faults: tuple[OperationRecord, ...] = ()
    """The operations that were made to fail, and the errno of each."""
    stack: str = ""
    """Where each of its tasks was when it was cancelled, as a traceback tells it."""

    @property
    def completed(self) -> bool:
        """Whether it returned."""
        return not self.cancelled and self.error is None


@attrs.frozen
class SweepSummary:
    """How many runs a sweep took."""

    points: int = 0
    """Runs that were cancelled, or had an operation fail, each at another place; one more ran
    undisturbed in the end."""
    cancelled: int = 0
    """Of these, runs out of which `trio.Cancelled` came."""
    failed: int = 0
    """Runs that raised an exception that was expected."""
    completed: int = 0
    """Runs that returned, the undisturbed one included."""

    def and_one(self, outcome: Outcome[Any]) -> SweepSummary:
        """With one more run."""
        return SweepSummary(
            self.points + bool(outcome.point or outcome.faults),
            self.cancelled + outcome.cancelled,
            self.failed + (outcome.error is not None),
            self.completed + outcome.completed,
        )


class SweepFailed(AssertionError):
    """A check failed, or something unexpected came out, in one run of a sweep.

    Its ``__cause__`` is what the check, or the function, raised. Its text says which run it was and
    where the tasks were when it was cancelled.
    """

    outcome: Outcome[Any]
    """How that run ended."""
    summary: SweepSummary
    """The runs before it."""
