#!/usr/bin/env bash
# torch 2.14.1, Python 3.11, Linux (fork): workers of a DataLoader that is freed by its last reference end in a
# fraction of a second. Of one that is part of a reference cycle (an object that refers to itself, a frame of an error
# that was caught and stored) they do not: whatever triggers the garbage collector, an import or a line of arithmetic,
# stands still for five seconds for each worker, one after the other, and then kills them with SIGTERM. With four
# workers that is 20 s. So with persistent_workers after a whole epoch, and without amid an epoch.
# The cause: the collector calls the weak references' callbacks of garbage before any __del__, so that the queues to the
# workers are closed by multiprocessing first, and the None with which __del__ ends a worker is never sent.
# Kept outside the cycle by weakref.finalize, the same iterator's own shutdown takes no time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 numpy
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore - <<'PY'
import gc
import multiprocessing
import time
import weakref

import torch
from torch.utils.data import DataLoader, TensorDataset

ROWS = TensorDataset(torch.arange(64))


class Owner:
    """Holds on to a loader and what it reads from."""


def owner_of(workers, persistent):
    owner = Owner()
    owner.loader = DataLoader(ROWS, batch_size=8, num_workers=workers, persistent_workers=persistent)
    owner.batches = iter(owner.loader)
    next(owner.batches)
    if persistent:
        list(owner.batches)
    return owner


def seconds(what):
    began = time.monotonic()
    what()
    return time.monotonic() - began


def measured(workers, persistent, *, cycle=False, finalize=False):
    owner = owner_of(workers, persistent)
    terminated.clear()
    if finalize:
        weakref.finalize(owner, owner.batches._shutdown_workers)
    if cycle:
        owner.itself = owner
    things = [owner]
    del owner
    took = seconds(things.clear) + seconds(gc.collect)
    return took, len(terminated)


terminated, terminate = [], multiprocessing.process.BaseProcess.terminate
multiprocessing.process.BaseProcess.terminate = lambda worker: (terminated.append(worker), terminate(worker))
gc.collect()
gc.disable()
for workers in (1, 2, 4):
    for persistent in (True, False):
        which = "after an epoch, persistent_workers" if persistent else "amid an epoch"
        took, killed = measured(workers, persistent)
        print(f"{workers} workers, {which}: last reference {took:.1f} s, {killed} terminated")
        assert took < 2.5 and killed == 0
        took, killed = measured(workers, persistent, cycle=True)
        print(f"{workers} workers, {which}: in a cycle {took:.1f} s, {killed} terminated")
        assert 5 * workers <= took < 5 * workers + 2.5 and killed == workers
        took, killed = measured(workers, persistent, cycle=True, finalize=True)
        print(f"{workers} workers, {which}: in a cycle, with weakref.finalize {took:.1f} s, {killed} terminated")
        assert took < 2.5 and killed == 0
PY
