"""How options are read."""

from __future__ import annotations

import pytest

from trio_mkdir._command import _options


def test_options_are_read_wherever_they_stand_and_however_they_are_written() -> None:
    options = _options.parse(["a", "-Zpm700", "b", "--verb", "--con=x", "--time", "3", "--", "-v"])
    assert options.operands == ["a", "b", "-v"]
    assert (options.parents, options.verbose, options.json) == (True, True, False)
    assert (options.mode, options.timeout, options.contexts) == ("700", 3.0, [None, "x"])


def test_options_end_at_the_first_operand_where_posix_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _options.parse(["-v", "a", "-p"]).operands == ["a"]
    monkeypatch.setenv("POSIXLY_CORRECT", "1")
    options = _options.parse(["-v", "a", "-p", "--", "b"])
    assert options.operands == ["a", "-p", "--", "b"]
    assert options.verbose
    assert not options.parents
