"""Why a directory could not be made: the errno table that every decision starts from."""

from __future__ import annotations

import enum
import errno
from typing import Final


class RootCause(enum.Enum):
    """The reason behind an ``errno``, in terms of what can be done about it.

    `Policy.retries` maps causes to a `BackoffPolicy`; a cause without one is final.
    """

    BUSY = "busy"
    """EAGAIN, EINTR, EBUSY, ENOLCK: somebody else is in the middle of something."""
    NO_SPACE = "no space"
    """ENOSPC: no blocks or no inodes are left."""
    NO_QUOTA = "no quota"
    """EDQUOT: the user's, group's or project's share is used up."""
    TIMED_OUT = "timed out"
    """ETIMEDOUT from the kernel, or a step that has not answered within ``step_timeout``."""
    NO_RESOURCES = "no resources"
    """EMFILE, ENFILE, ENOMEM, ENOBUFS, or no new thread could be started."""
    STALE = "stale"
    """ESTALE: a network handle points at something that was replaced on the server."""
    VANISHED = "vanished"
    """ENOENT below a directory that this call has seen or made."""
    MISSING = "missing"
    """ENOENT where nothing was seen: `mkdir` without a parent, an empty path, a dead end."""
    NOT_PERMITTED = "not permitted"
    """EACCES, EPERM."""
    READ_ONLY = "read-only"
    """EROFS."""
    DISCONNECTED = "disconnected"
    """ENOTCONN, ECONNABORTED, EIO, ...: the filesystem lost its storage, or its mount is gone."""
    IN_THE_WAY = "in the way"
    """EEXIST, ENOTDIR, EISDIR: something else has the name."""
    BAD_NAME = "bad name"
    """ENAMETOOLONG, EINVAL, EILSEQ: this filesystem cannot hold that name."""
    TOO_MANY_LINKS = "too many links"
    """EMLINK: the parent can hold no more subdirectories."""
    LOOP = "loop"
    """ELOOP: too many symbolic links."""
    ESCAPES = "escapes"
    """EXDEV: the path leaves the place it must stay in."""
    OTHER = "other"
    """Any errno that is in none of the rows above."""


def _numbers(*names: str) -> list[int]:
    # Not every platform has every errno (EDQUOT, EHOSTDOWN, ...).
    return [getattr(errno, name) for name in names if hasattr(errno, name)]


_ROWS: Final = {
    RootCause.BUSY: _numbers("EAGAIN", "EWOULDBLOCK", "EINTR", "EBUSY", "ENOLCK"),
    RootCause.NO_SPACE: _numbers("ENOSPC"),
    RootCause.NO_QUOTA: _numbers("EDQUOT"),
    RootCause.TIMED_OUT: _numbers("ETIMEDOUT"),
    RootCause.NO_RESOURCES: _numbers("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"),
    RootCause.STALE: _numbers("ESTALE"),
    RootCause.MISSING: _numbers("ENOENT"),
    RootCause.NOT_PERMITTED: _numbers("EACCES", "EPERM"),
    RootCause.READ_ONLY: _numbers("EROFS"),
    RootCause.DISCONNECTED: _numbers(
        *("ENOTCONN", "ECONNABORTED", "ECONNRESET", "ECONNREFUSED", "EIO", "ENXIO", "ENODEV"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "EPIPE"),
        *("ESHUTDOWN", "EREMOTEIO", "ENOMEDIUM", "EUCLEAN"),
    ),
    RootCause.IN_THE_WAY: _numbers("EEXIST", "ENOTDIR", "EISDIR"),
    RootCause.BAD_NAME: _numbers("ENAMETOOLONG", "EINVAL", "EILSEQ"),
    RootCause.TOO_MANY_LINKS: _numbers("EMLINK"),
    RootCause.LOOP: _numbers("ELOOP"),
    RootCause.ESCAPES: _numbers("EXDEV"),
}
_CAUSES: Final = {number: cause for cause, numbers in _ROWS.items() for number in numbers}

PASSING: Final = frozenset(
    {RootCause.BUSY, RootCause.TIMED_OUT, RootCause.NO_RESOURCES, RootCause.STALE}
)
"""Causes that say nothing about what stands at a path that is looked at."""

AMBIGUOUS: Final = frozenset(
    number
    for cause in (RootCause.BUSY, RootCause.TIMED_OUT, RootCause.STALE, RootCause.DISCONNECTED)
    for number in _ROWS[cause]
) | {errno.EISDIR, errno.ENOMEM}
"""Answers after which the directory may stand all the same.

A reply can be lost after the server did the work (EINTR, ETIMEDOUT, EIO, ...), a FUSE client can
run out of memory on the way back, and one NFSv4 client answers EISDIR for a mkdir that succeeded.
"""


def root_cause(number: int | None) -> RootCause:
    """The root cause of ``number``; ENOENT is `RootCause.MISSING` as long as nothing was seen."""
    return _CAUSES.get(number, RootCause.OTHER) if number is not None else RootCause.OTHER
