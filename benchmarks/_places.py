"""Filesystems to make paths on: a tmpfs, and those that the benchmark mounts for itself.

The tests' own helpers mount them, unmount them and thaw them, also if this process is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

import attrs
import pytest

from _directories import Place, Unavailable, filesystem_type

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from filesystems import stuck
from filesystems.frozen import freezable_mount
from filesystems.fuse import FuseMount, Hold, fuse_mount
from filesystems.loop import loop_mount
from filesystems.mounts import mount_point, unmount_all
from filesystems.needs import needs_device, needs_program
from filesystems.programs import run, run_or_unavailable

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made there has a random name
_EXT4_SIZE: Final = 512 << 20
_EXT4_INODES: Final = 100_000
_FAILSAFE: Final = 30.0
"""Seconds after which somebody else thaws what is frozen."""
_MOUNTED_WITHIN: Final = 10.0
_SERVING: Final = 64
"""Threads of the slow mount's server: more than ever ask at once."""


@contextmanager
def _available() -> Iterator[None]:
    """The tests' helpers skip a test where something is missing; here is no test."""
    try:
        yield
    except pytest.skip.Exception as reason:
        raise Unavailable(str(reason)) from None


@contextmanager
def open_places(directory: Path) -> Iterator[list[Place]]:
    """A tmpfs, and a journaled ext4 in an image in ``directory``."""
    with ExitStack() as stack:
        yield [_tmpfs(), _ext4(stack, directory)]


def _tmpfs() -> Place:
    if _SHARED_MEMORY.is_dir() and filesystem_type(_SHARED_MEMORY) == "tmpfs":
        return Place("tmpfs", _SHARED_MEMORY)
    return Place("tmpfs", None, f"{_SHARED_MEMORY} is no tmpfs")


def _ext4(stack: ExitStack, directory: Path) -> Place:
    options = ["-O", "has_journal", "-N", str(_EXT4_INODES)]
    try:
        with _available():
            mount = loop_mount(directory, "ext4", _EXT4_SIZE, options)
            return Place("ext4", stack.enter_context(mount).path)
    except Unavailable as reason:
        return Place("ext4", None, str(reason))


# A mount that hangs


class HungMount(Protocol):
    """One on which ``mkdir(2)`` does not return between ``freeze`` and ``thaw``."""

    @property
    def path(self) -> Path:
        """Where it is mounted."""
        ...

    def freeze(self) -> None:
        """Let every change wait; somebody else ends it if nobody does in time."""
        ...

    def thaw(self) -> None:
        """Let everything go on."""
        ...


class _HeldFuse:
    """The same without root: the server answers no ``mkdir``, for a minute at most."""

    def __init__(self, mount: FuseMount) -> None:
        self.path = mount.path
        self._mount = mount
        self._hold: Hold | None = None

    def freeze(self) -> None:
        self._hold = self._mount.hold("mkdir")

    def thaw(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()


def threads_that_hang() -> int:
    """How many threads of this process sleep in a ``mkdir(2)`` that nothing can interrupt."""
    return len(stuck.stuck_threads())


@contextmanager
def open_hung_mount(directory: Path) -> Iterator[HungMount]:
    """An ext4 that can be frozen; without root, a FUSE filesystem that can be held."""
    with ExitStack() as stack:
        mount: HungMount
        with _available():
            if os.geteuid() == 0:
                mount = stack.enter_context(freezable_mount(directory, failsafe=_FAILSAFE))
            else:
                home = Path(tempfile.mkdtemp(dir=directory))  # for this one alone
                mount = _HeldFuse(stack.enter_context(fuse_mount(home)))
        yield mount


# A mount that is slow


@attrs.frozen
class SlowMount:
    """A FUSE filesystem each of whose operations takes a while."""

    path: Path
    seconds: float
    """For one operation, from its arrival at the server."""

    def operations(self) -> int:
        """How many the server has carried out so far."""
        return os.statvfs(self.path).f_files


@contextmanager
def open_slow_mount(directory: Path, seconds: float) -> Iterator[SlowMount]:
    """Mount one. Its server is no Python, which would take more time than it is to take."""
    with _available():
        needs_device("/dev/fuse")
        needs_program("fusermount3")
        program = _slow_server(directory)
    home = Path(tempfile.mkdtemp(dir=directory))
    backing = home / "backing"
    backing.mkdir()
    threads = f"max_threads={_SERVING},max_idle_threads={_SERVING}"
    with mount_point(home / "slow") as point:
        server = subprocess.Popen(  # noqa: S603 - our own server
            [program, backing, str(seconds), point.path, "-f", "-o", threads],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + _MOUNTED_WITHIN
            while not point.is_mounted():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable("needs a FUSE mount, and its server did not make one")
                time.sleep(0.01)
            yield SlowMount(point.path, seconds)
        finally:
            if os.geteuid() == 0:
                unmount_all(point.path, lazily=True)
            elif point.is_mounted():
                run("fusermount3", "-u", "-z", str(point.path))
            server.kill()
            server.wait()


def _slow_server(directory: Path) -> Path:
    run_or_unavailable("pkg-config", "--atleast-version=3.12", "fuse3")  # for `max_threads`
    needs_program("cc")
    program = directory / "slow-server"
    source = Path(__file__).parent / "_slow_server.c"
    flags = run("pkg-config", "--cflags", "--libs", "fuse3").split()
    run("cc", "-O2", "-o", str(program), str(source), *flags)
    return program
