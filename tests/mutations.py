"""A test of the tests: puts well-known bugs back, one at a time, and wants something to turn red.

Run as a script. Each bug is a change of a line or two in a copy of the package; the tests that
should notice run against that copy. Exits with 1 if one of them notices nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent
CORE = (
    "test_walk.py",
    "test_beneath.py",
    "test_transaction.py",
    "test_shared.py",
    "test_shared_parents.py",
    "test_nursery.py",
    "test_plan.py",
    "test_lane.py",
    "test_many.py",
    "test_many_beneath.py",
    "test_many_demands.py",
    "test_sweeps.py",
    "test_many_sweeps.py",
    "test_fuse_faults.py",
    "test_faults.py",
    "test_hung_mount.py",
    "test_ownership.py",
    "test_ownership_moments.py",
    "test_nursery_metadata.py",
)
DURABILITY = ("test_durability.py",)
AT_MOST = 300.0
"""Seconds for the tests of one bug: a bug may also make them hang."""


@attrs.frozen
class Mutation:
    """One bug: in ``module``, ``good`` becomes ``bad``."""

    name: str
    module: str
    good: str
    bad: str
    times: int = 1
    tests: tuple[str, ...] = CORE


MUTATIONS = [
    Mutation(
        "a mount that has stalled once stays so, although it answers again",
        "_workers.py",
        "            job.workers.stuck -= 1\n",
        "            pass\n",
    ),
    Mutation(
        "trusting the return value of run_sync: a late thread undoes nothing",
        "_visit.py",
        "        yield from self.noted(transaction.undo(self, self._reach))\n",
        "        pass\n",
    ),
    Mutation(
        "trusting the return value of run_sync: cancelled means that nothing was made",
        "_call.py",
        "            if transaction.undoable():\n",
        "            if False:\n",
    ),
    Mutation(
        "no second look after EEXIST",
        "_walk.py",
        "        if exists and not leaf:\n",
        "        if exists:\n",
    ),
    Mutation(
        "rollback without looking at who relies on it",
        "_shared.py",
        "            if not entry.holders:\n                if state is State.PROVISIONAL and",
        "            if True:\n                if state is State.PROVISIONAL and",
    ),
    Mutation(
        "what succeeded is not final",
        "_shared.py",
        "                    entry.state = State.FINAL\n",
        "                    pass\n",
    ),
    Mutation(
        "unshielded rollback",
        "_rollback.py",
        "trio.CancelScope(shield=True)",
        "trio.CancelScope(shield=False)",
        times=2,
    ),
    Mutation(
        "rollback above a stuck call",
        "_undo_log.py",
        "            if mine and blocked.isdisjoint(item.paths):\n",
        "            if mine:\n",
    ),
    Mutation(
        "a limiter token lost",
        "_step.py",
        "        self._limiter.release_on_behalf_of(self._visit)\n",
        "        pass\n",
    ),
    Mutation(
        "removing by path instead of inode",
        "_undoing.py",
        "            if identity == entry.identity:\n",
        "            if identity:\n",
    ),
    Mutation(
        "knowing directories by path instead of inode",
        "_inheriting.py",
        "        return status.st_dev, status.st_ino\n",
        "        return status.st_dev, hash(path)\n",
    ),
    Mutation(
        "a second system call beside one that is stuck",
        "_attempts.py",
        "            answered = await _step.wait(visit, seconds=policy.step_timeout)\n",
        "            return False\n",
    ),
    Mutation(
        "making what has the number of a directory that is being removed",
        "_shared.py",
        "                raise BeingRemoved(entry, path)\n",
        "                self._forget(entry)\n                entry = None\n",
    ),
    Mutation(
        "saying nothing of what may be ours",
        "_undo_log.py",
        "            item.doubt = number\n            self._insert(item)\n",
        "            pass\n",
    ),
    Mutation(
        "never looking at the mount table again",
        "_attempts.py",
        "        if mount != self.mount:\n",
        "        if False:\n",
    ),
    Mutation(
        "beneath a root: the kernel follows links",
        "_beneath.py",
        "_DIRECTORY: Final = _ANYTHING | _ROOT\n",
        "_DIRECTORY: Final = _ROOT\n",
    ),
    Mutation(
        "beneath a root: above it is the root again",
        "_beneath.py",
        "        if not self._names:\n            _fail(errno.EXDEV)\n",
        "        if not self._names:\n            return\n",
    ),
    Mutation(
        "beneath a root: an absolute link begins there",
        "_beneath.py",
        '        elif link.startswith(b"/"):\n',
        "        elif False:\n",
    ),
    Mutation(
        "beneath a root: what is missing before `..` is made",
        "_paths.py",
        "        if self.root is not None and parent is not None and is_dot_dot(path):\n",
        "        if False:\n",
    ),
    Mutation(
        "beneath a root: a caller's own descriptor is used, and may be another file's by then",
        "_beneath.py",
        "None if root.descriptor is None else os.dup(root.descriptor)\n",
        "root.descriptor\n",
    ),
    Mutation(
        "beneath a root: a block undoes by path",
        "_transaction.py",
        "                item.via = kept\n",
        "                pass\n",
    ),
    Mutation(
        "beneath a root: removing by another call's path",
        "_inheriting.py",
        "        if root is not None and root.holds(path):\n",
        "        if False:\n",
    ),
    Mutation(
        "beneath a root: the root stays open after a failure",
        "_rollback.py",
        "        self._transaction.close_roots()\n",
        "        pass\n",
    ),
    Mutation(
        "beneath a root: the root stays open after a success",
        "_transaction.py",
        "        self.close_roots()\n",
        "        pass\n",
    ),
    Mutation(
        "beneath a root: the root is closed under a thread that is still in there",
        "_beneath.py",
        "        if self._closed and not self._uses and self._fd is not None:\n",
        "        if self._closed and self._fd is not None:\n",
    ),
    Mutation(
        "what was made in one go is not undone",
        "_undo_log.py",
        "            items += self._from_batch(batch, made)\n",
        "            self._from_batch(batch, made)\n",
    ),
    Mutation(
        "the late one of those made in one go is forgotten",
        "_undo_log.py",
        "        self._batches = still_open\n",
        "        self._batches = []\n",
    ),
    Mutation(
        "what was made in one go is undone after what it is in",
        "_undo_log.py",
        "            batch = Batch(workers, len(self._items))\n",
        "            batch = Batch(workers, 0)\n",
    ),
    Mutation(
        "a task's unanswered visit is forgotten in the rollback",
        "_many.py",
        "        for lane in self._lanes:\n            lane.leave()\n",
        "        pass\n",
    ),
    Mutation(
        "many: what stands and is no directory is passed over",
        "_lane.py",
        "                    if error.errno == errno.EEXIST and call.passes_over(path):\n",
        "                    if call.passes_over(path):\n",
    ),
    Mutation(
        "many: another mount's point is looked at by the workers of the mount above",
        "_lane.py",
        "        if error.errno == errno.EEXIST and self._is_mount_point(path):\n",
        "        if False:\n",
    ),
    Mutation(
        "many: what others are made in is not known again",
        "_lane.py",
        "                    if plan.is_above(path):\n",
        "                    if False:\n",
    ),
    Mutation(
        "many: a call is stalled by its own threads",
        "_lane.py",
        "self.workers.stuck - self._call.stuck(self.workers)",
        "self.workers.stuck",
    ),
    Mutation(
        "many: in one go it goes on when the caller has left",
        "_lane.py",
        'while todo and now < until and admit(("mkdir", path := todo[-1])):',
        "while todo and now < until and (path := todo[-1]):",
    ),
    Mutation(
        "many: the directories of others are not held",
        "_many.py",
        "        if self.mounts and (self.provisional or not alone):\n",
        "        if self.mounts and self.provisional:\n",
    ),
    Mutation(
        "many: a nursery does not know what was made in it",
        "_many.py",
        "        if self.mounts and (self.provisional or not alone):\n",
        "        if self.mounts and not alone:\n",
    ),
    Mutation(
        "many: after trouble nobody looks whether a mount is gone",
        "_many.py",
        "            if mount != workers.mount and not mount.is_mounted_by(workers.mount):\n",
        "            if False:\n",
    ),
    Mutation(
        "many: what was made on the way counts as there already",
        "_many.py",
        "return not self._order.exist_ok and path not in self.mine",
        "return not self._order.exist_ok",
    ),
    Mutation(
        "many: one that was asked for is taken to stand",
        "_plan.py",
        "            if others or path in self._wanted:\n",
        "            if others:\n",
    ),
    Mutation(
        "many: what is longest is left for the end",
        "_plan.py",
        "(-bundle.weight, next(self._serial), bundle)",
        "(0, next(self._serial), bundle)",
    ),
    Mutation(
        "many beneath a root: what is missing before `..` is made",
        "_incoming.py",
        "        if not winds(given):\n",
        "        if True:\n",
    ),
    Mutation(
        "many beneath a root: an absolute path is taken as it is",
        "_incoming.py",
        "            return [self._inside(path) for path in paths]\n",
        "            return [self._anywhere(path) for path in paths]\n",
    ),
    Mutation(
        "many beneath a root: what is above it is looked at",
        "_plan.py",
        "self._known.keys() - above - self._outside",
        "self._known.keys() - above",
    ),
    Mutation(
        "many beneath a root: the root stays open",
        "_many.py",
        "            self.transaction.stay_in(confined)\n",
        "            pass\n",
    ),
    Mutation(
        "what a late one winds through is removed before it",
        "_undo_log.py",
        "    above: AnyPath | None = path\n",
        "    above: AnyPath | None = spelling(path)\n",
    ),
    Mutation(
        "many: what becomes somebody else's is open from the beginning",
        "_many.py",
        "wanted.closed(self._mode), wanted.closed(self._parent_mode)\n",
        "self._mode, self._parent_mode\n",
    ),
    Mutation(
        "many: one mount's workers finish what is on another",
        "_many.py",
        "            if only in {None, item.workers} and item not in self._finished\n",
        "            if item not in self._finished\n",
    ),
    Mutation(
        "many: what was finished is finished once more",
        "_many.py",
        "            self._finished.update(made)\n",
        "            pass\n",
    ),
    Mutation(
        "many: nobody looks whether the mount is still there at the end",
        "_many.py",
        "            self._check_still_on_mount()\n",
        "            pass\n",
    ),
    Mutation(
        "many: nobody looks whether the mount is still there on the way",
        "_lane.py",
        "                self._call.check_on_mount(above, but_above=True)\n",
        "                pass\n",
    ),
    Mutation(
        "durable: the entry of the topmost new directory is not written",
        "_durability.py",
        "    yield from _write_above(paths, transaction)\n",
        "",
        tests=DURABILITY,
    ),
    Mutation(
        "durable: what may be ours after a lost reply is not written",
        "_durability.py",
        "[*_paths(made), *transaction.ambiguous]",
        "_paths(made)",
        times=2,
        tests=DURABILITY,
    ),
    Mutation(
        "durable: what another call has made and not committed is not written",
        "_finish.py",
        "            yield from sync_relied_on(self._transaction.made_here(), self._transaction)\n",
        "            pass\n",
        tests=DURABILITY,
    ),
    Mutation(
        "durable: what another call removes that had it written comes back",
        "_durability.py",
        "        entry.durable = True  # before it may be on the disk\n",
        "",
        tests=DURABILITY,
    ),
    Mutation(
        "durable: what is undone comes back",
        "_undoing.py",
        "        self.removed_from(parent_of(path) or path, via, item, path)\n",
        "",
        tests=DURABILITY,
    ),
    Mutation(
        "durable: undoing waits for the lock of a directory that hangs in being written",
        "_undo_log.py",
        """        locked = {spelling(path) for name, path in operations if name == "fsync"}\n""",
        "        locked = set()\n",
        tests=DURABILITY,
    ),
    Mutation(
        "on_mount: nobody looks at the end",
        "_call.py",
        "                self._check_still_on_mount(self.on_mount)\n",
        "                pass\n",
        tests=("test_on_mount.py",),
    ),
    Mutation(
        "a new directory that is to be given away is open from the beginning",
        "_demands.py",
        "return 0o700 if self.like is not None else mode & 0o700",
        "return mode & 0o777",
    ),
    Mutation(
        "the uppermost directory is opened first",
        "_ownership.py",
        "    for item in reversed(made):\n",
        "    for item in made:\n",
    ),
    Mutation(
        "what has taken the place of a new directory is given away",
        "_ownership.py",
        "        if identity != item.identity:\n",
        "        if False:\n",
    ),
    Mutation(
        "a set-group-ID bit is dropped in silence",
        "_metadata.py",
        "    if seen == _without_attributes(wanted) or others:\n",
        "    if True:\n",
    ),
    Mutation(
        "what is in a directory that was closed is removed before that is opened again",
        "_undo_log.py",
        "(not changed or changed.isdisjoint(_at_or_above(item.path)))",
        "True",
    ),
]


def notices(mutation: Mutation, scratch: Path) -> tuple[bool, str]:
    """Whether a test turns red, and what it said last."""
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    for folder in ("trio_mkdir", "tests", "examples"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    module = copy / "trio_mkdir" / mutation.module
    text = module.read_text(encoding="utf-8")
    if text.count(mutation.good) != mutation.times:
        raise SystemExit(f"{mutation.name}: {mutation.module} has changed; adapt the mutation")
    module.write_text(text.replace(mutation.good, mutation.bad), encoding="utf-8")
    tests = [name for name in mutation.tests if (copy / "tests" / name).exists()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    try:
        run = subprocess.run(  # noqa: S603 - our own tests
            [*command, *(f"tests/{name}" for name in tests)],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            timeout=AT_MOST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True, f"hung for {AT_MOST:g} s"
    said = run.stdout.strip().splitlines() or ["nothing"]
    failed = next((line for line in said if line.startswith(("FAILED", "ERROR"))), said[-1])
    return run.returncode == 1, failed


def main() -> int:
    """Put every bug back once."""
    survivors = 0
    with tempfile.TemporaryDirectory() as scratch:
        for mutation in MUTATIONS:
            noticed, said = notices(mutation, Path(scratch))
            survivors += not noticed
            print(f"{'noticed ' if noticed else 'SURVIVED'}  {mutation.name}\n          {said}")
    print(f"{len(MUTATIONS) - survivors} of {len(MUTATIONS)} bugs were noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
