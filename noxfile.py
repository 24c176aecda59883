"""The sessions that hold this project to what it promises.

``nox -s tests`` is all that a change needs; ``nox`` runs what a review will ask for.
Arguments after ``--`` go to pytest.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"  # nox.project.dependency_groups
nox.options.sessions = ["lint", "typing", "typing_compat", "tests", "wheel"]
# Whoever has one Python can run everything; CI=true would turn a missing one into an error.
nox.options.error_on_missing_interpreters = False
# The Pythons that are here, never a downloaded one.
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHERS = [v for v in nox.project.python_versions(PYPROJECT) if v != CURRENT]
CODE = ["trio_mkdir", "tests", "examples", "benchmarks", "noxfile.py"]


def group(*names: str) -> tuple[str, ...]:
    """Requirements of dependency groups; unlike ``pip --group`` this works with every pip."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def scratch(session: nox.Session) -> Path:
    """An empty directory of the session's own.

    Not ``session.create_tmp()``: that moves TMPDIR into the checkout, so that the tests would no
    longer use the machine's own temporary filesystem, nor one that other users can reach.
    """
    directory = Path(session.virtualenv.location) / "scratch"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def run_tests(session: nox.Session) -> None:
    """The whole suite with its coverage gate, or without the gate the part that was asked for."""
    session.install("-e", ".", *group("test"))
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    # Each session counts for itself: what only one Python reaches must not hide behind another.
    env = {"COVERAGE_FILE": str(scratch(session) / "coverage")}
    session.run("coverage", "run", "-m", "pytest", env=env)
    session.run("coverage", "combine", "--quiet", env=env)
    session.run("coverage", "report", env=env)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests on the Python that runs nox, with branch coverage."""
    run_tests(session)


@nox.session(python=OTHERS)
def matrix(session: nox.Session) -> None:
    """The same on every other supported Python that is installed."""
    run_tests(session)


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with the oldest trio and attrs that pyproject.toml allows."""
    dependencies = [d.replace(">=", "==") for d in PYPROJECT["project"]["dependencies"]]
    session.install("-e", ".", *dependencies, *group("test"))
    session.run("pytest", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """The tests against the wheel, made from the sdist, with no source tree in sight."""
    tmp = scratch(session)
    elsewhere = tmp / "elsewhere"
    hidden = shutil.ignore_patterns("trio_mkdir", ".*", "__pycache__", "dist")
    shutil.copytree(ROOT, elsewhere, ignore=hidden)
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(tmp / "dist"))
    (built,) = (tmp / "dist").glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(built))
    session.install(str(built), *group("test"))
    session.chdir(elsewhere)
    session.run("pytest", *session.posargs)


@nox.session
def mutations(session: nox.Session) -> None:
    """Puts well-known bugs back, one at a time: the tests have to notice each."""
    session.install("-e", ".", *group("test"))
    session.run("python", "tests/mutations.py")


@nox.session
def nightly(session: nox.Session) -> None:
    """What takes long: the state machines with thousands of examples, and ten minutes at random."""
    session.install("-e", ".", *group("test"))
    env = {"TRIO_MKDIR_NIGHTLY": "1"}
    # It takes longer than any test that is stuck.
    tests = ("tests/test_state_machine.py", "tests/test_beneath_attack.py")
    session.run("pytest", "-o", "faulthandler_timeout=0", *tests, env=env)
    session.run("python", "benchmarks/soak.py", "--seconds", "600", "--seed", "1", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """What calls cost beside everybody else's; writes docs/benchmarks.*, unless told otherwise."""
    session.install("-e", ".", *group("benchmarks"))
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff for form and likely bugs, flake8-async for cancellation."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    # flake8 reads no pyproject.toml, so its configuration is here. What ruff lacks of these: 102
    # (an await in a finally without a shield), 120 (one in an except), 910 and 911 (a path without
    # a checkpoint). A test or a benchmark need not be a checkpoint nor await anything; a test may
    # bound its own waiting (109) and has to poll the kernel, which sets no trio.Event (110).
    # It may also look at what an exception or a nursery does (103, 112), start functions of its
    # own (114, 128), call os.path on purpose (240) and iterate over what users do (900).
    checkpoints = "ASYNC124,ASYNC910,ASYNC911"
    tests = "ASYNC900,ASYNC103,ASYNC109,ASYNC110,ASYNC112,ASYNC114,ASYNC128,ASYNC240"
    session.run(
        "flake8",
        "--isolated",
        "--select=ASYNC",
        "--enable=ASYNC",
        f"--per-file-ignores=tests/*:{tests},{checkpoints} benchmarks/*:ASYNC103,{checkpoints}",
        *CODE,
    )


@nox.session
def typing(session: nox.Session) -> None:
    """mypy and pyright on everything, and the completeness of what users see."""
    session.install("-e", ".", *group("typing"))
    session.run("mypy", *CODE)
    session.run("pyright")
    # trio's own few gaps are not ours.
    session.run("pyright", "--verifytypes", "trio_mkdir", "--ignoreexternal")


@nox.session
def typing_compat(session: nox.Session) -> None:
    """The public types as somebody sees them who still has trio-typing installed."""
    session.install(".", *group("typing-compat"))
    # From elsewhere, so that the installed package is what is looked at, as a user's checker does.
    elsewhere = scratch(session)
    for name in ("pyproject.toml", "tests/typing/api.py"):
        shutil.copy(ROOT / name, elsewhere)
    session.chdir(elsewhere)
    session.run("mypy", "api.py")
    session.run("pyright", "api.py")
