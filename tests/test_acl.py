"""POSIX ACLs as bytes, compared with what the kernel makes of them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from acls import setfacl

from trio_mkdir._acl import (
    ACCESS,
    DEFAULT,
    after_chmod,
    in_words,
    limited,
    mode_under,
    packed,
    says_more,
)

pytest_plugins = ["ownership_fixtures"]

NO_ID = 0xFFFFFFFF
PLAIN = packed([(1, 7, NO_ID), (4, 5, NO_ID), (32, 0, NO_ID)])
MORE = packed([(1, 7, NO_ID), (2, 7, 1001), (4, 5, NO_ID), (8, 6, 77), (16, 7, NO_ID), (32, 4, 0)])


def test_a_mode_says_all_or_not() -> None:
    assert not says_more(PLAIN)
    assert says_more(MORE)


def test_it_is_told_as_setfacl_takes_it() -> None:
    assert in_words(PLAIN) == "user::rwx,group::r-x,other::---"
    assert in_words(MORE) == (
        "user::rwx,user:1001:rwx,group::r-x,group:77:rw-,mask::rwx,other::r--"
    )
    assert in_words(packed([(64, 1, NO_ID)])) == "0x40::--x"  # of a kernel to come


def test_a_mode_limits_the_group_only_where_there_is_no_mask() -> None:
    assert in_words(limited(PLAIN, 0o710)) == "user::rwx,group::--x,other::---"
    assert in_words(limited(MORE, 0o710)) == (
        "user::rwx,user:1001:rwx,group::r-x,group:77:rw-,mask::--x,other::---"
    )
    assert (mode_under(PLAIN, 0o777), mode_under(MORE, 0o777)) == (0o750, 0o774)


def test_the_kernel_makes_the_same_of_an_acl_with_chmod(place: Path) -> None:
    for entries in (["u:1001:rwx", "g::rx", "m::rwx", "o::x"], ["g:77:rx"]):
        setfacl(place, *entries)
        acl = os.getxattr(place, ACCESS)
        for mode in (0o751, 0o000, 0o2777):
            place.chmod(mode)
            acl = after_chmod(acl, mode)
            assert os.getxattr(place, ACCESS) == acl


@pytest.mark.parametrize("value", [b"", b"\2\0\0\0\1", struct.pack("<I", 3)])
def test_what_is_no_acl_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a POSIX ACL"):
        says_more(value)


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o705, 0o000, 0o1711])
@pytest.mark.parametrize(
    "entries",
    [
        ["u::rwx", "g::rwx", "o::rx"],
        ["u::rx", "u:1001:rwx", "g::rwx", "o::-"],
        ["u::rwx", "g:1001:rwx", "g::r", "o::rx", "m::rx"],
    ],
)
def test_the_kernel_makes_the_same_of_a_default_acl(
    place: Path, entries: list[str], mode: int
) -> None:
    setfacl(place, *entries, default=True)
    acl = os.getxattr(place, DEFAULT)
    os.mkdir(place / "new", mode)
    assert (place / "new").stat().st_mode & 0o777 == mode_under(acl, mode)
    if says_more(acl):
        assert os.getxattr(place / "new", ACCESS) == limited(acl, mode)
