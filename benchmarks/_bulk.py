"""Many directories: thousands at once, on fast filesystems and on a slow one, and how it grows."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

import trio_mkdir
from _bench import Bench
from _directories import Unavailable, scratch
from _figures import Figures, Table, both
from _loops import Turn, take_turns
from _peers import PLAIN
from _places import SlowMount, open_slow_mount

MANY: Final = "trio_mkdir.makedirs_many"
LOOP: Final = PLAIN
PATHS: Final = "trio.Path.mkdir, a task for each"
BARE: Final = "os.mkdir alone, no thread"

CONCURRENCY: Final = 32
EACH: Final = 0.005
"""Seconds for an operation of the slow mount."""


def tree(top: str, parents: int, children: int) -> list[str]:
    """The paths of ``children`` directories in each of ``parents``."""
    return [
        os.path.join(top, f"parent-{parent}", f"child-{child}")
        for parent in range(parents)
        for child in range(children)
    ]


async def make_many(paths: Sequence[str]) -> Any:
    """What this project does."""
    return await trio_mkdir.makedirs_many(paths, exist_ok=True, concurrency=CONCURRENCY)


async def make_in_a_loop(paths: Sequence[str]) -> None:
    """What a script does."""
    for path in paths:
        os.makedirs(path, exist_ok=True)


async def make_bare(paths: Sequence[str]) -> None:
    """What cannot be done without, in the best order."""
    for parent, inside in itertools.groupby(paths, os.path.dirname):
        if not os.path.isdir(parent):  # noqa: ASYNC240 - it is no async code, it only looks so
            os.makedirs(parent)
        for path in inside:
            os.mkdir(path)


async def make_by_paths(paths: Sequence[str]) -> None:
    """What a trio program does that does not count its tasks."""
    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(partial(trio.Path(path).mkdir, parents=True, exist_ok=True))


async def timed_tree(
    make: Callable[[Sequence[str]], Awaitable[Any]], top: str, parents: int, children: int
) -> tuple[float, Any]:
    """The seconds for one tree, and what was returned; the tree is gone afterwards."""
    paths = tree(top, parents, children)
    began = time.perf_counter()
    report = await make(paths)
    took = time.perf_counter() - began
    found = sum(len(names) for _, names, _ in os.walk(top))  # noqa: ASYNC240 - not timed
    if found != parents * children + parents:
        raise AssertionError(f"{make} made {found} directories")
    shutil.rmtree(top)
    return took, report


async def measure(bench: Bench) -> None:
    """All of it."""
    await _measure_fast(bench)
    await _measure_slow(bench)
    await _measure_growth(bench)


# On filesystems that are as fast as can be


async def _measure_fast(bench: Bench) -> None:
    sizes, results = bench.sizes, bench.results
    contenders = {
        MANY: make_many,
        LOOP: make_in_a_loop,
        BARE: make_bare,
        PATHS: make_by_paths,
    }
    total = sizes.parents**2
    rows: list[tuple[str, ...]] = []
    for place in bench.places:
        to_loop = f"{total:,} directories, {place.name}, to a loop of os.makedirs"
        visits = f"thread visits for {total:,} directories, {place.name}"
        if place.path is None:
            results.bar(to_loop, "<=", 0.7, None, why=place.why)
            results.bar(visits, "<=", 100, None, unit=" visits", why=place.why)
            rows.append((place.name, *["-"] * 3, f"skipped: {place.why}"))
            continue
        steps: list[int] = []
        with scratch(place.path) as root:

            async def turn(name: str, number: int, root: str = root, s: list[int] = steps) -> float:
                top = os.path.join(root, str(number))
                took, report = await timed_tree(contenders[name], top, sizes.parents, sizes.parents)
                if name == MANY:
                    s.append(report.steps)
                return took

            turns: dict[str, Turn] = {name: partial(turn, name) for name in contenders}
            times = await take_turns(
                turns, rounds=sizes.bulk, warm_up=1, shuffler=bench.loops.shuffler
            )
        figures = {name: Figures.of(taken) for name, taken in times.items()}
        most = max(steps)
        for name, taken in figures.items():
            results.record("bulk", place=place.name, count=total, peer=name, seconds=taken)
            ours = name == MANY
            compared = "1" if ours else both(figures[MANY], taken)
            seconds, visited = f"{taken.median:.3f}", str(most) if ours else "-"
            rows.append((place.name, name, seconds, visited, compared))
        results.bar(to_loop, "<=", 0.7, figures[MANY].median / figures[LOOP].median)
        results.bar(visits, "<=", 100, most, unit=" visits")
    results.tables.append(
        Table(
            f"{total:,} directories in {sizes.parents} parents",
            ("filesystem", "by", "median, s", "thread visits", "ours to it, median / p99"),
            tuple(rows),
            f"`makedirs_many(paths, exist_ok=True, concurrency={CONCURRENCY})`, beside ways to make"
            " the same paths. Visits are the most of any round.",
        )
    )


# On a filesystem where every operation takes a while


async def _measure_slow(bench: Bench) -> None:
    sizes, results = bench.sizes, bench.results
    total = sizes.slow_parents * sizes.slow_children
    name = f"{total:,} directories at 5 ms an operation, {CONCURRENCY} at once, to the ideal"
    try:
        with open_slow_mount(bench.workshop, EACH) as mount:
            figures, needed, asked = await _time_slow(bench, mount)
    except Unavailable as reason:
        results.bar(name, "<=", 1.15, None, why=str(reason))
        return
    ideal = needed * EACH / CONCURRENCY
    rows = []
    for by, taken in figures.items():
        results.record("slow", peer=by, seconds=taken, ideal=ideal, operations=asked[by])
        over = f"{taken.median / ideal:.2f} / {taken.p99 / ideal:.2f}"
        rows.append((by, f"{taken.median:.3f}", str(asked[by]), over))
    results.bar(name, "<=", 1.15, figures[MANY].median / ideal)
    words = (
        f"{sizes.slow_parents} parents stand already, for the kernel makes directories of one"
        " parent one after the other. What is needed is what bare `os.mkdir` calls have made the"
        f" server do: {needed:,} operations, so the ideal is"
        f" {needed:,} x 5 ms / {CONCURRENCY} = {ideal:.3f} s."
        " The bare threads know where the others are, and show what the server itself costs; a"
        " visit to one of trio's threads for each directory is what a bound on each wait costs."
    )
    results.tables.append(
        Table(
            f"{total:,} directories behind 5 ms an operation",
            ("by", "median, s", "operations", "to the ideal, median / p99"),
            tuple(rows),
            words,
        )
    )


async def _time_slow(
    bench: Bench, mount: SlowMount
) -> tuple[dict[str, Figures], int, dict[str, int]]:
    """Times, the operations that are needed, and those that everybody has asked for."""
    sizes = bench.sizes
    threads = f"os.mkdir in {CONCURRENCY} bare threads"
    contenders: dict[str, Callable[[Sequence[str]], Awaitable[Any]]] = {
        MANY: make_many,
        threads: make_in_threads,
        f"a trio.to_thread for each os.mkdir, {CONCURRENCY} tasks": make_by_steps,
    }
    operations: dict[str, list[int]] = {}

    async def turn(name: str, number: int) -> float:
        top = os.path.join(mount.path, str(number))
        paths = tree(top, sizes.slow_parents, sizes.slow_children)
        for parent in dict.fromkeys(map(os.path.dirname, paths)):
            os.makedirs(parent)
        before = mount.operations()
        began = time.perf_counter()
        await contenders[name](paths)
        took = time.perf_counter() - began
        operations.setdefault(name, []).append(mount.operations() - before)
        shutil.rmtree(top)
        return took

    turns = {name: partial(turn, name) for name in contenders}
    times = await take_turns(turns, rounds=sizes.slow, warm_up=0, shuffler=bench.loops.shuffler)
    figures = {name: Figures.of(taken) for name, taken in times.items()}
    most = {name: max(counts) for name, counts in operations.items()}
    return figures, min(operations[threads]), most


class Shares:
    """What is to be made, for many to take from: never two in one parent, the fullest first."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._waiting: dict[str, list[str]] = {}
        for path in paths:
            self._waiting.setdefault(os.path.dirname(path), []).append(path)
        self._lock = threading.Lock()

    def take(self) -> tuple[str, list[str]] | None:
        """The next path, and the others beside it; nobody else gets any of them."""
        with self._lock:
            if not self._waiting:
                return None
            parent = max(self._waiting, key=lambda each: len(self._waiting[each]))
            beside = self._waiting.pop(parent)
            return beside.pop(), beside

    def put_back(self, path: str, beside: list[str]) -> None:
        """``path`` is made, and what is ``beside`` it is for whoever takes it."""
        with self._lock:
            if beside:
                self._waiting[os.path.dirname(path)] = beside


async def make_by_steps(paths: Sequence[str]) -> None:
    """A visit to one of trio's threads for each, and nothing else."""
    shares = Shares(paths)
    limiter = trio.CapacityLimiter(CONCURRENCY)

    async def work() -> None:
        # When nothing is left to take, there are as many at work as there are parents.
        while (taken := shares.take()) is not None:
            await trio.to_thread.run_sync(os.mkdir, taken[0], limiter=limiter)
            shares.put_back(*taken)

    async with trio.open_nursery() as nursery:
        for _ in range(CONCURRENCY):
            nursery.start_soon(work)


async def make_in_threads(paths: Sequence[str]) -> None:
    """Bare calls in threads, and no event loop."""
    shares = Shares(paths)

    def work() -> None:
        while (taken := shares.take()) is not None:
            os.mkdir(taken[0])
            shares.put_back(*taken)

    workers = [threading.Thread(target=work) for _ in range(CONCURRENCY)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


# How it grows


async def _measure_growth(bench: Bench) -> None:
    sizes, results = bench.sizes, bench.results
    name = f"time per directory, {sizes.many:,} to {sizes.few:,}, tmpfs"
    place = bench.places[0]
    if place.path is None:
        results.bar(name, "<=", 1.1, None, why=place.why)
        return
    children = 100 if sizes.few >= 1_000 else 10
    with scratch(place.path) as root:

        async def turn(count: int, repeat: int, number: int) -> float:
            took = 0.0
            for again in range(repeat):
                top = os.path.join(root, f"{number}-{again}")
                took += (await timed_tree(make_many, top, count // children, children))[0]
            return took / count / repeat

        # As many directories in a turn of either.
        turns = {
            str(sizes.few): partial(turn, sizes.few, sizes.many // sizes.few),
            str(sizes.many): partial(turn, sizes.many, 1),
        }
        times = await take_turns(
            turns, rounds=sizes.growth, warm_up=0, shuffler=bench.loops.shuffler
        )
    figures = {int(count): Figures.of(taken) for count, taken in times.items()}
    rows = []
    for count, taken in figures.items():
        results.record("growth", directories=count, seconds_each=taken)
        rows.append((f"{count:,}", f"{taken.median * 1e6:.2f}"))
    results.bar(name, "<=", 1.1, figures[sizes.many].median / figures[sizes.few].median)
    results.tables.append(
        Table("How it grows", ("directories at once, tmpfs", "median of one, µs"), tuple(rows))
    )
