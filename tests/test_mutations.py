"""The test of the tests can still put its bugs back; whether they are noticed takes it an hour."""

from __future__ import annotations

from pathlib import Path

import mutations
import pytest

import trio_mkdir

ROOT = Path(trio_mkdir.__file__).parent  # the installed package, when that is what is tested


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_line_to_be_changed_is_there(mutation: mutations.Mutation) -> None:
    text = (ROOT / mutation.module).read_text(encoding="utf-8")
    assert text.count(mutation.good) == mutation.times
