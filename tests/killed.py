"""Processes that are killed while they make directories, and what they leave.

``python tests/killed.py DIRECTORY --kills 1000`` does it so often, and prints the counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import attrs
import trio

from trio_mkdir import makedirs
from trio_mkdir._command._sweep import sweep
from trio_mkdir._hidden import PREFIX, new_name

BELOW = "b/c/d"
"""What is in each tree."""
LONGEST = 0.01
"""Seconds that a process lives, at the most, once it has begun."""


@attrs.define
class Counts:
    """What was found."""

    kills: int = 0
    whole: int = 0
    """Trees of which all can be seen."""
    partial: int = 0
    """Trees of which a part can be seen, and not all."""
    hidden: int = 0
    """Hidden trees that were left."""
    swept: int = 0
    """Directories that were removed of these."""
    not_swept: int = 0
    """Hidden trees that were left by the sweep."""
    hurt: int = 0
    """Times when anything else was gone after the sweep."""

    # As the sweep tells it

    def removed(self, path: str) -> None:
        self.swept += 1

    def left(self, path: str, why: str) -> None:
        """That of a process that lives."""

    def failed(self, what: str, path: str, why: str) -> None:
        raise AssertionError(f"cannot {what} {path}: {why}")

    def goes_on(self) -> bool:
        return True


async def make_many(root: Path, ready: int, *, atomic: bool) -> None:
    for number in range(10**6):
        await makedirs(root / str(number) / BELOW, atomic=atomic)
        if not number:
            os.write(ready, b".")


def kill_one(root: Path, moment: float, *, atomic: bool) -> None:
    """Kill a process that makes one tree after the other, some time after it has begun."""
    begun, ready = os.pipe()
    child = os.fork()
    if not child:
        try:
            trio.run(lambda: make_many(root, ready, atomic=atomic))
        finally:
            os._exit(1)
    os.close(ready)
    os.read(begun, 1)
    os.close(begun)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"it has ended itself: {status}"


def look(root: Path, counts: Counts) -> list[Path]:
    """Count what stands; tells what was left hidden."""
    hidden = []
    for tree in root.iterdir():
        if tree.name.startswith(PREFIX):
            hidden.append(tree)
        elif (tree / BELOW).is_dir():
            counts.whole += 1
        else:
            counts.partial += 1
    return hidden


def kill(directory: Path, kills: int, seed: int, *, atomic: bool, until_partial: bool) -> Counts:
    """Kill so many."""
    moments = random.Random(seed)
    counts = Counts()
    for number in range(kills):
        root = directory / str(number)
        root.mkdir()
        ours = root / new_name() / "of" / "a" / "process" / "that" / "lives"
        kill_one(root, moments.uniform(0, LONGEST), atomic=atomic)
        counts.kills += 1
        hidden = look(root, counts)
        counts.hidden += len(hidden)
        ours.mkdir(parents=True)
        others = {
            path for path in root.rglob("*") if not any(h in (path, *path.parents) for h in hidden)
        }
        sweep(str(root), counts)
        counts.not_swept += sum(tree.exists() for tree in hidden)
        counts.hurt += set(root.rglob("*")) != others
        if until_partial and counts.partial:
            break
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--until-partial", action="store_true")
    asked = parser.parse_args()
    counts = kill(
        asked.directory,
        asked.kills,
        asked.seed,
        atomic=not asked.plain,
        until_partial=asked.until_partial,
    )
    json.dump(attrs.asdict(counts), sys.stdout)


if __name__ == "__main__":
    main()
