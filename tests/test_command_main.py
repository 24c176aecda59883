"""From the arguments to the status."""

from __future__ import annotations

import os
import runpy
import stat
import sys
from pathlib import Path

import pytest
from command import Here

import trio_mkdir
from trio_mkdir._command import _front, _main

pytest_plugins = ["command_fixtures"]


def test_main_makes_what_it_is_asked_for_under_the_umask_that_serves_all(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.umask(0o777)
    monkeypatch.setattr(sys, "argv", ["trio-mkdir", "-Z", "-p", "a/b"])
    monkeypatch.setattr(_front, "in_child", lambda job, _: job(here.front) or 0)
    assert _main.main() == 0
    assert here.front.answers == [(0, False)]
    assert stat.S_IMODE(os.stat("a").st_mode) == 0o300
    assert stat.S_IMODE(os.lstat("a/b").st_mode) == 0
    os.chmod("a", 0o700)


def test_main_leaves_a_umask_alone_that_serves_all(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-mkdir", "a"])
    monkeypatch.setattr(_front, "in_child", lambda job, _: job(here.front) or 0)
    assert _main.main() == 0
    assert os.umask(0o022) == 0o022
    assert stat.S_IMODE(os.stat("a").st_mode) == 0o755


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--timeout", value) for value in ("-1", "nan", "x", "", "1 s")),
        *(("--step-timeout", value) for value in ("0", "-1", "nan", "x")),
        *(("--retries", value) for value in ("-1", "1.5", "x", "inf")),
    ],
)
def test_bad_value_is_named_with_its_option_and_nothing_is_made(
    here: Here,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    option: str,
    value: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-mkdir", "a", option, value])
    assert _main.main() == 1
    assert capfd.readouterr().err.startswith(f"trio-mkdir: invalid {option} '{value}': not a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("called", ["/usr/bin/trio-mkdir", "mk", "/lib/trio_mkdir/__main__.py"])
def test_program_has_the_name_that_it_was_called_by(
    called: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "mk" if called == "mk" else "trio-mkdir"
    monkeypatch.setattr(sys, "argv", [called, "--help"])
    assert _main.main() == 0
    assert capfd.readouterr().out.startswith(f"usage: {name} [OPTION]... DIRECTORY...")


def test_version_is_that_of_the_library(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-mkdir", "--version", "--bogus"])
    assert _main.main() == 0
    assert capfd.readouterr().out == f"trio-mkdir {trio_mkdir.__version__}\n"


def test_contexts_are_refused_where_they_would_mean_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_main, "LABELLING", [str(tmp_path)])
    monkeypatch.setattr(sys, "argv", ["trio-mkdir", "-Z", "a"])
    assert _main.main() == 1
    assert "not supported" in capfd.readouterr().err


def test_command_is_a_module_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--version"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("trio_mkdir", run_name="__main__")
    assert capfd.readouterr().out.startswith("trio-mkdir ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "missing operand"),
        (["-0", "a"], "--null goes with --from only"),
        (["--from", "list", "a"], "extra operand 'a': --from names all directories"),
        (["--sweep", "d", "a"], "extra operand 'a': --sweep makes nothing"),
        (["--sweep", "d", "-m", "700"], "--mode cannot be combined with --sweep"),
        (["--sweep", "d", "--beneath", "d"], "--beneath cannot be combined with --sweep"),
        (["--sweep", "d", "--from", "list"], "--from cannot be combined with --sweep"),
        (["--sweep", "d", "--atomic"], "--atomic cannot be combined with --sweep"),
        (["--sweep", "d", "--json"], "--json cannot be combined with --sweep"),
    ],
)
def test_what_does_not_go_together_is_refused(
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-mkdir", *arguments])
    assert _main.main() == 1
    assert capfd.readouterr().err.splitlines()[0] == f"trio-mkdir: {said}"


def test_names_from_a_file_are_made_with_their_parents(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text("a/b\nc\n")
    monkeypatch.setattr(sys, "argv", ["trio-mkdir", "--from", "list"])
    monkeypatch.setattr(_front, "in_child", lambda job, _: job(here.front) or 0)
    assert _main.main() == 0
    assert (tmp_path / "a/b").is_dir()
