"""Options are checked where they are written down, and a policy never changes."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from doubles import Scripted

from trio_mkdir import BackoffPolicy, Budget, Policy, RootCause
from trio_mkdir._policy import DEFAULT_RETRIES


def test_the_defaults_are_those_that_are_promised() -> None:
    policy = Policy()
    assert (policy.step_timeout, policy.rollback_timeout) == (5.0, 1.0)
    assert (policy.workers, policy.stall_after) == (40, 8)
    assert policy.retries == DEFAULT_RETRIES
    assert policy.reclaim is None
    assert policy.filesystem is None
    assert policy.observers == ()
    assert isinstance(policy.budget, Budget)


@pytest.mark.parametrize(
    "cause",
    [
        RootCause.BUSY,
        RootCause.NO_SPACE,
        RootCause.NO_QUOTA,
        RootCause.NO_RESOURCES,
        RootCause.STALE,
    ],
)
def test_what_can_pass_is_tried_again_after_10_50_and_250_milliseconds(cause: RootCause) -> None:
    assert DEFAULT_RETRIES[cause] == BackoffPolicy(0.010, 5.0, 0.250, 3, "none")


def test_a_timeout_is_tried_again_after_100_milliseconds_to_a_second() -> None:
    backoff = DEFAULT_RETRIES[RootCause.TIMED_OUT]
    assert (backoff.initial, backoff.maximum, backoff.jitter) == (0.1, 1.0, "full")


def test_what_vanished_is_made_again_at_once_and_not_for_ever() -> None:
    backoff = DEFAULT_RETRIES[RootCause.VANISHED]
    assert (backoff.maximum, backoff.max_retries) == (0, 10)


@pytest.mark.parametrize("cause", sorted(set(RootCause) - set(DEFAULT_RETRIES), key=str))
def test_what_cannot_pass_is_final(cause: RootCause) -> None:
    assert cause in {
        RootCause.MISSING,
        RootCause.NOT_PERMITTED,
        RootCause.READ_ONLY,
        RootCause.DISCONNECTED,
        RootCause.IN_THE_WAY,
        RootCause.BAD_NAME,
        RootCause.TOO_MANY_LINKS,
        RootCause.LOOP,
        RootCause.ESCAPES,
        RootCause.OTHER,
    }


def test_each_policy_has_a_budget_of_its_own_unless_it_is_given_one() -> None:
    assert Policy().budget is not Policy().budget
    shared = Budget()
    assert Policy(budget=shared).budget is Policy(budget=shared).budget is shared
    assert Policy(budget=None).budget is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("step_timeout", 0),
        ("step_timeout", -1),
        ("step_timeout", math.nan),
        ("rollback_timeout", -0.5),
        ("rollback_timeout", math.inf),
        ("rollback_timeout", math.nan),
        ("workers", 0),
        ("stall_after", 0),
        ("stall_after", -3),
    ],
)
def test_a_value_out_of_range_is_named_with_its_option(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be ") as raised:
        Policy(**{option: value})  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)


NOT_NUMBERS: list[object] = ["1", None, True, 1j]
NOT_WHOLE: list[object] = [*NOT_NUMBERS, 2.5, 40.0, math.inf, math.nan]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[
            (option, value)
            for option in ("step_timeout", "rollback_timeout")
            for value in NOT_NUMBERS
        ],
        *[(option, value) for option in ("workers", "stall_after") for value in NOT_WHOLE],
        ("retries", None),
        ("retries", [RootCause.BUSY]),
        ("reclaim", "rm -rf"),
        ("budget", 100),
        ("observers", print),
        ("observers", [print, None]),
        ("observers", "log"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_option(option: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{option} must ") as raised:
        Policy(**{option: value})  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)


def test_a_key_of_retries_that_is_no_root_cause_is_named() -> None:
    with pytest.raises(TypeError, match=r"^retries must have RootCause keys, not 'busy'$"):
        Policy(retries={"busy": BackoffPolicy()})


def test_a_value_of_retries_that_is_no_backoff_is_named() -> None:
    with pytest.raises(TypeError, match=r"^retries\[RootCause.BUSY\] must be .*, not 3$"):
        Policy(retries={RootCause.BUSY: 3})


def test_limits_themselves_are_in_range() -> None:
    policy = Policy(step_timeout=math.inf, rollback_timeout=0, workers=1, stall_after=1)
    assert (policy.step_timeout, policy.rollback_timeout) == (math.inf, 0)


def test_options_are_keywords_only() -> None:
    with pytest.raises(TypeError):
        Policy(5.0)  # type: ignore[call-arg]


def test_a_policy_cannot_be_changed() -> None:
    policy = Policy()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy.step_timeout = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        policy.retries[RootCause.BUSY] = BackoffPolicy()  # type: ignore[index]


def test_what_the_caller_does_with_his_own_mapping_changes_nothing() -> None:
    mine = {RootCause.BUSY: BackoffPolicy()}
    policy = Policy(retries=mine)
    mine.clear()
    assert set(policy.retries) == {RootCause.BUSY}


def test_what_the_caller_does_with_his_own_list_changes_nothing() -> None:
    mine: list[Any] = [print]
    policy = Policy(observers=mine)
    mine.clear()
    assert policy.observers == (print,)


def test_any_mapping_will_do() -> None:
    assert Policy(retries=MappingProxyType({})).retries == {}


def test_a_policy_can_be_varied() -> None:
    budget = Budget()
    policy = Policy(retries={}, budget=budget)
    varied = attrs.evolve(policy, step_timeout=1.0)
    assert (varied.step_timeout, varied.retries, varied.budget) == (1.0, {}, budget)


def test_equal_policies_have_equal_hashes() -> None:
    budget = Budget()
    assert Policy(budget=budget) == Policy(budget=budget)
    assert hash(Policy(budget=budget)) == hash(Policy(budget=budget))


def test_a_filesystem_is_not_printed() -> None:
    assert "Scripted" not in repr(Policy(filesystem=Scripted()))
