"""What a call is asked for beside the directories themselves."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Ownership:
    """Whose the new directories are, and who may do what with them."""

    exact_mode: bool = False
    """Whether the leaf gets its mode whatever the umask."""
    owner: int | str | None = None
    group: int | str | None = None
    like: str | bytes | None = None
    """A template, absolute."""

    def closed(self, mode: int) -> int:
        """What to make a directory with that is to have ``mode``: nobody else gets in."""
        # That of a template is not known yet.
        return 0o700 if self.like is not None else mode & 0o700


@attrs.frozen(kw_only=True)
class Demands:
    """At least one of these is asked for."""

    atomic: bool = False
    durable: bool = False
    ownership: Ownership | None = None
    on_mount: str | bytes | None = None
    """A mount point, absolute."""

    @property
    def elaborate(self) -> bool:
        """Whether anything is to be done to what was made."""
        return self.atomic or self.durable or self.ownership is not None

    @property
    def exact_mode(self) -> bool:
        """Whether the leaf gets its mode whatever the umask."""
        return self.ownership is not None and self.ownership.exact_mode

    def closed(self, mode: int) -> int:
        """What to make a directory with that is to have ``mode``."""
        return mode if self.ownership is None else self.ownership.closed(mode)
