"""Paths are checked as text before anything is made, and never normalised."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mkdir._paths import AnyPath, Target, is_dot, parent_of, target, winds


def aim(path: object, **options: object) -> Target:
    defaults: dict[str, object] = {
        "mode": 0o777,
        "parent_mode": None,
        "exist_ok": False,
        "parents": True,
    }
    return target(path, **(defaults | options))  # type: ignore[arg-type]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    directory = tmp_path.resolve() / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.mark.parametrize("path", ["/a", "/", "//a", "/a/../b", "/a//b/", "/a/."])
def test_an_absolute_path_is_taken_as_it_is(path: str) -> None:
    assert aim(path).path == path
    assert aim(os.fsencode(path)).path == os.fsencode(path)


@pytest.mark.parametrize("path", ["a", "a/b", "./a", "../a", ".", "a/", "a/../b"])
def test_a_relative_path_is_joined_to_the_working_directory_and_not_normalised(
    here: Path, path: str
) -> None:
    assert aim(path).path == f"{here}/{path}"
    assert aim(os.fsencode(path)).path == os.fsencode(f"{here}/{path}")


def test_a_later_chdir_changes_nothing(here: Path) -> None:
    aimed = aim("a")
    os.chdir("/")
    assert aimed.path == f"{here}/a"


def test_an_empty_path_is_not_the_working_directory() -> None:
    assert aim("").path == ""
    assert aim(b"").path == b""


def test_a_path_object_is_as_good_as_its_text() -> None:
    assert aim(PurePosixPath("/a/b")).path == "/a/b"
    assert aim(PurePosixPath("/a/b")).given == "/a/b"


def test_what_the_caller_wrote_is_remembered(here: Path) -> None:
    assert aim("a//b/").given == "a//b/"


@pytest.mark.parametrize("path", [None, 3, 1.5, ["/a"], object()])
def test_what_is_no_path_is_a_type_error(path: object) -> None:
    with pytest.raises(TypeError):
        aim(path)


@pytest.mark.parametrize("path", ["a\0b", b"b\0a", "\0", "/é\0"])
def test_a_null_byte_is_a_value_error_that_names_the_path(path: AnyPath) -> None:
    with pytest.raises(ValueError, match="null byte") as raised:
        aim(path)
    assert repr(path) in str(raised.value)


def test_what_cannot_be_encoded_is_a_value_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        aim("/a/\ud800")


def test_a_name_that_was_decoded_from_strange_bytes_is_taken() -> None:
    assert aim("/a/\udcff").path == "/a/\udcff"


@pytest.mark.parametrize("option", ["mode", "parent_mode"])
class TestModes:
    @pytest.mark.parametrize("value", [0, 0o700, 0o777, 0o1777, 0o7777, True])
    def test_anything_chmod_takes_is_taken(self, option: str, value: int) -> None:
        assert getattr(aim("/a", **{option: value}), option) == value

    @pytest.mark.parametrize("value", [-1, 0o200000, 1 << 64])
    def test_out_of_range_is_a_value_error_that_names_option_and_value(
        self, option: str, value: int
    ) -> None:
        with pytest.raises(ValueError, match=f"^{option} .* not {value}$"):
            aim("/a", **{option: value})

    @pytest.mark.parametrize("value", ["0o755", 7.5, b"7"])
    def test_no_integer_is_a_type_error_that_names_option_and_value(
        self, option: str, value: object
    ) -> None:
        with pytest.raises(TypeError, match=f"^{option} must be an integer") as raised:
            aim("/a", **{option: value})
        assert repr(value) in str(raised.value)

    def test_whatever_is_an_integer_is_taken(self, option: str) -> None:
        class Mode:
            def __index__(self) -> int:
                return 0o750

        assert getattr(aim("/a", **{option: Mode()}), option) == 0o750


def test_a_missing_mode_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^mode must be an integer, not None"):
        aim("/a", mode=None)


def test_parents_get_what_makedirs_gives_them() -> None:
    assert aim("/a", mode=0o700).parent_mode == 0o777


@pytest.mark.parametrize(("value", "meant"), [(0, False), (1, True), ("yes", True), (None, False)])
def test_exist_ok_is_what_it_is_in_an_if(value: object, meant: bool) -> None:
    assert aim("/a", exist_ok=value).exist_ok is meant


# Working directories that are none


def test_a_relative_path_in_a_directory_that_is_gone_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    os.rmdir(tmp_path / "gone")
    for path in ("a", b"a"):
        with pytest.raises(FileNotFoundError) as raised:
            aim(path)
        assert raised.value.errno == errno.ENOENT
        assert raised.value.filename == path
    assert aim("/a").path == "/a"


def test_a_working_directory_that_cannot_be_reached_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # After a lazy umount or a pivot_root Linux says where it would be; it is no path.
    monkeypatch.setattr(os, "getcwd", lambda: "(unreachable)/a")
    with pytest.raises(FileNotFoundError) as raised:
        aim("b")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, "b")


def test_a_working_directory_that_may_not_be_asked_for_is_the_error_of_its_errno(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def getcwd() -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "getcwd", getcwd)
    with pytest.raises(PermissionError):
        aim("a")


# Parents


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        ("/a/b", "/a"),
        ("/a/b/", "/a"),
        ("/a//b", "/a"),
        ("/a", "/"),
        ("/a/", "/"),
        ("/", None),
        ("//", None),
        ("", None),
        ("a", None),
        ("a/b", "a"),
        ("/a/.", "/a"),
        ("/a/..", "/a"),
        ("/a/./", "/a"),
    ],
)
def test_the_parent_is_what_makedirs_would_make_first(path: str, parent: str | None) -> None:
    assert parent_of(path) == parent
    assert parent_of(os.fsencode(path)) == (None if parent is None else os.fsencode(parent))


def test_prefixes_go_up_to_the_root() -> None:
    assert list(aim("/a/b//c/").prefixes("")) == ["/a/b//c/", "/a/b", "/a", "/"]


def test_prefixes_of_a_relative_path_have_the_working_directory_among_them(here: Path) -> None:
    prefixes = list(aim("a/b").prefixes(""))
    assert prefixes[:3] == [f"{here}/a/b", f"{here}/a", str(here)]
    assert prefixes[-1] == "/"


@pytest.mark.parametrize("path", ["a", "./a", "../a", "a/"])
def test_nothing_above_what_the_caller_named_is_ever_made(here: Path, path: str) -> None:
    aimed = aim(path)
    named = []
    step: AnyPath | None = aimed.path
    while step is not None:
        named.append(step)
        step = aimed.parent(step)
    assert str(here) not in named
    assert str(here.parent) not in named


def test_everything_the_caller_named_may_be_made(here: Path) -> None:
    aimed = aim("a/b/c")
    assert aimed.parent(f"{here}/a/b/c") == f"{here}/a/b"
    assert aimed.parent(f"{here}/a/b") == f"{here}/a"
    assert aimed.parent(f"{here}/a") is None


def test_an_absolute_path_may_be_made_from_the_root_on() -> None:
    assert aim("/a").parent("/a") == "/"
    assert aim("/a").parent("/") is None


def test_a_relative_path_in_the_root_ends_at_what_the_caller_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir("/")
    assert aim("a/b").path == "/a/b"
    assert aim("a/b").parent("/a/b") == "/a"
    assert aim("a/b").parent("/a") is None


def test_paths_are_told_in_the_form_in_which_the_caller_wrote_them(here: Path) -> None:
    aimed = aim("a/b")
    assert [aimed.as_given(path) for path in aimed.prefixes("")][:3] == ["a/b", "a", str(here)]
    assert aim("/a/b").as_given("/a") == "/a"
    assert aim(b"a/b").as_given(os.fsencode(here) + b"/a") == b"a"


# A dot at the end


@pytest.mark.parametrize("path", [".", "a/.", "a/./", "a/.//", "/."])
def test_a_dot_at_the_end_is_a_dot(path: str) -> None:
    assert is_dot(path)
    assert is_dot(os.fsencode(path))


@pytest.mark.parametrize("path", ["", "/", "a", "a/..", "..", "a.", "a/b.", "./a", "a/.b", "a./"])
def test_anything_else_is_none(path: str) -> None:
    assert not is_dot(path)
    assert not is_dot(os.fsencode(path))


components = st.lists(st.sampled_from(["a", "b", "..", ".", ""]), min_size=1, max_size=6)


@given(components)
def test_every_parent_is_shorter_and_a_beginning(names: list[str]) -> None:
    path: AnyPath = "/" + "/".join(names)
    while (parent := parent_of(path)) is not None:
        assert len(parent) < len(path)
        assert path[: len(parent)] == parent
        path = parent
    assert not path.strip("/")  # type: ignore[arg-type]


@given(components)
def test_text_and_bytes_have_the_same_parents(names: list[str]) -> None:
    path = "/".join(names)
    parent = parent_of(path)
    assert parent_of(os.fsencode(path)) == (None if parent is None else os.fsencode(parent))


def test_bytes_are_not_compared_with_text() -> None:
    # `python -bb` makes an error of that, and with warnings as errors -b does too.
    code = """
from trio_mkdir._paths import is_dot, parent_of, target
for path in (b"/a/.", b"/a/b", b"/a/./"):
    target(path, mode=0, parent_mode=0, exist_ok=False, parents=True)
    is_dot(path), parent_of(path)
"""
    root = Path(sys.modules["trio_mkdir"].__file__ or "").parents[1]
    subprocess.run(  # noqa: S603 - this very Python
        [sys.executable, "-bb", "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(root)}
    )


@pytest.mark.parametrize("path", ["..", "a/..", "../a", "a/../b", "a//..//b"])
def test_two_dots_are_a_component(path: str) -> None:
    assert winds(path)
    assert winds(os.fsencode(path))


@pytest.mark.parametrize("path", ["", "a", "...", "a..b/c..", "..a/.", "a/.../b"])
def test_two_dots_in_a_name_are_none(path: str) -> None:
    assert not winds(path)
    assert not winds(os.fsencode(path))
