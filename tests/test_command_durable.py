"""The command's options ``--durable`` and ``--on-mount``."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from command import Here
from filesystems.mounts import mount_point
from filesystems.needs import needs_root

import trio_mkdir
from trio_mkdir._command import _disk, _work
from trio_mkdir.testing import FaultyFilesystem

pytest_plugins = ["command_fixtures"]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyFilesystem:
    """What the command's calls run against: the real filesystem, with a script and a record."""
    filesystem = FaultyFilesystem.wrap()
    monkeypatch.setattr(_work, "_policy", lambda _: trio_mkdir.Policy(filesystem=filesystem))
    return filesystem


def written(filesystem: FaultyFilesystem, directory: Path) -> list[str]:
    return [
        os.path.relpath(os.fsdecode(each.path), directory)
        for each in filesystem.operations
        if each.operation == "fsync"
    ]


def test_what_is_made_is_written_to_the_disk(
    here: Here, disk: FaultyFilesystem, tmp_path: Path
) -> None:
    assert here.run("--durable", "-p", "a/b", "d/c") == (0, [], [])
    assert written(disk, tmp_path) == [".", "a", "a/b", "d", "d/c"]


def test_without_the_option_nothing_is(here: Here, disk: FaultyFilesystem, tmp_path: Path) -> None:
    assert here.run("a", "d/c") == (0, [], [])
    assert written(disk, tmp_path) == []


def test_what_cannot_be_written_is_told_and_not_left(
    here: Here, disk: FaultyFilesystem, tmp_path: Path
) -> None:
    disk.fail("fsync", tmp_path / "a", errno.EIO)
    status, _, err = here.run("--durable", "-p", "a/b", "d/c")
    assert status == 1
    assert err == ["trio-mkdir: cannot write directory 'a' to the disk: Input/output error"]
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "d/c").is_dir()


def test_that_its_removal_could_not_be_written_is_told(
    here: Here, disk: FaultyFilesystem, tmp_path: Path
) -> None:
    disk.fail("fsync", tmp_path, errno.EIO, times=2)
    status, out, err = here.run("--durable", "--json", "a")
    assert status == 1
    assert err[-1] == (
        f"trio-mkdir: a power cut may bring back what was removed from '{tmp_path}': "
        "fsync: Input/output error"
    )
    (unsynced,) = json.loads(out[0])["unsynced"]
    assert (unsynced["path"], unsynced["errno"]) == (str(tmp_path), errno.EIO)


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("options", [[], ["--beneath", "."]])
def test_a_mode_that_is_set_afterwards_is_written_too(
    here: Here,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    durable: bool,
) -> None:
    seen: list[tuple[int, int]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        seen.append((status.st_ino, stat.S_IMODE(status.st_mode)))

    monkeypatch.setattr(os, "fsync", fsync)
    given = [*options, *(["--durable"] if durable else []), "-m", "02755", "a"]
    assert here.run(*given) == (0, [], [])
    inode = (tmp_path / "a").stat().st_ino
    assert [mode for number, mode in seen if number == inode] == [0o755, 0o2755][: 2 * durable]


def test_a_mode_that_is_right_is_not_written_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    _disk.correct_mode(str(tmp_path / "a"), 0o700, 0o777, durable=True)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_what_is_on_the_mount_is_made(here: Here, tmp_path: Path) -> None:
    needs_root()
    with mount_point(tmp_path / "mnt") as point:
        point.mount("tmpfs")
        assert here.run("--on-mount", "mnt/", "-p", "mnt/a/b") == (0, [], [])
        assert (tmp_path / "mnt/a/b").is_dir()


@pytest.mark.parametrize("option", [["-p"], []])
def test_what_is_not_is_told_and_not_made(here: Here, tmp_path: Path, option: list[str]) -> None:
    (tmp_path / "mnt").mkdir()
    status, _, err = here.run("--on-mount=mnt", *option, "mnt/a", "b")
    assert status == 1
    for operand, line in zip(("mnt/a", "b"), err, strict=True):
        begin = (
            f"trio-mkdir: cannot create directory '{operand}': it is not on the mount at 'mnt', "
        )
        assert line.startswith(f"{begin}the path is on the mount /")
    assert os.listdir(tmp_path / "mnt") == []
    assert not (tmp_path / "b").exists()


def test_a_disk_that_does_not_answer_is_told_of(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultyFilesystem.wrap()
    policy = trio_mkdir.Policy(filesystem=disk, rollback_timeout=0.01)
    monkeypatch.setattr(_work, "_policy", lambda _: policy)
    hold = disk.hold("fsync", tmp_path / "a")
    answer = here.front.answer

    def answer_and_release(status: int, *, stays: bool) -> None:
        answer(status, stays=stays)
        hold.release()

    monkeypatch.setattr(here.front, "answer", answer_and_release)
    status, _, err = here.run("--durable", "--timeout", "0.1", "a")
    assert status == 124
    assert f"trio-mkdir: '{tmp_path / 'a'}' is still being written to the disk: " in err[1]
    assert not (tmp_path / "a").exists()
