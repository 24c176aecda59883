"""A FUSE filesystem whose operations a test holds, delays, or makes fail.

Its server is a process of its own, see `fuse_server`. Paths are as seen in the mount (``"/a/b"``)
and patterns are those of `fnmatch`, where ``*`` takes slashes too. Operations are named as in FUSE:
``mkdir``, ``rmdir``, ``getattr`` (every look-up is one), ``readdir``, ``chmod``, ``rename``, ...

The kernel holds the lock of the parent while it waits for an answer to ``mkdir``, so that of two
requests in one directory only the first arrives. And it asks twice where the answer is ESTALE.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .mounts import MountPoint, mount_point, unmount_all
from .needs import needs_device, needs_linux, needs_module, needs_program, unavailable
from .programs import run, run_or_unavailable

_CONNECTIONS = Path("/sys/fs/fuse/connections")

_TESTS = Path(__file__).resolve().parent.parent

#: How long the server may take to start, to carry out a command, and to end.
_PROMPTLY = 10.0


class Request(NamedTuple):
    """One request that arrived at the server."""

    op: str
    path: str
    errno: int | None
    """0 for success; None while it is not answered."""


class ServerGone(RuntimeError):
    """The server has ended and can be told nothing more."""


class Hold:
    """Requests that are kept from being answered."""

    def __init__(self, mount: FuseMount, number: int) -> None:
        self._mount = mount
        self._number = number

    @property
    def arrived(self) -> list[str]:
        """The paths of the requests that were stopped here, in order."""
        return self._mount._stopped_at(self._number)

    def wait_arrived(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Return once *count* requests were stopped here; `TimeoutError` if that does not come."""
        self._mount._wait_stopped(self._number, count, timeout)

    def release(self) -> None:
        """Let them go on, and stop no more. Twice is fine, also when the server is gone."""
        with contextlib.suppress(ServerGone):
            self._mount._command("release", number=self._number)


class FuseMount:
    """A mounted filesystem over the directory *backing*, and the server behind it."""

    def __init__(self, point: MountPoint, backing: Path) -> None:
        self.path = point.path
        self.backing = backing
        self._point = point
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._ready = False
        self._over = False
        self._mounted_connections = False
        self._done: set[int] = set()
        self._requests: dict[int, Request] = {}
        self._held: dict[int, list[str]] = {}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the mount
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own server
                [
                    *(sys.executable, "-m", "filesystems.fuse_server"),
                    *(str(self.path), str(backing), str(os.getpid()), str(theirs.fileno())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                cwd="/",
                env={**os.environ, "PYTHONPATH": str(_TESTS)},
                start_new_session=True,  # Ctrl-C is for the tests
            )
        self._connection = ours
        self._listener = threading.Thread(target=self._listen, name="fuse control", daemon=True)
        self._listener.start()

    # Faults

    def hold(self, op: str, path: str = "*", *, after: bool = False) -> Hold:
        """Keep matching requests waiting; with *after*, they have taken effect by then."""
        return Hold(self, self._rule("hold", op, path, after=after))

    def delay(self, op: str, seconds: float, path: str = "*") -> None:
        """Let matching requests take *seconds* longer."""
        self._rule("delay", op, path, value=seconds)

    def fail(
        self,
        op: str,
        number: int,
        path: str = "*",
        *,
        times: int | None = None,
        after: bool = False,
    ) -> None:
        """Answer matching requests with an errno, *times* times or for ever.

        With *after* they have taken effect all the same: what a client sees of a lost reply.
        """
        self._rule("fail", op, path, after=after, value=number, times=times)

    def clear(self) -> None:
        """Release everything and let everything succeed again."""
        with contextlib.suppress(ServerGone):
            self._command("clear")

    def _rule(
        self, kind: str, op: str, path: str, *, after: bool = False, **options: float | None
    ) -> int:
        number = next(self._numbers)
        self._command(
            kind,
            number=number,
            op=op,
            path=path,
            after=after,
            value=options.pop("value", None),
            **options,
        )
        return number

    # What came

    def log(self, *ops: str) -> list[Request]:
        """Return the requests that have arrived, in order: all, or those of some operations."""
        try:
            self._command("ping")  # what was told before the answer to this is known now
        except ServerGone:
            self._listener.join(_PROMPTLY)
        with self._changed:
            requests = list(self._requests.values())
        return [request for request in requests if not ops or request.op in ops]

    def wait_answered(self, timeout: float = 10.0) -> None:
        """Return once no request waits for its answer; `TimeoutError` if that does not come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._over or self._all_answered(), timeout):
                raise TimeoutError(f"not answered: {self._requests}")

    def _all_answered(self) -> bool:
        return all(request.errno is not None for request in self._requests.values())

    # The end of the mount

    def kill(self) -> None:
        """End the server: what waits gets ECONNABORTED, what comes later ENOTCONN."""
        self._process.kill()
        self._process.wait(_PROMPTLY)

    def abort(self) -> None:
        """Cut the server off: what waits gets ECONNABORTED, what comes later ENOTCONN."""
        minor = self._point.info().device.partition(":")[2]
        if not (_CONNECTIONS / minor).exists():
            run_or_unavailable("mount", "-t", "fusectl", "fusectl", str(_CONNECTIONS))
            self._mounted_connections = True
        (_CONNECTIONS / minor / "abort").write_text("1")

    def vanish(self) -> None:
        """Take the mount out of the tree: the directory beneath shows."""
        if os.geteuid() == 0:
            self._point.vanish()
        else:
            run(_fusermount(), "-u", "-z", str(self.path))

    def beneath(self) -> list[str]:
        """Return the relative paths of all that lies in the directory beneath the mount, sorted."""
        return self._point.beneath()

    # The connection

    def wait_ready(self) -> None:
        """Return once it is mounted; a machine that cannot do that is a reason to skip the test."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._over, _PROMPTLY)
            if not self._ready:
                self._process.kill()
                self._process.wait()
                self._errors.seek(0)
                said = self._errors.read().decode(errors="replace").strip()
                unavailable(f"needs a FUSE mount, and its server said: {said}")

    def close(self) -> None:
        """Release everything, unmount, and end the server."""
        self.clear()
        with contextlib.suppress(TimeoutError):
            self.wait_answered(1.0)
        if os.geteuid() == 0:
            unmount_all(self.path)
        elif self._point.is_mounted():
            run(_fusermount(), "-u", "-z", str(self.path))
        if self._mounted_connections:
            unmount_all(_CONNECTIONS, lazily=True)
        try:
            self._process.wait(1.0)  # unmounting ends it, unless somebody still uses the mount
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(_PROMPTLY)
        self._connection.close()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        self._errors.close()
        if "Traceback" in said:
            raise RuntimeError(f"the FUSE server failed:\n{said}")

    def _command(self, do: str, **options: object) -> None:
        number = next(self._numbers)
        line = json.dumps({"number": number, "do": {"do": do, **options}}).encode() + b"\n"
        with self._changed:
            if self._over:
                raise ServerGone(do)
            try:
                self._connection.sendall(line)
            except OSError:
                raise ServerGone(do) from None
            if not self._changed.wait_for(lambda: number in self._done or self._over, _PROMPTLY):
                raise TimeoutError(f"the FUSE server does not answer {do}")
            if number not in self._done:
                raise ServerGone(do)

    def _stopped_at(self, number: int) -> list[str]:
        with self._changed:
            return list(self._held.get(number, ()))

    def _wait_stopped(self, number: int, count: int, timeout: float) -> None:
        with self._changed:
            if not self._changed.wait_for(
                lambda: len(self._held.get(number, ())) >= count, timeout
            ):
                raise TimeoutError(f"only {self._held.get(number, [])} of {count} requests arrived")

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._connection.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                with self._changed:
                    self._hear(**message)
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _hear(self, told: str, number: int = 0, **details: Any) -> None:
        if told == "ready":
            self._ready = True
        elif told == "done":
            self._done.add(number)
        elif told == "held":
            self._held.setdefault(number, []).append(details["path"])
        elif told == "arrived":
            self._requests[number] = Request(details["op"], details["path"], None)
        else:
            self._requests[number] = self._requests[number]._replace(errno=details["errno"])


def _fusermount() -> str:
    return needs_program("fusermount3")


@contextmanager
def fuse_mount(directory: Path, name: str = "fuse") -> Iterator[FuseMount]:
    """Mount a FUSE filesystem in *directory*; unmount it and end its server whatever happens."""
    needs_linux()
    needs_device("/dev/fuse")
    needs_module("mfusepy")
    if os.geteuid() != 0:
        _fusermount()
    backing = directory / f"{name}-backing"
    backing.mkdir(mode=0o755)
    with mount_point(directory / name) as point:
        mount = FuseMount(point, backing.resolve())
        try:
            mount.wait_ready()
            yield mount
        finally:
            mount.close()


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[FuseMount]:
    """A filesystem whose operations can be held, delayed and made to fail."""
    with fuse_mount(tmp_path) as mount:
        yield mount
