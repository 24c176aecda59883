"""How long to wait, what to try again, and who is told: the options of a call."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import attrs

from ._backoff import BackoffPolicy, Budget
from ._causes import RootCause
from ._checks import finite, non_negative, positive, whole_positive
from ._os import Filesystem
from ._paths import AnyPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._events import Observer

Reclaim: TypeAlias = Callable[[AnyPath, RootCause, os.statvfs_result], Awaitable[object]]

_PASSING: Final = BackoffPolicy()

DEFAULT_RETRIES: Final[Mapping[RootCause, BackoffPolicy]] = MappingProxyType(
    {
        RootCause.BUSY: _PASSING,
        RootCause.NO_SPACE: _PASSING,
        RootCause.NO_QUOTA: _PASSING,
        RootCause.NO_RESOURCES: _PASSING,
        RootCause.STALE: _PASSING,
        RootCause.TIMED_OUT: BackoffPolicy(initial=0.1, maximum=1.0, jitter="full"),
        # Made again at once; bounded, or two programs could undo each other's work for ever.
        RootCause.VANISHED: BackoffPolicy.constant(0, max_retries=10),
    }
)
"""Causes that can pass: 10, 50, 250 ms; a timeout 100 ms to 1 s with full jitter; a directory
that vanished is made again at once, up to ten times without progress."""


def _retries(value: object) -> Mapping[RootCause, BackoffPolicy]:
    if not isinstance(value, Mapping):
        raise TypeError(f"retries must map RootCause to BackoffPolicy, not {value!r}")
    retries = cast("Mapping[object, object]", value)
    for cause, backoff in retries.items():
        if not isinstance(cause, RootCause):
            raise TypeError(f"retries must have RootCause keys, not {cause!r}")
        if not isinstance(backoff, BackoffPolicy):
            raise TypeError(f"retries[{cause}] must be a BackoffPolicy, not {backoff!r}")
    return MappingProxyType(dict(cast("Mapping[RootCause, BackoffPolicy]", retries)))


def _callable_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{attribute.name} must be callable or None, not {value!r}")


def _budget_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, Budget):
        raise TypeError(f"{attribute.name} must be a Budget or None, not {value!r}")


def _observers(value: object) -> tuple[Observer, ...]:
    observers = cast("Sequence[object]", value) if isinstance(value, (tuple, list)) else None
    if observers is None or not all(map(callable, observers)):
        raise TypeError(f"observers must be a list or tuple of callables, not {value!r}")
    return tuple(cast("Sequence[Observer]", observers))


@attrs.frozen(kw_only=True)
class Policy:
    """The options that calls share; make one and pass it to many calls.

    The deadline of a whole call is no option: it is the caller's cancel scope.

    Raises:
      ValueError, TypeError: where it is constructed, naming the option and the value.
    """

    step_timeout: float = attrs.field(default=5.0, validator=positive)
    """Seconds to wait for one system call; `math.inf` to wait for ever."""
    rollback_timeout: float = attrs.field(default=1.0, validator=[finite, non_negative])
    """Seconds for which a call that fails or is cancelled waits for its own undoing. Undoing
    that takes longer goes on without it."""
    retries: Mapping[RootCause, BackoffPolicy] = attrs.field(
        default=DEFAULT_RETRIES, converter=_retries, hash=False
    )
    """What is tried again, and when. A cause that is not in it is final."""
    reclaim: Reclaim | None = attrs.field(default=None, validator=_callable_or_none)
    """Awaited before a retry for lack of space or quota, with the path, the cause and a fresh
    `os.statvfs` of the nearest directory; what it raises ends the call."""
    budget: Budget | None = attrs.field(factory=Budget, validator=_budget_or_none, eq=False)
    """What every retry that waits takes a token from; None for no bound."""
    observers: tuple[Observer, ...] = attrs.field(default=(), converter=_observers)
    """Called with each `Event` in the thread in which it happens: quick, and thread-safe.
    An observer that raises is logged and changes nothing."""
    workers: int = attrs.field(default=40, validator=whole_positive)
    """Worker threads at once for each mount and each `trio.run`; 40 as in trio's own limiter."""
    stall_after: int = attrs.field(default=8, validator=whole_positive)
    """How many stuck workers of one mount make further calls on it fail with `MountStalled`."""
    filesystem: Filesystem | None = attrs.field(default=None, repr=False)
    """A double to run against, see ``trio_mkdir.testing``; None for the operating system."""
