"""Whether and when a call tries again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from ._causes import RootCause
    from ._policy import Policy


class Retries:
    """The retrying of one call."""

    def __init__(self, policy: Policy, random: Random, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self._clock = clock
        self._delays: dict[RootCause, Iterator[float]] = {}
        self._progress = 0
        self._first_failure: float | None = None

    def next_delay(self, cause: RootCause, progress: int) -> float | None:
        """Seconds until the next attempt; None if the failure is final.

        ``progress`` that is greater than ever before starts every sequence of delays anew.
        """
        backoff = self._policy.retries.get(cause)
        if backoff is None:
            return None
        if progress > self._progress:
            self._progress = progress
            self._delays.clear()
        if cause not in self._delays:
            self._delays[cause] = backoff.delays(self._random)
        delay = next(self._delays[cause], None)
        if delay is None:
            return None
        now = self._clock()
        if self._first_failure is None:
            self._first_failure = now
        if now - self._first_failure + delay > backoff.max_elapsed:
            return None
        budget = self._policy.budget
        if delay and budget is not None and not budget.take():
            return None
        return delay
