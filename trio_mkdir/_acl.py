"""POSIX ACLs as their extended attributes hold them, acl(5): nothing here touches a filesystem.

A mode says the same as the entries of an ACL that are for the owner, for the mask (or the group,
where there is none) and for everybody else. What an ACL has beyond these, entries for single users
and groups, counts only as far as the mask lets it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ACCESS: Final = "system.posix_acl_access"
"""Who may do what with a directory."""
DEFAULT: Final = "system.posix_acl_default"
"""What is made in it gets this one, instead of what the umask leaves."""

_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")  # tag, permissions, number
_VERSION: Final = 2

_OWNER: Final = 0x01
_USER: Final = 0x02
_GROUP: Final = 0x04
_NAMED_GROUP: Final = 0x08
_MASK: Final = 0x10
_OTHER: Final = 0x20
_NAMES: Final = {
    _OWNER: "user",
    _USER: "user",
    _GROUP: "group",
    _NAMED_GROUP: "group",
    _MASK: "mask",
    _OTHER: "other",
}


def _entries(acl: bytes) -> list[tuple[int, int, int]]:
    if len(acl) < _HEADER.size or _HEADER.unpack_from(acl)[0] != _VERSION:
        raise ValueError(f"not a POSIX ACL: {acl!r}")
    try:
        return list(_ENTRY.iter_unpack(acl[_HEADER.size :]))
    except struct.error:
        raise ValueError(f"not a POSIX ACL: {acl!r}") from None


def packed(entries: Iterable[tuple[int, int, int]]) -> bytes:
    """The extended attribute of these tags, permissions and numbers."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _with_mode(acl: bytes, mode: int) -> Iterator[tuple[int, int, int, int]]:
    """Its entries, each with what ``mode`` has for it, or would have."""
    entries = _entries(acl)
    middle = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP
    shifts = {_OWNER: 6, middle: 3, _OTHER: 0}
    for tag, permissions, number in entries:
        yield tag, permissions, number, mode >> shifts[tag] & 7 if tag in shifts else permissions


def limited(acl: bytes, mode: int) -> bytes:
    """``acl`` with no more for the owner, the mask and everybody else than ``mode`` has.

    What mkdir(2) makes of a default ACL.
    """
    return packed((tag, may & limit, number) for tag, may, number, limit in _with_mode(acl, mode))


def after_chmod(acl: bytes, mode: int) -> bytes:
    """What chmod(2) with ``mode`` makes of ``acl``."""
    return packed((tag, given, number) for tag, _, number, given in _with_mode(acl, mode))


def mode_under(acl: bytes, mode: int) -> int:
    """The nine bits that mkdir(2) with ``mode`` gives to a directory that inherits ``acl``."""
    found = {tag: may & limit for tag, may, _, limit in _with_mode(acl, mode)}
    middle = found.get(_MASK, found.get(_GROUP, 0))
    return found.get(_OWNER, 0) << 6 | middle << 3 | found.get(_OTHER, 0)


def says_more(acl: bytes) -> bool:
    """Whether ``acl`` has more than a mode can say."""
    return any(tag not in {_OWNER, _GROUP, _OTHER} for tag, _, _ in _entries(acl))


def in_words(acl: bytes) -> str:
    """``acl`` as setfacl(1) takes it, with numbers for names."""
    words: list[str] = []
    for tag, permissions, number in _entries(acl):
        who = str(number) if tag in {_USER, _NAMED_GROUP} else ""
        may = "".join(
            letter if permissions & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1))
        )
        words.append(f"{_NAMES.get(tag, hex(tag))}:{who}:{may}")
    return ",".join(words)
