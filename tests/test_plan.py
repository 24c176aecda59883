"""The tree of all paths: each directory once, what is ready, and whose turn it is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from doubles import DISK, NAS
from hypothesis import given
from hypothesis import strategies as st

from trio_mkdir._paths import AnyPath
from trio_mkdir._plan import Bundle, Plan
from trio_mkdir._workers import Workers

ON_DISK = Workers(DISK)
ON_NAS = Workers(NAS)


def workers_in(directory: AnyPath) -> Workers:
    return ON_NAS if os.fsdecode(directory).startswith("/nas") else ON_DISK


@pytest.fixture
def plan() -> Plan:
    return Plan(workers_in)


def never(path: AnyPath) -> bool:
    return False


def carry_out(plan: Plan, workers: Workers | None = None) -> Iterator[AnyPath]:
    """Make everything, one after the other; what is made in which order."""
    while (bundle := plan.take(workers)) is not None:
        while bundle.todo:
            path = bundle.todo[-1]
            yield path
            plan.reached(path, bundle)


# What is in it


def test_each_directory_is_made_once_and_after_the_one_above_it(plan: Plan) -> None:
    plan.add(["/a/b/c", "/a/d", "/a/b/e"], again=never)
    assert list(carry_out(plan)) == ["/a/b", "/a/d", "/a/b/c", "/a/b/e"]
    assert plan.finished
    assert plan.done == 3


def test_the_way_to_all_of_them_is_taken_to_stand(plan: Plan) -> None:
    plan.add(["/a/b/c/d"], again=never)
    assert list(carry_out(plan)) == ["/a/b/c/d"]
    assert plan.finished


def test_a_directory_that_was_asked_for_is_made_though_it_is_on_the_way(plan: Plan) -> None:
    plan.add(["/a/b/c/d", "/a/b"], again=never)
    assert list(carry_out(plan)) == ["/a/b", "/a/b/c", "/a/b/c/d"]
    assert plan.done == 2
    assert plan.is_wanted("/a/b")
    assert not plan.is_wanted("/a/b/c")
    assert plan.is_above("/a/b/c")
    assert not plan.is_above("/a/b/c/d")


def test_a_path_that_comes_twice_counts_twice_and_is_made_once(plan: Plan) -> None:
    plan.add(["/a/b", "/a/b"], again=never)
    assert plan.done == 1
    assert list(carry_out(plan)) == ["/a/b"]
    assert plan.done == 2


def test_the_root_and_no_path_at_all_are_in_no_directory(plan: Plan) -> None:
    plan.add(["/", "", b"/"], again=never)
    assert sorted(map(os.fsdecode, carry_out(plan))) == ["", "/", "/"]
    assert plan.finished


def test_bytes_and_text_have_a_tree_each(plan: Plan) -> None:
    plan.add(["/a/b", b"/a/c"], again=never)
    assert set(carry_out(plan)) == {"/", b"/", "/a", b"/a", "/a/b", b"/a/c"}


def test_every_directory_that_is_needed_is_told_deepest_first(plan: Plan) -> None:
    plan.add(["/a/b/c", "/d"], again=never)
    assert list(map(len, plan.paths())) == [6, 4, 2, 2]  # nobody has made the root
    assert set(plan.paths()) == {"/a/b/c", "/a/b", "/a", "/d"}


def test_what_is_taken_for_granted_is_not_made_but_is_needed(plan: Plan) -> None:
    plan.take_for_granted("/home/me")
    plan.take_for_granted("/home/me")
    plan.add(["/home/me/a", "/b"], again=never)
    assert set(carry_out(plan)) == {"/home/me/a", "/b"}
    assert {"/home/me", "/home"} <= set(plan.paths())


def test_what_is_taken_for_granted_is_looked_at_where_it_is_asked_for(plan: Plan) -> None:
    plan.take_for_granted("/home/me")
    plan.add(["/home/me", "/home/me/a"], again=never)
    assert list(carry_out(plan)) == ["/home/me", "/home/me/a"]
    assert plan.done == 2


# More of them


def test_more_paths_are_added_when_the_first_ones_stand(plan: Plan) -> None:
    plan.add(["/a/b"], again=never)
    assert list(carry_out(plan)) == ["/a/b"]
    plan.add(["/a/c/d", "/a/b/e", "/f"], again=never)
    assert set(carry_out(plan)) == {"/a/c", "/a/c/d", "/a/b/e", "/f"}
    assert plan.finished
    assert plan.done == 4


def test_what_was_on_the_way_stands_when_it_is_asked_for_later(plan: Plan) -> None:
    plan.add(["/a/b/c", "/a/b/d"], again=never)
    list(carry_out(plan))
    plan.add(["/a/b", "/a/b/c"], again=never)
    assert plan.finished
    assert plan.done == 4


def test_what_was_on_the_way_is_tried_where_it_must_not_have_been_there(plan: Plan) -> None:
    plan.add(["/a/b/c", "/a/b/d"], again=never)
    list(carry_out(plan))
    plan.add(["/a/b"], again=lambda path: path == "/a/b")
    assert list(carry_out(plan)) == ["/a/b"]


def test_what_winds_is_made_in_order_and_nothing_above_it_is(plan: Plan) -> None:
    plan.begin_at("/srv/r")
    plan.add_one_by_one(["/srv/r/a/../c", "/srv/r/b/../a", "/srv/r/a/../c"], ON_DISK)
    assert list(carry_out(plan)) == ["/srv/r/a/../c", "/srv/r/b/../a"]
    assert (plan.finished, plan.done) == (True, 3)
    plan.add_one_by_one(["/srv/r/a/../c"], ON_DISK)
    assert plan.take() is None
    assert (plan.finished, plan.done) == (True, 4)
    plan.add(["/srv/r/c/x"], again=never)
    assert list(carry_out(plan)) == ["/srv/r/c", "/srv/r/c/x"]
    assert plan.is_wanted("/srv/r/b/../a")
    assert not plan.is_wanted("/srv/r/b")


def test_of_what_is_needed_nothing_is_above_the_root_of_a_call(plan: Plan) -> None:
    for root in ("/srv/r", b"/srv/r"):
        plan.begin_at(root)
    plan.add(["/srv/r/a/b", b"/srv/r/c", "/srv/r"], again=never)
    plan.add_one_by_one(["/srv/r/x/../y"], ON_DISK)
    assert set(plan.paths()) == {
        *("/srv/r", "/srv/r/a", "/srv/r/a/b", b"/srv/r", b"/srv/r/c"),
        *("/srv/r/x/../y", "/srv/r/x/..", "/srv/r/x"),
    }


# Whose turn it is


def test_what_has_the_most_below_it_comes_first(plan: Plan) -> None:
    plan.add(["/a/x", "/b/x", "/b/y", "/b/z", "/c/x", "/c/y"], again=never)
    first = plan.take()
    assert first is not None
    for path in ("/a", "/b", "/c"):
        assert first.todo[-1] == path
        plan.reached(path, first)
    taken = [plan.take(), plan.take(), plan.take(), plan.take()]
    assert [bundle and bundle.todo[-1] for bundle in taken] == ["/b/x", "/c/x", "/a/x", None]


def test_what_is_put_back_is_taken_by_whoever_comes(plan: Plan) -> None:
    plan.add(["/a/x", "/a/y"], again=never)
    bundle = plan.take()
    assert bundle is not None
    assert plan.take() is None
    plan.reached("/a/x", bundle)
    plan.put_back(bundle)
    assert plan.take() is bundle
    assert not plan.finished
    plan.reached("/a/y", bundle)
    assert plan.finished


def test_a_bundle_belongs_to_the_workers_of_its_directory(plan: Plan) -> None:
    plan.add(["/nas/a/b", "/srv/a/b"], again=never)
    for path in list(carry_out_here(plan, ["/nas", "/srv"])):
        assert path in {"/nas", "/srv"}
    assert list(carry_out(plan, ON_NAS)) == ["/nas/a", "/nas/a/b"]
    assert plan.take(ON_NAS) is None
    assert list(carry_out(plan, ON_DISK)) == ["/srv/a", "/srv/a/b"]
    assert plan.finished


def carry_out_here(plan: Plan, paths: list[str]) -> Iterator[str]:
    bundle = plan.take()
    assert bundle is not None
    for path in paths:
        assert bundle.todo[-1] == path
        plan.reached(path, bundle)
        yield path


@pytest.mark.parametrize("above", [False, True])
def test_a_mount_point_can_be_handed_over_to_its_own_workers(plan: Plan, above: bool) -> None:
    plan.add(["/mnt/a", "/mnt/nas", *(["/mnt/nas/b"] if above else [])], again=never)
    bundle = plan.take()
    assert bundle is not None
    assert bundle.todo[-1] == "/mnt/a"
    plan.reached("/mnt/a", bundle)
    plan.hand_over(bundle, ON_NAS)
    assert not bundle.todo
    assert bundle.weight == 0
    assert not plan.finished
    assert plan.take(ON_DISK) is None
    own = plan.take(ON_NAS)
    assert own is not None
    assert own.todo == ["/mnt/nas"]
    assert not own.is_flat
    plan.reached("/mnt/nas", own)
    assert list(carry_out(plan)) == (["/mnt/nas/b"] if above else [])
    assert plan.finished


def test_many_of_a_flat_bundle_are_reached_at_once(plan: Plan) -> None:
    plan.add([f"/a/{name}" for name in "vwxyz"], again=never)
    bundle = plan.take()
    assert bundle is not None
    assert bundle.is_flat
    del bundle.todo[2:]
    plan.reached_many(bundle)
    assert (plan.done, plan.finished, bundle.weight) == (3, False, 2)
    bundle.todo.clear()
    plan.reached_many(bundle)
    assert (plan.done, plan.finished) == (5, True)


def test_a_bundle_with_something_below_it_is_not_flat(plan: Plan) -> None:
    plan.add(["/a/b", "/a/c", "/a/c/d"], again=never)
    bundle = plan.take()
    assert bundle is not None
    assert not bundle.is_flat
    assert bundle.weight == 3


# Whatever they are

names = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)


paths = names.map("/".join).map("/{}".format)


@given(turns=st.lists(st.lists(paths, min_size=1, max_size=9), max_size=3))
def test_whatever_is_asked_for_is_made_once_from_the_top_down(turns: list[list[str]]) -> None:
    plan = Plan(workers_in)
    standing: set[AnyPath] = {"/"}
    for paths in turns:
        plan.add(paths, again=never)
        for path in carry_out(plan):
            above = os.path.dirname(os.fsdecode(path))
            assert path not in standing
            # What the first turn takes to stand is found out by the kernel.
            while above not in standing:
                standing.add(above)
                above = os.path.dirname(above)
            standing.add(path)
        assert plan.finished
        assert standing >= set(paths)
    assert plan.done == sum(map(len, turns))
    assert not isinstance(plan.take(), Bundle)
