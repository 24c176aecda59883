"""What one call costs: `trio_mkdir.makedirs` beside `trio.Path.mkdir` and the least possible.

    python benchmarks/single.py
    python benchmarks/single.py --runs 2000 --json figures.json /srv /tmp
    python benchmarks/single.py --syscalls

A path of which one, three or eight directories are missing, and one that is there already, is made

- by ``trio_mkdir.makedirs(path, exist_ok=True)``,
- by ``trio.Path(path).mkdir(parents=True, exist_ok=True)``,
- by one visit to a thread that calls ``os.mkdir`` for each directory and nothing else, which no
  implementation on threads can beat: the limit.

All of it happens in one process. In every round each of the three has its turn, in a shuffled
order, so that a busy moment of the machine falls on all of them. Only the call itself is timed;
preparing its path and removing what it made are not.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

import trio_mkdir

OURS: Final = "trio_mkdir.makedirs"
THEIRS: Final = "trio.Path.mkdir"
LIMIT: Final = "one bare hop"

WARM_UP: Final = 20
"""Rounds before the timing starts."""


# What is measured


@attrs.frozen
class Task:
    """A path to make, and which directories on it are missing."""

    path: str
    missing: tuple[str, ...]
    """From the top to ``path`` itself; empty if it is there."""


@attrs.frozen
class Scenario:
    """A kind of task; ``depth`` directories are missing, none if it is 0."""

    depth: int

    def __str__(self) -> str:
        return f"new, depth {self.depth}" if self.depth else "existing"

    def task(self, root: str, number: int) -> Task:
        """Task ``number`` in ``root``, different from every other."""
        path, missing = root, []
        for level in range(self.depth):
            path = os.path.join(path, f"{number}-{level}" if level == 0 else f"level-{level}")
            missing.append(path)
        return Task(path, tuple(missing))


SCENARIOS: Final = (Scenario(1), Scenario(3), Scenario(8), Scenario(0))

Call = Callable[[], Awaitable[object]]


def ours(task: Task) -> Call:
    """What this project does."""
    return partial(trio_mkdir.makedirs, task.path, exist_ok=True)


def theirs(task: Task) -> Call:
    """What trio does."""
    return partial(trio.Path(task.path).mkdir, parents=True, exist_ok=True)


def limit(task: Task) -> Call:
    """What cannot be done without: a thread, and one system call for each directory."""

    def work() -> None:
        for directory in task.missing:
            os.mkdir(directory)
        if not task.missing:
            with suppress(FileExistsError):
                os.mkdir(task.path)

    return partial(trio.to_thread.run_sync, work)


CONTENDERS: Final[dict[str, Callable[[Task], Call]]] = {OURS: ours, THEIRS: theirs, LIMIT: limit}


# How it is timed


@attrs.frozen
class Result:
    """The times of one contender in one scenario."""

    directory: str
    filesystem: str
    scenario: str
    contender: str
    times: list[float]
    """Seconds."""

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.times)

    @property
    def p99(self) -> float:
        """Seconds."""
        return statistics.quantiles(self.times, n=100, method="inclusive")[98]


async def time_scenario(
    scenario: Scenario, root: str, *, runs: int, shuffler: random.Random
) -> dict[str, list[float]]:
    """The seconds that each contender took in each of ``runs`` rounds."""
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    order = list(CONTENDERS)
    number = 0
    gc.collect()
    for turn in range(-WARM_UP, runs):
        shuffler.shuffle(order)
        for name in order:
            number += 1
            task = scenario.task(root, number)
            call = CONTENDERS[name](task)
            began = time.perf_counter()
            await call()
            took = time.perf_counter() - began
            if turn >= 0:
                times[name].append(took)
            for directory in reversed(task.missing):
                os.rmdir(directory)  # which fails if it was not made
    return times


def measure(directories: Sequence[Path], *, runs: int, seed: int) -> Iterator[Result]:
    """Time every scenario in every directory."""
    shuffler = random.Random(seed)  # noqa: S311 - an order, not a secret
    for directory in directories:
        for scenario in SCENARIOS:
            with scratch(directory) as root:
                times = trio.run(
                    partial(time_scenario, scenario, root, runs=runs, shuffler=shuffler)
                )
            for name, taken in times.items():
                yield Result(str(directory), filesystem_type(directory), str(scenario), name, taken)


def print_times(results: Sequence[Result]) -> None:
    """A row for each scenario: medians and 99th percentiles, and how they compare."""
    print(
        "| filesystem | path "
        "| `makedirs` median / p99, µs | `trio.Path` median / p99, µs | limit median / p99, µs "
        "| to `trio.Path` | to the limit |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    rows: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in results:
        key = result.directory, result.filesystem, result.scenario
        rows.setdefault(key, {})[result.contender] = result
    for (_, filesystem, scenario), row in rows.items():
        cells = [
            filesystem,
            scenario,
            *[f"{row[name].median * 1e6:.0f} / {row[name].p99 * 1e6:.0f}" for name in CONTENDERS],
            f"{row[OURS].median / row[THEIRS].median:.2f}",
            f"{row[OURS].median / row[LIMIT].median:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")


def as_json(results: Sequence[Result], *, runs: int, seed: int) -> dict[str, object]:
    """Everything that was measured; times in seconds, in the order in which they were taken."""
    return {
        "runs": runs,
        "seed": seed,
        "python": platform.python_version(),
        "trio": trio.__version__,
        "trio_mkdir": trio_mkdir.__version__,
        "kernel": platform.release(),
        "results": [
            {**attrs.asdict(result), "median": result.median, "p99": result.p99}
            for result in results
        ],
    }


# Counting system calls

# Those that look at files or change them. A question mark lets strace go on without one that
# this kind of machine does not have.
TRACED: Final = ",".join(
    f"?{name}"
    for name in """
        mkdir mkdirat rmdir unlinkat chmod fchmodat umask
        stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat
        statfs open openat openat2 pread64 getdents64 getcwd poll ppoll
    """.split()
)
COUNTED_RUNS: Final = 200


async def make_many(scenario: Scenario, contender: str, root: str, runs: int) -> None:
    """Make ``runs`` tasks and leave them: run under strace, where nothing else is to count."""
    for number in range(runs):
        await CONTENDERS[contender](scenario.task(root, number))()


def count_syscalls(scenario: Scenario, contender: str, directory: Path) -> dict[str, float]:
    """How often one call makes each system call.

    Starting and ending the process makes many; they are the same for one run and for more, so the
    difference of the two is what the additional runs made.
    """
    few = traced(scenario, contender, directory, runs=1)
    many = traced(scenario, contender, directory, runs=1 + COUNTED_RUNS)
    counts = {name: (many[name] - few.get(name, 0)) / COUNTED_RUNS for name in many}
    return {name: count for name, count in sorted(counts.items()) if round(count, 2)}


def traced(scenario: Scenario, contender: str, directory: Path, *, runs: int) -> dict[str, int]:
    """The counts of strace for one process that makes ``runs`` tasks."""
    with scratch(directory) as root, tempfile.NamedTemporaryFile("r") as table:
        subprocess.run(  # noqa: S603 - this very file
            [
                *("strace", "-f", "-c", "-U", "calls,name", "-e", f"trace={TRACED}"),
                *("-o", table.name, sys.executable, __file__),
                *("--make", str(scenario.depth), contender, root, str(runs)),
            ],
            check=True,
        )
        rows = [line.split() for line in table]
    return {name: int(calls) for calls, name in rows if calls.isdigit() and name != "total"}


def print_syscalls(directories: Sequence[Path]) -> None:
    """A row for each scenario and contender; the kind of filesystem makes no difference to them."""
    print("| path | by | system calls |")
    print("|---|---|---|")
    for scenario in SCENARIOS:
        for contender in CONTENDERS:
            counts = count_syscalls(scenario, contender, directories[0])
            cell = ", ".join(f"{count:.3g} {name}" for name, count in counts.items())
            print(f"| {scenario} | `{contender}` | {cell} |", flush=True)


# Where


@contextmanager
def scratch(directory: Path) -> Iterator[str]:
    """A new directory in ``directory``, gone afterwards with all that is in it."""
    root = tempfile.mkdtemp(prefix="trio-mkdir-", dir=directory)
    try:
        yield root
    finally:
        shutil.rmtree(root)


def filesystem_type(path: Path) -> str:
    """The type of filesystem that ``path`` is on, by the mount table."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind, *_ = line.split(" ")
        mounts[point] = kind  # a later one covers those before it
    resolved = path.resolve()
    return next(
        mounts[str(place)] for place in (resolved, *resolved.parents) if str(place) in mounts
    )


def default_directories() -> list[Path]:
    """A tmpfs, if there is one where it is to be expected, and the disk of this directory."""
    shared_memory = Path("/dev/shm")  # noqa: S108 - what is made there has a random name
    usable = shared_memory.is_dir() and filesystem_type(shared_memory) == "tmpfs"
    return [shared_memory, Path.cwd()] if usable else [Path.cwd()]


def main() -> None:
    """Measure or count, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description="What one call costs, beside trio.Path.mkdir and the least possible.",
        epilog="Without a directory: /dev/shm, if it is a tmpfs, and the current directory.",
    )
    add = parser.add_argument
    add("directories", nargs="*", type=Path, metavar="DIRECTORY", help="where to make the paths")
    add("--runs", type=positive, default=400, help="of each contender in each row (default: 400)")
    add("--seed", type=int, default=1, help="of the order within each round (default: 1)")
    add("--json", type=Path, metavar="FILE", help="write every single time to FILE, too")
    add("--syscalls", action="store_true", help="count system calls with strace instead")
    add("--make", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        depth, contender, root, runs = options.make
        trio.run(make_many, Scenario(int(depth)), contender, root, int(runs))
        return
    directories = options.directories or default_directories()
    if options.syscalls:
        if shutil.which("strace") is None:
            parser.error("--syscalls needs the program strace")
        print_syscalls(directories)
        return
    results = list(measure(directories, runs=options.runs, seed=options.seed))
    print_times(results)
    print(
        f"\n{options.runs} rounds, seed {options.seed}; "
        f"Python {platform.python_version()}, trio {trio.__version__}"
    )
    if options.json is not None:
        figures = as_json(results, runs=options.runs, seed=options.seed)
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def positive(text: str) -> int:
    """A whole number of at least 2, which percentiles need."""
    if (number := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, not {number}")
    return number


if __name__ == "__main__":
    main()
