"""Runs a `contrastill` command and kills it with SIGKILL at a chosen point, as a power cut would.

    python tests/helpers/dying.py step:3 train teachers/cifar100 …

POINT is WHAT:N, the N-th time that WHAT happens: `step` after an optimiser step, `file` before a file of a checkpoint
is written, `replace` before and `replaced` after anything gets its final name, `row` after a line of metrics.jsonl,
`term` sends SIGTERM after a step instead.
"""

import os
import signal
import sys


def arm(what: str, count: int) -> None:
    """Patch the function behind ``what`` so that its ``count``-th call ends the process."""
    from contrastill.core import run
    from contrastill.training import checkpoint, engine

    holder, name, after = {
        "step": (engine._Training, "_step", True),
        "term": (engine._Training, "_step", True),
        "file": (checkpoint, "save_file", False),
        "replace": (os, "replace", False),
        "replaced": (os, "replace", True),
        "row": (run.Run, "log", True),
    }[what]
    function, calls = getattr(holder, name), 0

    def dying(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if calls == count and after:
            os.kill(os.getpid(), signal.SIGTERM if what == "term" else signal.SIGKILL)
        return result

    setattr(holder, name, dying)


if __name__ == "__main__":
    from contrastill.cli.main import main

    what, _, count = sys.argv[1].partition(":")
    arm(what, int(count))
    sys.exit(main(sys.argv[2:]))
