"""What README and docs/ say is so: code runs, files and tests that they name exist."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import trio_mkdir
from trio_mkdir import Policy, RootCause

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
PACKAGE = Path(trio_mkdir.__file__).parent  # the installed one, when that is what is tested
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])

PROGRAM = ".venv/bin/trio-mkdir"


def blocks(language: str) -> list[str]:
    """The fenced blocks of README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def marked_line(name: str) -> str:
    """The line to type that README marks with ``name``, found as CI finds it."""
    (line,) = re.findall(rf"^<!-- line: {name} -->\n```sh\n(.*)\n```$", README, re.MULTILINE)
    return str(line)


def run(*command: str, directory: Path) -> str:
    """Run a command to its good end, without a word on standard error."""
    done = subprocess.run(  # noqa: S603 - README's own commands
        command, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# What it tells to type


@pytest.mark.parametrize("name", ["make", "test"])
def test_a_line_to_type_needs_no_pip_of_the_system(name: str) -> None:
    first, install, *_ = marked_line(name).split(" && ")
    assert first == "python3 -m venv .venv"
    assert install.startswith(".venv/bin/pip install ")


def test_the_line_that_makes_a_tree_makes_it(tmp_path: Path) -> None:
    command = marked_line("make").rpartition(" && ")[2]
    program, *arguments = shlex.split(command)
    assert program == PROGRAM
    output = run(sys.executable, "-m", "trio_mkdir", *arguments, directory=tmp_path)
    tree = arguments[-1]
    assert (tmp_path / tree).is_dir()
    assert output.splitlines()[-1].endswith(f"created directory '{tree}'")


def test_the_line_that_passes_the_tests_names_a_session() -> None:
    *nox, session = shlex.split(marked_line("test").rpartition(" && ")[2])
    assert nox == [".venv/bin/nox", "-s"]
    sessions = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body
    assert session in [node.name for node in sessions if isinstance(node, ast.FunctionDef)]


def test_options_of_the_command_are_its_own(tmp_path: Path) -> None:
    section = README.partition("## The command")[2].partition("## ")[0]
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", section))
    assert {"-p", "--timeout", "--json"} <= named
    told = run(sys.executable, "-m", "trio_mkdir", "--help", directory=tmp_path)
    assert named <= set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", told))


# What it shows


@pytest.mark.parametrize("program", blocks("python"))
def test_a_program_in_readme_runs_as_written(program: str, tmp_path: Path) -> None:
    output = run(sys.executable, "-c", program, directory=tmp_path)
    assert output == "made: uploads uploads/2024 uploads/2024/06\n"
    assert (tmp_path / "uploads/2024/06").is_dir()


def test_the_program_in_readme_leaves_nothing_when_it_is_too_late(tmp_path: Path) -> None:
    (program,) = blocks("python")
    late = program.replace("move_on_after(2)", "move_on_after(0)")
    assert late != program
    output = run(sys.executable, "-c", late, directory=tmp_path)
    assert output.rstrip() == "not in time, still owed:"
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_retries_is_the_default_policy() -> None:
    section = README.partition("## What is tried again")[2].partition("## ")[0]
    told: dict[RootCause, str] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`([A-Z_]+)`", cells[0]) if line.startswith("|") else []
        told.update(dict.fromkeys((RootCause[name] for name in names), cells[-1]))
    assert set(told) == set(RootCause)
    retries = Policy().retries
    assert {cause for cause, when in told.items() if when != "never"} == set(retries)
    for cause, backoff in retries.items():
        if backoff.initial == 0:
            assert f"at once, up to {backoff.max_retries:.0f} times" in told[cause]
            continue
        assert backoff.max_retries == 3
        delays = [
            min(backoff.initial * backoff.multiplier**retry, backoff.maximum) for retry in range(3)
        ]
        assert ", ".join(f"{delay * 1000:g}" for delay in delays) + " ms" in told[cause]
        assert ("at random" in told[cause]) == (backoff.jitter == "full")


# What they point at


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get where such pages are shown."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue  # to another site
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if file.is_relative_to(ROOT / PACKAGE.name):
            file = PACKAGE / file.relative_to(ROOT / PACKAGE.name)
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@cache
def names_in(file: Path) -> frozenset[str]:
    """The names of the tests in a file, those in classes as ``Class::test``."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        names |= {
            prefix + member.name
            for member in members
            if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
    return frozenset(names)


def named_tests() -> list[str]:
    """Every test that the guarantees name."""
    return re.findall(r"`(tests/[^`]*)`", GUARANTEES)


def test_every_test_that_proves_a_promise_exists() -> None:
    missing = []
    for name in named_tests():
        file, _, test = name.partition("::")
        path = ROOT / file
        if not path.is_file() or (test and test not in names_in(path)):
            missing.append(name)
    assert missing == []


def test_each_promise_names_its_tests() -> None:
    _, *promises = re.split(
        r"^## (?=\d+\. )", GUARANTEES.partition("## What is not")[0], flags=re.MULTILINE
    )
    assert len(promises) > 12
    numbers = [str(number) for number, _ in enumerate(promises, 1)]
    assert [promise.partition(".")[0] for promise in promises] == numbers
    for promise in promises:
        assert re.search(r"^Proved by:\n\n- `tests/", promise, re.MULTILINE), promise
