"""Directories to make paths in; what takes more than a directory is in `_places`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from trio_mkdir._registry import registry


class Unavailable(Exception):
    """This machine cannot do what a scenario needs."""


@attrs.frozen
class Place:
    """A filesystem to make directories on."""

    name: str
    path: Path | None
    """None if there is none."""
    why: str = ""
    """Why there is none."""


@contextmanager
def workshop() -> Iterator[Path]:
    """A directory for images and mount points, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="trio-mkdir-") as directory:
        yield Path(directory).resolve()


@contextmanager
def scratch(directory: Path | str) -> Iterator[str]:
    """A new directory in ``directory``, gone afterwards with all that is in it."""
    root = tempfile.mkdtemp(prefix="trio-mkdir-", dir=directory)
    try:
        yield root
    finally:
        shutil.rmtree(root)


def filesystem_type(path: Path) -> str:
    """The type of filesystem that ``path`` is on, by the mount table."""
    return registry.operating_system.mount(str(path.resolve())).type
