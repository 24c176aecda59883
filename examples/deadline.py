"""A deadline on a tree: in time it is made whole, and otherwise not at all.

Runs anywhere, in a temporary directory::

    python examples/deadline.py

The same eight directories are asked for twice, on a disk that takes 50 ms for each of them: once
with a deadline that is late enough, and once with one that comes in the middle.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

import trio_mkdir

TREE = "1/2/3/4/5/6/7/8"
MKDIR_TAKES = 0.050


class SlowDisk:
    """Tells what happens to the tree, and makes every disk a slow one.

    An observer runs in the thread that makes the directories, so while this one sleeps, that
    thread waits as it would for a disk. (That is why observers ought to be quick.)
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, event: trio_mkdir.Event) -> None:
        """Observe one event of a call."""
        path = Path(os.fsdecode(event.path)).relative_to(self._root)
        if isinstance(event, trio_mkdir.Made):
            print(f"  made    {path}")
            time.sleep(MKDIR_TAKES)
        elif isinstance(event, trio_mkdir.Removed):
            print(f"  removed {path}")


async def make_tree(root: Path, *, seconds: float) -> None:
    """Make the tree below ``root`` within so many seconds, and tell what became of it."""
    print(f"a deadline of {seconds:g} s")
    policy = trio_mkdir.Policy(observers=[SlowDisk(root)])
    with trio.move_on_after(seconds) as scope:
        report = await trio_mkdir.makedirs(root / TREE, policy=policy)
        print(f"  in time: {len(report.created)} directories in {report.elapsed:.2f} s")
    if scope.cancelled_caught:
        print("  not in time: the call has undone what it had made")
    print("  there now:", ", ".join(os.listdir(root)) or "nothing")


def main() -> None:
    """Make the tree once with time enough and once without."""
    for seconds in (5.0, 0.2):
        with tempfile.TemporaryDirectory() as directory:
            trio.run(partial(make_tree, Path(directory), seconds=seconds))


if __name__ == "__main__":
    main()
