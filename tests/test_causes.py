"""Each errno has one root cause, as the table of the contract has it."""

from __future__ import annotations

import errno

import pytest

from trio_mkdir import RootCause
from trio_mkdir._causes import AMBIGUOUS, root_cause

TABLE = {
    RootCause.BUSY: "EAGAIN EINTR EBUSY ENOLCK",
    RootCause.NO_SPACE: "ENOSPC",
    RootCause.NO_QUOTA: "EDQUOT",
    RootCause.TIMED_OUT: "ETIMEDOUT",
    RootCause.NO_RESOURCES: "EMFILE ENFILE ENOMEM ENOBUFS",
    RootCause.STALE: "ESTALE",
    RootCause.MISSING: "ENOENT",
    RootCause.NOT_PERMITTED: "EACCES EPERM",
    RootCause.READ_ONLY: "EROFS",
    RootCause.DISCONNECTED: "ENOTCONN ECONNABORTED EIO ENXIO ENODEV EHOSTDOWN ECONNRESET EPIPE",
    RootCause.IN_THE_WAY: "EEXIST ENOTDIR EISDIR",
    RootCause.BAD_NAME: "ENAMETOOLONG EINVAL EILSEQ",
    RootCause.TOO_MANY_LINKS: "EMLINK",
    RootCause.LOOP: "ELOOP",
    RootCause.ESCAPES: "EXDEV",
    RootCause.OTHER: "ENOSYS ENOTSUP EDOM",
}


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        pytest.param(name, cause, id=name)
        for cause, names in TABLE.items()
        for name in names.split()
    ],
)
def test_an_errno_has_its_cause(name: str, cause: RootCause) -> None:
    if not hasattr(errno, name):
        pytest.skip(f"{name} is not known here")
    assert root_cause(getattr(errno, name)) is cause


def test_every_errno_has_a_cause() -> None:
    assert all(isinstance(root_cause(number), RootCause) for number in errno.errorcode)


@pytest.mark.parametrize("number", [None, 0, -1, 99999])
def test_what_is_no_errno_is_other(number: int | None) -> None:
    assert root_cause(number) is RootCause.OTHER


def test_that_something_vanished_is_never_the_kernels_word() -> None:
    # ENOENT alone does not tell it: only the walk knows that it has seen the directory above.
    assert RootCause.VANISHED not in {root_cause(number) for number in errno.errorcode}


@pytest.mark.parametrize(
    "name", ["EINTR", "EAGAIN", "ETIMEDOUT", "ESTALE", "EIO", "ENOTCONN", "EISDIR", "ENOMEM"]
)
def test_after_a_reply_that_may_be_lost_the_directory_may_stand(name: str) -> None:
    assert getattr(errno, name) in AMBIGUOUS


@pytest.mark.parametrize(
    "name",
    ["EEXIST", "ENOENT", "ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EMLINK"],
)
def test_a_definite_answer_is_definite(name: str) -> None:
    assert getattr(errno, name) not in AMBIGUOUS
