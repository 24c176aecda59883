"""Making directories with trio: a deadline, a retry strategy and a rollback that work together."""

from __future__ import annotations

from ._backoff import BackoffPolicy, Budget
from ._causes import RootCause
from ._diagnosis import mounts
from ._errors import (
    EscapeError,
    MkdirBlockingIOError,
    MkdirBrokenPipeError,
    MkdirChildProcessError,
    MkdirConnectionAbortedError,
    MkdirConnectionRefusedError,
    MkdirConnectionResetError,
    MkdirError,
    MkdirFileExistsError,
    MkdirFileNotFoundError,
    MkdirInterruptedError,
    MkdirIsADirectoryError,
    MkdirNotADirectoryError,
    MkdirPermissionError,
    MkdirProcessLookupError,
    MkdirTimeoutError,
    MountStalled,
    NotMounted,
    RollbackError,
    StepTimeout,
)
from ._events import (
    Changed,
    Correction,
    DebtPaid,
    DebtTaken,
    Event,
    Kept,
    LateAnswer,
    Made,
    NotCopied,
    PendingRollback,
    ReliedOn,
    Removed,
    Report,
    Restored,
    RetryScheduled,
    StepAnswered,
    StepStarted,
    StepTimedOut,
    Unsynced,
)
from ._makedirs import makedirs, makedirs_many, mkdir, pending_rollbacks, wait_settled
from ._mounts import Mount
from ._nursery import RollbackNursery, open_rollback_nursery
from ._policy import Policy
from ._statistics import MountStatistics
from ._util import publish

__version__ = "0.1.0"

__all__ = [
    "BackoffPolicy",
    "Budget",
    "Changed",
    "Correction",
    "DebtPaid",
    "DebtTaken",
    "EscapeError",
    "Event",
    "Kept",
    "LateAnswer",
    "Made",
    "MkdirBlockingIOError",
    "MkdirBrokenPipeError",
    "MkdirChildProcessError",
    "MkdirConnectionAbortedError",
    "MkdirConnectionRefusedError",
    "MkdirConnectionResetError",
    "MkdirError",
    "MkdirFileExistsError",
    "MkdirFileNotFoundError",
    "MkdirInterruptedError",
    "MkdirIsADirectoryError",
    "MkdirNotADirectoryError",
    "MkdirPermissionError",
    "MkdirProcessLookupError",
    "MkdirTimeoutError",
    "Mount",
    "MountStalled",
    "MountStatistics",
    "NotCopied",
    "NotMounted",
    "PendingRollback",
    "Policy",
    "ReliedOn",
    "Removed",
    "Report",
    "Restored",
    "RetryScheduled",
    "RollbackError",
    "RollbackNursery",
    "RootCause",
    "StepAnswered",
    "StepStarted",
    "StepTimedOut",
    "StepTimeout",
    "Unsynced",
    "makedirs",
    "makedirs_many",
    "mkdir",
    "mounts",
    "open_rollback_nursery",
    "pending_rollbacks",
    "wait_settled",
]

publish(globals(), __all__)
