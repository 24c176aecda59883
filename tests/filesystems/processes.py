"""Run a snippet of Python in a process that may do less than this one."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys

import attrs

from .needs import needs_root

#: All that a snippet may import has to be there before the change of user, for the interpreter may
#: lie in a directory that is closed to others.
_PRELUDE = """
import sys, json
path, uid, gid, threads, groups, snippet = json.loads(sys.argv.pop(1))
sys.path[:] = path
import contextlib, errno, os, resource, threading, traceback
import trio, trio_mkdir
def allow_threads():
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
os.setgroups(groups)
os.setgid(gid)
os.setuid(uid)
if not threads:
    resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
exec(snippet)
"""

_NOBODY = "nobody"


@attrs.frozen
class AnotherUser:
    """A user who may write only where everybody may."""

    uid: int
    gid: int
    threads: bool = True
    """Whether the process can start new threads; a snippet may call ``allow_threads()``."""
    groups: tuple[int, ...] = ()
    """Supplementary ones."""

    def run(self, snippet: str, *args: str) -> str:
        """Run *snippet* with *args* in ``sys.argv[1:]`` and return what it prints.

        It finds trio, trio_mkdir and some of the standard library imported already.
        """
        told = json.dumps([sys.path, self.uid, self.gid, self.threads, self.groups, snippet])
        done = subprocess.run(  # noqa: S603 - the tests' own snippets
            [sys.executable, "-c", _PRELUDE, told, *args],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
        )
        if done.returncode:
            raise RuntimeError(f"the snippet ended with {done.returncode}: {done.stderr}")
        return done.stdout


def another_user(*, threads: bool = True) -> AnotherUser:
    """Somebody who is not root, and whom no limit of this process binds."""
    needs_root()
    nobody = pwd.getpwnam(_NOBODY)
    assert nobody.pw_uid != os.geteuid()
    return AnotherUser(nobody.pw_uid, nobody.pw_gid, threads)
