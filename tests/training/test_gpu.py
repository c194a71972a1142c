"""What only a GPU can show: the CPU's step, no wait for the device in any objective's step, a checkpoint that comes
back.
"""

import inspect
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from contrastill.core.config.schema import TrainConfig
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation_spec import describe
from contrastill.core.run import Run
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.kd import KD
from contrastill.training.engine import fit
from contrastill.training.folding import fold_batchnorm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

DEVICE = "cuda"
CRD = {
    "all": {"negatives": "all"},
    "shared": {"negatives": "shared", "num_negatives": 64},
    "sampled": {"negatives": "sampled", "num_negatives": 64},
    "sampled and gathered": {"negatives": "sampled", "num_negatives": 4},
    "visits and a fixed map": {"negatives": "all", "bank_momentum": "visits", "teacher_map": "whitened"},
}
FRESH = {
    "seen": {},
    "other samples": {"negatives_from": "other_sample", "refresh_rows": True},
    "sigmoid": {"criterion": "sigmoid", "row_dtype": "fp16"},
    "nce": {"criterion": "nce", "student_rows": "none"},
    "whitened": {"teacher_map": "whitened", "row_variance": 0.9, "row_dtype": "bf16"},
}
# One teacher, one modality, two classifiers: the objectives of the folder objectives/ that read no prediction.
NAMES = sorted(
    name
    for name, objective in OBJECTIVES.items()
    if objective.needs_teacher
    and "prediction" not in objective.needs
    and Path(inspect.getfile(objective)).parent.name == "objectives"
)


@pytest.fixture(autouse=True)
def exact_products():
    """TF32 keeps ten bits of a product's factors."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def split(samples=160):
    images = PaddedImages.zeros(samples, 16, 16, 3, dtype=torch.uint8, padding=2)
    images.interior[:] = torch.randint(
        256, images.interior.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TensorSplit({"rgb": images}, targets=torch.arange(samples) % 10, num_classes=10, flip=True)


def transfer_of(data, name, **options):
    """resnet8 taught by resnet14 with cross-entropy, KD and one objective more."""
    torch.manual_seed(0)
    teacher, student = (build_network(network, num_classes=10) for network in ("resnet14", "resnet8"))
    batch = next(iter(data.loader(batch_size=8, device="cpu", train=False).epoch(0)))
    setting = Setting(describe(student, batch), describe(teacher, batch), data.num_samples, data.targets, 0)
    objective = OBJECTIVES[name]
    term = Term(objective.build_each(objective.Options(**options), [setting]))
    return Transfer([teacher], student, {"cross_entropy": Term(CrossEntropy()), "kd": Term(KD()), name: term})


def stages(name):
    return ("initial",) * (OBJECTIVES[name].initial_epochs > 0) + ("main",) * (not OBJECTIVES[name].only_initial)


def stepper(data, device, name, stage="main", **options):
    """The transfer, and a function that takes one optimiser step with the next batch and returns the loss, on the
    device.
    """
    transfer = transfer_of(data, name, **options)
    # Here, so that it is the same for all devices.
    transfer.prepare(data.loader(batch_size=32, device="cpu", train=True))
    transfer.train().to(device, memory_format=torch.channels_last)
    batches = data.loader(batch_size=32, device=device, train=True)
    transfer.enter(stage, next(iter(batches.epoch(0))))
    optimizer = torch.optim.SGD(
        [parameter for parameter in transfer.parameters() if parameter.requires_grad], lr=0.01, momentum=0.9
    )
    epoch = batches.epoch(0)

    def step():
        loss = transfer(next(epoch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return transfer, step


def check_same_step(name, **options):
    """The banks' draws are hashes of sample and step; only the picks of ``sampled`` come from a device's own
    generator.
    """
    (here, on_cpu), (there, on_gpu) = (stepper(split(), device, name, **options) for device in ("cpu", DEVICE))
    torch.testing.assert_close(on_gpu().cpu(), on_cpu(), rtol=1e-3, atol=1e-3)
    state = there.trained_state()
    for key, value in here.trained_state().items():
        torch.testing.assert_close(
            state[key].cpu(), value, rtol=1e-3, atol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("mode", ["all", "shared"])
@pytest.mark.parametrize("origin", ["other_class", "other_sample"])
def test_a_step_with_crd_is_the_cpus(mode, origin):
    check_same_step("crd", **CRD[mode], negatives_from=origin)


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if "prediction" in entry.needs])
def test_an_objective_on_predictions_is_the_cpus(name):
    """Loss and gradient; the device is not waited for in between."""
    torch.manual_seed(0)
    channels = 1 if name == "scale_invariant" else 5
    values = {"student": torch.rand(4, channels, 8, 12) + 0.1, "teacher": 3 * torch.randn(4, channels, 12, 10)}
    values |= {"depth": torch.rand(4, 1, 48, 48) + 0.5, "semantics": torch.randint(0, 6, (4, 1, 48, 48))}
    values["depth"][0, :, :20] = values["depth"][1] = torch.nan
    objective, results = OBJECTIVES[name](), []
    for device in ("cpu", DEVICE):
        there = {field: value.to(device) for field, value in values.items()}
        student = there.pop("student").requires_grad_()
        teacher = there.pop("teacher") if objective.needs_teacher else None
        torch.cuda.set_sync_debug_mode("error" if device == DEVICE else "default")
        try:
            loss = objective(student, *([] if teacher is None else [teacher]), **there)
            loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        results.append((loss.detach().cpu(), student.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "crd" and "main" in stages(name)])
def test_a_step_with_each_objective_is_the_cpus(name):
    check_same_step(name)


def prepared(data, device, **options):
    """A stepper with fresh_crd whose rows are filled ahead."""
    transfer, step = stepper(data, device, "fresh_crd", num_negatives=64, **options)
    embeddings = torch.randn(160, 64, generator=torch.Generator().manual_seed(0)).to(device)
    transfer.terms["fresh_crd"].objectives[0].loss.prepare(0, embeddings, [(torch.arange(160), embeddings)])
    return transfer, step


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("case", FRESH)
def test_steps_with_fresh_crd_are_the_cpus(case, ahead):
    make = (
        prepared
        if ahead
        else lambda data, device, **options: stepper(data, device, "fresh_crd", num_negatives=64, **options)
    )
    (here, on_cpu), (there, on_gpu) = (make(split(), device, **FRESH[case]) for device in ("cpu", DEVICE))
    for _ in range(2):
        torch.testing.assert_close(on_gpu().cpu(), on_cpu(), rtol=1e-2, atol=1e-2)
    one, other = (transfer.terms["fresh_crd"].objectives[0].loss.rows[0] for transfer in (here, there))
    assert torch.equal(other.place.cpu(), one.place) and torch.equal(other.draw(64)[1].cpu(), one.draw(64)[1])
    torch.testing.assert_close(other.embeddings.cpu(), one.embeddings, rtol=1e-2, atol=1e-2)


def test_sampled_rows_are_eligible_on_the_gpu_too():
    data = split()
    for mode in ("sampled", "sampled and gathered"):
        transfer, step = stepper(data, DEVICE, "crd", **CRD[mode])
        assert torch.isfinite(step()) and torch.isfinite(step())
        loss = transfer.terms["crd"].objectives[0].loss
        index = torch.arange(0, 160, 7, device=DEVICE)
        places = loss.rule.draw(loss.rule.anchors(index, loss.bank.places(index)), 3)
        sample_at = torch.empty(160, dtype=torch.int64, device=DEVICE)
        sample_at[loss.bank.places(torch.arange(160, device=DEVICE))] = torch.arange(160, device=DEVICE)
        assert not (sample_at[places] % 10 == index[:, None] % 10).any()
        assert all(len(row.unique()) == loss.num_negatives for row in places)


def test_views_are_the_cpus():
    here, there = (
        next(iter(split().loader(batch_size=32, device=device, train=True, seed=3).epoch(1)))
        for device in ("cpu", DEVICE)
    )
    assert all(torch.equal(there[name].cpu(), value) for name, value in here.items())


def without_waiting(step):
    """Three steps to warm up, which make buffers and choose algorithms, then two in which whatever waits for the device
    is an error.
    """
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(), step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", CRD)
@pytest.mark.parametrize("origin", ["other_class", "other_sample"])
def test_no_step_with_crd_waits_for_the_device(mode, origin):
    without_waiting(stepper(split(), DEVICE, "crd", **CRD[mode], negatives_from=origin)[1])


@pytest.mark.parametrize("make", [prepared, stepper])
@pytest.mark.parametrize("case", FRESH)
def test_no_step_with_fresh_crd_waits_for_the_device(case, make):
    name = () if make is prepared else ("fresh_crd",)
    without_waiting(make(split(), DEVICE, *name, **FRESH[case])[1])


@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name in NAMES for stage in stages(name)])
def test_no_step_with_any_objective_waits_for_the_device(name, stage):
    without_waiting(stepper(split(), DEVICE, name, stage)[1])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_folded_teacher_of_another_precision_is_within_its_bound(precision):
    data = split()
    teacher = build_network("resnet20", num_classes=10).freeze().to(DEVICE, memory_format=torch.channels_last)
    batch = next(iter(data.loader(batch_size=32, device=DEVICE, train=True).epoch(0)))
    exact = teacher(batch)
    assert len(fold_batchnorm(teacher, batch)) == 21
    rough = teacher.compute_in(precision)(batch)
    for old, new in zip(
        (exact.logits, exact.embedding, *exact.maps), (rough.logits, rough.embedding, *rough.maps), strict=True
    ):
        assert new.dtype == torch.float32 and (new - old).norm() <= {"bf16": 0.05, "fp16": 0.01}[precision] * old.norm()


@pytest.fixture
def another_precision():
    """Accelerate keeps one precision for the life of a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_checkpoint_comes_back(tmp_path, precision, another_precision):
    data, run = split(), Run(tmp_path)
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
    assert accelerator.device.type == DEVICE
    train = data.loader(batch_size=32, device=accelerator.device, train=True)
    first, again = (transfer_of(data, "crd", **CRD["sampled"]) for _ in range(2))
    done = fit(
        first,
        train,
        train,
        TrainConfig(epochs=2, precision=precision),
        run=run,
        accelerator=accelerator,
        progress=False,
    )
    resumed = fit(
        again,
        train,
        train,
        TrainConfig(epochs=2, precision=precision),
        run=run,
        accelerator=accelerator,
        progress=False,
    )
    assert resumed.last == done.last
    for name, value in first.trained_state().items():
        assert torch.equal(value, again.trained_state()[name]), name
