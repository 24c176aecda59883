"""Paths as text: no system call but the one that asks for the working directory."""

from __future__ import annotations

import errno
import operator
import os
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._demands import Demands

AnyPath: TypeAlias = str | bytes
StrOrBytesPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"

_PARENT_MODE: Final = 0o777
_MODE_BITS: Final = 0o7777
_FILE_TYPE: Final = 0o170000


@attrs.frozen
class Root:
    """The directory that a call stays beneath."""

    text: AnyPath
    """Its path, absolute; if there is a descriptor, only a name for it."""
    descriptor: int | None
    """The caller's own."""


@attrs.define(eq=False)
class Target:
    """What one call is asked to make."""

    given: AnyPath
    """The path as the caller wrote it."""
    path: AnyPath
    """The same, absolute: a later chdir changes nothing, for the rollback neither."""
    mode: int
    parent_mode: int
    exist_ok: bool
    parents: bool
    """Whether missing parents are made, as `os.makedirs` does and `os.mkdir` does not."""
    added: int = 0
    """How much longer the absolute path is."""
    root: Root | None = None
    """What the path is relative to, and must not lead out of; None for the working directory."""
    demands: Demands | None = None
    """What else is asked for; None for nothing."""

    def as_given(self, path: AnyPath) -> AnyPath:
        """``path``, one of `prefixes`, in the form in which the caller wrote it."""
        if self.demands is not None and self.is_elsewhere(path):
            return path
        return path[self.added :] if len(path) > self.added else path

    def is_elsewhere(self, path: AnyPath) -> bool:
        """Whether ``path`` is none of `prefixes`, but a template that is not near them."""
        return path[: self.added] != self.path[: self.added]

    def mode_of(self, path: AnyPath) -> int:
        """What to make ``path`` with, one of `prefixes`."""
        mode = self.mode if path is self.path else self.parent_mode
        return mode if self.demands is None else self.demands.closed(mode)

    def asked(self, path: AnyPath) -> tuple[int, bool]:
        """The mode that ``path`` is to have, as it was asked for; whether it is the leaf."""
        if path == self.path:
            return self.mode, True
        exact = self.demands is not None and self.demands.exact_mode
        leaf: AnyPath | None = self.path
        while exact and leaf is not None and is_dot(leaf):
            leaf = parent_of(leaf)
            if leaf == path:  # "new/." names "new"; without exact_mode it is as os.makedirs has it
                return self.mode, True
        return self.parent_mode, False

    def parent(self, path: AnyPath) -> AnyPath | None:
        """The directory to make before ``path``; None above what the caller named."""
        parent = parent_of(path)
        if self.root is not None and parent is not None and is_dot_dot(path):
            return None  # what is missing before a `..` is not made, as `..` would undo it
        # The working directory of a relative path is never made, also not when it has vanished.
        return parent if parent is not None and len(parent) > self.added else None

    def prefixes(self, mount: str) -> Iterator[AnyPath]:
        """The path and every directory above it, deepest first, but none above the root.

        Not ``mount`` either, the root directory of the path's mount, nor any above.
        """
        end = mount if isinstance(self.path, str) else os.fsencode(mount)
        top = 0 if self.root is None else len(self.root.text)
        path: AnyPath | None = self.path
        while path is not None and path != end and len(path) >= top:
            yield path
            path = parent_of(path)


def target(
    path: StrOrBytesPath,
    *,
    mode: int,
    parent_mode: int | None,
    exist_ok: bool,
    parents: bool,
) -> Target:
    """Check the arguments of a call, as `os.makedirs` would, before anything is made.

    Raises:
      TypeError: ``path`` is no path, or a mode is no integer.
      ValueError: ``path`` holds a NUL or cannot be encoded, or a mode is out of range.
      OSError: ``path`` is relative and the working directory is gone, or cannot be told.
    """
    given, is_full = checked(path)
    full = given if is_full else absolute(given, working_directory(given))
    return Target(
        given,
        full,
        mode if type(mode) is int and 0 <= mode <= _MODE_BITS else checked_mode("mode", mode),
        parent_mode_or_default(parent_mode),
        bool(exist_ok),
        parents,
        len(full) - len(given),
    )


def target_beneath(
    root: Root,
    path: StrOrBytesPath,
    *,
    mode: int,
    parent_mode: int | None,
    exist_ok: bool,
    parents: bool,
) -> Target:
    """The same for a path that is relative to ``root``; an OSError, too, if it is absolute."""
    given, full = beneath(root.text, path)
    asked = target(full, mode=mode, parent_mode=parent_mode, exist_ok=exist_ok, parents=parents)
    return attrs.evolve(asked, given=given, added=len(full) - len(given), root=root)


def beneath(root: AnyPath, path: StrOrBytesPath) -> tuple[AnyPath, AnyPath]:
    """``path`` as text, and the same from ``root`` on; raises as `target_beneath` does."""
    given, is_full = checked(path)
    if given and is_full:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), given)
    if given and not root:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), root)
    return given, absolute(given, root) if given else given


def checked(path: StrOrBytesPath) -> tuple[AnyPath, bool]:
    """``path`` as text, and whether it is a full one; raises as `target` does."""
    given = os.fspath(path)
    if isinstance(given, str):
        full, null = given.startswith("/"), "\0" in given
        if not given.isascii():
            os.fsencode(given)  # raises what any system call would raise, but before the first
    else:
        full, null = given.startswith(b"/"), b"\0" in given
    if null:
        raise ValueError(f"path must not hold a null byte, not {given!r}")
    # An empty path stays one: the kernel answers ENOENT, and it is not the working directory.
    return given, full or not given


def full_path(name: str, path: object) -> AnyPath:
    """The argument ``name``, a path, from the root on; raises as `target` does."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"{name} must be a path or None, not {path!r}")
    given: AnyPath = os.fspath(path)
    if not given or b"\0" in os.fsencode(given):
        raise ValueError(f"{name} must be a path without null bytes, not {given!r}")
    return given if os.path.isabs(given) else absolute(given, working_directory(given))


def working_directory(path: AnyPath) -> AnyPath:
    """The one that ``path`` is relative to."""
    try:
        here: AnyPath = os.getcwdb() if isinstance(path, bytes) else os.getcwd()
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    if not os.path.isabs(here):  # Linux: "(unreachable)/..." after a pivot_root or lazy umount
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return here


def absolute(path: AnyPath, here: AnyPath) -> AnyPath:
    """``path`` from the root on, if it is relative to ``here``."""
    # Not normalised: what `..` means depends on the symbolic links before it.
    return os.path.join(here, path)  # type: ignore[arg-type]  # both str, or both bytes


def parent_mode_or_default(parent_mode: int | None) -> int:
    """The mode of directories that are made on the way."""
    return _PARENT_MODE if parent_mode is None else checked_mode("parent_mode", parent_mode)


def checked_mode(name: str, value: object) -> int:
    """``value`` as a mode; a TypeError or ValueError that names the option if it is none."""
    try:
        mode = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if not 0 <= mode <= _FILE_TYPE | _MODE_BITS:
        raise ValueError(f"{name} must be from 0 to {_MODE_BITS:#o}, not {value!r}")
    return mode & _MODE_BITS  # so that a `st_mode` can be given, as to `os.mkdir`


def parent_of(path: AnyPath) -> AnyPath | None:
    """The directory that `os.makedirs` would make before ``path``; None where there is none."""
    if isinstance(path, str) and "//" not in path and path[-1:] != "/":  # by far the most
        cut = path.rfind("/")
        return path[:cut] if cut > 0 else "/" if not cut else None
    head, tail = os.path.split(path)
    if not tail:
        head, tail = os.path.split(head)
    return head if head and tail else None


def without_dots(path: AnyPath) -> AnyPath:
    """``path`` without the components that change nothing, empty ones and ``.``."""
    if isinstance(path, str):
        names = "/".join([name for name in path.split("/") if name not in {"", "."}])
        return f"/{names}" if path.startswith("/") else names
    parts = b"/".join([name for name in path.split(b"/") if name not in {b"", b"."}])
    return b"/" + parts if path.startswith(b"/") else parts


def without_slashes(path: AnyPath) -> AnyPath:
    """``path`` without those at its end, of which a link would be followed."""
    return path.rstrip("/") if isinstance(path, str) else path.rstrip(b"/")


def is_dot_dot(path: AnyPath) -> bool:
    """Whether ``path`` ends in ``..``, and so leads back."""
    name = os.path.basename(without_slashes(path))
    return name == ".." if isinstance(name, str) else name == b".."


def winds(path: AnyPath) -> bool:
    """Whether there is a ``..`` in ``path``."""
    if isinstance(path, str):
        return ".." in path and ".." in path.split("/")
    return b".." in path and b".." in path.split(b"/")


def is_dot(path: AnyPath) -> bool:
    """Whether ``path`` ends in ``.``, which names the directory before it."""
    dot, slash = (".", "/") if isinstance(path, str) else (b".", b"/")
    last = path[-1:]
    if last not in (dot, slash):
        return False  # by far the most
    head, tail = os.path.split(path)
    return (tail or os.path.basename(head)) == dot
