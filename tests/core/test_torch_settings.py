"""What a caller has set in torch (no gradients, another default dtype or device, autocast) changes no call of the
package, and is as it was afterwards.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

import contrastill
from contrastill.core.config.schema import TrainConfig
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.objectives.kd import KD


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "device(meta)": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def images(count=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=generator)


def dataset():
    return torch.utils.data.TensorDataset(images(), torch.arange(16) % 4)


def network(width, seed):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def state():
    kinds = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    return *kinds, torch.get_default_dtype(), torch.get_default_device()


def inside(setting, call):
    """The call's result, with the caller's settings as they were before it."""
    with setting():
        before = state()
        result = call()
        assert state() == before
    return result


def distilled(out, run, setting):
    teacher, student, data = network(8, 0), network(4, 1), dataset()
    options = {"out": out, "epochs": 1, "batch_size": 8, "quiet": True}
    result = inside(setting, lambda: contrastill.distill(teacher, student, data, **options))
    return {name: value for name, value in result.metrics.items() if "second" not in name}


def fitted(out, run, setting):
    fields = {"rgb": PaddedImages(images().permute(0, 2, 3, 1), 0)}
    data = TensorSplit(fields, targets=torch.arange(16) % 4, num_classes=4, flip=True)
    train = data.loader(batch_size=8, device="cpu", seed=0, train=True)
    half = Preprocess((0.5,) * 3, (0.25,) * 3)
    teacher, student = (Network(network(width, width), taps=Taps(), preprocess=half) for width in (8, 4))
    transfer = Transfer([teacher], student, {"kd": KD()})
    config = TrainConfig(epochs=1)
    return inside(setting, lambda: contrastill.fit(transfer, train, None, config, progress=False)).last["loss"]


def loaded(out, run, setting):
    student = inside(setting, lambda: contrastill.load_student(run))
    assert {value.dtype for value in student.parameters()} == {torch.float32}
    assert not any(value.is_inference() for value in student.parameters())
    return student(student.preprocess(images())).sum().item()


def probed(out, run, setting):
    student, data = contrastill.load_student(run), dataset()
    return inside(setting, lambda: contrastill.linear_probe(student, data, data)).loss


def exported(out, run, setting):
    options = {"format": "torch", "images": images()}
    return inside(setting, lambda: contrastill.export_student(run, out.with_suffix(".pt2"), **options)).difference


CALLS = [distilled, fitted, loaded, probed, exported]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run, and what each call comes to without any setting."""
    folder = tmp_path_factory.mktemp("plain")
    run = folder / "run"
    contrastill.distill(network(8, 0), "resnet8", dataset(), out=run, epochs=1, batch_size=8, quiet=True)
    return run, {call: call(folder / call.__name__, run, nullcontext) for call in CALLS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_call_is_the_same_under_any_setting(plain, tmp_path, call, setting):
    run, results = plain
    assert call(tmp_path / call.__name__, run, SETTINGS[setting]) == results[call]
