"""The names of hidden trees, and what they tell of their makers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import attrs
import pytest

from trio_mkdir._hidden import PREFIX, Maker, _myself, maker_of, new_name


def made_here(**changes: Any) -> Maker:
    maker = maker_of(new_name())
    assert maker is not None
    return attrs.evolve(maker, **changes)


def test_each_name_is_new_and_short() -> None:
    names = {new_name() for _ in range(1000)}
    assert len(names) == 1000
    assert max(map(len, names)) < 143  # as long as a name may be in an encrypted directory


def test_a_name_tells_who_made_it() -> None:
    maker = made_here()
    assert maker.pid == os.getpid()
    assert maker.why_not_gone() == f"process {os.getpid()} made it, and is there"


def test_a_child_has_names_of_its_own() -> None:
    new_name()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, new_name().encode())
        os._exit(0)
    os.close(write)
    maker = maker_of(os.read(read, 255).decode())
    os.close(read)
    assert maker is not None
    assert maker.pid == child
    assert maker.start >= made_here().start
    # Ended, but nobody has asked for its status yet.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert maker.why_not_gone() is None
    os.waitpid(child, 0)
    assert maker.why_not_gone() is None


def test_another_process_is_known_to_live_until_it_ends() -> None:
    program = "from trio_mkdir._hidden import new_name; print(new_name(), flush=True); input()"
    with subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        maker = maker_of(process.stdout.readline().strip())
        assert maker is not None
        assert maker.why_not_gone() == f"process {process.pid} made it, and is there"
        process.communicate("\n")
    assert maker.why_not_gone() is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"machine": "0badcafe"}, "another machine made it"),
        ({"machine": "0badcafe", "boot": "0badcafe"}, "another machine made it"),
        ({"machine": "0"}, "it cannot be told which machine made it"),
        ({"boot": "0"}, "it cannot be told which machine made it"),
        ({"boot": "0badcafe"}, None),
        ({"space": "0badcafe"}, "a process in another namespace made it"),
        ({"space": "0"}, "it cannot be told which process made it"),
        ({"start": 0}, "it cannot be told which process made it"),
        ({"start": 1}, None),  # its number was used again
        ({"pid": 2**31 - 1}, None),
    ],
    ids=str,
)
def test_only_what_is_known_to_be_gone_is_gone(changes: dict[str, object], why: str | None) -> None:
    assert made_here(**changes).why_not_gone() == why


@pytest.mark.parametrize(
    "name",
    [
        "",
        PREFIX,
        "a",
        new_name()[1:],
        f"{new_name()}x",
        f"{new_name()}\n",
        new_name().upper(),
        new_name().replace("-", "/"),
    ],
)
def test_other_names_are_nobodys(name: str) -> None:
    assert maker_of(name) is None


def test_what_cannot_be_told_is_nobodys_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_mkdir._hidden._read", lambda path: "")
    monkeypatch.setattr("trio_mkdir._hidden._link", lambda path: "")
    name = maker_of(new_name())  # as it is known already
    _myself.cache_clear()
    try:
        blind = maker_of(new_name())
        assert blind is not None
        assert (blind.boot, blind.space, blind.start) == ("0", "0", 0)
        assert name is not None
        assert name.why_not_gone() == "it cannot be told which machine made it"
    finally:
        _myself.cache_clear()


def test_a_process_whose_start_is_not_shown_is_taken_for_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maker = made_here()
    monkeypatch.setattr("trio_mkdir._hidden._status", lambda pid: None)
    assert maker.why_not_gone() is not None
