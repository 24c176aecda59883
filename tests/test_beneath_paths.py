"""Any path beneath a root, beside a reference that is slow and easy to see through."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

import trio_mkdir
from trio_mkdir import EscapeError

LINKS = {
    "in": "dir",
    "dir/up": "..",
    "dir/sub/top": "../../dir/up",
    "chain": "in/./sub//",
    "self": ".",
    "loop": "dir/up/loop",
    "dangling": "new",
    "deep_dangling": "dir/new/..",
    "to_file": "dir/file",
    "out": "..",
    "out_later": "dir/sub/../../../outside",
    "abs": "/",
}
NAMES = ["dir", "sub", "new", "x", "file", "top", "up", *LINKS, ".", "..", "..", "...", ""]

paths = st.tuples(
    st.lists(st.sampled_from(NAMES), max_size=9).map("/".join), st.sampled_from(["", "", "/", "//"])
).map("".join)


def furnish(base: Path) -> Path:
    root = base / "root"
    (root / "dir" / "sub").mkdir(parents=True)
    (base / "outside").mkdir()
    (root / "dir" / "file").touch()
    for name, text in LINKS.items():
        (root / name).symlink_to(text)
    return root


def tree(base: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(above, name), base)
        for above, directories, files in os.walk(base)
        for name in [*directories, *files]
    )


class Refused(Exception):
    """The reference's own error; its argument is the errno."""


def resolve(root: Path, names: list[str], links: int = 40) -> list[str]:
    """The true names, from the root, of the directory that is called so."""
    at: list[str] = []
    names = list(names)
    while names:
        name = names.pop(0)
        if name in {"", "."}:
            continue
        if name == "..":
            if not at:
                raise Refused(errno.EXDEV)
            at.pop()
            continue
        here = root.joinpath(*at, name)
        if here.is_symlink():
            links -= 1
            if links < 0:
                raise Refused(errno.ELOOP)
            text = os.readlink(here)
            if text.startswith("/"):
                raise Refused(errno.EXDEV)
            names = [*text.split("/"), *names]
        elif here.is_dir():
            at.append(name)
        else:
            raise Refused(errno.ENOTDIR if here.exists() else errno.ENOENT)
    return at


def reference(root: Path, path: str, *, exist_ok: bool, parents: bool) -> None:
    """From the top down: what stands is passed, what is missing is made if all of it can be."""
    if path.startswith("/"):
        raise Refused(errno.EXDEV)
    if not path:
        raise Refused(errno.ENOENT)
    names = [name for name in path.split("/") if name]
    for count in range(1, len(names) + 1):
        try:
            resolve(root, names[:count])
        except Refused as refused:
            if refused.args[0] == errno.ENOENT and names[count - 1] not in {".", ".."}:
                make(root, names, count, parents=parents)
                return
            if count == len(names) and not (exist_ok and refused.args[0] == errno.EXDEV):
                stands(root, names)
            raise
    if not exist_ok:
        raise Refused(errno.EEXIST)


def stands(root: Path, names: list[str]) -> None:
    """Refuse the last of them if there is anything of that name, be it what it may."""
    above = root.joinpath(*resolve(root, names[:-1]))
    if names[-1] not in {".", ".."} and os.path.lexists(above / names[-1]):
        raise Refused(errno.EEXIST)


def make(root: Path, names: list[str], count: int, *, parents: bool) -> None:
    """``names[count - 1]`` does not lead to anything, and all before it do."""
    above = root.joinpath(*resolve(root, names[: count - 1]))
    missing = names[count - 1 :]
    if os.path.lexists(above / missing[0]):  # a link that leads nowhere
        if parents and set(missing[1:]) == {"."}:
            return  # as os.makedirs has it: "new/." is there as soon as "new" is
        raise Refused(errno.EEXIST if len(missing) == 1 else errno.ENOENT)
    if ".." in missing or (len(missing) > 1 and not parents):
        raise Refused(errno.ENOENT)
    for name in missing:
        if name != ".":
            above /= name
            os.mkdir(above)


@settings(max_examples=400, deadline=None)
@given(path=paths, exist_ok=st.booleans(), parents=st.booleans())
@example(path="new/..", exist_ok=True, parents=True)
@example(path="dangling/.", exist_ok=False, parents=True)
@example(path="dir/sub/top/new/x", exist_ok=False, parents=True)
@example(path="dir/new/../../out/x", exist_ok=False, parents=True)
def test_any_path_does_what_the_reference_does(path: str, exist_ok: bool, parents: bool) -> None:
    base = Path(tempfile.mkdtemp())
    try:
        expected: int | None = None
        twin = furnish(base / "theirs")
        try:
            reference(twin, path, exist_ok=exist_ok, parents=parents)
        except Refused as refused:
            expected = refused.args[0]
        root = furnish(base / "ours")
        fn = trio_mkdir.makedirs if parents else trio_mkdir.mkdir
        call = partial(fn, path, exist_ok=exist_ok, beneath=root)
        if expected is None:
            trio.run(call)
        else:
            with pytest.raises(OSError) as caught:
                trio.run(call)
            assert caught.value.errno == expected
            assert isinstance(caught.value, EscapeError) is (expected == errno.EXDEV)
        assert tree(base / "ours") == tree(base / "theirs")
    finally:
        shutil.rmtree(base)
