"""What several test files begin with."""

import gc
import multiprocessing
import socket
from contextlib import contextmanager

import h5py
import numpy as np
import pytest


def pytest_collection_finish():
    """A search for garbage goes through all that torch and its libraries hold, a third of a second each time: they are
    put aside, and searches of everything become rare.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(7000, 10, 200)


@pytest.fixture(scope="session")
def four_classes(tmp_path_factory):
    """A packed file of 48 training and 16 test images of noise, 16×16, in four classes; not to be written to."""
    path = tmp_path_factory.mktemp("data") / "four.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count in (("train", 48), ("test", 16)):
            file[f"{split}/rgb"] = generator.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
            file[f"{split}/target"] = np.arange(count) % 4
    return path


@pytest.fixture(scope="session")
def short_training(four_classes):
    """Arguments of a training of three epochs of three batches, a checkpoint every two steps; ``out`` is to be
    added.
    """
    return ["train", "teachers/cifar100", f"data.path={four_classes}", "student.model=resnet8", "train.epochs=3",
        "train.batch_size=16",
            "train.checkpoint_every_steps=2", "train.evaluate_every=3", "-q"]  # fmt: skip


@pytest.fixture(scope="session")
def files_up_to():
    """A context in which no file can grow beyond so many bytes, as `ulimit -f` sets it."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")

    @contextmanager
    def limited(limit):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Python ignores SIGXFSZ from its start: writing fails with EFBIG.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


_RANK = """
import os, sys, traceback
os.environ.update(environment)
sys.argv[:] = arguments
try:
    exec(compile(script, "rank", "exec"), {"__name__": "__main__"})
except BaseException:
    with open(log, "w") as file:
        traceback.print_exc(file=file)
    raise
"""


@pytest.fixture(scope="session")
def forks():
    """Context of processes that are forked off one that holds torch, so that none takes seconds to load it."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with pytest.MonkeyPatch.context() as patch:
        # Read as torch is loaded; without threads a fork is safe.
        for name, value in {
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "GLOO_SOCKET_IFNAME": "lo",
            "ACCELERATE_USE_CPU": "true",
        }.items():
            patch.setenv(name, value)
        if "forkserver" in methods:
            # What a training loads on its way.
            context.set_forkserver_preload(
                ["accelerate", "torch._dynamo", "torchvision", "matplotlib.figure", "matplotlib.backends.backend_agg"]
                + [f"contrastill.{module}" for module in ("cli.main", "training.run", "evaluation.train")]
            )
            multiprocessing.forkserver.ensure_running()
    return context


_FORKED = """
import os, sys
for descriptor, path in ((1, output), (2, errors)):
    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)
os.chdir(folder)
os.environ.update(environment)
sys.argv[:] = ["forked", *arguments]
exec(compile(script, "forked", "exec"), {"__name__": "__main__"})
"""
_MAIN = """
import sys
from contrastill.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="session")
def forked(forks, tmp_path_factory):
    """Starts a script, by default the command line, with these arguments in a process of its own. Returns the process:
    its ``wait()`` gives the exit code, or the negative signal; ``output`` and ``errors`` are the files it prints to.
    """

    def start(*arguments, script=_MAIN, environment=None):
        folder = tmp_path_factory.mktemp("forked")
        names = {"output": str(folder / "stdout"), "errors": str(folder / "stderr"), "folder": str(folder)}
        names |= {"script": script, "environment": environment or {}, "arguments": [*map(str, arguments)]}
        process = forks.Process(target=exec, args=(_FORKED, names))
        process.start()
        process.output, process.errors = folder / "stdout", folder / "stderr"

        def wait(seconds=None):
            process.join(seconds)
            return process.exitcode

        process.wait = wait
        return process

    return start


@pytest.fixture(scope="session")
def ranks(forks, tmp_path_factory):
    """Runs a script in several processes at once: ``ranks(script, world, …)``; rank, world and what follows are its
    arguments. What a launcher sets is in the environment where there are several.
    """

    def start(script, world, *arguments):
        logs = tmp_path_factory.mktemp("ranks")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            launched = {
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free.getsockname()[1]),
            }
        running = []
        for rank in range(world):
            env = {
                "environment": {**launched, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {},
                "arguments": ["rank", *map(str, (rank, world, *arguments))],
                "script": script,
                "log": str(logs / str(rank)),
            }
            running.append(forks.Process(target=exec, args=(_RANK, env)))
            running[-1].start()
        for process in running:
            process.join(timeout=120)
            process.kill()
        output = "\n".join(path.read_text() for path in sorted(logs.iterdir()))
        assert [process.exitcode for process in running] == [0] * world, output

    return start
