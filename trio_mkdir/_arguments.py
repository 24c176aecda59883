"""The arguments of the public functions, checked before anything is made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._beneath import root_at
from ._changes import Owner
from ._checks import whole_positive
from ._demands import Demands, Ownership
from ._errors import as_mkdir_error
from ._many import Order
from ._paths import checked_mode, full_path, parent_mode_or_default, target, target_beneath
from ._policy import Policy

if TYPE_CHECKING:
    from ._many import Progress
    from ._paths import StrOrBytesPath, Target


def order_for(
    mode: int,
    parent_mode: int | None,
    concurrency: int,
    progress: Progress | None,
    beneath: StrOrBytesPath | int | None,
    wanted: Demands | None,
    *,
    exist_ok: bool,
) -> Order:
    """The checked arguments of a call for many paths."""
    whole_positive.check("concurrency", concurrency)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable or None, not {progress!r}")
    try:
        root = None if beneath is None else root_at(beneath, in_bytes=False)
    except OSError as error:  # the working directory is gone
        raise as_mkdir_error(error) from None
    return Order(
        mode=checked_mode("mode", mode),
        parent_mode=parent_mode_or_default(parent_mode),
        exist_ok=bool(exist_ok),
        concurrency=concurrency,
        progress=progress,
        root=root,
        demands=wanted,
    )


def asked_for(
    path: StrOrBytesPath,
    mode: int,
    parent_mode: int | None,
    beneath: StrOrBytesPath | int | None,
    wanted: Demands | None,
    *,
    exist_ok: bool,
    parents: bool,
) -> Target:
    """The checked arguments of a call."""
    try:
        if beneath is not None:
            root = root_at(beneath, in_bytes=isinstance(os.fspath(path), bytes))
            asked = target_beneath(
                root,
                path,
                mode=mode,
                parent_mode=parent_mode,
                exist_ok=exist_ok,
                parents=parents,
            )
        else:
            asked = target(
                path, mode=mode, parent_mode=parent_mode, exist_ok=exist_ok, parents=parents
            )
    except OSError as error:  # the working directory is gone, or the path leads out at first sight
        raise as_mkdir_error(error) from None
    asked.demands = wanted
    return asked


def checked_policy(policy: object) -> Policy:
    """``policy``, if it is one."""
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    return policy


def demands(
    atomic: bool,
    durable: bool,
    exact_mode: bool,
    owner: int | str | None,
    group: int | str | None,
    like: StrOrBytesPath | None,
    on_mount: StrOrBytesPath | None,
) -> Demands | None:
    """The arguments in their usual order, checked.

    None if nothing is asked for that `os.makedirs` does not do.
    """
    ownership = None
    if exact_mode or (owner, group, like) != (None, None, None):
        ownership = Ownership(
            exact_mode=bool(exact_mode),
            owner=_checked_id("owner", owner),
            group=_checked_id("group", group),
            like=None if like is None else full_path("like", like),
        )
    if not (atomic or durable or ownership or on_mount is not None):
        return None
    return Demands(
        atomic=bool(atomic),
        durable=bool(durable),
        ownership=ownership,
        on_mount=None if on_mount is None else full_path("on_mount", on_mount),
    )


def checked_owner(owner: object, group: object) -> Owner:
    """The checked arguments of a change of owner."""
    if owner is None and group is None:
        raise ValueError("owner and group are both None: there is nothing to change")
    return Owner(_checked_id("owner", owner), _checked_id("group", group))


def _checked_id(name: str, value: object) -> int | str | None:
    if value is None or isinstance(value, str):
        if value == "" or (value and "\0" in value):
            raise ValueError(f"{name} must be a name, a number or None, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a name, a number or None, not {value!r}")
    if not 0 <= value < 2**32 - 1:  # the last one means "leave it" to chown(2)
        raise ValueError(f"{name} must be between 0 and {2**32 - 2}, not {value!r}")
    return value
