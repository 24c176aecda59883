"""Fixtures: filesystems with real faults, each of which says what it needs, and a clock that jumps.

The filesystems are slow to make, so each is made once and given to one test after another, empty
again.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from filesystems import faults
from filesystems.frozen import FreezableMount, freezable_mount
from filesystems.mounts import MountPoint, scratch_directory, tmpfs_mount
from filesystems.processes import AnotherUser, another_user
from filesystems.waiting import busy_threads, wait_until
from trio.testing import MockClock

from trio_mkdir import pending_rollbacks
from trio_mkdir._registry import registry


def empty(directory: Path) -> None:
    """Remove all that is in a directory."""
    for entry in os.scandir(directory):
        if entry.name == "lost+found":
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory on the disk that every user may traverse."""
    with scratch_directory() as path:
        yield path


@pytest.fixture(scope="session")
def _freezable(scratch: Path) -> Iterator[FreezableMount]:
    with freezable_mount(scratch) as mount:
        yield mount


@pytest.fixture
def freezable(_freezable: FreezableMount) -> Iterator[FreezableMount]:
    """An ext4 of its own with ``.path``, ``.freeze()`` and ``.thaw()``, thawed whatever happens."""
    yield _freezable
    _freezable.thaw()
    wait_until(lambda: not pending_rollbacks() and not busy_threads())
    empty(_freezable.path)


@pytest.fixture(scope="session")
def _tmpfs(scratch: Path) -> Iterator[MountPoint]:
    with tmpfs_mount(scratch) as mount:
        yield mount


@pytest.fixture
def tmpfs(_tmpfs: MountPoint) -> Iterator[Path]:
    """A filesystem on which nothing is wrong."""
    yield _tmpfs.path
    empty(_tmpfs.path)


@pytest.fixture
def clock() -> MockClock:
    """Trio's clock for a test with threads: it goes as any other, and jumps where it is told to."""
    return MockClock(rate=1)


# Faults


@pytest.fixture(scope="session")
def _no_space(scratch: Path) -> Iterator[MountPoint]:
    with faults.no_space(scratch) as mount:
        yield mount


@pytest.fixture
def no_space(_no_space: MountPoint) -> Iterator[Path]:
    """ENOSPC for the fourth directory."""
    yield _no_space.path
    empty(_no_space.path)


@pytest.fixture(scope="session")
def _no_quota(scratch: Path) -> Iterator[faults.Quota]:
    with faults.no_quota(scratch) as quota:
        yield quota


@pytest.fixture
def no_quota(_no_quota: faults.Quota) -> Iterator[faults.Quota]:
    """EDQUOT for every directory in ``.path``, until ``.lift()``."""
    yield _no_quota
    _no_quota.lift()
    empty(_no_quota.path)
    _no_quota.limit()


@pytest.fixture(scope="session")
def read_only(scratch: Path) -> Iterator[Path]:
    """EROFS, on a filesystem where ``there/deep`` stands."""
    with faults.read_only(scratch) as mount:
        yield mount.path


@pytest.fixture
def immutable(freezable: FreezableMount) -> Iterator[Path]:
    """EPERM, for root too."""
    with faults.immutable(freezable.path / "immutable") as path:
        yield path


@pytest.fixture(scope="session")
def too_many_links(scratch: Path) -> Iterator[Path]:
    """EMLINK."""
    with faults.too_many_links(scratch) as path:
        yield path


@pytest.fixture
def mortal(scratch: Path) -> Iterator[faults.MortalMount]:
    """An ext4 that answers EIO after ``.shut_down()``; each test has one of its own."""
    with faults.mortal(scratch) as mount:
        yield mount


@pytest.fixture
def shut_down(mortal: faults.MortalMount) -> Path:
    """EIO."""
    mortal.shut_down()
    return mortal.path


@pytest.fixture
def no_descendants() -> Iterator[faults.ControlGroup]:
    """EAGAIN for every directory in ``.path``, until ``.allow(...)``."""
    with faults.no_descendants() as group:
        yield group


@pytest.fixture
def vanishing_mount(scratch: Path) -> Iterator[MountPoint]:
    """ENOSPC for the fourth directory, and a ``.vanish()`` that uncovers what is ``.beneath()``."""
    with faults.no_space(scratch) as mount:
        yield mount


@pytest.fixture
def as_user() -> AnotherUser:
    """EACCES: ``.run`` runs a snippet of Python as somebody who is not root."""
    return another_user()


@pytest.fixture
def without_new_threads() -> AnotherUser:
    """``.run`` runs a snippet of Python in a process that cannot start a thread."""
    return another_user(threads=False)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """In the end nothing is owed, and no call is known to others any more."""
    yield
    assert pending_rollbacks() == ()
    assert registry.tree.statistics == (0, 0)


NIGHTLY = os.environ.get("TRIO_MKDIR_NIGHTLY", "0") not in {"", "0"}
BY_DAY = 6
"""Of the sweeps that are marked so, one of so many is run by day: each takes seconds, most of all
while coverage is measured. TRIO_MKDIR_NIGHTLY=1 runs all."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave most of the sweeps to the night, always the same ones, and none of them wholly."""
    if NIGHTLY:
        return
    begun: Counter[tuple[Path, str]] = Counter()
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        function = item.path, item.name.partition("[")[0]
        swept = item.get_closest_marker("sweep") is not None
        (left if swept and begun[function] % BY_DAY else kept).append(item)
        begun[function] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=left)
