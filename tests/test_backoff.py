"""How long to wait before each retry, and how often a whole process may retry."""

from __future__ import annotations

import math
import os
import threading
import time
from fractions import Fraction
from itertools import islice
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_mkdir
from trio_mkdir._backoff import BackoffPolicy, Budget

JITTERS = ["none", "full", "equal", "decorrelated"]


def delays(policy: BackoffPolicy, seed: int = 0, limit: int = 50) -> list[float]:
    return list(islice(policy.delays(Random(seed)), limit))


@st.composite
def policies(draw: st.DrawFn) -> BackoffPolicy:
    initial = draw(st.floats(0, 10))
    return BackoffPolicy(
        initial=initial,
        multiplier=draw(st.floats(1, 10)),
        maximum=draw(st.floats(initial, 100) | st.just(math.inf)),
        max_retries=draw(st.integers(0, 20) | st.just(math.inf)),
        jitter=draw(st.sampled_from(JITTERS)),
        max_elapsed=draw(st.floats(0.001, 100) | st.just(math.inf)),
    )


seeds = st.integers(0, 1000)


def test_the_default_is_10_50_and_250_milliseconds() -> None:
    assert delays(BackoffPolicy()) == pytest.approx([0.010, 0.050, 0.250])


def test_delays_grow_up_to_the_maximum() -> None:
    policy = BackoffPolicy(initial=1, multiplier=2, maximum=5, max_retries=5)
    assert delays(policy) == [1, 2, 4, 5, 5]


def test_constant_delays_stay_the_same() -> None:
    assert delays(BackoffPolicy.constant(0.5)) == [0.5, 0.5, 0.5]
    assert delays(BackoffPolicy.constant(0, max_retries=2)) == [0, 0]


def test_exponential_delays_are_spread_and_have_no_limit_of_their_own() -> None:
    policy = BackoffPolicy.exponential(0.1, 2.0)
    assert (policy.jitter, policy.max_retries) == ("full", math.inf)
    assert len(delays(policy, limit=500)) == 500


def test_no_retries_are_no_delays() -> None:
    assert delays(BackoffPolicy(max_retries=0)) == []


def test_max_elapsed_bounds_the_sum() -> None:
    policy = BackoffPolicy(initial=1, multiplier=1, maximum=1, max_retries=10, max_elapsed=3.5)
    assert delays(policy) == [1, 1, 1]


def test_a_sum_that_is_just_max_elapsed_is_within_it() -> None:
    policy = BackoffPolicy(initial=1, multiplier=1, maximum=1, max_retries=10, max_elapsed=3)
    assert delays(policy) == [1, 1, 1]


@pytest.mark.parametrize(
    ("preset", "initial", "maximum", "in_all"),
    [(BackoffPolicy.INTRANET, 0.05, 0.5, 2.0), (BackoffPolicy.CROSS_AZ, 0.2, 2.0, 8.0)],
    ids=["intranet", "cross az"],
)
def test_presets_are_what_they_are_called(
    preset: BackoffPolicy, initial: float, maximum: float, in_all: float
) -> None:
    assert (preset.initial, preset.maximum, preset.max_elapsed) == (initial, maximum, in_all)
    for seed in range(100):
        spread = delays(preset, seed, limit=10_000)
        assert spread
        assert max(spread) <= maximum
        assert sum(spread) <= in_all


@given(policies(), seeds)
def test_delays_are_bounded_in_size_number_and_sum(policy: BackoffPolicy, seed: int) -> None:
    spread = delays(policy, seed)
    assert len(spread) <= policy.max_retries
    assert all(0 <= delay <= policy.maximum for delay in spread)
    assert sum(spread) <= policy.max_elapsed * (1 + 1e-9)


@given(policies(), seeds)
def test_the_same_random_state_gives_the_same_delays(policy: BackoffPolicy, seed: int) -> None:
    assert delays(policy, seed) == delays(policy, seed)


@given(policies())
def test_two_sequences_of_one_policy_know_nothing_of_each_other(policy: BackoffPolicy) -> None:
    alone = delays(policy, 1)
    one, other = policy.delays(Random(1)), policy.delays(Random(2))
    interleaved = []
    for delay in islice(one, 50):
        interleaved.append(delay)
        next(other, None)
    assert interleaved == alone


@given(policies(), seeds)
def test_nothing_is_spent_before_it_is_asked_for(policy: BackoffPolicy, seed: int) -> None:
    random = Random(seed)
    state = random.getstate()
    policy.delays(random)
    assert random.getstate() == state


def unspread(policy: BackoffPolicy) -> list[float]:
    return delays(attrs.evolve(policy, jitter="none", max_elapsed=math.inf))


@given(policies(), seeds)
def test_without_jitter_chance_has_no_say(policy: BackoffPolicy, seed: int) -> None:
    policy = attrs.evolve(policy, jitter="none")
    assert delays(policy, seed) == delays(policy, seed + 1)
    assert sorted(delays(policy)) == delays(policy)


@given(policies(), seeds)
def test_full_jitter_is_anything_up_to_the_delay(policy: BackoffPolicy, seed: int) -> None:
    policy = attrs.evolve(policy, jitter="full")
    for actual, delay in zip(delays(policy, seed), unspread(policy), strict=False):
        assert 0 <= actual <= delay


@given(policies(), seeds)
def test_equal_jitter_is_the_upper_half_of_the_delay(policy: BackoffPolicy, seed: int) -> None:
    policy = attrs.evolve(policy, jitter="equal")
    for actual, delay in zip(delays(policy, seed), unspread(policy), strict=False):
        assert delay / 2 <= actual <= delay


@given(policies(), seeds)
def test_decorrelated_jitter_is_up_to_three_times_the_delay_before(
    policy: BackoffPolicy, seed: int
) -> None:
    policy = attrs.evolve(policy, jitter="decorrelated")
    before = policy.initial
    for actual in delays(policy, seed):
        assert policy.initial <= actual <= max(policy.initial, 3 * before)
        before = actual


@pytest.mark.parametrize("jitter", JITTERS[1:])
def test_jitter_spreads(jitter: str) -> None:
    policy = BackoffPolicy(initial=1, maximum=100, max_retries=5, jitter=jitter)  # type: ignore[arg-type]
    assert len({tuple(delays(policy, seed)) for seed in range(20)}) == 20


# Options out of range


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("initial", -0.1),
        ("initial", math.inf),
        ("initial", math.nan),
        ("multiplier", 0.5),
        ("multiplier", math.inf),
        ("multiplier", math.nan),
        ("maximum", 0.001),
        ("maximum", -1),
        ("maximum", math.nan),
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("max_retries", math.nan),
        ("max_elapsed", 0),
        ("max_elapsed", -1),
        ("max_elapsed", math.nan),
        ("jitter", "some"),
        ("jitter", None),
        ("jitter", ["none"]),
    ],
)
def test_a_value_out_of_range_is_named_with_its_option(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be ") as raised:
        BackoffPolicy(**{option: value})  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize(
    "option", ["initial", "multiplier", "maximum", "max_retries", "max_elapsed"]
)
@pytest.mark.parametrize("value", ["1", None, True, 1j, [1]], ids=repr)
def test_what_is_no_number_is_a_type_error_that_names_the_option(
    option: str, value: object
) -> None:
    with pytest.raises(TypeError, match=f"^{option} must be a number, not ") as raised:
        BackoffPolicy(**{option: value})  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)


def test_limits_themselves_are_in_range() -> None:
    policy = BackoffPolicy(
        initial=0, multiplier=1, maximum=math.inf, max_retries=math.inf, max_elapsed=math.inf
    )
    assert delays(policy, limit=3) == [0, 0, 0]
    assert BackoffPolicy(initial=0.5, maximum=0.5).maximum == 0.5
    assert BackoffPolicy(max_retries=2.0).max_retries == 2


def test_any_real_number_will_do() -> None:
    policy = BackoffPolicy(initial=Fraction(1, 2), maximum=Fraction(3, 4))  # type: ignore[arg-type]
    assert delays(policy) == [0.5, 0.75, 0.75]


def test_a_policy_is_a_value_that_never_changes() -> None:
    assert BackoffPolicy() == BackoffPolicy()
    assert hash(BackoffPolicy()) == hash(BackoffPolicy())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        BackoffPolicy().initial = 1.0  # type: ignore[misc]


# The budget


def test_a_budget_gives_its_capacity_at_once_and_then_nothing() -> None:
    budget = Budget(capacity=3, per_second=0)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


def test_tokens_come_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = Budget(capacity=2, per_second=4)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    now += 0.25
    assert [budget.take() for _ in range(2)] == [True, False]
    now += 1000  # never more than its capacity
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_an_infinite_budget_never_ends() -> None:
    budget = Budget(capacity=math.inf)
    assert all(budget.take() for _ in range(1000))


def test_threads_share_a_budget_fairly_and_exactly() -> None:
    budget = Budget(capacity=1000, per_second=0)
    taken: list[bool] = []
    ready = threading.Barrier(4)

    def take() -> None:
        ready.wait()
        taken.extend([budget.take() for _ in range(500)])

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1000


def test_a_budget_tells_what_it_is() -> None:
    assert repr(Budget(5, 0.5)) == "Budget(capacity=5, per_second=0.5)"


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = Budget()
    child = os.getpid() + 1
    with budget._lock:  # as another thread of the parent had it when it forked
        monkeypatch.setattr(os, "getpid", lambda: child)
        assert budget.take()


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("capacity", 0, ValueError),
        ("capacity", math.nan, ValueError),
        ("capacity", "100", TypeError),
        ("per_second", -1, ValueError),
        ("per_second", None, TypeError),
    ],
)
def test_a_budget_out_of_range_is_named(option: str, value: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"^{option} must be ") as raised:
        trio_mkdir.Budget(**{option: value})  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)
