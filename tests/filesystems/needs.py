"""What a test needs from the machine, and what happens where it is missing.

A fault that only the kernel can make needs root, programs and devices. A contributor's laptop may
lack them, so the test is skipped there and says what is missing. A CI job that is meant to have all
of them sets ``TRIO_MKDIR_REQUIRE_FAULTS``: then the same lack is a failure, for a suite that
silently skips proves nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRE_FAULTS = "TRIO_MKDIR_REQUIRE_FAULTS"

#: The bit of ``CapEff`` that mount(2) asks for. Root in a container often does not have it.
_CAP_SYS_ADMIN = 21

#: Where mkfs and its like live. A user's ``PATH`` often lacks both.
_SYSTEM_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where faults are required."""
    if os.environ.get(REQUIRE_FAULTS):
        pytest.fail(f"{reason} (and {REQUIRE_FAULTS} is set)", pytrace=False)
    pytest.skip(reason)


def needs_linux() -> None:
    """Need Linux: every fault here is asked of its kernel."""
    if sys.platform != "linux":
        unavailable(f"needs Linux, this is {sys.platform}")


def needs_root() -> None:
    """Need root that may mount, which root in a container often may not."""
    needs_linux()
    if os.geteuid() != 0:
        unavailable("needs root")
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff" and not int(value, 16) >> _CAP_SYS_ADMIN & 1:
            unavailable("needs CAP_SYS_ADMIN, root without it cannot mount")


def needs_program(name: str) -> str:
    """Need a program, and return where it is."""
    places = [os.environ.get("PATH", os.defpath), *_SYSTEM_PROGRAMS]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        unavailable(f"needs the program {name}")
    return found


def needs_device(path: str) -> None:
    """Need a device node that can be opened, such as ``/dev/fuse``."""
    if not os.access(path, os.R_OK | os.W_OK):
        unavailable(f"needs the device {path}")


def needs_module(name: str) -> None:
    """Need a Python module, without paying for its import."""
    if importlib.util.find_spec(name) is None:
        unavailable(f"needs the Python module {name}")


def needs_reachable(path: Path) -> None:
    """Need a path that every user may reach: one directory of mode 0700 above it hides it."""
    resolved = path.resolve()
    for place in (resolved, *resolved.parents):
        if not place.stat().st_mode & 0o001:
            unavailable(f"needs {path} to be reachable by other users, {place} is closed to them")
