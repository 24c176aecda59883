"""How many tasks make directories at once, by how long one directory takes."""

from __future__ import annotations

import os

import pytest

from trio_mkdir._pace import Pace, median

PROCESSORS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("each", "concurrency", "width"),
    [
        (0.000_01, 32, 1),
        (0.000_1, 32, PROCESSORS),
        (0.000_1, 1, 1),
        (0.001, 32, 32),
        (0.001, 3, 3),
    ],
)
def test_how_many_work_depends_on_how_long_a_directory_takes(
    each: float, concurrency: int, width: int
) -> None:
    pace = Pace()
    assert pace.each is None
    assert pace.width(concurrency) == 1  # nothing is known yet
    pace.took(each)
    assert pace.width(concurrency) == width


def test_a_disk_that_stalls_now_and_then_is_no_slow_filesystem() -> None:
    pace = Pace()
    for seconds in (0.000_01, 0.015, 0.000_01, 0.015, 0.000_01):
        pace.took(seconds)
        assert pace.width(32) == 1


def test_a_filesystem_that_becomes_slow_is_found_out_and_one_that_recovers_too() -> None:
    pace = Pace()
    for seconds, widths in ((0.000_01, {1}), (0.015, {1, 32}), (0.000_01, {1, 32})):
        seen = []
        for _ in range(5):
            pace.took(seconds)
            seen.append(pace.width(32))
        assert {*seen} == widths
        assert seen[-1] == (32 if seconds == 0.015 else 1)


def test_the_median_of_two_is_the_lower_one() -> None:
    assert [median(seconds) for seconds in ([3.0], [3.0, 1.0], [9.0, 1.0, 2.0])] == [3.0, 1.0, 2.0]
