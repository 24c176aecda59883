"""The mount table says on which mount a path lies, follows the kernel's, and touches no mount."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from filesystems.mounts import mount_point, tmpfs_mount
from filesystems.needs import needs_linux, needs_root

from trio_mkdir._mounts import NO_TABLE, Mount, MountTable, parse, visible


def line(number: int, parent: int, point: str, source: str = "none") -> str:
    return f"{number} {parent} 0:{number} / {point} rw,relatime shared:1 - tmpfs {source} rw\n"


def table_of(tmp_path: Path, *lines: str) -> MountTable:
    file = tmp_path / "mountinfo"
    file.write_text("".join(lines), encoding="utf-8")
    return MountTable(str(file))


@pytest.fixture
def kernel() -> Iterator[MountTable]:
    """The table of the running system."""
    needs_linux()
    table = MountTable()
    yield table
    table.close()


def descriptors(file: str = f"/proc/{os.getpid()}/mountinfo") -> set[int]:
    """This process's descriptors of the kernel's mount table."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == file:
                found.add(int(number))
        except FileNotFoundError:
            continue  # the listing's own
    return found


def descriptor_of(table: MountTable) -> int:
    before = descriptors()
    table.find("/")
    (number,) = descriptors() - before
    return number


# Reading it


def test_a_line_has_all_that_a_mount_is() -> None:
    (mount,) = parse(
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n"
    )
    assert mount == Mount(36, 35, "98:0", "/mnt1", "/mnt2", "rw,noatime", "ext3", "/dev/root")
    assert mount.super_options == "rw,errors=continue"
    assert str(mount) == "/mnt2 (ext3 from /dev/root, rw,noatime,errors=continue)"


def test_optional_fields_may_be_missing() -> None:
    (mount,) = parse(b"36 35 98:0 / /mnt rw - ext3 /dev/root rw\n")
    assert (mount.options, mount.type) == ("rw", "ext3")


def test_options_of_the_filesystem_may_be_missing() -> None:
    (mount,) = parse(b"36 35 98:0 / /mnt rw - ext3 /dev/root\n")
    assert mount.super_options == ""
    assert str(mount) == "/mnt (ext3 from /dev/root, rw)"


def test_a_source_may_be_empty() -> None:
    (mount,) = parse(b"36 35 98:0 / /mnt rw - tmpfs  rw\n")
    assert mount.source == ""


def test_blanks_and_backslashes_are_written_in_octal() -> None:
    (mount,) = parse(rb"36 35 98:0 /a\040b /tab\011new\012line\134hash rw - ext3 /dev/\043 rw")
    assert mount.root == "/a b"
    assert mount.mount_point == "/tab\tnew\nline\\hash"
    assert mount.source == "/dev/#"


def test_names_that_are_no_text_are_read_as_the_os_module_reads_them() -> None:
    (mount,) = parse(b"36 35 98:0 / /caf\xe9 rw - ext3 /dev/root rw\n")
    assert os.fsencode(mount.mount_point) == b"/caf\xe9"


def test_an_empty_table_has_no_mounts() -> None:
    assert parse(b"") == []
    assert visible([]) == {}


@pytest.mark.parametrize("character", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028"], ids=ascii)
def test_only_a_newline_ends_a_line(character: str) -> None:
    # The kernel escapes blank, tab, newline and backslash. Whoever may mount something, a FUSE user
    # too, could otherwise break every call of every process, and the import of this package.
    (mount,) = parse(line(36, 35, f"/a{character}b").encode())
    assert mount.mount_point == f"/a{character}b"


# Which of them are seen


def points(*lines: str) -> dict[str, int]:
    return {point: mount.id for point, mount in visible(parse("".join(lines).encode())).items()}


def test_each_mount_is_seen_at_its_mount_point() -> None:
    assert points(line(1, 0, "/"), line(2, 1, "/a"), line(3, 2, "/a/b"), line(4, 1, "/c")) == {
        "/": 1,
        "/a": 2,
        "/a/b": 3,
        "/c": 4,
    }


def test_of_stacked_mounts_the_last_is_seen() -> None:
    stack = [line(1, 0, "/"), line(2, 1, "/a"), line(3, 2, "/a"), line(4, 3, "/a")]
    assert points(*stack) == {"/": 1, "/a": 4}


def test_what_is_mounted_in_a_covered_mount_is_hidden() -> None:
    assert points(line(1, 0, "/"), line(2, 1, "/a"), line(3, 2, "/a/b"), line(4, 2, "/a")) == {
        "/": 1,
        "/a": 4,
    }


def test_a_mount_above_hides_what_was_mounted_below_before_it() -> None:
    assert points(line(1, 0, "/"), line(2, 1, "/a/b"), line(3, 1, "/a")) == {"/": 1, "/a": 3}


def test_what_is_mounted_in_the_covering_mount_is_seen() -> None:
    lines = [line(1, 0, "/"), line(2, 1, "/a/b"), line(3, 1, "/a"), line(4, 3, "/a/b")]
    assert points(*lines) == {"/": 1, "/a": 3, "/a/b": 4}


def test_a_covered_root_is_hidden_with_all_that_is_in_it() -> None:
    assert points(line(1, 0, "/"), line(2, 1, "/a"), line(3, 1, "/"), line(4, 3, "/c")) == {
        "/": 3,
        "/c": 4,
    }


def test_a_name_that_begins_alike_is_not_below() -> None:
    assert points(line(1, 0, "/"), line(2, 1, "/ab"), line(3, 1, "/a")) == {
        "/": 1,
        "/ab": 2,
        "/a": 3,
    }


def test_a_root_may_be_its_own_parent() -> None:
    # As where a system runs from its initramfs.
    assert points(line(1, 1, "/"), line(2, 1, "/a")) == {"/": 1, "/a": 2}


def test_in_a_chroot_the_parents_of_the_first_mounts_are_not_listed() -> None:
    assert points(line(5, 4, "/"), line(6, 3, "/a")) == {"/": 5, "/a": 6}


def test_a_tall_stack_of_forgotten_mounts_is_read() -> None:
    # Services that mount at each restart and never unmount do make these.
    stack = [line(1, 0, "/"), *(line(number, number - 1, "/a") for number in range(2, 3000))]
    assert points(*stack) == {"/": 1, "/a": 2999}


def test_thousands_of_mounts_are_read_in_no_time() -> None:
    # As on a host of containers. It happens in trio's own thread at every change of the table.
    lines = [line(1, 0, "/"), *(line(n, 1, f"/run/pods/{n}/volume") for n in range(2, 5000))]
    mounts = parse("".join(lines).encode())
    before = time.process_time()
    assert len(visible(mounts)) == len(mounts)
    assert time.process_time() - before < 1


# Finding


@pytest.fixture
def nas(tmp_path: Path) -> Iterator[MountTable]:
    """A root, a server with a share in it, and a place with a blank in its name."""
    table = table_of(
        tmp_path,
        line(1, 0, "/"),
        line(2, 1, "/nas"),
        line(3, 2, "/nas/share"),
        line(4, 1, r"/my\040disk"),
    )
    yield table
    table.close()


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/", 1),
        ("/home/me", 1),
        ("/nas", 2),
        ("/nas/", 2),
        ("/nas/other/deep", 2),
        ("/nasty", 1),
        ("/nas/share", 3),
        ("/nas/share/a/b", 3),
        ("/nas//share/a", 3),
        ("/nas/./share/a", 3),
        ("/nas/share/../a", 2),
        ("/nas/share/../../a", 1),
        ("/nas/.hidden", 2),
        ("/../nas", 2),
        ("/my disk/a", 4),
        ("", 1),
        (b"/nas/share/a", 3),
        (b"/nas/\xff", 2),
    ],
)
def test_the_mount_with_the_longest_mount_point_above_the_path_is_found(
    nas: MountTable, path: str | bytes, number: int
) -> None:
    assert nas.find(path).id == number


def test_two_slashes_at_the_beginning_are_one(nas: MountTable) -> None:
    # Taken for the root's, a call on a dead server would use up the workers of the root.
    assert nas.find("//nas/share").id == 3


def test_without_a_root_in_the_table_nothing_is_known_above(tmp_path: Path) -> None:
    table = table_of(tmp_path, line(6, 3, "/a"))
    assert table.find("/a/b").id == 6
    assert table.find("/b") is NO_TABLE
    table.close()


def test_without_a_table_every_path_is_on_the_same_unknown_mount(tmp_path: Path) -> None:
    table = MountTable(str(tmp_path / "missing"))
    assert table.find("/") is table.find("/a/b") is NO_TABLE
    table.close()


def test_two_threads_may_ask_at_once(kernel: MountTable) -> None:
    # A poll object raises RuntimeError when it is used by two threads at once.
    failures: list[BaseException] = []
    ready = threading.Barrier(2)

    def ask() -> None:
        try:
            ready.wait()
            for _ in range(2000):
                kernel.find("/proc/self")
        except BaseException as failure:  # noqa: BLE001 - told to the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# The kernel's


def test_the_kernel_tells_what_is_mounted(kernel: MountTable) -> None:
    assert kernel.find("/proc/self/mountinfo").type == "proc"
    assert kernel.find("/").mount_point == "/"


def test_the_table_follows_mount_and_unmount(kernel: MountTable, tmp_path: Path) -> None:
    needs_root()
    before = kernel.find(str(tmp_path / "tmpfs" / "a"))
    with tmpfs_mount(tmp_path) as point:
        mounted = kernel.find(str(point.path / "a"))
        assert (mounted.mount_point, mounted.type) == (str(point.path), "tmpfs")
        assert mounted != before
        point.vanish()
        assert kernel.find(str(point.path / "a")) == before


def test_another_filesystem_mounted_over_it_is_another_mount(
    kernel: MountTable, tmp_path: Path
) -> None:
    needs_root()
    with tmpfs_mount(tmp_path) as point:
        lower = kernel.find(str(point.path))
        point.mount("tmpfs")
        upper = kernel.find(str(point.path))
        assert lower.mount_point == upper.mount_point
        assert lower != upper


@pytest.mark.parametrize("name", ["a b", "back\\slash", "new\nline", "octal\\040", "ünïcode"])
def test_strange_names_of_mount_points_are_found(
    kernel: MountTable, tmp_path: Path, name: str
) -> None:
    needs_root()
    with mount_point(tmp_path / name) as point:
        point.mount("tmpfs")
        assert kernel.find(str(point.path)).mount_point == str(point.path)


# Its descriptor


def test_nothing_is_open_before_it_is_needed() -> None:
    needs_linux()
    before = descriptors()
    table = MountTable()
    assert descriptors() == before
    table.close()


def test_one_descriptor_serves_for_ever_and_is_not_inherited(kernel: MountTable) -> None:
    number = descriptor_of(kernel)
    opened = descriptors()
    for _ in range(10):
        kernel.find("/")
    assert descriptors() == opened
    assert not os.get_inheritable(number)


def test_a_table_that_was_closed_behind_its_back_is_opened_again(
    kernel: MountTable, tmp_path: Path
) -> None:
    # A daemon closes every descriptor that it does not know.
    needs_root()
    with tmpfs_mount(tmp_path) as point:
        number = descriptor_of(kernel)
        lower = kernel.find(str(point.path))
        os.close(number)
        point.mount("tmpfs")
        upper = kernel.find(str(point.path))
        assert lower.mount_point == upper.mount_point
        assert lower != upper


def test_a_descriptor_number_that_is_another_files_by_now_is_noticed(
    kernel: MountTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise the table is never read again, and a mount that has vanished is not seen to be gone.
    needs_root()
    number = descriptor_of(kernel)
    os.close(number)
    later = time.monotonic() + 1.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        assert other == number
        with tmpfs_mount(tmp_path) as point:
            assert kernel.find(str(point.path)).type == "tmpfs"
    finally:
        os.close(other)


def test_closing_leaves_another_file_under_its_number_alone(tmp_path: Path) -> None:
    # A fork in a daemon would close the daemon's own log file in the child.
    needs_linux()
    table = MountTable()
    number = descriptor_of(table)
    os.close(number)
    other = os.open(tmp_path, os.O_RDONLY)
    assert other == number
    table.close()
    os.close(other)


def test_a_closed_table_has_given_its_descriptor_back() -> None:
    needs_linux()
    table = MountTable()
    number = descriptor_of(table)
    table.close()
    assert number not in descriptors()
    table.close()


def test_a_closed_table_opens_again_when_it_is_asked() -> None:
    # As in the child of a fork.
    needs_linux()
    table = MountTable()
    before = table.find("/")
    table.close()
    opened = descriptors()
    assert table.find("/") == before
    assert len(descriptors() - opened) == 1
    table.close()
    assert descriptors() == opened


def test_closing_after_somebody_else_has_closed_it_is_no_error() -> None:
    needs_linux()
    table = MountTable()
    number = descriptor_of(table)
    os.close(number)
    table.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_table_that_cannot_be_opened_again_knows_no_mounts(tmp_path: Path) -> None:
    # Better none than those of long ago: promises would be kept to the wrong mount.
    table = table_of(tmp_path, line(1, 0, "/"))
    assert table.find("/").id == 1
    table.close()
    (tmp_path / "mountinfo").unlink()
    assert table.find("/") is NO_TABLE


@pytest.mark.parametrize(
    ("kind", "point", "follows"),
    [
        ("autofs", "/net", True),  # systemd mounts over the automount
        ("autofs", "/net/nas", True),  # automountd mounts below it
        ("autofs", "/network", False),
        ("autofs", "/", False),  # the automount is gone
        ("nfs4", "/net", False),
    ],
)
def test_what_an_automount_mounts_is_on_it_or_below(kind: str, point: str, follows: bool) -> None:
    automount = attrs.evolve(NO_TABLE, type=kind, mount_point="/net")
    mounted = attrs.evolve(NO_TABLE, id=7, type="nfs4", mount_point=point)
    assert mounted.is_mounted_by(automount) is follows
