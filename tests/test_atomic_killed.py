"""Processes that are killed while they make something atomically: nobody ever sees a part of it.

A thousand of them are killed by ``python tests/killed.py DIRECTORY --kills 1000``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def kill(directory: Path, *options: str) -> dict[str, int]:
    command = [sys.executable, str(TESTS / "killed.py"), str(directory), *options]
    done = subprocess.run(  # noqa: S603 - our own
        command, capture_output=True, check=True, cwd="/", timeout=120
    )
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_a_killed_process_leaves_whole_trees_and_what_a_sweep_removes(tmp_path: Path) -> None:
    counts = kill(tmp_path, "--kills", "30", "--seed", "1")
    assert counts["kills"] == 30
    assert counts["whole"] >= 30
    assert counts["partial"] == 0
    assert counts["not_swept"] == 0
    assert counts["hurt"] == 0


def test_without_atomic_a_killed_process_leaves_parts(tmp_path: Path) -> None:
    # So that the test before this one is known to see them.
    counts = kill(tmp_path, "--kills", "1000", "--plain", "--until-partial")
    assert counts["partial"] == 1
