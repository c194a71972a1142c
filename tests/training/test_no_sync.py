"""No training step waits for the device: what would make it wait is looked for in a training on the CPU, by name of the
operation and by place in the code.

A value that is read on the host (``.item()``, ``int(…)``, ``if tensor:``, ``.tolist()``), a tensor whose size depends
on values (``nonzero``, a boolean mask as an index) and a tensor made of Python numbers on the device each stop the host
until the device has done all it was given. Some of it is done on a CPU only, where there is nothing to wait for; these
places are listed, with the branch that keeps them from an accelerator.
"""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function

import contrastill
from contrastill.core.config.schema import TrainConfig
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation_spec import describe
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.kd import KD
from contrastill.training.engine import fit

ROOT = Path(contrastill.__file__).parent
WAITING = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}
READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__"}
COPIES = {"tensor", "as_tensor", "new_tensor", "from_numpy"}
ON_A_CPU_ONLY = {
    "core/crd/memory_bank.py check_index": "looks at the smallest and largest row at once; elsewhere an "
    "assertion on the device does",
    "core/crd/negatives.py forward": "AllRows makes slices of numbers for zero_slices; elsewhere places are "
    "compared on the device",
    "core/crd/negatives.py zero_slices": "writes through NumPy's view of the scores",
    "core/crd/negatives.py _copy_strips": "copies strips of memory; elsewhere places are scattered on the device",
    "core/loss_labels.py check_numbers": "looks at the least class or index, on the CPU alone",
    "core/loss_labels.py check_probabilities": "looks at the sums of soft labels, on the CPU alone",
    "core/loss_labels.py check_targets": "compares labels with the number of classes; elsewhere the device asserts it",
    "torch.optim": "AdamW counts its steps in host memory, on a GPU too",
    "objectives/predictions.py pixel_targets": "compares label maps with the number of channels; elsewhere the device "
    "asserts it",
    "datasets/io/views.py _cut_by_rows": "cuts views out by rows; elsewhere pixels are gathered on the device",
}
STEPS = range(3, 7)


class Watch(TorchFunctionMode):
    """Notes where in the package something is read on the host or copied from it; what is done on a CPU only is done in
    a range of the profile of that name.
    """

    def __init__(self):
        super().__init__()
        self.places = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in READS | COPIES:
            return func(*args, **kwargs)
        place = _place()
        self.places.add(place)
        if place not in ON_A_CPU_ONLY:
            return func(*args, **kwargs)
        with record_function("on a CPU only"):
            return func(*args, **kwargs)


def _place():
    """The file and function of the package that is running, or torch's optimiser."""
    frame = sys._getframe()
    while frame is not None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        if path.parent.parts[-2:] == ("torch", "optim"):
            return "torch.optim"
        if (
            path.is_relative_to(ROOT)
            and path.relative_to(ROOT).parts[0] not in ("tests", ".venv")
            and not name.startswith("<")
        ):
            return f"{path.relative_to(ROOT).as_posix()} {name}"
        frame = frame.f_back
    return "outside the package"


class Watched:
    """A loader between whose batches the steps 3 to 6 are watched and profiled, the batch's views included."""

    def __init__(self, loader):
        self.loader, self.num_samples = loader, loader.num_samples
        self.batch_size, self.in_order = loader.batch_size, loader.in_order
        self.watch, self.profile, self.steps = Watch(), profile(activities=[ProfilerActivity.CPU]), 0

    def __len__(self):
        return len(self.loader)

    def epoch(self, k, start=0):
        batches, first = self.loader.epoch(k, start), start
        for number in range(first, len(self)):
            if number not in STEPS:
                yield next(batches)
                continue
            if number == STEPS[0]:
                self.profile.start()
            with self.watch, record_function("step"):
                yield next(batches)
            self.steps += 1
            if number == STEPS[-1]:
                self.profile.stop()


def split(samples):
    images = PaddedImages.zeros(samples, 8, 8, 3, dtype=torch.uint8, padding=2)
    images.interior[:] = torch.randint(
        256, images.interior.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TensorSplit({"rgb": images}, targets=torch.arange(samples) % 10, num_classes=10, flip=True)


def transfer_of(data, name, stage="main", **options):
    """resnet8 taught by another with cross-entropy and one objective more."""
    teacher, student = (build_network(network, num_classes=10) for network in ("resnet8", "resnet8"))
    batch = next(iter(data.loader(batch_size=8, device="cpu", train=False).epoch(0)))
    setting = Setting(describe(student, batch), describe(teacher, batch), data.num_samples, data.targets, 0)
    objective = OBJECTIVES[name]
    terms = {
        "cross_entropy": Term(CrossEntropy()),
        "kd": Term(KD()),
        name: Term(objective.build_each(objective.Options(**options), [setting])),
    }
    transfer = Transfer([teacher], student, terms)
    transfer.train().enter(stage, batch)
    return transfer


def waits(profiled):
    """Operations of a profile that make the host wait, and are not those of a CPU only."""

    def ranges(event):
        while event is not None:
            yield event.name
            event = event.cpu_parent

    waits = [event for event in profiled.events() if event.name in WAITING]
    inside = [set(ranges(event)) for event in waits]
    return [
        event.name
        for event, names in zip(waits, inside, strict=True)
        if "step" in names and "on a CPU only" not in names
    ]


CRD = {
    "all": {"negatives": "all"},
    "shared": {"negatives": "shared", "num_negatives": 32},
    "sampled": {"negatives": "sampled", "num_negatives": 32},
    "sampled and gathered": {"negatives": "sampled", "num_negatives": 4},
    "visits and a fixed map": {"negatives": "all", "bank_momentum": "visits", "teacher_map": "whitened"},
}


@pytest.mark.parametrize("mode", CRD)
@pytest.mark.parametrize("origin", ["other_class", "other_sample"])
def test_a_training_with_labels_kd_and_crd_does_not_wait(mode, origin):
    data = split(112)
    loader = Watched(data.loader(batch_size=16, device="cpu", train=True))
    optimizer = "adamw" if (mode, origin) == ("shared", "other_class") else "sgd"
    config = TrainConfig(epochs=1, lr=1e-3, optimizer=optimizer)
    fit(transfer_of(data, "crd", **CRD[mode], negatives_from=origin), loader, None, config, progress=False)
    assert loader.steps == len(STEPS)
    assert {event.name for event in loader.profile.events()} >= {"step", "aten::convolution_backward"}
    assert loader.watch.places <= set(ON_A_CPU_ONLY)
    assert waits(loader.profile) == []


@pytest.mark.parametrize(
    "options",
    [{}, {"refresh_rows": True, "negatives_from": "other_sample"}, {"criterion": "sigmoid", "student_rows": "none"}],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_a_training_with_fresh_crd_does_not_wait(options, ahead):
    data = split(112)
    transfer = transfer_of(data, "fresh_crd", num_negatives=32, rows="ahead" if ahead else "seen", **options)
    loader = Watched(data.loader(batch_size=16, device="cpu", train=True))
    fit(transfer, loader, None, TrainConfig(epochs=1, lr=1e-3), progress=False)
    assert loader.steps == len(STEPS)
    assert loader.watch.places <= set(ON_A_CPU_ONLY)
    assert waits(loader.profile) == []


def test_what_makes_the_host_wait_is_found():
    class Reads(torch.nn.Module):
        def forward(self, x):
            return x[x > 0].sum() * float(x.mean())

    watch = Watch()
    with profile(activities=[ProfilerActivity.CPU]) as profiled, watch, record_function("step"):
        Reads()(torch.ones(3))
        torch.tensor([1.0])
    assert sorted(waits(profiled)) == ["aten::_local_scalar_dense", "aten::item", "aten::nonzero"]
    assert watch.places == {"outside the package"}


def test_every_place_that_is_for_a_cpu_only_is_there_and_asks_for_the_device():
    for place in ON_A_CPU_ONLY.keys() - {"torch.optim"}:
        file, function = place.split()
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8") and "cpu" in (ROOT / file).read_text(
            encoding="utf-8"
        )


NAMES = sorted(
    name
    for name, objective in OBJECTIVES.items()
    if objective.needs_teacher
    and "prediction" not in objective.needs
    and Path(inspect.getfile(objective)).parent.name == "objectives"
)
DENSE = {
    "dense_kd": {"confidence": 0.2},
    "cwd": {},
    "pseudo_labels": {"confidence": 0.2},
    "dense_regression": {"scale_invariant": True},
    "pixel_cross_entropy": {"label_smoothing": 0.1},
    "scale_invariant": {},
}
OPTIONS = {"dense_crd": {"criterion": "softmax", "num_rows": 32, "anchor_weight": 1, "projector": "mlp"}}


@pytest.mark.parametrize("name", [*NAMES, *OPTIONS])
def test_no_objective_waits_in_a_step(name):
    data = split(32)
    objective = OBJECTIVES[name]
    for stage in ("initial",) * (objective.initial_epochs > 0) + ("main",) * (not objective.only_initial):
        transfer = transfer_of(data, name, stage, **OPTIONS.get(name, {}))
        loader = data.loader(batch_size=16, device="cpu", train=True)
        transfer.prepare(loader)
        batches = loader.epoch(0)
        transfer(next(batches)).loss.backward()
        watch = Watch()
        with profile(activities=[ProfilerActivity.CPU]) as profiled, watch, record_function("step"):
            transfer(next(batches)).loss.backward()
        assert watch.places <= set(ON_A_CPU_ONLY)
        assert waits(profiled) == []


@pytest.mark.parametrize("name", DENSE)
def test_no_objective_on_predictions_waits_in_a_step(name):
    assert {*DENSE} == {name for name, objective in OBJECTIVES.items() if "prediction" in objective.needs}
    channels = 1 if name == "scale_invariant" else 4
    networks = [build_network("unet/resnet8", num_classes=channels) for _ in range(2)]
    depth = torch.rand(4, 1, 16, 16) + 0.5
    depth[0, :, :9] = torch.nan
    batch = {"rgb": torch.rand(4, 3, 16, 16), "index": torch.arange(4), "depth": depth}
    batch["semantics"] = torch.randint(0, 5, (4, 1, 16, 16), dtype=torch.uint8)
    student, teacher = (describe(network, batch) for network in networks)
    objective = OBJECTIVES[name]
    built = objective.build(objective.Options(**DENSE[name]), Setting(student, teacher, 4, None, 0, pixel_classes=4))
    transfer = Transfer(networks[:1] if objective.needs_teacher else [], networks[1], {name: Term(built)})
    transfer.train().enter("main", batch)
    transfer(batch).loss.backward()
    watch = Watch()
    with profile(activities=[ProfilerActivity.CPU]) as profiled, watch, record_function("step"):
        transfer(batch).loss.backward()
    assert watch.places <= set(ON_A_CPU_ONLY)
    assert waits(profiled) == []
