"""Filesystems with ACLs and a umask, for whom ``pytest_plugins`` names this module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from filesystems.loop import FilesystemType, loop_mount
from filesystems.mounts import MountPoint, tmpfs_mount
from filesystems.needs import needs_root


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs", "tmpfs"])
def _filesystem(request: pytest.FixtureRequest, scratch: Path) -> Iterator[MountPoint]:
    needs_root()
    with ExitStack() as stack:
        if request.param == "tmpfs":
            yield stack.enter_context(tmpfs_mount(scratch))
        else:
            fstype = cast("FilesystemType", request.param)
            yield stack.enter_context(loop_mount(scratch, fstype))


@pytest.fixture
def place(_filesystem: MountPoint) -> Iterator[Path]:
    """A directory on each filesystem that has ACLs, of mode 0755 and root's."""
    path = _filesystem.path / "place"
    path.mkdir()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def root_owned(tmp_path: Path) -> Path:
    """A directory for root, who can give things away."""
    needs_root()
    path = tmp_path / "root"
    path.mkdir()
    path.chmod(0o755)
    return path


@pytest.fixture
def set_umask() -> Iterator[Callable[[int], None]]:
    """Sets that of the process, until the end of the test."""
    before = os.umask(0o022)

    def set_to(mask: int) -> None:
        os.umask(mask)

    yield set_to
    os.umask(before)
