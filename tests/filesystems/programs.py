"""Run a program, and keep what it said when it failed."""

from __future__ import annotations

import subprocess

from .needs import needs_program, unavailable


class ProgramFailed(RuntimeError):
    """A program ended with an error, and the message carries what it wrote."""


def run(program: str, *args: str, text: str = "", timeout: float = 60.0) -> str:
    """Run a program with *text* as its input and return its output."""
    command = [needs_program(program), *args]
    done = subprocess.run(  # noqa: S603 - the fixtures' own commands
        command, input=text, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout
        raise ProgramFailed(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout


def run_or_unavailable(program: str, *args: str) -> None:
    """Run a program whose failure says that the kernel at hand cannot do what it was asked.

    A kernel without xfs, or a container without loop devices, shows only when the mount is tried.
    """
    try:
        run(program, *args)
    except ProgramFailed as error:
        unavailable(str(error))
