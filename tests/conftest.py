"""What several test files begin with."""

from contextlib import contextmanager

import h5py
import numpy as np
import pytest


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
    """Arguments of a training of three epochs of three batches, a checkpoint every two steps; ``out`` is to be added."""
    return ["train", "teachers/cifar100", f"data.path={four_classes}", "student.model=resnet8", "train.epochs=3", "train.batch_size=16",
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
