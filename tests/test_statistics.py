"""A record of a mount says in one sentence what an operator wants to know first."""

from __future__ import annotations

import errno
import pickle

import attrs
import pytest
from doubles import NAS

from trio_mkdir import MountStatistics

HANGS = MountStatistics(
    NAS,
    time=112.3,
    busy=9,
    stuck=8,
    stuck_since=100.0,
    stuck_operation="mkdir",
    stuck_path="/nas/a",
    debts=3,
    last_answer=98.3,
)
WHERE = "/nas (nfs4 from nas:/export, rw): "


def test_where_nothing_is_known_nothing_is_told() -> None:
    nothing = MountStatistics(NAS)
    assert (nothing.busy, nothing.stuck, nothing.debts) == (0, 0, 0)
    assert nothing.stuck_seconds is None
    assert str(nothing) == f"{WHERE}0 system calls stuck; no answer yet"


def test_what_is_stuck_longest_is_named_with_its_seconds() -> None:
    assert HANGS.stuck_seconds == pytest.approx(12.3)
    assert str(HANGS) == (
        f"{WHERE}8 system calls stuck, the longest for 12.3 s (mkdir of '/nas/a');"
        " last answer 14.0 s ago; 3 rollbacks owed"
    )


def test_one_is_told_as_one() -> None:
    one = attrs.evolve(HANGS, stuck=1, debts=1)
    assert ": 1 system call stuck," in str(one)
    assert str(one).endswith("; 1 rollback owed")


def test_a_thread_that_has_not_begun_has_no_system_call_to_name() -> None:
    waiting = attrs.evolve(HANGS, stuck_operation=None, stuck_path=None, debts=0)
    assert str(waiting) == (
        f"{WHERE}8 system calls stuck, the longest for 12.3 s; last answer 14.0 s ago"
    )


@pytest.mark.parametrize(("number", "name"), [(errno.EROFS, "EROFS"), (524, "524")])
def test_the_errno_of_the_last_answer_is_told_by_its_name_if_it_has_one(
    number: int, name: str
) -> None:
    failing = attrs.evolve(HANGS, last_errno=number, debts=0)
    assert str(failing).endswith(f"last answer 14.0 s ago ({name})")


def test_it_can_go_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(HANGS)) == HANGS  # noqa: S301
