"""A FUSE filesystem that does what it is told: it passes on to a directory, or waits, or fails.

It runs in a process of its own, so that it can be killed, and so that no request of the test
process ever waits for the test process itself. `filesystems.fuse` starts it and talks to it, in
lines of JSON over a Unix socket.

Whatever is held is released when that socket closes, when the test process dies, and after a minute
at the latest.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import mfusepy

from .watchdog import is_dying

#: The longest that anything is held, whatever was asked for.
FAILSAFE = 60.0

#: More than any test holds at once.
_THREADS = 256

_LOOK_EVERY = 0.25

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Rule:
    """What is to happen to the requests that it matches."""

    def __init__(
        self, number: int, *, kind: str, op: str, path: str, after: bool, value: float | None
    ) -> None:
        self.number = number
        self.kind = kind
        self.after = after
        self.value = value  # seconds of a delay, errno of a failure
        self.times: int | None = None  # how often a failure is still due; None without end
        self.over = threading.Event()
        self._op = op
        self._path = path

    def matches(self, op: str, path: str) -> bool:
        """Whether a request is meant."""
        return fnmatchcase(op, self._op) and fnmatchcase(path, self._path)

    def due(self) -> bool:
        """Whether a failure is due once more; counts it."""
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


class Control:
    """What to do with each request, as the test process wants it, and what is told to it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._rules: dict[int, Rule] = {}
        self._requests = 0

    def tell(self, **message: object) -> None:
        """Tell the test process, if it still listens."""
        line = json.dumps(message).encode() + b"\n"
        # If nobody listens on the other side any more, `listen` is about to notice.
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(line)

    def listen(self) -> None:
        """Carry out commands until there is nobody left to give them."""
        for line in self._connection.makefile("rb"):
            command = json.loads(line)
            self._carry_out(**command["do"])
            self.tell(told="done", number=command["number"])

    def _carry_out(
        self, do: str, number: int = 0, times: int | None = None, **options: Any
    ) -> None:
        if do == "clear":
            self.clear()
        elif do == "release":
            self._release(number)
        elif do != "ping":
            rule = Rule(number, kind=do, **options)
            rule.times = times
            with self._lock:
                self._rules[number] = rule

    def _release(self, number: int) -> None:
        with self._lock:
            rule = self._rules.pop(number, None)
        if rule is not None:
            rule.over.set()

    def clear(self) -> None:
        """Forget every rule and let go of everything that waits."""
        with self._lock:
            rules, self._rules = list(self._rules.values()), {}
        for rule in rules:
            rule.over.set()

    def arrived(self, op: str, path: str) -> int:
        """A request has come; tell of it in the order of the numbers."""
        with self._lock:
            self._requests += 1
            number = self._requests
            self.tell(told="arrived", number=number, op=op, path=path)
            return number

    def obey(self, request: int, op: str, path: str, *, after: bool) -> None:
        """Do to a request what the rules say, before or after its effect."""
        with self._lock:
            rules = [
                rule
                for rule in self._rules.values()
                if rule.after is after and rule.matches(op, path)
            ]
        for rule in rules:
            if rule.kind == "delay":
                rule.over.wait(rule.value)
            elif rule.kind == "hold":
                self.tell(told="held", number=rule.number, request=request, path=path)
                rule.over.wait(FAILSAFE)
        for rule in rules:
            if rule.kind == "fail":
                with self._lock:
                    due = rule.number in self._rules and rule.due()
                if due:
                    assert rule.value is not None
                    raise OSError(int(rule.value), os.strerror(int(rule.value)))


def _controlled(function: _Function) -> _Function:
    """Let the test process have its say before and after a request."""
    op = function.__name__

    @functools.wraps(function)
    def wrapper(self: Passthrough, path: str, *args: Any) -> Any:
        control = self.control
        request = control.arrived(op, path)
        number: int | None = errno.EIO
        try:
            control.obey(request, op, path, after=False)
            done = function(self, path, *args)
            control.obey(request, op, path, after=True)
            number = 0
        except OSError as error:
            number = error.errno
            raise
        else:
            return done
        finally:
            # Before the kernel has the answer: whoever sees its effect finds it in the log.
            control.tell(told="answered", number=request, errno=number)

    return wrapper  # type: ignore[return-value]


class Passthrough:
    """The operations, on a directory *root*.

    mfusepy takes any object that has methods of their names.
    """

    use_ns = True

    def __init__(self, root: str, control: Control) -> None:
        self._root = root
        self.control = control

    def init(self, path: str) -> None:
        """The filesystem is mounted and answers."""
        self.control.tell(told="ready")

    def _at(self, path: str) -> str:
        return self._root + path

    def _entry(self, path: str) -> dict[str, int]:
        status = os.lstat(path)
        return {"st_mode": status.st_mode, "st_ino": status.st_ino}

    def _give(self, path: str) -> None:
        # What a server that runs as root makes belongs to whoever asked for it.
        uid, gid, _ = mfusepy.fuse_get_context()
        if uid and not os.geteuid():
            os.lchown(self._at(path), uid, gid)

    @_controlled
    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        status = os.lstat(self._at(path))
        attributes = {
            name: getattr(status, name)
            for name in (
                "st_mode",
                "st_ino",
                "st_nlink",
                "st_uid",
                "st_gid",
                "st_size",
                "st_rdev",
                "st_blocks",
            )
        }
        for name in ("st_atime", "st_mtime", "st_ctime"):
            attributes[name] = getattr(status, f"{name}_ns")
        return attributes

    @_controlled
    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)
        self._give(path)

    @_controlled
    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    @_controlled
    def rename(self, path: str, new: str) -> None:
        os.rename(self._at(path), self._at(new))

    @_controlled
    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    @_controlled
    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._at(path), uid, gid)

    @_controlled
    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        if times is None:
            os.utime(self._at(path), follow_symlinks=False)
        else:
            os.utime(self._at(path), ns=times, follow_symlinks=False)

    @_controlled
    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self._at(path))
        self._give(path)

    @_controlled
    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    @_controlled
    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    @_controlled
    def create(self, path: str, mode: int, flags: int) -> int:
        fd = os.open(self._at(path), flags | os.O_CREAT, mode)
        self._give(path)
        return fd

    @_controlled
    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~(os.O_CREAT | os.O_EXCL))

    @_controlled
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    @_controlled
    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    @_controlled
    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path), length)

    @_controlled
    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    @_controlled
    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        pass

    @_controlled
    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    @_controlled
    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        names = [".", "..", *os.listdir(self._at(path))]
        return [(name, self._entry(os.path.join(self._at(path), name)), 0) for name in names]

    @_controlled
    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._at(path))
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_")}


def _options() -> dict[str, Any]:
    options: dict[str, Any] = {
        "foreground": True,
        "fsname": "trio-mkdir-tests",
        # Every answer comes from here, and none from what the kernel remembers.
        "entry_timeout": 0,
        "attr_timeout": 0,
        "ac_attr_timeout": 0,
        "negative_timeout": 0,
        # Device and inode tell one directory from another, as everywhere.
        "use_ino": True,
        "default_permissions": True,
    }
    if os.geteuid() == 0:
        options["allow_other"] = True
    if (mfusepy.fuse_version_major, mfusepy.fuse_version_minor) >= (3, 12):
        # It has ten by default since then, and no more while these are held.
        options |= {"max_threads": _THREADS, "max_idle_threads": _THREADS}
    return options


def _serve_control(control: Control, parent: int) -> None:
    def watch() -> None:
        # A killed process keeps its end of the socket while one of its threads waits for us.
        while not is_dying(parent):
            time.sleep(_LOOK_EVERY)
        end()

    def end() -> None:
        control.clear()
        time.sleep(1)  # for the answers to reach the kernel
        os._exit(1)

    def listen() -> None:
        control.listen()
        end()

    for target in (watch, listen):
        threading.Thread(target=target, daemon=True).start()


def main() -> None:
    """Serve until unmounted; arguments: mount point, backing directory, parent's pid, socket."""
    mount_point, backing, parent, fd = sys.argv[1:]
    os.umask(0)  # the kernel has applied the caller's
    control = Control(socket.socket(fileno=int(fd)))
    _serve_control(control, int(parent))
    mfusepy.FUSE(Passthrough(backing, control), mount_point, **_options())


if __name__ == "__main__":
    main()
