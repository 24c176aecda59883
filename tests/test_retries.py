"""Whether and when a call tries again: by cause, until progress, within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from trio_mkdir import BackoffPolicy, Budget, Policy, RootCause
from trio_mkdir._retries import Retries

BUSY, TIMED_OUT, NO_SPACE = RootCause.BUSY, RootCause.TIMED_OUT, RootCause.NO_SPACE


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def retries(
    table: Mapping[RootCause, BackoffPolicy],
    *,
    budget: Budget | None = None,
    clock: Clock | None = None,
) -> Retries:
    return Retries(Policy(retries=table, budget=budget), Random(0), clock or Clock())


def test_a_cause_that_is_not_in_the_table_is_final() -> None:
    assert retries({BUSY: BackoffPolicy()}).next_delay(TIMED_OUT, 0) is None


def test_the_delays_of_a_cause_come_one_by_one_and_end() -> None:
    tries = retries({BUSY: BackoffPolicy(1, 2, 10, 3)})
    assert [tries.next_delay(BUSY, 0) for _ in range(5)] == [1, 2, 4, None, None]


def test_each_cause_has_a_sequence_of_its_own() -> None:
    tries = retries({BUSY: BackoffPolicy(1, 2, 10, 2), TIMED_OUT: BackoffPolicy(3, 2, 10, 2)})
    order = [BUSY, TIMED_OUT, BUSY, TIMED_OUT, BUSY]
    assert [tries.next_delay(cause, 0) for cause in order] == [1, 3, 2, 6, None]


def test_progress_restarts_every_sequence() -> None:
    tries = retries({BUSY: BackoffPolicy(1, 2, 10, 2), TIMED_OUT: BackoffPolicy(3, 2, 10, 2)})
    assert [tries.next_delay(cause, 5) for cause in (BUSY, BUSY, TIMED_OUT)] == [1, 2, 3]
    assert [tries.next_delay(cause, 6) for cause in (BUSY, TIMED_OUT)] == [1, 3]


def test_only_what_was_never_reached_before_is_progress() -> None:
    # Or two programs that undo each other's work would go on for ever.
    tries = retries({BUSY: BackoffPolicy(1, 2, 10, 2)})
    assert [tries.next_delay(BUSY, progress) for progress in (5, 3, 5, 4)] == [1, 2, None, None]


def test_after_max_elapsed_nothing_is_tried_again() -> None:
    clock = Clock()
    tries = retries({BUSY: BackoffPolicy.constant(1, max_retries=9, max_elapsed=10)}, clock=clock)
    assert tries.next_delay(BUSY, 0) == 1
    clock.now += 9
    assert tries.next_delay(BUSY, 0) == 1
    clock.now += 0.5
    assert tries.next_delay(BUSY, 0) is None


def test_max_elapsed_counts_from_the_first_failure_whatever_it_was() -> None:
    clock = Clock()
    tries = retries(
        {BUSY: BackoffPolicy.constant(1), TIMED_OUT: BackoffPolicy.constant(1, max_elapsed=10)},
        clock=clock,
    )
    assert tries.next_delay(BUSY, 0) == 1
    clock.now += 10
    assert tries.next_delay(TIMED_OUT, 0) is None


def test_progress_does_not_extend_max_elapsed() -> None:
    clock = Clock()
    tries = retries({BUSY: BackoffPolicy.constant(1, max_elapsed=10)}, clock=clock)
    assert tries.next_delay(BUSY, 1) == 1
    clock.now += 9.5
    assert tries.next_delay(BUSY, 2) is None


def test_each_retry_that_waits_takes_a_token() -> None:
    budget = Budget(capacity=2, per_second=0)
    tries = retries({BUSY: BackoffPolicy.constant(1, max_retries=9)}, budget=budget)
    assert [tries.next_delay(BUSY, 0) for _ in range(3)] == [1, 1, None]


def test_calls_that_share_a_budget_use_it_up_together() -> None:
    budget = Budget(capacity=3, per_second=0)
    table = {BUSY: BackoffPolicy.constant(1, max_retries=9)}
    one, other = retries(table, budget=budget), retries(table, budget=budget)
    given = [tries.next_delay(BUSY, 0) for tries in (one, other, one, other, one)]
    assert given == [1, 1, 1, None, None]


def test_a_retry_at_once_takes_no_token() -> None:
    budget = Budget(capacity=1, per_second=0)
    tries = retries({NO_SPACE: BackoffPolicy.constant(0, max_retries=9)}, budget=budget)
    assert [tries.next_delay(NO_SPACE, 0) for _ in range(5)] == [0] * 5
    assert budget.take()


def test_a_failure_that_is_final_takes_no_token() -> None:
    budget = Budget(capacity=1, per_second=0)
    tries = retries({BUSY: BackoffPolicy(max_retries=0)}, budget=budget)
    assert tries.next_delay(BUSY, 0) is None
    assert budget.take()
