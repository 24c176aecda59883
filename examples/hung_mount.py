"""A mount that hangs: the call is back in time, and the directory that comes late goes again.

As root this makes an ext4 image in a temporary directory, mounts it, and freezes it while a tree is
being made on it: the kernel then keeps ``mkdir(2)`` in uninterruptible sleep until the filesystem
is thawed. Without root, or where loop devices are missing, a double stands in for the mount, whose
``mkdir`` does not return until it is told to::

    python examples/hung_mount.py
    python examples/hung_mount.py --simulated
    sudo python examples/hung_mount.py --frozen
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

import trio_mkdir

TREE = "uploads/2024/06"
HANGS_AFTER = "uploads"
DEADLINE = 0.3
ROLLBACK_TIMEOUT = 0.5
HANGS_FOR_AT_LEAST = 1.5

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
FAILSAFE_AFTER = 10.0


@attrs.frozen
class HungMount:
    """A directory on a filesystem that can be made to hang."""

    what: str
    root: Path
    freeze: Callable[[], object]
    thaw: Callable[[], object]
    policy: trio_mkdir.Policy


# The mount that the kernel freezes


@contextmanager
def frozen_ext4() -> Iterator[HungMount]:
    """Mount a small ext4; whatever happens, it is thawed and unmounted again."""
    with tempfile.TemporaryDirectory() as directory:
        image, mount_point = Path(directory, "image"), Path(directory, "mount").resolve()
        mount_point.mkdir()
        with image.open("wb") as file:
            file.truncate(16 << 20)
        run("mkfs.ext4", "-q", "-F", str(image))
        run("mount", "-o", "loop", str(image), str(mount_point))
        try:
            root = mount_point / "srv"
            root.mkdir()
            with freezer(mount_point) as (freeze, thaw):
                policy = trio_mkdir.Policy(rollback_timeout=ROLLBACK_TIMEOUT)
                yield HungMount("an ext4 on a loop device", root, freeze, thaw, policy)
        finally:
            run("umount", "--lazy", str(mount_point))


@contextmanager
def freezer(
    mount_point: Path,
) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Yield what freezes a filesystem and what thaws it; afterwards it is thawed."""
    descriptor = os.open(mount_point, os.O_RDONLY)
    failsafe = start_failsafe(descriptor)

    def freeze() -> None:
        fcntl.ioctl(descriptor, FIFREEZE, 0)

    def thaw() -> None:
        fcntl.ioctl(descriptor, FITHAW, 0)

    try:
        yield freeze, thaw
    finally:
        with contextlib.suppress(OSError):  # it is not frozen
            thaw()
        os.kill(failsafe, signal.SIGKILL)
        os.waitpid(failsafe, 0)
        os.close(descriptor)


def start_failsafe(descriptor: int) -> int:
    """Start a process that thaws the filesystem after a while, also if this one is killed.

    A process with a thread in uninterruptible sleep cannot even end: nobody else would thaw it.
    """
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # Ctrl-C is not for this one
            time.sleep(FAILSAFE_AFTER)
            fcntl.ioctl(descriptor, FITHAW, 0)
        finally:
            os._exit(0)
    return child


def run(*command: str) -> None:
    """Run a program; raises OSError if it cannot be run, or says what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


# The one that only plays


class Simulated:
    """The operating system's filesystem, except that ``mkdir`` waits while it is frozen."""

    turn = None  # its calls may block, so they belong in worker threads
    rmdir = staticmethod(os.rmdir)
    stat = staticmethod(os.stat)
    lstat = staticmethod(os.lstat)
    statvfs = staticmethod(os.statvfs)

    def __init__(self, root: Path) -> None:
        self._mount = trio_mkdir.Mount(1, 0, "0:1", "/", str(root), "rw", "simulated", "none")
        self._thawed = threading.Event()
        self._thawed.set()
        self.freeze = self._thawed.clear
        self.thaw = self._thawed.set

    def mkdir(self, path: str | bytes, mode: int) -> None:
        """`os.mkdir`, once it is thawed."""
        self._thawed.wait()
        os.mkdir(path, mode)

    def sleep(self, seconds: float) -> None:
        """`time.sleep`."""
        time.sleep(seconds)

    def mount(self, path: str | bytes) -> trio_mkdir.Mount:  # noqa: ARG002
        """Always the same one."""
        return self._mount


@contextmanager
def simulated() -> Iterator[HungMount]:
    """Play a hung mount in a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve()
        double = Simulated(root)
        policy = trio_mkdir.Policy(rollback_timeout=ROLLBACK_TIMEOUT, filesystem=double)
        try:
            yield HungMount("a simulated mount", root, double.freeze, double.thaw, policy)
        finally:
            double.thaw()


# What happens on either


class Timeline:
    """Prints what happens, and when."""

    def __init__(self, mount: HungMount) -> None:
        self._mount = mount
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        """Print one line."""
        print(f"{time.monotonic() - self._began:5.2f} s  {text}", flush=True)

    def name(self, path: str | bytes) -> str:
        """``path`` as seen from where the tree is made."""
        return str(Path(os.fsdecode(path)).relative_to(self._mount.root))

    def observe(self, event: trio_mkdir.Event) -> None:
        """Tell of an event; once the first directory is made, the mount hangs."""
        name = self.name(event.path)
        if isinstance(event, trio_mkdir.Made):
            self.tell(f"made {name}")
            if name == HANGS_AFTER:
                self._mount.freeze()
                self.tell("the mount hangs from here on")
        elif isinstance(event, trio_mkdir.LateAnswer):
            self.tell(f"late answer: {event.operation} {name} has returned, and nobody waits")
        elif isinstance(event, trio_mkdir.Removed):
            self.tell(f"removed {name}")


async def show(mount: HungMount, elsewhere: Path) -> None:
    """Ask for a tree, have the mount hang in the middle of it, and let it go on much later."""
    timeline = Timeline(mount)
    policy = attrs.evolve(mount.policy, observers=[timeline.observe])
    timeline.tell(f"makedirs {TREE!r} on {mount.what}, deadline {DEADLINE:g} s")
    began = trio.current_time()
    with trio.move_on_after(DEADLINE) as scope:
        await trio_mkdir.makedirs(mount.root / TREE, policy=policy)
    took = trio.current_time() - began
    if not scope.cancelled_caught:
        raise RuntimeError("the mount did not hang")
    timeline.tell(
        f"the call is back after {took:.2f} s"
        f" (deadline {DEADLINE:g} s, then up to {ROLLBACK_TIMEOUT:g} s for the rollback)"
    )
    for debt in trio_mkdir.pending_rollbacks():
        waits = "mkdir has not returned" if debt.operation == "mkdir" else "stands until it has"
        timeline.tell(f"owed: {timeline.name(debt.path)} ({waits})")

    report = await trio_mkdir.makedirs(elsewhere / TREE)
    timeline.tell(f"elsewhere the same tree took {report.elapsed * 1000:.1f} ms")

    await trio.sleep_until(began + HANGS_FOR_AT_LEAST)
    timeline.tell("the mount answers again")
    mount.thaw()
    await trio_mkdir.wait_settled()
    timeline.tell(f"settled; on the mount: {', '.join(os.listdir(mount.root)) or 'nothing'}")


def main() -> None:
    """Show it on a frozen filesystem if there can be one, and on a simulated one otherwise."""
    parser = argparse.ArgumentParser(description="A call on a mount that hangs.")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--frozen", action="store_true", help="on a frozen ext4 (root) or not at all")
    kind.add_argument("--simulated", action="store_true", help="on a simulated mount")
    options = parser.parse_args()
    # The timeline tells what the library would log.
    logging.getLogger("trio_mkdir").addHandler(logging.NullHandler())
    with contextlib.ExitStack() as stack:
        if options.simulated:
            mount = stack.enter_context(simulated())
        else:
            try:
                mount = stack.enter_context(frozen_ext4())
            except OSError as error:
                if options.frozen:
                    parser.error(str(error))
                print(f"no frozen filesystem here ({error}), so a simulated one:")
                mount = stack.enter_context(simulated())
        elsewhere = stack.enter_context(tempfile.TemporaryDirectory())
        trio.run(show, mount, Path(elsewhere))


if __name__ == "__main__":
    main()
