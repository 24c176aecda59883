"""The command's options ``--exact-mode``, ``--owner``, ``--group`` and ``--like``."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from command import Here, Twins, observe, ours

pytest_plugins = ["command_fixtures"]

ROOTS = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who can give things away")


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def owner(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_uid, status.st_gid


@ROOTS
def test_owner_and_group_are_those_of_all_that_is_created(here: Here) -> None:
    assert here.run("-p", "--owner=nobody", "--group=12345", "d/a/b") == (0, [], [])
    assert owner("d/a") == owner("d/a/b") == (65534, 12345)
    assert owner("d") == (0, 0)
    assert mode("d/a/b") == 0o755


def test_an_exact_mode_needs_no_second_look(here: Here) -> None:
    os.umask(0o077)
    assert here.run("-p", "-m", "3775", "--exact-mode", "a/b") == (0, [], [])
    assert (mode("a"), mode("a/b")) == (0o700, 0o3775)


def test_an_exact_mode_can_be_symbolic(here: Here) -> None:
    assert here.run("-m", "u=rwx,g=rwx,o=", "--exact-mode", "a") == (0, [], [])
    assert mode("a") == 0o770


@ROOTS
def test_a_template_is_followed_but_for_what_is_said(here: Here) -> None:
    os.mkdir("t")
    os.chown("t", 5, 6)
    Path("t").chmod(0o1751)
    os.setxattr("t", "user.project", b"x")
    assert here.run("-p", "--like", "t", "--owner", "7", "-m", "700", "a/b") == (0, [], [])
    assert (owner("a"), mode("a")) == ((7, 6), 0o1751)
    assert (owner("a/b"), mode("a/b")) == ((7, 6), 0o700)
    assert os.getxattr("a/b", "user.project") == b"x"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--owner=no-such", "owner: no such user: 'no-such'"),
        ("--group=no-such", "group: no such group: 'no-such'"),
        ("--like=nothing", "cannot read 'nothing': No such file or directory"),
        ("--like=f", "cannot read 'f': Not a directory"),
    ],
)
def test_what_is_not_there_is_told_and_nothing_is_made(
    here: Here, option: str, sentence: str
) -> None:
    assert here.run("-p", option, "a/b") == (1, [], [f"trio-mkdir: {sentence}"])
    assert not os.path.exists("a")


@pytest.mark.usefixtures("_nobody")
@ROOTS
def test_what_is_not_permitted_is_told_and_undone(here: Here) -> None:
    status, out, err = here.run("-p", "--json", "--owner=0", "a/b")
    assert (status, err) == (
        1,
        ["trio-mkdir: cannot change ownership of 'a/b': Operation not permitted"],
    )
    report = json.loads(out[0])
    assert report["error"]["name"] == "EPERM"
    assert report["removed"] == ["a/b", "a"]
    assert os.listdir() == []


@ROOTS
def test_what_was_corrected_is_in_the_report(here: Here) -> None:
    status, out, err = here.run("--json", "--owner=5", "setgid/a")
    assert (status, err) == (0, [])
    assert json.loads(out[0])["audit"] == []  # this filesystem passes it on
    assert (mode("setgid/a"), owner("setgid/a")[0]) == (0o2755, 5)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--exact-mode", "a"], "--exact-mode goes with --mode only"),
        (["--owner=", "a"], "invalid owner: ''"),
        (["--group=4294967295", "a"], "invalid group: '4294967295'"),
        (["--like=", "a"], "invalid --like '': not a directory"),
        (["--exact-mode", "--from=f"], "--exact-mode goes with --mode only"),
    ],
)
def test_what_does_not_go_together_is_refused(
    twins: Twins, arguments: list[str], complaint: str
) -> None:
    outcome = observe(ours(), arguments, twins.ours, 0o022)
    assert outcome.status == 1
    assert outcome.err.decode().splitlines()[0] == f"mkdir: {complaint}"
    assert not (twins.ours / "a").exists()
