"""Owner, group, mode and extended attributes of one open directory: read, changed, put back.

Programs, as in `_walk`, that raise OSError as the system calls do; what was being done is in a
`Refused`.

A change first takes away whatever is not to stay, then changes the owner and the attributes, and
gives what is to be added last. So at no moment has anybody more access than before or after it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

import attrs

from ._acl import ACCESS, DEFAULT, limited

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from ._entries import Identity
    from ._handshake import Operation
    from ._os import Directory, Opening
    from ._paths import AnyPath

    Told = Generator[Operation, None, list[tuple[str, int]]]

_SPECIAL: Final = 0o6000
_ACLS: Final = {DEFAULT, ACCESS}
_FOR_THE_SYSTEM: Final = ("security.", "trusted.")
"""What not everybody may set, and no user has put there for its own sake."""
_ITS_OWN: Final = ("trusted.SGI_ACL_", "trusted.overlay.")
"""Under these xfs has the ACLs once more, and overlayfs what it knows of its layers."""
_NONE: Final = {errno.ENODATA, errno.ENOTSUP}
_MAY_NOT: Final = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL}


@attrs.frozen
class Metadata:
    """What a directory has, or is to have, as far as it matters."""

    uid: int = -1
    """-1 leaves it as it is, here and below."""
    gid: int = -1
    mode: int = -1
    attributes: Mapping[str, bytes | None] = attrs.field(factory=dict[str, "bytes | None"])
    """Extended attributes by name, None for one that is not there; ACLs are such ones, too."""


class Refused(OSError):
    """A system call's answer to a change."""

    operation: str = ""
    """What was to be done,"""
    doing: str = ""
    """and how."""


def refused(error: OSError, operation: str, details: str = "") -> Refused:
    """``error``, and what was to be done."""
    number = error.errno or errno.EIO
    refusal = Refused(number, os.strerror(number), error.filename)
    refusal.operation = operation
    refusal.doing = f"{operation} {details}".rstrip()
    return refusal


def opened(filesystem: Opening, path: AnyPath) -> Generator[Operation, None, Directory]:
    """The directory at ``path``, or where a symbolic link there leads; to be closed."""
    yield "open", path
    try:
        return filesystem.open(path)
    except NotADirectoryError:
        there = within(path)
    yield "open", there
    return filesystem.open(there)


def within(path: AnyPath) -> AnyPath:
    """``path`` so that a symbolic link at its end is followed."""
    return os.path.join(path, "." if isinstance(path, str) else b".")  # type: ignore[arg-type]


def identity_of(status: os.stat_result) -> Identity:
    """Device and inode."""
    return status.st_dev, status.st_ino


def read(
    directory: Directory, path: AnyPath, names: Iterable[str]
) -> Generator[Operation, None, tuple[Identity, Metadata]]:
    """Which one ``directory`` is, and what it has; of its attributes those of these ``names``."""
    yield "fstat", path
    status = directory.stat()
    attributes: dict[str, bytes | None] = {}
    for name in names:
        attributes[name] = yield from attribute(directory, path, name)
    mode = stat.S_IMODE(status.st_mode)
    return identity_of(status), Metadata(status.st_uid, status.st_gid, mode, attributes)


def attribute(
    directory: Directory, path: AnyPath, name: str
) -> Generator[Operation, None, bytes | None]:
    """One of its extended attributes; None if it has none of that name."""
    yield "getxattr", path
    try:
        return directory.getxattr(name)
    except OSError as error:
        if error.errno in _NONE:
            return None
        raise refused(error, "getxattr", name) from None


def template(directory: Directory, path: AnyPath) -> Generator[Operation, None, Metadata]:
    """All that another directory can get from this one."""
    yield "listxattr", path
    try:
        listed = directory.listxattr()
    except OSError as error:
        if error.errno not in _NONE:
            raise refused(error, "listxattr") from None
        listed = []
    others = sorted({*listed} - _ACLS)
    wanted = [name for name in others if not name.startswith(_ITS_OWN)]
    _, found = yield from read(directory, path, [*wanted, DEFAULT, ACCESS])
    # One that has gone meanwhile is none that anything has to go for.
    there = {n: v for n, v in found.attributes.items() if v is not None or n in _ACLS}
    return attrs.evolve(found, attributes=there)


def change(
    directory: Directory,
    path: AnyPath,
    found: Metadata,
    wanted: Metadata,
    *,
    shared: bool = True,
) -> Told:
    """Make it from ``found`` to ``wanted``.

    Gives the names of the attributes that may not be set here, each with the errno: only of those
    that are the system's. Any other refusal is an error, and so is a system call that has done
    something else than it was asked for. Unless ``shared``, nobody else can have changed it
    meanwhile.
    """
    mode = found.mode if wanted.mode == -1 else wanted.mode
    uid = found.uid if wanted.uid == -1 else wanted.uid
    gid = found.gid if wanted.gid == -1 else wanted.gid
    moves = (uid, gid) != (found.uid, found.gid)
    pending = {
        name: value
        for name, value in wanted.attributes.items()
        if value != found.attributes.get(name)
    }
    now = found.mode
    if (moves or pending) and now & ~mode:
        now &= mode
        yield from _chmod(directory, path, now)
    if moves:
        yield "chown", path
        try:
            directory.chown(
                -1 if uid == found.uid else uid,  # or it would not be permitted where nothing is
                -1 if gid == found.gid else gid,
            )
        except OSError as error:
            raise refused(error, "chown", f"from {found.uid}:{found.gid} to {uid}:{gid}") from None
    left = yield from _set(directory, path, pending, now)
    if now != mode or ACCESS in pending:
        yield from _chmod(directory, path, mode)
    if moves or pending or now != found.mode or now != mode:
        yield from _check(directory, path, found, Metadata(uid, gid, mode), shared=shared)
    return left


def _set(
    directory: Directory, path: AnyPath, pending: Mapping[str, bytes | None], mode: int
) -> Told:
    left: list[tuple[str, int]] = []
    for name in sorted(pending, key=lambda name: (name == ACCESS, name)):
        value = pending[name]
        try:
            if value is None:
                yield "removexattr", path
                directory.removexattr(name)
            else:
                yield "setxattr", path
                # It changes the mode too, and must not give more than that has for now.
                directory.setxattr(name, limited(value, mode) if name == ACCESS else value)
        except OSError as error:
            if value is None and error.errno in _NONE:
                continue  # it is not there
            if not name.startswith(_FOR_THE_SYSTEM) or error.errno not in _MAY_NOT:
                what = "removexattr" if value is None else "setxattr"
                raise refused(error, what, name) from None
            left.append((name, error.errno))
    return left


def _chmod(directory: Directory, path: AnyPath, mode: int) -> Generator[Operation, None, None]:
    yield "chmod", path
    try:
        directory.chmod(mode)
    except OSError as error:
        raise refused(error, "chmod", f"to {mode:#06o}") from None


def _check(
    directory: Directory, path: AnyPath, before: Metadata, wanted: Metadata, *, shared: bool
) -> Generator[Operation, None, None]:
    """The kernel drops a set-group-ID bit in silence; a server may do less than it says."""
    _, found = yield from read(directory, path, ())
    seen = _without_attributes(found)
    different = found.mode ^ wanted.mode
    dropped = different and not different & ~_SPECIAL
    others = shared and not dropped and seen != _without_attributes(before)
    if seen == _without_attributes(wanted) or others:
        return
    details = (
        f"did something else: it is {found.mode:#06o} {found.uid}:{found.gid} after a change to"
        f" {wanted.mode:#06o} {wanted.uid}:{wanted.gid}"
    )
    if (found.mode ^ wanted.mode) & stat.S_ISGID:
        details += "; the set-group-ID bit is only kept for who is in the group, chmod(2)"
    raise refused(OSError(errno.EPERM, os.strerror(errno.EPERM)), "chmod", details)


def _without_attributes(metadata: Metadata) -> tuple[int, int, int]:
    return metadata.uid, metadata.gid, metadata.mode


def restore(
    filesystem: Opening, path: AnyPath, identity: Identity | None, before: Metadata
) -> Generator[Operation, None, bool]:
    """Make it what it was ``before``; False if something else stands there by now."""
    directory = yield from opened(filesystem, path)
    try:
        now, found = yield from read(directory, path, before.attributes)
        if now != identity:
            return False
        yield from change(directory, path, found, before)
    finally:
        directory.close()
    return True
