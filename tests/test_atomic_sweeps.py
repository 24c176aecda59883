"""Atomic calls, cancelled at every point and disturbed at every operation: nothing is left hidden.

And nobody ever sees a part: after each operation the tree is looked at.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from worlds import (
    PASSING,
    WHENS,
    RealWorld,
    World,
    cancel_everywhere,
    check,
    disturb_everywhere,
    each_in_its_own,
    each_scenario,
)

import trio_mkdir
from trio_mkdir import Kept, MkdirError, RollbackError, makedirs, mkdir
from trio_mkdir._hidden import PREFIX
from trio_mkdir.testing import (
    Outcome,
)
from trio_mkdir.testing._script import When


class Whole(World):
    """A world of atomic calls, of which nobody may see a part."""

    def _begin(self, **options: object) -> None:
        super()._begin(**options)
        self.parts: set[str] = set()

    async def makedirs(self, name: str, *, exist_ok: bool = False) -> None:
        path = self.path(name)
        await makedirs(path, exist_ok=exist_ok, atomic=True, policy=self.policy)
        self.succeeded.add(path)

    async def mkdir(self, name: str) -> None:
        await mkdir(self.path(name), atomic=True, policy=self.policy)
        self.succeeded.add(self.path(name))

    def _observe(self, event: trio_mkdir.Event) -> None:
        super()._observe(event)
        if isinstance(event, Kept) and event.errno is not None:
            self.refused.update(re.findall(r" hidden, as '(.*)'", event.why))

    def watch(self, *leaves: str) -> None:
        """From now on look at every operation whether a part of one of these can be seen.

        What has been seen whole may be taken back from the deepest up: by then others can have put
        something in.
        """
        paths = [self.path(leaf) for leaf in leaves]
        whole: set[str] = set()

        def look() -> None:
            tree = self.tree()
            whole.update(tree.intersection(paths))
            excused = self.before | self._with_those_above(whole)
            self.parts |= (tree & self._with_those_above(set(paths))) - excused

        for when in WHENS:
            self.filesystem.interfere("*", "*", look, when=when, times=10**6)

    def check(self) -> None:
        assert not self.parts, "a part was seen"
        super().check()


class RealWhole(RealWorld, Whole):
    """The same on the real filesystem, with worker threads; others watch there."""

    def watch(self, *leaves: str) -> None:
        """To walk a tree in which others make and remove is no single look at it."""


Scenario = Callable[[Whole], Awaitable[object]]


async def one_call(world: Whole) -> None:
    world.watch("a/b/c")
    await world.makedirs("a/b/c")


async def one_call_in_what_stands(world: Whole) -> None:
    world.watch("there/a/b")
    await world.makedirs("there", exist_ok=True)
    await world.makedirs("there/a/b", exist_ok=True)


async def one_level(world: Whole) -> None:
    await world.mkdir("a")


async def one_after_the_other(world: Whole) -> None:
    await world.makedirs("a/b/c")
    await world.makedirs("a/b/d/e")


async def a_rollback_nursery(world: Whole) -> None:
    async with world.nursery() as nursery:
        await nursery.makedirs(world.path("a/b"), exist_ok=True, atomic=True)
        nursery.start_soon(partial(nursery.makedirs, world.path("a/c/d"), atomic=True))
        nursery.start_soon(partial(nursery.mkdir, world.path("there/e"), atomic=True))
        await nursery.mkdir(world.path("a/b/f"), atomic=True)
    world.succeed("a/b", "a/c/d", "there/e", "a/b/f")


async def a_nursery_that_fails(world: Whole) -> None:
    async with world.nursery() as nursery:
        nursery.start_soon(partial(nursery.makedirs, world.path("a/b/c"), atomic=True))
        nursery.start_soon(partial(nursery.makedirs, world.path("a/b/d"), atomic=True))
        await nursery.makedirs(world.path("file/in/the/way"), atomic=True)


async def concurrent_calls(world: Whole) -> None:
    world.watch("a/b/c", "a/b/d", "a/e")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.makedirs, "a/b/c")
        nursery.start_soon(world.makedirs, "a/b/d")
        nursery.start_soon(world.makedirs, "a/e")


async def beside_plain_calls(world: Whole) -> None:
    async def plain(name: str) -> None:
        await makedirs(world.path(name), policy=world.policy)
        world.succeed(name)

    async def fail(name: str, *, atomic: bool) -> None:
        async with world.nursery() as nursery:
            await nursery.makedirs(world.path(name), atomic=atomic)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(fail, "a/b/c", atomic=True))
        nursery.start_soon(world.makedirs, "a/b/d")
        nursery.start_soon(plain, "a/b/e")
        nursery.start_soon(partial(fail, "a/f", atomic=False))


SCENARIOS: list[Scenario] = [
    one_call,
    one_call_in_what_stands,
    one_level,
    one_after_the_other,
    a_rollback_nursery,
    a_nursery_that_fails,
    concurrent_calls,
    beside_plain_calls,
]
QUICK: list[Scenario] = [one_call, a_rollback_nursery, beside_plain_calls]
NIGHTLY = os.environ.get("TRIO_MKDIR_NIGHTLY", "0") not in {"", "0"}
MOST: list[Scenario] = SCENARIOS if NIGHTLY else QUICK
"""Where there are many sweeps of each, as TRIO_MKDIR_NIGHTLY=1 has them of all."""


def check_whole(outcome: Outcome[Whole]) -> None:
    assert not outcome.state.refused
    outcome.state.check()
    assert not [path for path in outcome.state.tree() if PREFIX in path]


def expected(scenario: Scenario) -> tuple[type[Exception], ...]:
    return (MkdirError,) if scenario is a_nursery_that_fails else ()


@pytest.mark.sweep
@each_scenario(SCENARIOS)
@pytest.mark.parametrize("seed", range(3 if NIGHTLY else 1))
async def test_cancelled_at_any_point_it_is_whole_or_nothing(
    scenario: Scenario, seed: int, autojump_clock: MockClock
) -> None:
    summary = await cancel_everywhere(
        scenario, Whole, check=check_whole, expected=expected(scenario), seed=seed
    )
    assert summary.cancelled > 3


@pytest.mark.sweep
@each_scenario(MOST if NIGHTLY else [one_call, a_rollback_nursery])
@pytest.mark.parametrize("when", WHENS)
async def test_cancelled_while_a_slow_disk_is_at_it(
    scenario: Scenario, when: When, autojump_clock: MockClock
) -> None:
    def setup() -> Whole:
        world = Whole(rollback_timeout=0.25)
        world.filesystem.delay("*", "*", 0.1, when=when)
        return world

    await cancel_everywhere(
        scenario, setup, check=check_whole, expected=(*expected(scenario), RollbackError)
    )


@pytest.mark.sweep
@each_scenario(MOST if NIGHTLY else [one_call, a_rollback_nursery])
async def test_cancelled_without_any_time_to_undo(
    scenario: Scenario, autojump_clock: MockClock
) -> None:
    def setup() -> Whole:
        world = Whole(rollback_timeout=0)
        world.filesystem.delay("*", "*", 0.1)
        return world

    await cancel_everywhere(
        scenario, setup, check=check_whole, expected=(*expected(scenario), RollbackError)
    )


@pytest.mark.sweep
@each_scenario(SCENARIOS)
@pytest.mark.parametrize("seconds", [0, 0.002] if NIGHTLY else [0])
async def test_cancelled_at_any_point_with_threads_on_the_real_filesystem(
    scenario: Scenario, seconds: float, tmp_path: Path
) -> None:
    setup = each_in_its_own(tmp_path, lambda root: RealWhole(root, seconds))

    summary = await cancel_everywhere(
        scenario, setup, check=check_whole, expected=expected(scenario)
    )
    assert summary.cancelled > 1


@pytest.mark.sweep
@each_scenario(MOST)
@pytest.mark.parametrize(
    "number",
    [*PASSING, errno.EACCES, errno.ENOSPC, errno.EINVAL],
    ids=errno.errorcode.get,
)
async def test_a_fault_at_any_operation_leaves_it_whole_or_nothing(
    scenario: Scenario, number: int, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number, Whole)


@pytest.mark.sweep
@each_scenario(MOST)
@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
async def test_a_lost_reply_to_any_operation_leaves_it_whole_or_nothing(
    scenario: Scenario, number: int, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number, Whole, lost_reply=True)


@each_scenario([one_call, one_call_in_what_stands, one_after_the_other, a_nursery_that_fails])
@pytest.mark.parametrize(
    ("number", "lost_reply"),
    [(errno.ENOENT, False), (errno.EEXIST, False), (errno.EEXIST, True)],
    ids=["ENOENT", "EEXIST", "EEXIST, lost reply"],
)
async def test_what_is_gone_or_taken_for_a_moment_is_made_again(
    scenario: Scenario, number: int, lost_reply: bool, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(
        scenario, number, Whole, lost_reply=lost_reply, operations={"mkdir", "rename"}, faults=2
    )


@pytest.mark.sweep
@each_scenario([one_call, one_call_in_what_stands])
@pytest.mark.parametrize("number", [errno.EBUSY, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("lost_reply", [False, True], ids=["refused", "lost reply"])
async def test_a_second_fault_while_the_first_one_is_undone(
    scenario: Scenario, number: int, lost_reply: bool, autojump_clock: MockClock
) -> None:
    await disturb_everywhere(scenario, number, Whole, lost_reply=lost_reply, faults=2)


@pytest.mark.sweep
@each_scenario(MOST if NIGHTLY else [one_call, a_rollback_nursery])
@pytest.mark.parametrize("operation", ["mkdir", "rename"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY], ids=errno.errorcode.get)
async def test_cancelled_while_a_reply_is_lost(
    scenario: Scenario, operation: str, number: int, autojump_clock: MockClock
) -> None:
    def setup() -> Whole:
        world = Whole()
        world.filesystem.lose_reply(operation, "*", number)
        world.filesystem.delay(operation, "*", 0.1, when="after")
        return world

    await cancel_everywhere(scenario, setup, check=check, expected=MkdirError)


async def test_a_success_has_waited_for_nothing_that_is_hidden(autojump_clock: MockClock) -> None:
    world = Whole()
    await one_call(world)
    assert trio_mkdir.pending_rollbacks() == ()
    assert world.tree() == world.before | {f"/srv/{name}" for name in ("a", "a/b", "a/b/c")}
