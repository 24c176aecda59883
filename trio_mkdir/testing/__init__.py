"""Proving that code which makes directories leaves nothing behind, whatever happens to it.

A filesystem that fails as it is told, sweeps that cancel or disturb a function at every point, and
an assertion that nothing was leaked. For tests; the library itself never imports this.
"""

from __future__ import annotations

from trio_mkdir._util import publish

from ._faulty import FaultyFilesystem
from ._leaks import assert_nothing_leaked
from ._memory import MemoryFilesystem
from ._operations import OperationRecord
from ._outcome import Outcome, SweepFailed, SweepSummary
from ._script import Hold, Rule
from ._sweeps import sweep_cancellations, sweep_faults

__all__ = [
    "FaultyFilesystem",
    "Hold",
    "MemoryFilesystem",
    "OperationRecord",
    "Outcome",
    "Rule",
    "SweepFailed",
    "SweepSummary",
    "assert_nothing_leaked",
    "sweep_cancellations",
    "sweep_faults",
]

publish(globals(), __all__)
