"""The filesystem as it will be once a hidden tree is shown: so that only one place knows its name.

A call that makes a tree atomically speaks of it by the paths that it is going to have: to the
undo log, to other calls, in errors and in its report. On the way to the kernel, here, they become
the paths at which it is, as long as it is hidden.

Whether a rename has worked can be in doubt: its reply was lost, or its caller left before the
answer came. Then whoever asks for anything there next has to `settle` first what is at the tree's
own path now, by device and inode.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from ._handshake import SpokenOf
from ._hidden import new_name
from ._os import Opening
from ._paths import AnyPath, without_slashes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from ._entries import Identity
    from ._handshake import Operation
    from ._mounts import Mount
    from ._os import Confined, Directory, Filesystem
    from ._walk import Program

T = TypeVar("T")


class Preview:
    """What a filesystem will be; `Opening` says what most of its methods do."""

    def __init__(self, now: Opening) -> None:
        self._now = now
        self.top: AnyPath = ""
        """Where the hidden tree will be,"""
        self._hidden: AnyPath | None = None
        """and where it is; None if there is none."""
        self._identity: Identity | None = None
        self.in_doubt = False
        """Whether a rename may have worked."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._now!r}>"

    # The hidden tree

    @property
    def is_hiding(self) -> bool:
        """Whether anything is hidden, as far as is known."""
        return self._hidden is not None

    def hide(self, top: AnyPath, above: AnyPath) -> None:
        """What will be at ``top``, and below it, is made under another name, in ``above``."""
        name = new_name()
        self.top = without_slashes(top)
        self._hidden = (
            os.path.join(above, name)
            if isinstance(above, str)
            else os.path.join(above, os.fsencode(name))
        )

    def hidden(self, path: AnyPath) -> AnyPath | None:
        """Where that is which will be at ``path``; None if it is not hidden."""
        if self._hidden is None:
            return None
        text, top = os.fsencode(path), os.fsencode(self.top)
        if text != top and not text.startswith(top + b"/"):
            return None
        text = os.fsencode(self._hidden) + text[len(top) :]
        return text if isinstance(path, bytes) else os.fsdecode(text)

    def show(self, identity: Identity) -> None:
        """Have the tree, of which the top has ``identity``, appear where it belongs, by one rename.

        EEXIST if something stands there. After any error it is in doubt whether it has worked.
        """
        assert self._hidden is not None  # noqa: S101 - for the type checker
        self._identity = identity
        self.in_doubt = True
        self._now.rename(self._hidden, self.top)
        self.forget()

    def settle(self, path: AnyPath) -> Program:
        """Look whether it has worked, for the sake of what will be at ``path``; or has to raise."""
        yield SpokenOf.as_("lstat", path, ("lstat", self.top))
        try:
            status = self._now.lstat(self.top)
        except (FileNotFoundError, NotADirectoryError):
            self.in_doubt = False
            return
        if self._identity == (status.st_dev, status.st_ino):
            self.forget()
        self.in_doubt = False

    def forget(self) -> None:
        """Nothing is hidden any more."""
        self._hidden = None
        self.in_doubt = False

    def _where(self, path: AnyPath) -> AnyPath:
        return self.hidden(path) or path

    # System calls

    @property
    def turn(self) -> Callable[[Operation | None], Awaitable[object]] | None:
        """That of the filesystem, which is told what it is asked for, see `asking`."""
        return self._now.turn

    def asking(self, name: str, path: AnyPath) -> Operation:
        """The operation ``name`` of what will be at ``path``."""
        hidden = self.hidden(path)
        if hidden is None or self._hidden is None:
            return name, path
        return SpokenOf.as_(name, path, (name, self._hidden if name == "rename" else hidden))

    def mkdir(self, path: AnyPath, mode: int) -> None:
        """`os.mkdir`."""
        self._now.mkdir(self._where(path), mode)

    def rmdir(self, path: AnyPath) -> None:
        """`os.rmdir`."""
        self._now.rmdir(self._where(path))

    def stat(self, path: AnyPath) -> os.stat_result:
        """`os.stat`."""
        return self._now.stat(self._where(path))

    def lstat(self, path: AnyPath) -> os.stat_result:
        """`os.lstat`."""
        return self._now.lstat(self._where(path))

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        """`os.statvfs`."""
        return self._now.statvfs(self._where(path))

    def open(self, path: AnyPath) -> Directory:
        """The directory that stands there."""
        return self._now.open(self._where(path))

    def rename(self, source: AnyPath, destination: AnyPath) -> None:
        """`os.rename` that replaces nothing."""
        self._now.rename(self._where(source), self._where(destination))

    def sleep(self, seconds: float) -> None:
        """`time.sleep`."""
        self._now.sleep(seconds)

    def mount(self, path: AnyPath) -> Mount:
        """The one on which ``path`` lies; what is hidden is on the same."""
        return self._now.mount(path)


class ConfinedPreview(Preview):
    """The same of a `Confined` filesystem."""

    def __init__(self, now: Opening, root: Confined) -> None:
        super().__init__(now)
        self._root = root

    @property
    def root(self) -> AnyPath:
        """The text of the root."""
        return self._root.root

    @property
    def anchor(self) -> object:
        """Equal for two of which each can undo what the other did, once nothing is hidden."""
        return self._root.anchor

    def holds(self, path: AnyPath) -> bool:
        """Whether ``path`` is below the root by its text."""
        return self._root.holds(path)

    def close(self) -> None:
        """Give the root's descriptor back."""
        self._root.close()


def asking(via: Filesystem, name: str, path: AnyPath) -> Operation:
    """The operation ``name`` of what is, or will be, at ``path``, by ``via``."""
    return via.asking(name, path) if isinstance(via, Preview) else (name, path)


def through(
    via: Filesystem, program: Generator[Operation, None, T]
) -> Generator[Operation, None, T]:
    """Carry out ``program`` by ``via``; it speaks of what is hidden as if it were not."""
    try:
        while True:
            operation = next(program)
            yield operation if isinstance(operation, SpokenOf) else asking(via, *operation)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        program.close()


def preview(filesystem: Filesystem) -> Preview:
    """What ``filesystem`` will be; NotImplementedError if it cannot rename without replacing."""
    return Preview(_opening(filesystem))


def preview_confined(confined: Confined) -> ConfinedPreview:
    """The same of one that stays beneath a root."""
    return ConfinedPreview(_opening(confined), confined)


def _opening(filesystem: Filesystem) -> Opening:
    if not isinstance(filesystem, Opening):
        raise NotImplementedError(f"{filesystem!r} cannot make anything atomically")
    return filesystem
