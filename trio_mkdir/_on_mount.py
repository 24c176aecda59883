"""The mount that a path has to lie on, as ``on_mount`` names it: told by text, nothing is touched.

A mount point whose mount is away is a plain directory of the disk beneath it, and ``mkdir`` works
there, too. Nobody would know; so who means the mount says so.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._errors import not_mounted

if TYPE_CHECKING:
    from ._errors import NotMounted
    from ._mounts import Mount
    from ._paths import AnyPath


def before(point: AnyPath, there: Mount, path: AnyPath) -> NotMounted | None:
    """What is wrong if ``path`` is ``there`` before the first system call.

    What an automount in the way will mount, when that comes, is not known yet.
    """
    wanted = _normal(point)
    if there.mount_point == wanted or (there.type == "autofs" and _is_below(wanted, there)):
        return None
    return not_mounted(point, path, there, f"the path is on the mount {there}")


def after(point: AnyPath, there: Mount, began: Mount, path: AnyPath) -> NotMounted | None:
    """What is wrong if ``path`` is ``there`` after the last one, and ``began`` elsewhere."""
    same = there == began or there.is_mounted_by(began)
    if same and there.mount_point == _normal(point):
        return None
    return elsewhere(point, there, began, path)


def elsewhere(point: AnyPath, there: Mount, began: Mount, path: AnyPath, *more: str) -> NotMounted:
    """The error for a ``path`` that is ``there`` by now."""
    why = f"the call began on the mount {began} and the path is now on {there}"
    return not_mounted(point, path, there, why, *more)


def leads_to(path: AnyPath, point: AnyPath) -> bool:
    """Whether ``path`` is above ``point``, by its text."""
    return _normal(point).startswith(f"{_normal(path).rstrip('/')}/")


def _is_below(point: str, mount: Mount) -> bool:
    return point.startswith(f"{mount.mount_point.rstrip('/')}/")


def _normal(point: AnyPath) -> str:
    """As the mount table has it; POSIX lets two slashes at the beginning stay."""
    return "/" + os.path.normpath(os.fsdecode(point)).lstrip("/")
