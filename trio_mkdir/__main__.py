"""``python -m trio_mkdir`` is the command ``trio-mkdir``."""

import sys

from ._command import main

sys.exit(main())
