"""The command's options ``--atomic`` and ``--sweep``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import Here
from filesystems.mounts import mount_point
from filesystems.needs import needs_root
from filesystems.programs import run

from trio_mkdir._command import _sweep
from trio_mkdir._hidden import new_name

pytest_plugins = ["command_fixtures"]


def dead_name() -> str:
    """That of a process that has ended."""
    program = "from trio_mkdir._hidden import new_name; print(new_name())"
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def dead() -> str:
    return dead_name()


def test_what_is_missing_is_made_at_once(here: Here, tmp_path: Path) -> None:
    status, out, err = here.run("--atomic", "-pv", "new/a/b")
    assert (status, err) == (0, [])
    assert out == [
        f"trio-mkdir: created directory '{name}'" for name in ("new", "new/a", "new/a/b")
    ]
    assert os.listdir(tmp_path / "new") == ["a"]


def test_one_level_is_made_at_once_too(here: Here, tmp_path: Path) -> None:
    assert here.run("--atomic", "d/new") == (0, [], [])
    assert os.listdir(tmp_path / "d") == ["new"]


def test_only_what_is_hidden_and_whose_maker_is_gone_is_removed(
    here: Here, tmp_path: Path, dead: str
) -> None:
    alive, foreign = new_name(), f"{dead[:12]}0badcafe{dead[20:]}"
    for name in (f"{dead}/a/b", f"{alive}/a", f"{foreign}/a", "x/y/" + dead, "x/.hidden"):
        (tmp_path / "top" / name).mkdir(parents=True)
    (tmp_path / "top" / "link").symlink_to("x")
    there = f"process {os.getpid()} made it, and is there"
    before = {path for path in tmp_path.rglob("*") if dead not in str(path)}
    status, out, err = here.run("-v", "--sweep", "top")
    assert (status, err) == (0, [])
    assert sorted(out) == sorted(
        [
            *(
                f"trio-mkdir: removed directory 'top/{name}'"
                for name in (f"{dead}/a/b", f"{dead}/a", dead, f"x/y/{dead}")
            ),
            f"trio-mkdir: left directory 'top/{alive}': {there}",
            f"trio-mkdir: left directory 'top/{foreign}': another machine made it",
        ]
    )
    assert set(tmp_path.rglob("*")) == before


def test_what_somebody_has_put_in_stays_and_is_told(here: Here, tmp_path: Path, dead: str) -> None:
    (tmp_path / "top" / dead / "a" / "b").mkdir(parents=True)
    (tmp_path / "top" / dead / "a" / "link").symlink_to("/")
    status, out, err = here.run("--sweep", "top")
    assert (status, out) == (1, [])
    assert err == [
        f"trio-mkdir: cannot remove 'top/{dead}/a': Directory not empty",
        f"trio-mkdir: cannot remove 'top/{dead}': Directory not empty",
    ]
    assert (tmp_path / "top" / dead / "a" / "link").is_symlink()


def test_a_directory_that_is_not_there_is_told(here: Here) -> None:
    assert here.run("--sweep", "nowhere") == (
        1,
        [],
        ["trio-mkdir: cannot sweep 'nowhere': No such file or directory"],
    )


def test_other_filesystems_are_not_entered(here: Here, tmpfs: Path, dead: str) -> None:
    (tmpfs / dead).mkdir()
    told = Nobody(1000)
    _sweep.sweep(str(tmpfs.parent), told)
    assert told.told == []
    assert (tmpfs / dead).is_dir()
    assert here.run("--sweep", str(tmpfs)) == (0, [], [])
    assert not (tmpfs / dead).exists()


def test_what_is_mounted_from_the_same_filesystem_is_not_entered(tmp_path: Path, dead: str) -> None:
    needs_root()
    (tmp_path / "outside" / "ordinary").mkdir(parents=True)
    (tmp_path / "top" / dead).mkdir(parents=True)
    with mount_point(tmp_path / "top" / dead / "bound") as point:
        run("mount", "--bind", str(tmp_path / "outside"), str(point.path))
        told = Nobody(1000)
        _sweep.sweep(str(tmp_path / "top"), told)
    assert (tmp_path / "outside" / "ordinary").is_dir()
    assert told.told[-1].startswith(f"cannot remove {tmp_path / 'top' / dead}")


class Nobody:
    """Who does not wait any more."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.told: list[str] = []

    def removed(self, path: str) -> None:
        self.told.append(f"removed {path}")

    def left(self, path: str, why: str) -> None:
        self.told.append(f"left {path}")

    def failed(self, what: str, path: str, why: str) -> None:
        self.told.append(f"cannot {what} {path}: {why}")

    def goes_on(self) -> bool:
        self.patience -= 1
        return self.patience >= 0


def sweep_as_another(directory: Path, told: Nobody) -> None:
    """Who may do less than root; ``directory`` is told of as ``top``."""
    sweeping = _sweep._Sweep(os.open(directory, os.O_RDONLY), "top", told)
    os.seteuid(65534)
    try:
        sweeping.run()
    finally:
        os.seteuid(0)
        sweeping.close()


def test_nothing_is_removed_once_nobody_waits(tmp_path: Path, dead: str) -> None:
    (tmp_path / dead / "a").mkdir(parents=True)
    for patience in range(2):
        told = Nobody(patience)
        _sweep.sweep(str(tmp_path), told)
        assert told.told == []
    assert (tmp_path / dead / "a").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_what_may_not_be_read_is_told(tmp_path: Path, dead: str) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    (tmp_path / dead).mkdir()
    tmp_path.chmod(0o755)
    told = Nobody(1000)
    sweep_as_another(tmp_path, told)
    assert f"cannot remove top/{dead}: Permission denied" in told.told


def test_no_tree_is_too_deep_for_it(tmp_path: Path, dead: str) -> None:
    levels = 1500
    made = os.open(tmp_path, os.O_RDONLY)
    for name in (dead, *["a"] * levels):
        os.mkdir(name, dir_fd=made)
        below = os.open(name, os.O_RDONLY, dir_fd=made)
        os.close(made)
        made = below
    os.close(made)
    told = Nobody(10 * levels)
    _sweep.sweep(str(tmp_path), told)
    assert os.listdir(tmp_path) == []
    assert len(told.told) == levels + 1


def test_what_is_moved_away_while_it_is_swept_ends_it(tmp_path: Path, dead: str) -> None:
    (tmp_path / "top" / dead / "a").mkdir(parents=True)

    class Mover(Nobody):
        def removed(self, path: str) -> None:
            super().removed(path)
            (tmp_path / "top" / dead).rename(tmp_path / "elsewhere")

    told = Mover(1000)
    _sweep.sweep(str(tmp_path / "top"), told)
    assert (tmp_path / "elsewhere").is_dir()
    assert "was moved away from there" in told.told[-1]


def test_an_empty_one_need_not_be_readable(tmp_path: Path, dead: str) -> None:
    needs_root()
    (tmp_path / dead).mkdir()
    (tmp_path / dead / "a").mkdir(mode=0)
    for path in (tmp_path, tmp_path / dead, tmp_path / dead / "a"):
        os.chown(path, 65534, 65534)
    told = Nobody(1000)
    sweep_as_another(tmp_path, told)
    assert told.told == [f"removed top/{dead}/a", f"removed top/{dead}"]
