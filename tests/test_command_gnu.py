"""The command beside GNU mkdir: the same results, statuses and messages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import attrs
import pytest
from command import ENVIRONMENT, LONG, Here, Twins, gnu, observe, ours, plain

from trio_mkdir._command import _main

pytest_plugins = ["command_fixtures"]

SETFACL = shutil.which("setfacl")


@pytest.mark.parametrize(
    "arguments",
    [
        # What is made, and what is said of it
        *("a b c", "-p a/b/c", "-pv a/b/c a/d d", "-v a a b", "-pv ./a//b/./c/// /", "a/ b//"),
        *("-p x/y/../../z", "-p x/.", "-p x/..", "-p d/../x", "-p to_d/x", "-p . .. d/."),
        # What is in the way
        *("d", "f", "to_nothing", "loop", "d/.", "d/..", ".", "/", "x/.", "f/", "f/x", "nope/x"),
        *("-p f", "-p f/", "-p f/x", "-p f/x/y/z", "-p to_f/x", "-p to_nothing", "-p to_nothing/"),
        *("-p to_nothing/x", "-p to_nothing/x/y", "-p loop/x", "-p d/f/x f/x", f"-p d {LONG}/a"),
        *("f a d b", LONG, "/proc/x", "-p /proc/x/y"),
        # Modes
        *("-m 700 a", "-m 2755 a", "-m 1777 a", "-m 0 a", "-m 7777 a", "-m u=rwx,g+w,o-x a"),
        *("-m g=u,+t a", "-m u+r-w a", "-m = a", "-m755 -p d", "-p -m 700 a/b", "-pm 777 a/b"),
        *("-p -m 000 a/b", "-p -m 700 a/.", "-m 0 a a/b"),
        *("setgid/a", "-p setgid/a/b", "-m 755 setgid/a", "-m 00755 setgid/a", "-m g-s setgid/a"),
        *("-m +t setgid/a", "-pm 3777 setgid/a/b", "-m 4711 setgid/a"),
        # How options are written
        *("a -v b", "a -- -v", "-- -a", "- -v", "--mode=755 a", "--mo 755 a", "-vpm 750 a/b"),
        *("--verb a", "--par a/b", "-m -w a", "-m -- a", "-Z a", "--context a", "--con=x -p a/b"),
    ],
)
def test_same_as_gnu(twins: Twins, arguments: str) -> None:
    our_outcome, theirs = twins.run(*arguments.split(" "))
    if f"{LONG}/a" in arguments:  # made before the failure: ours takes it back
        theirs = attrs.evolve(theirs, tree=our_outcome.tree)
    assert our_outcome == theirs


@pytest.mark.parametrize("umask", [0, 0o077, 0o300, 0o777], ids="{:03o}".format)
@pytest.mark.parametrize(
    "arguments", ["a", "-p a/b", "-p -m 750 a/b", "-m +x a", "-m =rw a", "-p -m g=u-x,+t a/b"]
)
def test_same_modes_as_gnu_under_any_umask(twins: Twins, umask: int, arguments: str) -> None:
    our_outcome, theirs = twins.run(*arguments.split(" "), umask=umask)
    assert our_outcome == theirs


@pytest.mark.parametrize(
    "name",
    [  # by quotation mark, escape, shell and locale
        *(b"a b", b"it's", b'it\'s "it"', b"line\nline", b"\xff\xc3\xa9", b"\x01\x7f\t\\", b"$x`"),
        *("d\u00fc".encode(), b"#'", b"a#'", b"{'", b"~a", b"", b"\n'"),
    ],
)
def test_names_are_quoted_as_gnu_quotes_them(twins: Twins, name: bytes) -> None:
    our_outcome, theirs = twins.run(b"-v", name, name)
    if name == b"\n'":  # GNU's own quoting of these is wrong: no shell reads it as the name
        theirs = attrs.evolve(theirs, out=our_outcome.out)
    assert our_outcome == theirs


def with_default_acl(twins: Twins, acl: str) -> Twins:
    if SETFACL is None:
        pytest.skip("setfacl is not here")
    for directory in (twins.ours, twins.theirs):
        set_acl = [SETFACL, "--default", "--modify", acl, str(directory)]
        if subprocess.run(set_acl, capture_output=True, check=False).returncode:  # noqa: S603
            pytest.skip("no ACLs on this filesystem")
    return twins


@pytest.mark.parametrize("arguments", ["-p a/b", "-m 775 a", "-m o-x a", "-p -m 700 a/b"])
@pytest.mark.parametrize("acl", ["u::rwx,g::rwx,o::r-x,u:1:rwx", "u::rwx,g::---,o::---"])
def test_default_acl_takes_the_place_of_the_umask(twins: Twins, acl: str, arguments: str) -> None:
    our_outcome, theirs = with_default_acl(twins, acl).run(*arguments.split(" "))
    assert our_outcome == theirs


def test_parents_of_a_wider_leaf_get_less_from_a_default_acl_than_from_gnu(twins: Twins) -> None:
    # One umask has to serve both, and the leaf is to get its mode precisely.
    acl = with_default_acl(twins, "u::rwx,g::rwx,o::r-x,u:1:rwx")
    our_outcome, theirs = acl.run("-p", "-m", "775", "a/b")
    assert theirs.modes(b"a", b"a/b") == ["drwxrwxr-x", "drwxrwxr-x"]
    assert our_outcome.modes(b"a", b"a/b") == ["drwxr-xr-x", "drwxrwxr-x"]


# Nothing is made by these, so ours needs no process of its own.
@pytest.mark.parametrize(
    "arguments",
    [
        *("", "-p", "-v -m 755", "-m", "--mode", "-x", "-px a", "-1 a", "-v- a", "--unknown"),
        *("--un=3 a", "--ve a", "--ver=3 a", "--parents=1 a", "--verbose= a", "--bogus --help"),
        *("-m zz a", "-m 8 a", "-m 10000 a", "--mode= a", "-m u=rwx, a", "-m z\n\udcff a"),
        *("-p\udcc3 a", "--a\nb", "a -p -q b -z", "-\u00e9 a", "--context=x -m zz a"),
        *("--context=x", "-m zz"),
    ],
)
def test_wrong_arguments_get_the_answer_of_gnu(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    words = arguments.split(" ") if arguments else []
    theirs = subprocess.run(  # noqa: S603
        [*gnu(), *words], env=ENVIRONMENT, capture_output=True, check=False
    )
    monkeypatch.setattr(sys, "argv", ["/usr/bin/trio-mkdir", *words])
    monkeypatch.setenv("LC_ALL", "C")
    status = _main.main()
    said = capfdbinary.readouterr()
    assert (status, plain(said.out), plain(said.err)) == (
        theirs.returncode,
        plain(theirs.stdout),
        plain(theirs.stderr),
    )


@pytest.mark.usefixtures("_nobody")
@pytest.mark.parametrize(
    "arguments",
    ["readonly/a", "-p readonly/a/b", "closed/a", "-p closed/a", "-p closed/a/b", "-p closed/"],
)
def test_what_is_forbidden_is_told_as_gnu_tells_it(here: Here, arguments: str) -> None:
    words = arguments.split(" ")
    os.mkdir("readonly", 0o555)
    os.mkdir("closed", 0)
    theirs = subprocess.run(  # noqa: S603
        [*gnu(), *words], env=ENVIRONMENT, capture_output=True, check=False
    )
    status, _, err = here.run(*words)
    said = "".join(f"{line}\n" for line in err).encode()
    assert (status, plain(said)) == (theirs.returncode, plain(theirs.stderr))
    os.chmod("closed", 0o700)


@pytest.mark.parametrize("streams", [">&-", ">/dev/full", "<&- >&- 2>&-", "2>/dev/full"])
def test_streams_that_cannot_be_written_to_are_as_bad_as_for_gnu(
    twins: Twins, streams: str
) -> None:
    words = ("-v", "a", "a", "b")
    shell = [shutil.which("sh") or "/bin/sh", "-c", f'exec "$@" {streams}', "sh"]
    our_outcome = observe([*shell, *ours()], words, twins.ours, 0o022)
    theirs = observe([*shell, *gnu()], words, twins.theirs, 0o022)
    assert our_outcome == theirs
