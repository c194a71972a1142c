"""A field of a packed file that data.fields does not name, and a network that is to read it."""

import re
import shlex

import h5py
import numpy as np
import pytest

import contrastill
from contrastill.core.errors import UsageError


@pytest.mark.parametrize("name", ["thermal", "depth"])
def test_the_way_to_read_it_is_named_and_works(tmp_path, name):
    draw = np.random.default_rng(0)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = draw.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
            file[f"{split}/{name}"] = draw.random((16, 8, 8)).astype(np.float32) + 1
            file[f"{split}/target"] = np.arange(16) % 4
    overrides = [f"data.path={path}", "student.model=resnet8", "train.epochs=1", f"out={tmp_path / 'run'}"]
    overrides += [f"student.modality={name}", "train.batch_size=8", "data.crop_padding=0"]
    with pytest.raises(UsageError, match=f"the file has a field {name}, which data.fields does not name") as caught:
        contrastill.train("teachers/cifar100", overrides, progress=False)
    (way,) = shlex.split(re.search(r"set ('[^']*')", str(caught.value))[1])
    assert way == f"data.fields={{rgb: rgb, {name}: {name}}}"
    contrastill.train("teachers/cifar100", [*overrides, way], progress=False)
    run = tmp_path / "run"
    with pytest.raises(UsageError, match=f"has a field {name}") as caught:
        contrastill.probe_networks([run], [path], progress=False)
    probed = re.search(r"--data '([^']*)'", str(caught.value))[1].replace("FILE", str(path))
    contrastill.probe_networks([run], [probed], progress=False)
