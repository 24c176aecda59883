"""Fixtures for the tests of the command; ``pytest_plugins`` names this module in each of them."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Front, Here, Twins, furnish

from trio_mkdir._command import _front

NOBODY = 65534


@pytest.fixture
def twins(tmp_path: Path) -> Twins:
    return Twins(tmp_path)


@pytest.fixture
def _process() -> Iterator[None]:
    """The process as it was: the command changes its own."""
    umask = os.umask(0o022)
    before = {
        number: signal.getsignal(number) for number in (*_front.ENDING_SIGNALS, signal.SIGCHLD)
    }
    yield
    os.umask(umask)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    _process: None,
) -> Iterator[Here]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", "C")
    furnish(tmp_path)
    front = Front()
    yield Here(front, capfd)
    front.close()


@pytest.fixture
def _nobody(here: Here) -> Iterator[None]:
    """In an empty directory of a user to whom something can be forbidden, which root is not."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        if user == 0:
            os.chown(directory, NOBODY, -1)
            os.seteuid(NOBODY)
        yield
        os.seteuid(user)
