"""When to try again: the delays of one cause, and the budget that a whole process shares."""

from __future__ import annotations

import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast, get_args

import attrs

from ._checks import at_least, finite, non_negative, positive, whole_or_infinite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

Jitter: TypeAlias = Literal["none", "full", "equal", "decorrelated"]

_DECORRELATED_GROWTH = 3.0
"""The factor of "decorrelated jitter" in Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015."""


def _known_jitter(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in get_args(Jitter):
        choices = ", ".join(map(repr, get_args(Jitter)))
        raise ValueError(f"{attribute.name} must be one of {choices}, not {value!r}")


def _not_below_initial(
    policy: BackoffPolicy, attribute: attrs.Attribute[float], value: float
) -> None:
    if value < policy.initial:
        raise ValueError(
            f"{attribute.name} must be at least initial={policy.initial!r}, not {value!r}"
        )


@attrs.frozen
class BackoffPolicy:
    """How long to wait before each retry of one root cause.

    Raises:
      ValueError: where it is constructed, naming the option and the value, if one is out of range.
      TypeError: likewise, if one is not a number.
    """

    initial: float = attrs.field(default=0.010, validator=[finite, non_negative])
    """Seconds before the first retry."""
    multiplier: float = attrs.field(default=5.0, validator=[finite, at_least(1)])
    """Factor from one delay to the next."""
    maximum: float = attrs.field(
        default=0.250, validator=[attrs.validators.and_(non_negative, _not_below_initial)]
    )
    """Longest delay in seconds."""
    max_retries: float = attrs.field(default=3, validator=whole_or_infinite)
    """How many retries without progress; `math.inf` for no limit."""
    jitter: Jitter = attrs.field(default="none", validator=_known_jitter)
    """How delays are spread, so that many callers do not come back at once: ``"none"``, ``"full"``
    (anything up to the delay), ``"equal"`` (the upper half of it) or ``"decorrelated"`` (between
    ``initial`` and three times the delay before)."""
    max_elapsed: float = attrs.field(default=math.inf, validator=positive)
    """Seconds from a call's first failure after which nothing more is retried."""

    INTRANET: ClassVar[BackoffPolicy]
    """A server in the same building: 0.05 s, at most 0.5 s, 2 s in all."""
    CROSS_AZ: ClassVar[BackoffPolicy]
    """A server in another availability zone: 0.2 s, at most 2 s, 8 s in all."""

    @classmethod
    def constant(
        cls, delay: float, *, max_retries: float = 3, max_elapsed: float = math.inf
    ) -> BackoffPolicy:
        """The same ``delay`` (seconds) before every retry."""
        return cls(
            initial=delay,
            multiplier=1,
            maximum=delay,
            max_retries=max_retries,
            max_elapsed=max_elapsed,
        )

    @classmethod
    def exponential(
        cls,
        initial: float = 0.010,
        maximum: float = 0.250,
        *,
        multiplier: float = 2.0,
        max_retries: float = math.inf,
        jitter: Jitter = "full",
        max_elapsed: float = math.inf,
    ) -> BackoffPolicy:
        """Delays that grow from ``initial`` to ``maximum`` seconds, with full jitter."""
        return cls(initial, multiplier, maximum, max_retries, jitter, max_elapsed)

    def delays(self, random: Random) -> Iterator[float]:
        """The delays in seconds, one a retry, until ``max_retries`` or their sum ends them.

        Pure: the same state of ``random`` gives the same delays, and nothing sleeps.
        """
        delay, total, count = self.initial, 0.0, 0
        while count < self.max_retries:
            actual = self._spread(delay, random)
            total += actual
            if total > self.max_elapsed:
                return
            yield actual
            count += 1
            grown = (
                actual * _DECORRELATED_GROWTH
                if self.jitter == "decorrelated"
                else delay * self.multiplier
            )
            delay = min(grown, self.maximum)

    def _spread(self, delay: float, random: Random) -> float:
        if self.jitter == "full":
            return random.uniform(0, delay)
        if self.jitter == "equal":
            return random.uniform(delay / 2, delay)
        if self.jitter == "decorrelated":
            return random.uniform(self.initial, max(self.initial, delay))
        return delay


BackoffPolicy.INTRANET = BackoffPolicy.exponential(0.05, 0.5, max_elapsed=2.0)
BackoffPolicy.CROSS_AZ = BackoffPolicy.exponential(0.2, 2.0, max_elapsed=8.0)


class Budget:
    """A token bucket that bounds how often a whole process retries.

    Every retry that waits takes one token; without one, the failure is final. When everything
    fails at once, this keeps the retries from becoming the load that keeps it failing.
    One budget may be shared by any policies, tasks and threads.

    Args:
      capacity: How many retries can happen in a burst.
      per_second: How many tokens come back in a second.
    """

    def __init__(self, capacity: float = 100, per_second: float = 10) -> None:
        self._capacity = cast("float", positive.check("capacity", capacity))
        self._per_second = cast("float", non_negative.check("per_second", per_second))
        self._tokens = self._capacity
        self._as_of = time.monotonic()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"Budget(capacity={self._capacity!r}, per_second={self._per_second!r})"

    def take(self) -> bool:
        """Take one token, if there is one."""
        if self._process != os.getpid():  # forked, and maybe while another thread had the lock
            self._process, self._lock = os.getpid(), threading.Lock()
        with self._lock:
            now = time.monotonic()
            self._tokens = min(
                self._capacity, self._tokens + (now - self._as_of) * self._per_second
            )
            self._as_of = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
