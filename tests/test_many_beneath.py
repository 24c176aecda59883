"""`makedirs_many` beneath a root: as `makedirs` there, one path after the other, or nothing."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_beneath_paths import furnish, tree

from trio_mkdir import MkdirError, makedirs, makedirs_many

# Where a link leads to what the same call makes, it depends on what comes first: not here.
NAMES = ["dir", "sub", "new", "x", "file", "in", "up", "self", "to_file", "out", "abs", "loop"]
NAMES += [".", "..", "..", "..", "...", ""]
paths = st.tuples(
    st.lists(st.sampled_from(NAMES), max_size=6).map("/".join), st.sampled_from(["", "", "/", "//"])
).map("".join)


def furnished(base: Path) -> Path:
    root = furnish(base)
    for name in ("dangling", "deep_dangling"):
        (root / name).unlink()
    return root


async def one_by_one(root: Path, names: list[str]) -> None:
    for name in names:
        await makedirs(name, exist_ok=True, beneath=root)


def check_same(names: list[str], concurrency: int) -> None:
    base = Path(tempfile.mkdtemp())
    try:
        twin, root = furnished(base / "theirs"), furnished(base / "ours")
        before = tree(base / "ours")
        fails = False
        try:
            trio.run(one_by_one, twin, names)
        except MkdirError:
            fails = True
        try:
            trio.run(partial(makedirs_many, names, beneath=root, concurrency=concurrency))
        except MkdirError:
            assert fails
            assert tree(base / "ours") == before
        else:
            assert not fails
            assert tree(base / "ours") == tree(base / "theirs")
    finally:
        shutil.rmtree(base)


@settings(max_examples=300, deadline=None)
@given(names=st.lists(paths, max_size=5), concurrency=st.sampled_from([1, 4]))
@example(names=["new/../x", "new"], concurrency=1)
@example(names=["new", "new/../x"], concurrency=1)
@example(names=["x/y", "dir/../x/z", "x/y/../w"], concurrency=1)
@example(names=[".", "new"], concurrency=1)
def test_many_are_what_one_after_the_other_is(names: list[str], concurrency: int) -> None:
    check_same(names, concurrency)
