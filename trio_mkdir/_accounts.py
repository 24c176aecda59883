"""What the process knows of users, groups and its own umask.

The names are asked of whatever the system's name service switch is set to, which may be a server
that does not answer.
"""

from __future__ import annotations

from typing import Final

STATUS: Final = "/proc/self/status"


def uid_of(name: str) -> int:
    """The number of a user; KeyError if there is none of that name."""
    import pwd  # noqa: PLC0415 - not everywhere

    return pwd.getpwnam(name).pw_uid


def gid_of(name: str) -> int:
    """The number of a group; KeyError if there is none of that name."""
    import grp  # noqa: PLC0415 - not everywhere

    return grp.getgrnam(name).gr_gid


def process_umask(status: str = STATUS) -> int:
    """What the process takes from all modes, from /proc: umask(2) cannot but set another.

    Raises NotImplementedError where the kernel does not tell it otherwise.
    """
    try:
        with open(status, "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise NotImplementedError(f"the umask is in {status}: {error.strerror}") from None
    for line in lines:
        if line.startswith(b"Umask:"):
            return int(line.split()[1], 8)
    raise NotImplementedError(f"{status} does not tell the umask")
