"""The command's option ``--beneath``."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from command import Here

from trio_mkdir._command import _disk

pytest_plugins = ["command_fixtures"]


@pytest.fixture
def root(here: Here, tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "dir").mkdir(parents=True)
    (made / "file").touch()
    (made / "out").symlink_to("../d")
    return made


def test_operands_are_made_in_the_root(here: Here, root: Path) -> None:
    status, out, err = here.run("--beneath", "root", "-pv", "a/b", "dir/../c")
    assert (status, err) == (0, [])
    assert out == [
        "trio-mkdir: created directory 'a'",
        "trio-mkdir: created directory 'a/b'",
        "trio-mkdir: created directory 'dir/../c'",
    ]
    assert sorted(os.listdir(root)) == ["a", "c", "dir", "file", "out"]


@pytest.mark.parametrize("option", [["-p"], []])
def test_what_leads_out_is_told_and_not_made(
    here: Here, root: Path, tmp_path: Path, option: list[str]
) -> None:
    before = sorted(os.listdir(tmp_path))
    status, _, err = here.run("--beneath=root", *option, "../x", "/x", "out/x", "a")
    assert status == 1
    assert err == [
        f"trio-mkdir: cannot create directory '{operand}': it leads out of 'root'"
        for operand in ("../x", "/x", "out/x")
    ]
    assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(tmp_path / "d") == []
    assert (root / "a").is_dir()


def test_what_is_in_the_way_is_told_as_the_library_has_it(here: Here, root: Path) -> None:
    status, out, err = here.run("--beneath=root", "-p", "--json", "file/x/y")
    assert status == 1
    assert err == ["trio-mkdir: cannot create directory 'file/x/y': Not a directory"]
    assert json.loads(out[0])["error"]["name"] == "ENOTDIR"


def test_a_root_that_is_not_there_is_named(here: Here, tmp_path: Path) -> None:
    status, _, err = here.run("--beneath=none", "a")
    assert status == 1
    assert err == [
        f"trio-mkdir: cannot create directory '{tmp_path / 'none'}': No such file or directory"
    ]


@pytest.mark.usefixtures("_nobody")
def test_modes_are_set_in_the_root_too(here: Here) -> None:
    os.mkdir("root")
    os.mkdir("root/setgid")
    Path("root/setgid").chmod(0o2777)
    arguments = ["-p", "-m", "01300", "a/b", "setgid/a"]
    assert here.run("--beneath=root", *arguments) == (0, [], [])
    for path in ("root/a/b", "root/setgid/a"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o1300


def test_modes_are_not_set_on_what_took_its_place(root: Path, tmp_path: Path) -> None:
    before = (tmp_path / "d").stat().st_mode
    for path in ("out", "../d"):
        with pytest.raises(OSError):
            _disk.correct_mode_beneath(str(root), path, 0o7000, 0o7777)
    assert (tmp_path / "d").stat().st_mode == before
