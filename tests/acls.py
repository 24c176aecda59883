"""Owner, mode and ACLs of a directory in tests: set by the system's programs, read at once."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import attrs
from filesystems.needs import needs_program

ACLS = ("system.posix_acl_access", "system.posix_acl_default")


@attrs.frozen
class Whole:
    """All that this is about, of one directory."""

    mode: int
    uid: int
    gid: int
    attributes: dict[str, bytes]

    @classmethod
    def of(cls, path: str | Path) -> Whole:
        status = os.lstat(path)
        names = (name for name in os.listxattr(path) if not name.startswith("trusted."))
        attributes = {name: os.getxattr(path, name) for name in names}
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, attributes)


def setfacl(path: str | Path, *entries: str, default: bool = False) -> None:
    """Add entries to an ACL."""
    needs_program("setfacl")
    options = ["-d"] if default else []
    command = [shutil.which("setfacl") or "setfacl", *options, "-m", ",".join(entries), str(path)]
    subprocess.run(command, check=True)  # noqa: S603 - the tests' own words
