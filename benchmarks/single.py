"""What one call costs: `trio_mkdir.makedirs` beside `trio.Path.mkdir` and the least possible.

    python benchmarks/single.py
    python benchmarks/single.py --runs 2000 --json figures.json /srv /tmp
    python benchmarks/single.py --syscalls

The part of the suite that is wanted most often, wherever it matters: the same scenarios as in
`run.py`, with fewer contenders, in any directory, and without root.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

import trio_mkdir
from _directories import Unavailable, filesystem_type, scratch
from _loops import open_loops
from _peers import LIMIT, OURS, TRIO_PATH
from _single import SCENARIOS, Row, table, time_scenario
from _syscalls import table as table_of_syscalls

CONTENDERS: Final = (OURS, TRIO_PATH, LIMIT)
WARM_UP: Final = 20
"""Rounds before the timing starts."""


async def measure(directories: Sequence[Path], *, runs: int, seed: int) -> list[Row]:
    """Time every scenario in every directory."""
    rows = []
    with open_loops(seed) as loops:
        for directory in directories:
            for scenario in SCENARIOS:
                with scratch(directory) as root:
                    figures = await time_scenario(
                        scenario, root, loops, CONTENDERS, rounds=runs, warm_up=WARM_UP
                    )
                rows.append(Row(filesystem_type(directory), scenario.name, figures))
    return rows


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
    add("--json", type=Path, metavar="FILE", help="write medians and percentiles to FILE, too")
    add("--syscalls", action="store_true", help="count system calls with strace instead")
    options = parser.parse_args()
    directories = options.directories or default_directories()
    if options.syscalls:
        try:
            print(table_of_syscalls(CONTENDERS, SCENARIOS, directories[0]).markdown())
        except Unavailable as reason:
            parser.error(str(reason))
        return
    rows = trio.run(partial(measure, directories, runs=options.runs, seed=options.seed))
    print(table("A single call", rows).markdown())
    made_with = {
        "runs": options.runs,
        "seed": options.seed,
        "python": platform.python_version(),
        "trio": trio.__version__,
        "trio_mkdir": trio_mkdir.__version__,
        "kernel": platform.release(),
    }
    print("\n" + ", ".join(f"{name} {value}" for name, value in made_with.items()))
    if options.json is not None:
        figures = {**made_with, "seconds": [attrs.asdict(row) for row in rows]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def positive(text: str) -> int:
    """A whole number of at least 2, which percentiles need."""
    if (number := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, not {number}")
    return number


if __name__ == "__main__":
    main()
