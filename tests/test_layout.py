"""The rules of the package's layout, read from its source.

They hold for whatever modules there are: none of them is listed here for its own sake.
"""

from __future__ import annotations

import ast
import graphlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import trio_mkdir

NAME = "trio_mkdir"
ROOT = Path(trio_mkdir.__file__).parent  # the installed package, when that is what is tested

# For users of the library, beside the core: they import it and are never imported by it.
BESIDE_THE_CORE = (f"{NAME}.testing", f"{NAME}.instrumentation")
# The command; it owns its process, so it may do what a library may not.
COMMAND = (f"{NAME}._command", f"{NAME}.__main__")

# os functions that visit the filesystem, and so may hang.
SYSTEM_CALLS = frozenset(
    """
    access chmod chown fchmod fchown fsync fdatasync fstat getxattr lchown link listdir listxattr
    lstat makedirs mkdir mkfifo mknod open pathconf readlink remove removedirs removexattr rename
    renames replace rmdir scandir setxattr stat statvfs symlink truncate unlink utime walk fwalk
    """.split()
)
# The same of os.path.
PATH_CALLS = frozenset(
    """
    exists getatime getctime getmtime getsize isdir isfile isjunction islink ismount lexists
    realpath samefile sameopenfile
    """.split()
)
# The seam: the real filesystem, its open directories, and the same from one directory down.
SEAM = {f"{NAME}._os", f"{NAME}._directory", f"{NAME}._beneath"}
# What a module other than the seam may use of these: what is in /proc never hangs.
PAST_THE_SEAM = {f"{NAME}._mounts": {"open", "fstat"}, f"{NAME}._hidden": {"readlink"}}
# Changes to the whole process, which a library leaves to its program.
PROCESS_WIDE = {
    "os": frozenset("chdir fchdir chroot umask setuid setgid seteuid setegid nice putenv".split()),
    "signal": frozenset("signal set_wakeup_fd siginterrupt setitimer".split()),
    "logging": frozenset("basicConfig disable captureWarnings setLoggerClass".split()),
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package and its syntax tree."""
    names = [NAME, *(m.name for m in pkgutil.walk_packages([str(ROOT)], f"{NAME}."))]
    return {name: ast.parse(_file(name).read_text(encoding="utf-8")) for name in names}


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def core() -> dict[str, ast.Module]:
    return {name: tree for name, tree in modules().items() if not _within(name, BESIDE_THE_CORE)}


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that a ``from ... import`` names, dots resolved."""
    if not node.level:
        return node.module or ""
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def imports(module: str) -> set[str]:
    """The package's own modules that this one imports, anywhere in it.

    Imports for type checkers only and those within functions count: they are knowledge too.
    """
    found: set[str] = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(module, node)
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                found.add(submodule if submodule in modules() else origin)
    return found & modules().keys()


def uses(tree: ast.Module, owner: str, names: frozenset[str]) -> Iterator[str]:
    """Where a tree reads ``owner.name`` or has ``from owner import name``, for these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names:
            if ast.unparse(node.value) == owner:
                yield f"line {node.lineno}: {owner}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == owner and not node.level:
            for alias in node.names:
                if alias.name in names:
                    yield f"line {node.lineno}: from {owner} import {alias.name}"


def test_imports_point_one_way_only() -> None:
    graph = {module: imports(module) for module in modules()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # The sorter lists from what is imported to what imports it.
        circle = " imports ".join(reversed(error.args[1]))
        pytest.fail(f"imports run in a circle: {circle}", pytrace=False)


def test_the_core_does_not_know_what_is_built_on_it() -> None:
    for module in core():
        above = {name for name in imports(module) if _within(name, BESIDE_THE_CORE)}
        assert not above, f"{module} imports {above}"


def test_one_module_sends_work_to_threads() -> None:
    # All that is promised about late threads rests on one handshake, and so on one place.
    senders = {
        module
        for module, tree in core().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "to_thread")
        or (isinstance(node, ast.Name) and node.id == "to_thread")
        or (isinstance(node, ast.alias) and "to_thread" in node.name.split("."))
    }
    assert {name for name in senders if not _within(name, COMMAND)} == {f"{NAME}._step"}


def test_only_the_seam_makes_system_calls() -> None:
    # Whatever may hang goes through the seam, where tests can hold it and steps can bound it.
    for module, tree in core().items():
        if module in SEAM or _within(module, COMMAND):
            continue
        calls = SYSTEM_CALLS - PAST_THE_SEAM.get(module, set())
        found = [*uses(tree, "os", calls), *uses(tree, "os.path", PATH_CALLS)]
        assert not found, f"{module} goes past the seam: {found}"


def test_nothing_changes_the_whole_process() -> None:
    for module, tree in modules().items():
        if _within(module, COMMAND):
            continue
        found = [use for owner, names in PROCESS_WIDE.items() for use in uses(tree, owner, names)]
        assert not found, f"{module} changes its process: {found}"


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []


def test_public_names_are_sorted() -> None:
    assert list(trio_mkdir.__all__) == sorted(trio_mkdir.__all__)


@pytest.mark.parametrize("name", trio_mkdir.__all__)
def test_public_name_says_where_users_find_it(name: str) -> None:
    # Tracebacks, pickles and documentation name the public place, not the room it is written in.
    assert getattr(trio_mkdir, name).__module__ == NAME


def test_package_ships_its_types() -> None:
    assert (ROOT / "py.typed").is_file()
