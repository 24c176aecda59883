"""The command ``trio-mkdir``: GNU mkdir's options, messages and statuses, on `trio_mkdir.makedirs`.

In the order in which data flows, each in a module of its own: options, split by getopt's rules and
read by argparse → a plan (modes and umask) → a process of its own that makes one operand after the
other → what it says.

A thread that is stuck in the kernel keeps its whole process from ending, whatever is done to end
it, and whoever waits for that process waits too. So the work is done in a child process: the
command can end while the child stays to undo what comes late. Only the child imports trio, and only
after the arguments were found to be good.
"""

from ._main import main as main
