"""Somebody swaps directories and links while calls run and roll back; nothing happens outside."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_mkdir
from trio_mkdir import Policy, RootCause, _many, _pace, open_rollback_nursery
from trio_mkdir._beneath import Beneath
from trio_mkdir._paths import Root
from trio_mkdir._registry import registry
from trio_mkdir.testing import assert_nothing_leaked

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

NIGHTLY = bool(os.environ.get("TRIO_MKDIR_NIGHTLY"))
SECONDS = 45.0 if NIGHTLY else 3.0
PATIENCE = 60.0
ATTACKER = Path(__file__).parent / "attacker.py"

# An escape follows the traps outside: whatever is made there, or removed, is counted.
PATHS = [
    "swap/{}/x",
    "swap/deep/{}/x",
    "swap/deep/../{}/x",
    "swap/deep/../../swap/deep/{}/x",
    "swap/deep/../../{}/x",
    "in/deep/{}/x",
]
CANARIES = 8


@attrs.frozen
class Field:
    """A root under attack, and what is outside it."""

    base: Path

    @property
    def root(self) -> Path:
        return self.base / "here" / "root"

    @classmethod
    def in_(cls, base: Path) -> Field:
        field = cls(base)
        # Not empty: an undoing whose own directory was swapped for it must not remove it.
        (field.root / "swap" / "deep" / "keep").mkdir(parents=True)
        outside = base / "outside"
        for above in (outside, outside / "deep", base, base / "here"):
            for name in range(CANARIES):
                (above / str(name) / "x").mkdir(parents=True)
        (field.root / "trap").symlink_to("../../outside")
        (field.root / "swap" / "trap").symlink_to(outside / "deep")
        (field.root / "in").symlink_to("swap")
        return field

    def outside(self) -> set[str]:
        """Every path that is not in the root."""
        found: set[str] = set()
        for above, directories, files in os.walk(self.base):
            if Path(above) == self.root.parent:
                directories.remove("root")
            found |= {os.path.join(above, name) for name in [*directories, *files]}
        return found


@contextmanager
def attackers(field: Field, *teams: list[str]) -> Iterator[None]:
    """An attacker for each team of names, ended by its own handle."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for names in teams:
            attacker = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, ATTACKER, field.root, *names],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.append(attacker)
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == b"ready\n"
        for attacker in started:
            assert attacker.stdin is not None
            attacker.stdin.close()
        yield
        assert [attacker.poll() for attacker in started] == [None] * len(teams)
    finally:
        for attacker in started:
            attacker.kill()
            attacker.wait()
            assert attacker.stdout is not None
            attacker.stdout.close()


# What vanishes all the time is made again at once, and no attempt has to wait.
POLICY = Policy(retries={RootCause.VANISHED: trio_mkdir.BackoffPolicy.constant(0, max_retries=3)})


async def attempt(
    what: str | list[str], number: int, function: str = "makedirs", **options: Any
) -> str:
    """Make it, or make it and take it back; how that ended."""
    try:
        if number % 3 == 0:
            await getattr(trio_mkdir, function)(what, policy=POLICY, **options)
            return "made"
        async with open_rollback_nursery(policy=POLICY) as nursery:
            await getattr(nursery, function)(what, **options)
            nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()
    except OSError as error:
        return type(error).__name__
    except BaseExceptionGroup as group:
        return type(group.exceptions[0]).__name__
    return "made and taken back"


def attempts(
    seconds: float, outcomes: Mapping[str, int], enough: Collection[str] = ()
) -> Iterator[tuple[int, str]]:
    """Numbers and paths for as long as that, and on until there is ``enough`` of an attack."""
    began = time.monotonic()
    for number in itertools.count():
        took = time.monotonic() - began
        if took >= seconds and outcomes.keys() >= set(enough):
            return
        assert took < seconds + PATIENCE, f"not much of an attack: {outcomes}"
        # Now a name that an escape would find, and remove, outside; now one of its own.
        name = str(number % CANARIES) if number % 2 else f"{number}"
        yield number, PATHS[number // 6 % len(PATHS)].format(name)


async def under_attack(
    seconds: float, enough: Collection[str] = (), **options: Any
) -> Counter[str]:
    """The outcomes of one attempt after the other."""
    outcomes: Counter[str] = Counter()
    for number, path in attempts(seconds, outcomes, enough):
        outcomes[await attempt(path, number, **options)] += 1
    return outcomes


def tell(outcomes: Counter[str], escapes: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        total = sum(outcomes.values())
        print(f"\n{total} attempts, {len(escapes)} escapes: {dict(outcomes.most_common())}")


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
@pytest.mark.parametrize("teams", [[["swap", "deep"]], [["swap"], ["deep"]]], ids=["one", "two"])
async def test_no_attempt_escapes_whatever_is_swapped_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], teams: list[list[str]]
) -> None:
    field = Field.in_(tmp_path)
    before = field.outside()
    async with assert_nothing_leaked():
        with attackers(field, *teams):
            # It is an attack, and yet some get through.
            enough = ["made", "made and taken back", "EscapeError"]
            outcomes = await under_attack(SECONDS / 3, enough, beneath=field.root, exist_ok=True)
    escapes = field.outside() ^ before
    tell(outcomes, escapes, capsys)
    assert not escapes


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
@pytest.mark.parametrize("beside", [False, True], ids=["in one go", "side by side"])
async def test_none_of_many_escapes_whatever_is_swapped_meanwhile(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    beside: bool,
) -> None:
    if beside:
        monkeypatch.setattr(_pace, "_SLOW", -1.0)
        monkeypatch.setattr(_many, "FIRST_SLICE", 0.0)
    field = Field.in_(tmp_path)
    before = field.outside()
    outcomes: Counter[str] = Counter()
    async with assert_nothing_leaked(patience=PATIENCE):
        with attackers(field, ["swap", "deep"]):
            enough = ["made", "made and taken back", "EscapeError"]
            for number, path in attempts(SECONDS / 3, outcomes, enough):
                # The same way for all of them, or hardly a call would come to its end.
                above, name = path.rsplit("/", 1)
                paths = [f"{above}/{name}", f"{above}/y", f"{above}/y/z", f"own/{number}"]
                outcome = await attempt(paths, number, "makedirs_many", beneath=field.root)
                outcomes[outcome] += 1
    escapes = field.outside() ^ before
    tell(outcomes, escapes, capsys)
    assert not escapes


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_no_system_call_of_an_attempt_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without threads and an event loop there are many more of them.
    field = Field.in_(tmp_path)
    before = field.outside()
    beneath = Beneath(Root(str(field.root), None), registry.operating_system.mount)
    outcomes: Counter[str] = Counter()
    with attackers(field, ["swap", "deep"]):
        for _, name in attempts(SECONDS / 3, outcomes, ["done", "EXDEV"]):
            path = str(field.root / os.path.dirname(name))
            for do in (partial(beneath.mkdir, mode=0o777), beneath.lstat, beneath.rmdir):
                try:
                    do(path)
                    outcomes["done"] += 1
                except OSError as error:
                    outcomes[errno.errorcode[error.errno or 0]] += 1
    beneath.close()
    escapes = field.outside() ^ before
    tell(outcomes, escapes, capsys)
    assert not escapes


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
async def test_the_attack_is_one_that_paths_do_not_withstand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field.in_(tmp_path)
    before = field.outside()
    monkeypatch.chdir(field.root)
    until = time.monotonic() + PATIENCE
    with attackers(field, ["swap", "deep"]):
        while field.outside() == before:
            assert time.monotonic() < until, "no call has escaped"
            await under_attack(0.1, exist_ok=True)
