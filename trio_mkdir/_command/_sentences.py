"""What is said of a failure: in GNU's words, and in some of our own where GNU has none."""

# Imported is what the path taken needs, when it needs it: start-up is most of the command's time.
# ruff: noqa: PLC0415

from __future__ import annotations

import errno
import os

from ._disk import obstacle
from ._listed import CannotRead
from ._quoting import quote

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from ._options import Options

SILENCE = "the filesystem does not answer"  # the text of ETIMEDOUT would be an answer
_CANNOT = {  # by what could not be done
    "open": "cannot read {}",
    "listxattr": "cannot read {}",
    "getxattr": "cannot read {}",
    "chown": "cannot change ownership of {}",
    "chmod": "cannot change permissions of {}",
    "setxattr": "cannot set attributes of {}",
    "removexattr": "cannot set attributes of {}",
    "fsync": "cannot write directory {} to the disk",
}
_MAY_BE_ABOVE = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EACCES,
    errno.ENAMETOOLONG,
}


class UnknownAccount(OSError):
    """There is no user or group of that name; what it says is the whole sentence."""


class CannotSetMode(OSError):
    """The directory was made, and its mode could not be set."""


async def sentence(error: OSError, options: Options) -> str:
    """GNU's sentence, and more where GNU has none. A checkpoint only if it has to look."""
    from trio_mkdir import (
        EscapeError,
        MkdirError,
        MountStalled,
        NotMounted,
        RootCause,
        StepTimeout,
    )

    beneath = options.beneath
    path, why = os.fsdecode(error.filename), error.strerror
    if isinstance(error, CannotRead):
        return f"cannot {error.doing} {quote(path)}: {why}"  # noqa: ASYNC910
    if isinstance(error, UnknownAccount):
        return why or ""  # noqa: ASYNC910
    if isinstance(error, CannotSetMode):
        return f"cannot change permissions of {quote(path)}: {why}"  # noqa: ASYNC910
    cannot = _CANNOT.get(getattr(error, "operation", ""))
    if isinstance(error, (StepTimeout, MountStalled)):
        why = SILENCE
    elif isinstance(error, NotMounted):
        point = quote(options.on_mount or "")
        why = ", ".join([f"it is not on the mount at {point}", *error.__notes__])
    elif cannot is not None:
        pass
    elif isinstance(error, MkdirError) and error.root_cause is RootCause.DISCONNECTED:
        why = ", ".join([str(why), *getattr(error, "__notes__", [])])
    elif beneath is not None:  # whose paths are not for the kernel to walk
        if isinstance(error, EscapeError):
            why = f"it leads out of {quote(beneath)}"
    elif options.parents and error.errno in _MAY_BE_ABOVE:
        path, why = await _seen_from_the_top(path, error.errno, options.step_timeout)
    return f"{(cannot or 'cannot create directory {}').format(quote(path))}: {why}"  # noqa: ASYNC910


async def _seen_from_the_top(path: str, number: int, seconds: float) -> tuple[str, str]:
    import trio

    with trio.move_on_after(seconds):
        path, number = await trio.to_thread.run_sync(obstacle, path, number, abandon_on_cancel=True)
    return path, os.strerror(number)
