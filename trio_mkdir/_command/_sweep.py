"""Removing what killed processes have left hidden: by descriptors, and nothing but directories.

Plain synchronous code, for a thread; it may block.
"""

from __future__ import annotations

import os
from typing import Protocol

from trio_mkdir._hidden import maker_of

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


def sweep(directory: str, told: Told) -> None:
    """Remove what is hidden in ``directory``, or in anything below it, and whose maker is gone.

    No symbolic link is followed but that of ``directory`` itself, and no other mount is entered.
    """
    try:
        fd = os.open(directory, _FLAGS & ~os.O_NOFOLLOW)
    except OSError as error:
        told.failed("sweep", directory, str(error.strerror))
        return
    try:
        _Sweep(os.fstat(fd).st_dev, told).look_in(fd, directory)
    finally:
        os.close(fd)


class _Sweep:
    def __init__(self, device: int, told: Told) -> None:
        self._device = device
        self._told = told

    def look_in(self, fd: int, path: str) -> None:
        """What is hidden in the directory ``fd``, which is ``path``, and what else is below."""
        for name in self._directories(fd, path):
            below = os.path.join(path, name)
            maker = maker_of(name)
            if maker is None:
                self._enter(fd, name, below, self.look_in)
                continue
            why = maker.why_not_gone()
            if why is None:
                self._remove(fd, name, below)
            else:
                self._told.left(below, why)

    def _remove(self, above: int, name: str, path: str) -> None:
        """Remove the directory ``name`` in ``above``, once all in it is removed."""
        self._enter(above, name, path, self._empty)
        if not self._told.goes_on():
            return
        try:
            os.rmdir(name, dir_fd=above)
        except FileNotFoundError:
            return  # another one has swept here
        except OSError as error:
            self._told.failed("remove", path, str(error.strerror))
            return
        self._told.removed(path)

    def _empty(self, fd: int, path: str) -> None:
        for name in self._directories(fd, path):
            self._remove(fd, name, os.path.join(path, name))

    def _enter(self, above: int, name: str, path: str, do: _Do) -> None:
        if not self._told.goes_on():
            return
        try:
            fd = os.open(name, _FLAGS, dir_fd=above)
        except OSError as error:
            if os.path.lexists(path):  # otherwise it is gone, as things go
                self._told.failed("look into", path, str(error.strerror))
            return
        try:
            if os.fstat(fd).st_dev == self._device:
                do(fd, path)
        finally:
            os.close(fd)

    def _directories(self, fd: int, path: str) -> list[str]:
        try:
            with os.scandir(fd) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            self._told.failed("look into", path, str(error.strerror))
            return []


class _Do(Protocol):
    def __call__(self, fd: int, path: str, /) -> None: ...
