"""Where messages go, and what is done if they cannot."""

from __future__ import annotations

import sys

import pytest

from trio_mkdir._command import _voice


class TestVoice:
    def test_output_that_is_lost_is_told_at_the_end(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        voice = _voice.Voice("trio-mkdir")
        with open("/dev/full", "w", encoding="utf-8") as full:
            monkeypatch.setattr(sys, "stdout", full)
            voice.out("a\n")
            voice.out("b\n")
        assert voice.finish(0) == 1
        assert voice.finish(130) == 130
        message = "trio-mkdir: write error: No space left on device\n"
        assert capfd.readouterr().err == 2 * message

    def test_output_that_was_closed_is_lost_but_nothing_else_is(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        voice = _voice.Voice("trio-mkdir")
        monkeypatch.setattr(sys, "stdout", None)
        voice.out("a\n")
        assert voice.finish(0) == 1
        assert capfd.readouterr().err == "trio-mkdir: write error: Bad file descriptor\n"
        monkeypatch.setattr(sys, "stderr", None)
        voice.err("a\n")
