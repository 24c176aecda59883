"""What the command itself does in the filesystem, beside the library; it may block.

Plain synchronous code, for threads.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from . import _modes

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Corrections:
    """``correct(path, *args)`` for one path after the other, as many in one go as time allows."""

    def __init__(self, correct: Callable[..., object], paths: Iterable[str], *args: object) -> None:
        self._correct = correct
        self._args = args
        self._rest = iter(paths)
        self.path = ""
        """The one that it is at."""
        self.given_up = False
        """Whether nobody wants the others any more."""

    def go_on(self, seconds: float) -> bool:
        """Correct some more; whether that were all."""
        until = time.monotonic() + seconds
        for path in self._rest:
            if self.given_up:
                break
            self.path = path
            self._correct(path, *self._args)
            if time.monotonic() >= until:
                return False
        return True


def correct_mode(path: str, mode: int, explicit: int, *, durable: bool = False) -> None:
    """Give a new directory the bits of its mode that ``mkdir(2)`` has not given it.

    ``durable``: on the disk, too.
    """
    try:
        # Of what was made, not of what may have taken its place.
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except PermissionError:  # its own mode forbids it
        _correct(path, mode, explicit)
        return
    try:
        if _correct(directory, mode, explicit) and durable:
            os.fsync(directory)
    finally:
        os.close(directory)


def correct_mode_beneath(
    root: str, path: str, mode: int, explicit: int, *, durable: bool = False
) -> None:
    """The same for a ``path`` that is relative to ``root`` and must not lead out of it."""
    from trio_mkdir._beneath import open_beneath  # noqa: PLC0415 - only where it is asked for

    with open_beneath(root, path) as directory:
        wanted = _modes.corrected(directory.stat().st_mode, mode, explicit)
        if wanted is not None:
            directory.chmod(wanted)
            if durable:
                directory.fsync()


def _correct(directory: int | str, mode: int, explicit: int) -> bool:
    wanted = _modes.corrected(os.stat(directory).st_mode, mode, explicit)
    if wanted is not None:
        os.chmod(directory, wanted)
    return wanted is not None


def obstacle(path: str, number: int) -> tuple[str, int]:
    """What is in the way of ``path`` when one comes from the top, as GNU does; and its errno.

    The kernel answers ``number`` for ``path`` as a whole, whatever directory above it is meant.
    """
    for end in range(1, len(path)):
        if path[end] != "/" or path[end - 1] == "/":
            continue
        above, below = path[:end], path[end:].strip("/")
        name = above if below else path
        try:
            if not stat.S_ISDIR(os.stat(above).st_mode):
                return name, errno.ENOTDIR
        except OSError as error:
            if error.errno != errno.ENOENT:
                return name, error.errno or number
            return (name, errno.EEXIST) if os.path.islink(above) else (path, number)
        if not os.access(above, os.X_OK, effective_ids=True):
            return name, errno.EACCES
    return path, number
