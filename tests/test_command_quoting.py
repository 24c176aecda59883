"""File names in messages."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from trio_mkdir._command import _quoting


@pytest.mark.parametrize(
    ("name", "for_shell", "for_people"),
    [
        ("a b", "'a b'", "'a b'"),
        ("it's", '"it\'s"', r"'it\'s'"),
        ("it's $a", r"'it'\''s $a'", r"'it\'s $a'"),
        ("\n\t", r"''$'\n\t'", r"'\n\t'"),
        ("\n1", r"''$'\n''1'", r"'\n1'"),
        ("\udcff'", r"''$'\377'\'''", r"'\377\''"),
        ("#~'", '''"#~'"''', r"'#~\''"),
        ("a#'", r"'a#'\'''", r"'a#\''"),
    ],
)
def test_names_are_quoted(name: str, for_shell: str, for_people: str) -> None:
    assert _quoting.quote_for_shell(name) == for_shell
    assert _quoting.quote(name) == for_people


@pytest.mark.parametrize("name", ["a'b", "a\nb'\\", "\x01'1", "$(x)`'", "", "\udcff\udcfe'\t"])
def test_shell_reads_the_name_that_was_quoted(name: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not here")
    script = f"printf %s {_quoting.quote_for_shell(name)}"
    assert subprocess.check_output([bash, "-c", script]) == os.fsencode(name)  # noqa: S603


@pytest.mark.parametrize(
    ("locale", "quoted"),
    [("C", r"'\303\274'"), ("de_DE.UTF-8", "'ü'"), ("C.utf8", "'ü'"), ("", r"'\303\274'")],
)
def test_letters_that_the_locale_knows_are_themselves(
    monkeypatch: pytest.MonkeyPatch, locale: str, quoted: str
) -> None:
    for name in ("LC_ALL", "LC_CTYPE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("LANG", locale)
    assert _quoting.quote("ü") == quoted
