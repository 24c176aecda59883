"""One of the tasks of a call for many paths, stopped at its system calls."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from doubles import first
from filesystems.waiting import wait_until_async
from gates import Gate, Stage
from trio.testing import MockClock

from trio_mkdir import (
    Made,
    MkdirError,
    Policy,
    RootCause,
    _lane,
    _pace,
    makedirs_many,
    open_rollback_nursery,
    wait_settled,
)
from trio_mkdir.testing import FaultyFilesystem


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage.on(tmp_path) as stage:
        yield stage


def unobserved(stage: Stage, rollback_timeout: float = 10.0) -> Policy:
    """Nobody wants to know of each system call: what is flat is made in one go."""
    return Policy(filesystem=stage, step_timeout=math.inf, rollback_timeout=rollback_timeout)


async def cancelled_at(stage: Stage, gate: Gate, policy: Policy, *paths: str) -> None:
    async with trio.open_nursery() as nursery:
        full = [stage.at(path) for path in paths]
        nursery.start_soon(partial(makedirs_many, full, policy=policy))
        await gate.entered()
        nursery.cancel_scope.cancel()


# Of two directories the one above them stands, so that what is in them is made in one go.
MANY = [*(f"a/{number}" for number in range(10)), "b"]


@pytest.mark.parametrize("rollback_timeout", [0.0, 10.0])
@pytest.mark.parametrize("after", [False, True])
async def test_of_many_in_one_go_nothing_is_left_where_one_of_them_is_late(
    stage: Stage, rollback_timeout: float, after: bool
) -> None:
    gate = stage.stop("mkdir", "a/5", after=after)
    policy = unobserved(stage, rollback_timeout)
    full = [stage.at(path) for path in MANY]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs_many, full, policy=policy))
        await gate.entered()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert await stage.settled() == []
    assert ("mkdir", stage.at("a/6")) not in stage.calls


async def test_a_disk_that_stalls_once_is_not_taken_for_a_slow_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, usual, found = [0.0], 0.000_01, list[float]()

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(_lane, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(_pace.Pace, "took", lambda _, seconds: found.append(seconds))
    paths = [stage.at(path) for path in MANY]
    for number, path in enumerate(paths):
        stage.script("mkdir", path, first(partial(passes, 5.0 if number == 7 else usual)))
    await makedirs_many(paths, policy=unobserved(stage))
    assert len(found) > 1
    assert found == [pytest.approx(usual)] * len(found)
    assert now[0] > 5.0


async def test_the_others_are_undone_before_a_late_one_answers(stage: Stage) -> None:
    gate = stage.stop("mkdir", "a/5")
    await cancelled_at(stage, gate, unobserved(stage, 0.0), *MANY)
    await wait_until_async(lambda: stage.tree() == ["a"])
    gate.open()
    assert await stage.settled() == []


@pytest.mark.parametrize("answer", [errno.EEXIST, errno.EBUSY])
async def test_a_late_error_in_one_go_ends_it(stage: Stage, answer: int) -> None:
    gate = stage.stop("mkdir", "a/5", answer)
    await cancelled_at(stage, gate, unobserved(stage, 0.0), *MANY)
    gate.open()
    assert await stage.settled() == []


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOMEM, errno.ESTALE])
async def test_what_is_refused_in_one_go_is_tried_again_alone(stage: Stage, number: int) -> None:
    stage.refuse("mkdir", "a/5", number)
    report = await makedirs_many([stage.at(path) for path in MANY], policy=unobserved(stage))
    assert [retry.path for retry in report.retries] == [stage.at("a/5")]
    assert stage.tree() == ["a", *MANY]
    assert len(report.created) == 12


async def test_what_stands_in_the_middle_of_many_is_passed_over(stage: Stage) -> None:
    os.makedirs(stage.at("a/5"))
    report = await makedirs_many([stage.at(path) for path in MANY], policy=unobserved(stage))
    assert stage.at("a/5") not in report.created
    assert len(report.created) == 10
    assert stage.tree() == ["a", *MANY]


async def test_a_directory_that_vanishes_under_many_is_made_again(stage: Stage) -> None:
    def vanish() -> None:
        for name in os.listdir(stage.at("a")):
            os.rmdir(stage.at(f"a/{name}"))
        os.rmdir(stage.at("a"))

    stage.script("mkdir", stage.at("a/0"), first(lambda: os.mkdir(stage.at("a"))), first(vanish))
    (stage.root / "b").mkdir()
    report = await makedirs_many(
        [stage.at(path) for path in ("a/0", "b/0")], policy=unobserved(stage)
    )
    assert report.created
    assert stage.tree() == ["a", "a/0", "b", "b/0"]


async def test_it_waits_for_what_another_call_is_removing(stage: Stage) -> None:
    gate = stage.stop("rmdir", "a")
    policy = stage.policy()

    async def gives_up() -> None:
        async with open_rollback_nursery(policy=policy) as nursery:
            await nursery.makedirs(stage.at("a"))
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gives_up)
        await gate.entered()
        nursery.start_soon(partial(makedirs_many, [stage.at("a"), stage.at("b")], policy=policy))
        await stage.hears(Made, "b")
        gate.open()
    assert await stage.settled() == ["a", "b"]


async def test_in_a_nursery_what_vanished_before_it_is_entered_is_made_again(stage: Stage) -> None:
    stage.script("lstat", stage.at("a/3"), first(lambda: os.rmdir(stage.at("a/3"))))
    async with open_rollback_nursery(policy=unobserved(stage)) as nursery:
        await nursery.makedirs_many([stage.at(path) for path in MANY])
        assert stage.tree() == ["a", *MANY]
        nursery.cancel_scope.cancel()
    assert await stage.settled() == []


async def test_something_mounted_over_a_directory_is_another_mount(
    autojump_clock: MockClock,
) -> None:
    disk = FaultyFilesystem(threads=False)
    disk.memory.add_directory("/srv/a")
    disk.memory.add_directory("/srv/b")
    disk.interfere("mkdir", "/srv/b/x", lambda: disk.mount_at("/srv/b"))
    disk.fail("mkdir", "/srv/b/x", errno.EBUSY)
    with pytest.raises(MkdirError) as caught:
        await makedirs_many(["/srv/a/x", "/srv/b/x"], policy=Policy(filesystem=disk))
    assert caught.value.root_cause is RootCause.DISCONNECTED
    await wait_settled()
    assert "/srv/a/x" not in disk.memory.paths()
