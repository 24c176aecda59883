"""Which mount a path lies on, by the text of ``/proc/self/mountinfo``: no mount is ever touched."""

from __future__ import annotations

import math
import os
import re
import select
import threading
import time
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ._paths import AnyPath

MOUNTINFO: Final = "/proc/self/mountinfo"
_TRUST: Final = 1.0
"""Seconds until the table makes sure that its descriptor is still its own."""
_MANY: Final = 4096
"""Of how many directories it is remembered on which mount they are."""


@attrs.frozen(cache_hash=True)
class Mount:
    """One line of the mount table, proc_pid_mountinfo(5)."""

    id: int
    parent: int
    device: str
    """``major:minor``."""
    root: str
    """The directory of the filesystem that is mounted, ``/`` for all of it."""
    mount_point: str
    options: str = attrs.field(eq=False)
    """Not compared: a remount changes them, and it is the same mount all the same."""
    type: str
    source: str
    super_options: str = attrs.field(default="", eq=False)
    """Those of the filesystem itself, as ``hard`` or ``soft`` of an NFS; not compared, either."""

    @property
    def root_directory(self) -> str:
        """The path of a directory that nobody has made, nor can remove, nor any above it.

        Empty if there is none: what is mounted may be a directory of another mount.
        """
        return self.mount_point if self.root == "/" else ""

    def is_mounted_by(self, automount: Mount) -> bool:
        """Whether it is what ``automount`` mounts for whoever comes, autofs(5)."""
        point = automount.mount_point.rstrip("/")
        return automount.type == "autofs" and f"{self.mount_point}/".startswith(f"{point}/")

    def __str__(self) -> str:
        both = [*self.options.split(","), *filter(None, self.super_options.split(","))]
        options = ",".join(dict.fromkeys(both))  # as mount(8) and findmnt(8) show them
        return f"{self.mount_point} ({self.type} from {self.source}, {options})"


NO_TABLE: Final = Mount(0, 0, "0:0", "/", "/", "", "unknown", "unknown")
"""Stands for every mount where there is no mount table."""


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def parse(text: bytes) -> list[Mount]:
    """The mounts in ``text``, in the order in which they were mounted."""
    mounts: list[Mount] = []
    for line in filter(None, os.fsdecode(text).split("\n")):  # other line ends may be in names
        before, _, after = line.partition(" - ")
        number, parent, device, root, point, options, *_ = before.split(" ")
        kind, source, super_options, *_ = [*after.split(" "), ""]
        mounts.append(
            Mount(
                int(number),
                int(parent),
                device,
                _unescaped(root),
                _unescaped(point),
                options,
                _unescaped(kind),
                _unescaped(source),
                _unescaped(super_options),
            )
        )
    return mounts


def visible(mounts: Iterable[Mount]) -> dict[str, Mount]:
    """For each mount point the mount that a path walk arrives at there.

    Mounts hide each other: the last one on a mount point covers those before it, and one above
    covers everything below, so the walk goes from the root down, mount by mount.
    """
    table = list(mounts)
    below: dict[int, dict[str, Mount]] = {}
    for mount in table:
        if mount.parent != mount.id:  # a root may be its own parent
            below.setdefault(mount.parent, {})[mount.mount_point] = mount
    known = {mount.id for mount in table}
    reached = [mount for mount in table if mount.parent not in known or mount.parent == mount.id]
    found: dict[str, Mount] = {}
    while reached:
        mount = reached.pop()
        children = below.get(mount.id, {})
        cover = children.get(mount.mount_point)
        if cover is not None:
            reached.append(cover)
            continue
        found[mount.mount_point] = mount
        reached += [
            child
            for point, child in children.items()
            if not any(above in children for above in _directories_above(point))
        ]
    return found


def _directories_above(path: str) -> Iterator[str]:
    while path != "/":
        path = path[: path.rfind("/")] or "/"
        yield path


def _nearest(table: Mapping[str, Mount], point: str) -> Mount:
    while point:
        mount = table.get(point)
        if mount is not None:
            return mount
        point, _, _ = point.rpartition("/")
    return table.get("/", NO_TABLE)


class MountTable:
    """The mount table, parsed anew whenever the kernel says that it has changed.

    Reading the table takes the kernel some 30 µs for 20 mounts; asking one open descriptor
    whether it has changed since (`select.POLLPRI`, proc_pid_mountinfo(5)) takes 0.4 µs. So one
    descriptor stays open as long as the table is in use.
    """

    def __init__(self, source: str = MOUNTINFO) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._visible: Mapping[str, Mount] = {}
        self._in: dict[str, Mount] = {}
        """On which mount everything in a directory is that is no mount point itself."""
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._trusted_until = -math.inf
        self._changed = select.poll().poll

    def open(self) -> None:
        """Read the table and watch it; `find` does so if it has to."""
        try:
            self._fd = os.open(self._source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._visible, self._in = {}, {}  # not Linux, or /proc is not mounted
            return
        self._identity = self._current_identity()
        self._trusted_until = time.monotonic() + _TRUST
        poll = select.poll()
        poll.register(self._fd, select.POLLPRI | select.POLLERR)
        self._changed = poll.poll
        self._changed(0)  # what changes after this shows at the next poll
        self._read()

    def _current_identity(self) -> tuple[int, int] | None:
        try:
            status = os.fstat(self._fd)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _check(self, *, changed: bool) -> None:
        # A program may have closed every descriptor that it did not know, as daemons do,
        # and the number may be another file's by now.
        current = self._current_identity()
        if current is None or current != self._identity:
            self.open()
            return
        self._trusted_until = time.monotonic() + _TRUST
        if changed:
            self._read()

    def _read(self) -> None:
        text = bytearray()
        while piece := os.pread(self._fd, 1 << 20, len(text)):
            text += piece
        self._visible = visible(parse(bytes(text)))
        self._in = {}

    def find(self, path: AnyPath) -> Mount:
        """The mount on which the absolute ``path`` lies, symbolic links not looked at."""
        with self._lock:  # poll objects refuse to be used by two threads at once
            changed = self._changed(0)
            if changed or time.monotonic() >= self._trusted_until:
                self._check(changed=bool(changed))
            table, known = self._visible, self._in
        point = path if isinstance(path, str) else os.fsdecode(path)
        if "/." in point or "//" in point:
            point = "/" + os.path.normpath(point).lstrip("/")  # POSIX lets two slashes stay
        mount = table.get(point)
        if mount is not None:
            return mount
        above = point[: point.rfind("/")]
        mount = known.get(above)
        if mount is None:
            if len(known) >= _MANY:
                known.clear()
            mount = known[above] = _nearest(table, above)
        return mount

    def close(self) -> None:
        """Give the descriptor back; the next `find` opens it again.

        Without the lock: it is for a forked child, which has no other threads, but may have got
        the lock from one of its parent's.
        """
        current = self._current_identity()
        if current is not None and current == self._identity:
            os.close(self._fd)
        self._identity = None
        self._trusted_until = -math.inf
