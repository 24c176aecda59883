"""Removing what killed processes have left hidden: by descriptors, and nothing but directories.

Plain synchronous code, for a thread; it may block.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple, Protocol

from trio_mkdir._hidden import maker_of

from ._quoting import quote, quote_for_shell
from ._voice import FAILED

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from ._voice import Voice

_IN_USE = {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Told(Protocol):
    """Who is told what happens."""

    def removed(self, path: str) -> None:
        """A directory was removed."""

    def left(self, path: str, why: str) -> None:
        """A hidden tree is not to be removed."""

    def failed(self, what: str, path: str, why: str) -> None:
        """``what`` could not be done."""

    def goes_on(self) -> bool:
        """Whether anybody waits."""
        ...


class Sweeping:
    """Says what becomes of what is hidden."""

    def __init__(self, voice: Voice, *, verbose: bool) -> None:
        self._voice = voice
        self._verbose = verbose
        self.status = 0
        self.is_over = False

    def goes_on(self) -> bool:
        return not self.is_over

    def removed(self, path: str) -> None:
        if self._verbose:
            name = quote_for_shell(path)
            self._voice.out(f"{self._voice.program}: removed directory {name}\n")

    def left(self, path: str, why: str) -> None:
        if self._verbose:
            name = quote_for_shell(path)
            self._voice.out(f"{self._voice.program}: left directory {name}: {why}\n")

    def failed(self, what: str, path: str, why: str) -> None:
        self.status = FAILED
        self._voice.complain(f"cannot {what} {quote(path)}: {why}")


def sweep(directory: str, told: Told) -> None:
    """Remove what is hidden in ``directory``, or in anything below it, and whose maker is gone.

    No symbolic link is followed but that of ``directory`` itself, and no other mount is entered.
    """
    try:
        fd = os.open(directory, _FLAGS & ~os.O_NOFOLLOW)
    except OSError as error:
        told.failed("sweep", directory, str(error.strerror))
        return
    sweeping = _Sweep(fd, directory, told)
    try:
        sweeping.run()
    finally:
        sweeping.close()


class _Level(NamedTuple):
    """A directory on the way from the uppermost to where the sweep is."""

    name: str
    path: str
    identity: tuple[int, int]
    todo: list[str]
    """The names of the directories in it that are still to be looked into."""
    doomed: bool
    """Whether it is to be removed, with all that is in it."""


class _Sweep:
    """One descriptor is open, of the directory that it is in: a tree may have thousands of levels.

    It goes back by ``..`` and looks whether that is where it came from.
    """

    def __init__(self, fd: int, path: str, told: Told) -> None:
        self._fd = fd
        self._mount = _mount_of(fd)
        self._told = told
        self._levels = [self._level("", path, doomed=False)]

    def run(self) -> None:
        """All of it, or until nobody waits any more."""
        while self._levels and self._told.goes_on():
            level = self._levels[-1]
            if level.todo:
                self._look_at(level.todo.pop(), level)
            else:
                self._levels.pop()
                if self._levels and not self._go_back(level):
                    return

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def _look_at(self, name: str, above: _Level) -> None:
        path = os.path.join(above.path, name)
        doomed = above.doomed
        if not doomed and (maker := maker_of(name)) is not None:
            why = maker.why_not_gone()
            if why is not None:
                self._told.left(path, why)
                return
            doomed = True
        if not (doomed and self._remove(name, path, full_is_told=False)):
            self._enter(name, path, doomed=doomed)

    def _enter(self, name: str, path: str, *, doomed: bool) -> None:
        try:
            fd = os.open(name, _FLAGS, dir_fd=self._fd)
        except FileNotFoundError:
            return
        except OSError as error:
            self._told.failed("look into", path, str(error.strerror))
            return
        if _mount_of(fd) != self._mount:
            os.close(fd)
            return
        os.close(self._fd)
        self._fd = fd
        self._levels.append(self._level(name, path, doomed=doomed))

    def _level(self, name: str, path: str, *, doomed: bool) -> _Level:
        status = os.fstat(self._fd)
        todo: list[str] = []
        try:
            with os.scandir(self._fd) as entries:
                todo += [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            self._told.failed("look into", path, str(error.strerror))
        return _Level(name, path, (status.st_dev, status.st_ino), todo, doomed)

    def _go_back(self, level: _Level) -> bool:
        """From ``level`` to what it is in; False where that cannot be found again."""
        above = self._levels[-1]
        try:
            fd = os.open("..", _FLAGS, dir_fd=self._fd)
        except OSError as error:
            self._told.failed("look into", above.path, str(error.strerror))
            return False
        os.close(self._fd)
        self._fd = fd
        status = os.fstat(fd)
        if above.identity != (status.st_dev, status.st_ino):
            self._told.failed("look into", above.path, f"{level.path!r} was moved away from there")
            return False
        if level.doomed:
            self._remove(level.name, level.path)
        return True

    def _remove(self, name: str, path: str, *, full_is_told: bool = True) -> bool:
        """Remove it; whether it is gone. An empty one need not be readable."""
        try:
            os.rmdir(name, dir_fd=self._fd)
        except FileNotFoundError:
            return True  # another one has swept here
        except OSError as error:
            if full_is_told or error.errno not in _IN_USE:
                self._told.failed("remove", path, str(error.strerror))
            return error.errno not in _IN_USE
        self._told.removed(path)
        return True


def _mount_of(fd: int) -> str:
    """The number of the mount that ``fd`` is on: a bind mount has the same device, proc(5)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return next(line for line in lines if line.startswith("mnt_id:"))
