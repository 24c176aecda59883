"""Scripted lines of a mount table."""

from __future__ import annotations

import itertools
import os
import threading
from typing import TYPE_CHECKING

from trio_mkdir._mounts import Mount

if TYPE_CHECKING:
    from trio_mkdir._paths import StrOrBytesPath

_ids = itertools.count(-1, -1)  # the kernel's are never negative


def new_mount(point: StrOrBytesPath, *, type: str, source: str, options: str) -> Mount:  # noqa: A002
    """A mount that is equal to no other one, not even to one at the same place."""
    number = next(_ids)
    return Mount(number, 0, f"0:{number}", "/", os.fsdecode(point), options, type, source)


class MountPoints:
    """Mounts by mount point; usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stacks: dict[str, list[Mount]] = {}

    def add(self, point: StrOrBytesPath, *, type: str, source: str, options: str) -> Mount:  # noqa: A002
        """Mount something over whatever is there."""
        mount = new_mount(_normal(point), type=type, source=source, options=options)
        with self._lock:
            self._stacks.setdefault(mount.mount_point, []).append(mount)
        return mount

    def remove(self, point: StrOrBytesPath) -> Mount:
        """Unmount what was mounted there last; KeyError if nothing was."""
        with self._lock:
            stack = self._stacks[_normal(point)]
            mount = stack.pop()
            if not stack:
                del self._stacks[_normal(point)]
            return mount

    def find(self, path: StrOrBytesPath) -> Mount | None:
        """The mount on which ``path`` lies, if one of these."""
        text = _normal(path)
        with self._lock:
            while text not in self._stacks:
                if len(text) < 2:  # the root, or what is above a relative path
                    return None
                text = os.path.dirname(text)
            return self._stacks[text][-1]


def _normal(path: StrOrBytesPath) -> str:
    return os.path.normpath(os.fsdecode(path))
