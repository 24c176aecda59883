"""`makedirs_many` beneath a root: as `makedirs` there, one path after the other, or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from doubles import Memory, first
from filesystems.frozen import FreezableMount
from filesystems.stuck import wait_stuck_async
from filesystems.waiting import wait_until_async
from gates import Gate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_beneath import MADE, NO_DIRECTORY, REFUSED, STANDS, Garden, Rooted, nobody, roots_open
from test_beneath_paths import furnish, tree

from trio_mkdir import (
    EscapeError,
    MkdirError,
    Policy,
    _many,
    _pace,
    makedirs,
    makedirs_many,
    open_rollback_nursery,
    pending_rollbacks,
    wait_settled,
)
from trio_mkdir.testing import assert_nothing_leaked

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def garden(tmp_path: Path) -> Garden:
    return Garden.in_(tmp_path)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Rooted]:
    (tmp_path / "root").mkdir()
    with Rooted.on(tmp_path) as made:
        assert isinstance(made, Rooted)
        yield made


@pytest.fixture(params=[False, True], ids=["in one go", "side by side"])
def beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks work side by side, or not."""
    if request.param:
        monkeypatch.setattr(_pace, "_SLOW", -1.0)
        monkeypatch.setattr(_many, "FIRST_SLICE", 0.0)


# What it makes and what it refuses


@pytest.mark.parametrize("path", MADE)
@pytest.mark.parametrize("others", [[], ["zz/y", "zz/z"]], ids=["alone", "among others"])
async def test_what_is_missing_is_made_where_the_path_leads(
    garden: Garden, path: str, others: list[str]
) -> None:
    before = garden.tree()
    async with assert_nothing_leaked():
        report = await makedirs_many([*others, path], exist_ok=False, beneath=garden.root)
    made = [*MADE[path], *(["zz", *others] if others else [])]
    assert set(garden.tree()) - set(before) == {f"root/{name}" for name in made}
    assert len(report.created) == len(made)
    told = {str(made) for made in report.created} - {"zz", *others}
    assert all(path.startswith(made) for made in told)


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("others", [[], ["zz/y", "zz/z"]], ids=["alone", "among others"])
async def test_what_is_refused_undoes_everything(
    garden: Garden, path: str, others: list[str]
) -> None:
    before = garden.tree()
    async with assert_nothing_leaked():
        with pytest.raises(MkdirError) as caught:
            await makedirs_many([*others, path], exist_ok=False, beneath=garden.root)
    assert garden.tree() == before
    error = caught.value
    # One name for one directory: of "file/." it is not asked what is in "file".
    expected = errno.EEXIST if path == "file/." else REFUSED[path]
    assert error.errno == expected
    assert isinstance(error, EscapeError) is (error.errno == errno.EXDEV)
    if path.strip("./"):
        assert path.startswith(str(error.filename))


@pytest.mark.parametrize("path", [*STANDS, *NO_DIRECTORY])
async def test_what_stands_is_welcome_if_it_is_a_directory_in_there(
    garden: Garden, path: str
) -> None:
    before = garden.tree()
    try:
        await makedirs_many([path], beneath=garden.root)
    except MkdirError as error:
        assert error.errno == NO_DIRECTORY[path]  # noqa: PT017
    else:
        assert path in STANDS
    assert garden.tree() == before


async def test_what_leads_out_at_first_sight_undoes_what_came_before_it(garden: Garden) -> None:
    before = garden.tree()
    for wrong in ("/new", str(garden.root / "new"), b"/new"):
        with pytest.raises(EscapeError) as caught:
            await makedirs_many(iter(["a/b"] * 9000 + [wrong]), beneath=garden.root)
        assert caught.value.filename == wrong
        assert garden.tree() == before


async def test_text_and_bytes_are_told_as_they_were_given(garden: Garden) -> None:
    paths: list[Any] = ["a/b", b"a/c", Path("d"), "e/", b"dir/../f"]
    report = await makedirs_many(paths, beneath=garden.root)
    assert {*report.created} == {"a", "a/b", b"a/c", "d", "e/", b"dir/../f"}


async def test_an_escape_says_what_it_leads_out_of(garden: Garden) -> None:
    with pytest.raises(EscapeError) as caught:
        await makedirs_many(["new", "out/new"], beneath=garden.root)
    assert caught.value.filename == "out/new"
    assert caught.value.__notes__ == [
        f"it leads out of {str(garden.root)!r}, by `..` or a symbolic link"
    ]


async def test_before_two_dots_nothing_is_made_that_nobody_asked_for(garden: Garden) -> None:
    before = garden.tree()
    with pytest.raises(FileNotFoundError) as caught:
        await makedirs_many(["new/../x", "new", "y"], beneath=garden.root)
    assert caught.value.filename == "new/.."
    assert garden.tree() == before
    report = await makedirs_many(["y", "new", "new/../x", "new/../x/z", "w"], beneath=garden.root)
    assert report.created == ("y", "new", "new/../x", "new/../x/z", "w")
    assert set(garden.tree()) - set(before) == {
        f"root/{name}" for name in ("new", "w", "x", "x/z", "y")
    }


async def test_what_winds_is_made_with_its_own_mode_and_counted_once(garden: Garden) -> None:
    told: list[int] = []
    paths = ["dir/../a/b", "dir/../a/b", "dir/../a", "dir/../c", "a", "dir/../d/e"]
    report = await makedirs_many(
        paths,
        0o700,
        parent_mode=0o711,
        beneath=garden.root,
        progress=lambda done, _: told.append(done),
    )
    assert report.created == ("dir/../a", "dir/../a/b", "dir/../c", "dir/../d", "dir/../d/e")
    modes = [(garden.root / path).stat().st_mode & 0o777 for path in ("a", "a/b", "c", "d", "d/e")]
    assert modes == [0o700, 0o700, 0o700, 0o711, 0o700]
    assert told[-1] == 6


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


# The root


async def test_a_root_that_is_not_there_is_named_and_not_made(garden: Garden) -> None:
    before = garden.tree()
    for path in ("x", "x/y/z", "new/..", "."):
        async with assert_nothing_leaked():
            with pytest.raises(FileNotFoundError) as caught:
                await makedirs_many([path], beneath=garden.root / "nothing")
        assert caught.value.filename == str(garden.root / "nothing")
    assert garden.tree() == before
    assert (await makedirs_many([], beneath=garden.root / "nothing")).created == ()


async def test_an_empty_root_is_no_directory(garden: Garden) -> None:
    with pytest.raises(FileNotFoundError):
        await makedirs_many(["new"], beneath="")


async def test_a_root_may_be_told_with_dots_and_slashes(garden: Garden) -> None:
    for number, root in enumerate(("", "/", "/.", "/dir/..", "//dir/up/.")):
        await makedirs_many([f"{number}/x", "."], beneath=f"{garden.root}{root}")
        assert (garden.root / str(number) / "x").is_dir()
    path = str(garden.root / "dir" / "new")[1:]
    assert (await makedirs_many([path, "."], beneath="/")).created == (path,)


async def test_a_descriptor_stays_the_callers_and_may_be_closed_at_once(stage: Rooted) -> None:
    gate = Gate()
    stage.opening = lambda: gate(nobody)
    descriptor = os.open(stage.at("root"), os.O_RDONLY)
    async with assert_nothing_leaked(), trio.open_nursery() as nursery:
        call = partial(makedirs_many, ["a/b", "c"], beneath=descriptor, policy=stage.policy())
        nursery.start_soon(call)
        await gate.entered()
        os.close(descriptor)
        os.close(os.open("/dev/null", os.O_RDONLY))
        os.rename(stage.at("root"), stage.at("moved"))
        gate.open()
    assert await stage.settled() == ["moved", "moved/a", "moved/a/b", "moved/c"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"beneath": 1.5}, TypeError),
        ({"beneath": "a\0b"}, ValueError),
        ({"beneath": -1}, MkdirError),
        ({"beneath": "/", "policy": Policy(filesystem=Memory())}, NotImplementedError),
    ],
)
async def test_what_is_no_root_is_told(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await makedirs_many(["new"], **options)


async def test_a_working_directory_that_is_gone_is_no_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        await makedirs_many(["new"], beneath="root")


# Undoing


async def test_it_is_undone_in_the_root_wherever_that_is_by_then(
    stage: Rooted, beside: None
) -> None:
    def move() -> None:
        os.rename(stage.at("root"), stage.at("moved"))
        os.makedirs(stage.at("root/a/b"))

    stage.script("mkdir", stage.at("root/c/x"), first(move))
    stage.refuse("mkdir", "root/c/y", errno.EACCES)
    paths = [f"{above}/{name}" for above in "abcd" for name in "xyz"]
    async with assert_nothing_leaked():
        with pytest.raises(PermissionError):
            await makedirs_many(paths, beneath=stage.at("root"), policy=stage.policy())
        assert await stage.settled() == ["moved", "root", "root/a", "root/a/b"]


async def test_what_comes_late_is_undone_in_the_root_and_lets_go_of_it(
    stage: Rooted, beside: None
) -> None:
    gate = stage.stop("mkdir", "root/b/y")
    paths = [f"{above}/{name}" for above in "abc" for name in "xyz"]
    policy = stage.policy(rollback_timeout=0)
    async with assert_nothing_leaked():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(makedirs_many, paths, beneath=stage.at("root"), policy=policy)
            )
            await gate.entered()
            nursery.cancel_scope.cancel()
        os.rename(stage.at("root"), stage.at("moved"))
        assert stage.at("root/b/y") in {debt.path for debt in pending_rollbacks()}
        gate.open()
        assert await stage.settled() == ["moved"]


async def test_what_a_late_one_winds_through_is_there_until_it_is_undone(stage: Rooted) -> None:
    # It was removed, and what came late by way of it was found no more.
    gate = stage.stop("mkdir", "root/a/c/../e", after=True)
    policy = stage.policy(rollback_timeout=0)
    paths = ["a/b", "a/c/d", "a/c/../e"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(makedirs_many, paths, beneath=stage.at("root"), policy=policy))
        await gate.entered()
        nursery.cancel_scope.cancel()
    await wait_until_async(lambda: "root/a/c/d" not in stage.tree())
    assert {debt.path for debt in pending_rollbacks()} >= {stage.at("root/a/c")}
    gate.open()
    assert await stage.settled() == ["root"]


async def test_on_a_mount_that_hangs_it_ends_in_time_and_leaves_nothing(
    freezable: FreezableMount,
) -> None:
    root = freezable.path / "root"
    root.mkdir()
    policy = Policy(rollback_timeout=0.0)

    async def paths() -> Any:
        for number in range(100):
            yield f"a/{number}"
        freezable.freeze()
        yield "b"
        yield "c/d"

    async with assert_nothing_leaked():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(makedirs_many, paths(), beneath=root, policy=policy))
            await wait_stuck_async()
            nursery.cancel_scope.cancel()
        assert pending_rollbacks()
        freezable.thaw()
        await wait_settled()
    assert os.listdir(root) == []


async def test_what_vanishes_is_made_again_in_there(stage: Rooted) -> None:
    vanish = partial(os.rmdir, stage.at("root/a"))
    stage.script("mkdir", stage.at("root/a/x"), first(vanish))
    await makedirs_many(["a/x", "b"], beneath=stage.at("root"), policy=stage.policy())
    assert stage.tree() == ["root", "root/a", "root/a/x", "root/b"]


async def test_a_link_that_is_put_in_its_way_is_not_followed_out(stage: Rooted) -> None:
    os.mkdir(stage.at("outside"))

    def swap() -> None:
        os.rmdir(stage.at("root/a"))
        os.symlink("../outside", stage.at("root/a"))

    stage.script("mkdir", stage.at("root/a/x"), first(swap))
    with pytest.raises(EscapeError):
        await makedirs_many(["a/x", "b"], beneath=stage.at("root"), policy=stage.policy())
    assert await stage.settled() == ["outside", "root"]


# Blocks, and others


async def test_a_block_keeps_one_descriptor_for_each_root_until_it_ends(garden: Garden) -> None:
    before = garden.tree()
    async with assert_nothing_leaked():
        with pytest.RaisesGroup(ZeroDivisionError):
            async with open_rollback_nursery() as nursery:
                for name in "abc":
                    await nursery.makedirs_many([f"{name}/x", f"{name}/y"], beneath=garden.root)
                await nursery.makedirs("a/z", beneath=garden.root)
                await nursery.makedirs_many(["d", "sub/../e"], beneath=garden.root / "dir")
                await nursery.makedirs_many([garden.base / "plain"])
                assert roots_open(garden.root) == 1
                os.rename(garden.root, garden.base / "moved")
                raise ZeroDivisionError
    os.rename(garden.base / "moved", garden.root)
    assert garden.tree() == before


async def test_a_block_that_ends_well_lets_go_of_its_roots(garden: Garden) -> None:
    async with assert_nothing_leaked():
        async with open_rollback_nursery() as nursery:
            await nursery.makedirs_many(["a/b", "c"], beneath=garden.root)
        with pytest.raises(RuntimeError):
            await nursery.makedirs_many(["d"], beneath=garden.root)
    assert {"a", "a/b", "c"} <= set(garden.below())


async def test_it_relies_on_what_another_call_has_made_and_on_nothing_above_the_root(
    stage: Rooted, beside: None
) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("root/a/b"))
        before = len(stage.calls)
        report = await makedirs_many(
            ["a/b/c", "a/../a/d", "e"], beneath=stage.at("root"), policy=stage.policy()
        )
        assert {*report.relied_on} >= {"a/b", "a"}
        assert all(str(path).startswith(stage.at("root")) for _, path in stage.calls[before:])
        nursery.cancel_scope.cancel()
    assert await stage.settled() == [
        *("root", "root/a", "root/a/b", "root/a/b/c", "root/a/d", "root/e"),
    ]
