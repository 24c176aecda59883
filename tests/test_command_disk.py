"""What the command does in the filesystem beside the library."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from command import LONG, Here

from trio_mkdir._command import _disk

pytest_plugins = ["command_fixtures"]


@pytest.mark.parametrize(
    ("path", "number", "found"),
    [
        ("a/b", errno.ENOENT, ("a/b", errno.ENOENT)),
        ("d/a//b/c", errno.ENOENT, ("d/a//b/c", errno.ENOENT)),
        ("d/.//x", errno.ENOTDIR, ("d/.//x", errno.ENOTDIR)),
        ("f//x/y", errno.ENOTDIR, ("f", errno.ENOTDIR)),
        ("to_f/x", errno.ENOTDIR, ("to_f", errno.ENOTDIR)),
        ("to_nothing/x", errno.ENOENT, ("to_nothing", errno.EEXIST)),
        ("to_nothing//", errno.ENOENT, ("to_nothing//", errno.EEXIST)),
        ("loop/x/y", errno.ELOOP, ("loop", errno.ELOOP)),
        (f"d/{LONG}/x", errno.ENAMETOOLONG, (f"d/{LONG}", errno.ENAMETOOLONG)),
        ("/proc/x/y", errno.ENOENT, ("/proc/x/y", errno.ENOENT)),
    ],
)
@pytest.mark.usefixtures("here")
def test_obstacle_is_the_first_from_the_top(path: str, number: int, found: tuple[str, int]) -> None:
    assert _disk.obstacle(path, number) == found


class TestModeThatNeedsAChange:
    @pytest.mark.usefixtures("_nobody")
    def test_is_set_by_name_where_it_forbids_to_open_the_directory(self, here: Here) -> None:
        assert here.run("-m", "1300", "a") == (0, [], [])
        assert stat.S_IMODE(os.stat("a").st_mode) == 0o1300

    def test_is_not_set_on_what_took_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir(0o700)
        (tmp_path / "link").symlink_to("mine")
        with pytest.raises(NotADirectoryError):
            _disk.correct_mode(str(tmp_path / "link"), 0o755, 0o7777)
        assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o700

    def test_that_cannot_be_set_is_a_failure_of_its_operand(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def chmod(*_: Any) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "chmod", chmod)
        status, out, err = here.run("-m", "2755", "--json", "a", "-v")
        assert status == 1
        assert err == [
            "trio-mkdir: cannot change permissions of 'a': Operation not permitted",
            "trio-mkdir: created directory 'a'",
            "trio-mkdir: removed directory 'a'",
        ]
        assert json.loads(out[0])["removed"] == ["a"]
        assert not os.path.exists("a")


def test_modes_are_set_one_after_the_other_until_nobody_wants_them() -> None:
    done: list[tuple[str, int]] = []

    def correct(path: str, mode: int) -> None:
        done.append((path, mode))
        corrections.given_up = path == "b"

    corrections = _disk.Corrections(correct, ["a", "b", "c"], 0o700)
    assert not corrections.go_on(0)
    assert corrections.path == "a"
    assert corrections.go_on(math.inf)
    assert corrections.go_on(math.inf)
    assert done == [("a", 0o700), ("b", 0o700)]
