"""One call: a path of which some directories are missing, or none; and many that share parents."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs

from _bench import Bench
from _directories import scratch
from _figures import Figures, Table, both
from _loops import Loops, take_turns
from _peers import LIMIT, OURS, PEERS, TRIO_PATH, TRIO_THREAD, Peer, Task


@attrs.frozen
class Scenario:
    """A kind of task: how much of its path stands, and how much is missing."""

    name: str
    standing: int
    missing: int

    def prepare(self, root: str) -> str:
        """Make in ``root`` what is to stand, and return where the missing directories belong."""
        base = os.path.join(root, *(f"standing-{level}" for level in range(self.standing)))
        os.makedirs(base, exist_ok=True)
        return base

    def task(self, base: str, number: int) -> Task:
        """Task ``number``, different from every other as far as anything is missing."""
        path, missing = base, []
        for level in range(self.missing):
            path = os.path.join(path, f"level-{level}" if level else str(number))
            missing.append(path)
        return Task(path, tuple(missing), exist_ok=not missing)


NEW: Final = tuple(Scenario(f"new, depth {depth}", 0, depth) for depth in (1, 3, 8))
ONE_MISSING: Final = Scenario("one of 8 missing", 7, 1)
EXISTING: Final = Scenario("existing", 3, 0)
SCENARIOS: Final = (*NEW, ONE_MISSING, EXISTING)


@attrs.frozen
class Row:
    """What all contenders took for one scenario in one place."""

    place: str
    scenario: str
    figures: dict[str, Figures]
    """By contender."""


async def time_scenario(
    scenario: Scenario,
    root: str,
    loops: Loops,
    contenders: Sequence[str],
    *,
    rounds: int,
    warm_up: int,
) -> dict[str, Figures]:
    """Let the contenders take turns. What they make is removed at once, and that is not timed."""
    base = scenario.prepare(root)

    async def turn(peer: Peer, number: int) -> float:
        task = scenario.task(base, number)
        took = await peer.timed(loops, task)
        for directory in reversed(task.missing):
            os.rmdir(directory)  # which fails if it was not made
        return took

    turns = {name: partial(turn, PEERS[name]) for name in contenders}
    times = await take_turns(turns, rounds=rounds, warm_up=warm_up, shuffler=loops.shuffler)
    return {name: Figures.of(taken) for name, taken in times.items()}


def table(title: str, rows: Sequence[Row], words: str = "") -> Table:
    """Our own medians and 99th percentiles in microseconds, and their ratios to everybody's."""
    others = [name for name in rows[0].figures if name != OURS]
    return Table(
        title,
        ("filesystem", "path", "median / p99, µs", *(f"to {name}" for name in others)),
        tuple(
            (
                row.place,
                row.scenario,
                f"{row.figures[OURS].median * 1e6:.0f} / {row.figures[OURS].p99 * 1e6:.0f}",
                *(both(row.figures[OURS], row.figures[name]) for name in others),
            )
            for row in rows
        ),
        words,
    )


async def measure(bench: Bench) -> None:
    """Every scenario in every place."""
    rows: list[Row] = []
    for place in bench.places:
        for scenario in SCENARIOS:
            figures: dict[str, Figures] | None = None
            if place.path is not None:
                with scratch(place.path) as root:
                    figures = await time_scenario(
                        scenario,
                        root,
                        bench.loops,
                        list(PEERS),
                        rounds=bench.sizes.single,
                        warm_up=bench.sizes.warm_up,
                    )
                rows.append(Row(place.name, scenario.name, figures))
            _hold_against_bars(bench, scenario, place.name, figures, place.why)
    if rows:
        words = "Medians / 99th percentiles, ours divided by theirs: below 1.00 ours is quicker."
        bench.results.tables.append(table("A single call", rows, words + _missing(bench)))
    for row in rows:
        for name, taken in row.figures.items():
            bench.results.record(
                "single", place=row.place, scenario=row.scenario, peer=name, seconds=taken
            )
    await _measure_together(bench)


def _missing(bench: Bench) -> str:
    gone = [f" On {place.name}: skipped, {place.why}." for place in bench.places if not place.path]
    return "".join(gone)


def _hold_against_bars(
    bench: Bench,
    scenario: Scenario,
    place: str,
    figures: dict[str, Figures] | None,
    why: str,
) -> None:
    for bound, other, said in (
        (0.95, TRIO_PATH, "trio.Path.mkdir(parents=True)"),
        (1.15, LIMIT, "the limit"),
    ):
        if scenario is ONE_MISSING and other is TRIO_PATH:
            continue
        measured = None if figures is None else figures[OURS].median / figures[other].median
        name = f"single call, {scenario.name}, {place}, to {said}"
        bench.results.bar(name, "<=", bound, measured, why=why)


# Many at once


async def _measure_together(bench: Bench) -> None:
    sizes, results, loops = bench.sizes, bench.results, bench.loops
    rows: list[Row] = []
    for place in bench.places:
        name = f"{sizes.tasks} concurrent calls sharing parents, {place.name}, to {TRIO_THREAD}"
        if place.path is None:
            results.bar(name, "<=", 0.8, None, why=place.why)
            continue
        with scratch(place.path) as root:

            async def turn(peer: Peer, number: int, root: str = root) -> float:
                top = os.path.join(root, str(number))
                paths = [os.path.join(top, "a", "b", str(task)) for task in range(sizes.tasks)]
                tasks = [Task(path, (path,), exist_ok=True) for path in paths]
                took = await peer.timed_together(loops, tasks)
                missing = [path for path in paths if not os.path.isdir(path)]  # noqa: ASYNC240 - not timed
                if missing:
                    raise AssertionError(f"{peer.name} has not made {missing}")
                shutil.rmtree(top)
                return took

            turns = {name: partial(turn, peer) for name, peer in PEERS.items() if name != LIMIT}
            times = await take_turns(
                turns, rounds=sizes.together, warm_up=2, shuffler=loops.shuffler
            )
        figures = {peer: Figures.of(taken) for peer, taken in times.items()}
        rows.append(Row(place.name, f"{sizes.tasks} at once", figures))
        results.bar(name, "<=", 0.8, figures[OURS].median / figures[TRIO_THREAD].median)
        for peer, taken in figures.items():
            results.record("together", place=place.name, peer=peer, seconds=taken)
    if rows:
        words = (
            "Three missing directories are above all of them. Timed from the first call to the "
            "last return; the one without a thread makes one after the other."
        )
        results.tables.append(
            table("Concurrent calls that share parents", rows, words + _missing(bench))
        )
