"""Whether a path lies on the mount that it has to lie on, by the text of the mount table."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ._causes import RootCause
from ._errors import mkdir_error

if TYPE_CHECKING:
    from ._mounts import Mount
    from ._paths import AnyPath


def check_on_mount(point: AnyPath, mount: Mount, path: AnyPath) -> None:
    """Raise unless ``path``, which is on ``mount``, is on the one that is mounted at ``point``."""
    wanted = os.path.normpath(os.fsdecode(point))
    if mount.mount_point != wanted:
        error = mkdir_error(errno.ENODEV, path, RootCause.DISCONNECTED, mount)
        error.add_note(f"it has to be on the mount at {wanted!r} and is on {mount}")
        raise error


def leads_to(path: AnyPath, point: AnyPath) -> bool:
    """Whether ``path`` is above ``point``, by its text."""
    above = os.path.join(os.path.normpath(os.fsdecode(path)), "")
    return os.path.normpath(os.fsdecode(point)).startswith(above)
