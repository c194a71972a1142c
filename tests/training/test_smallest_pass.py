"""Passes of a single sample, and students that cannot learn: told before the first step."""

import copy

import pytest
import torch
from torch import nn

from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.representation_spec import describe
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.objectives.crd import CRD
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.infonce import InfoNCE
from contrastill.objectives.kd import KD
from contrastill.training.engine import fit
from contrastill.training.smallest_pass import FullBatches


def module(norm=True, width=4):
    """A BatchNorm of maps of 1×1."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(width) if norm else nn.Identity(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(width, 4),
    )


def network(made=None, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = module(**options) if made is None else made
    return Network(made, taps=Taps(embedding="input:5"), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))


def data(count):
    padded = PaddedImages.zeros(count, 8, 8, 3, dtype=torch.uint8, padding=0)
    padded.interior[:] = torch.randint(
        256, padded.interior.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TensorSplit({"rgb": padded}, targets=torch.arange(count) % 4, num_classes=4)


def loader(count, size):
    return data(count).loader(batch_size=size, device="cpu", seed=1, train=True)


def crd(student, teacher, count):
    specs = [describe(one, {"rgb": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}) for one in (student, teacher)]
    return CRD.build(
        CRD.Options(embed_dim=4, num_negatives=4, bias=3.0), Setting(*specs, count, torch.arange(count) % 4, 0)
    )


def trained(student, count, size, *, full=False, passes=1, objective=None, epochs=2):
    teacher = network(seed=1)
    torch.manual_seed(3)
    terms = (
        {"cross_entropy": CrossEntropy(), "crd": crd(student, teacher, count)}
        if objective is None
        else {"it": objective}
    )
    transfer = Transfer([teacher], student, terms)
    train = loader(count, size)
    config = TrainConfig(epochs=epochs, batch_size=size, lr=0.02, accumulation_steps=passes)
    fit(transfer, FullBatches(train) if full else train, None, config, progress=False)
    return transfer


@pytest.mark.parametrize(
    ("count", "size", "passes", "message"),
    [
        (
            17,
            8,
            1,
            r"the last batch of an epoch has 1 sample \(17 samples, train.batch_size=8\), and a BatchNorm has no "
            r"variance .*: set train.drop_last=true, or another",
        ),
        (19, 8, 2, r"the last batch of an epoch has 3 samples, in 2 parts"),
        (
            16,
            1,
            1,
            r"a pass of this training has 1 sample \(train.batch_size=1 in 1 part\), and a BatchNorm .*: raise "
            r"train.batch_size$",
        ),
        (
            16,
            4,
            4,
            r"a pass of this training has 1 sample .*: raise train.batch_size, or lower train.accumulation_steps$",
        ),
    ],
)
def test_a_pass_of_one_sample_that_batchnorm_cannot_take_is_told_before_the_first_step(count, size, passes, message):
    student = network()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(UsageError, match=message):
        trained(student, count, size, passes=passes)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in before.items())


def test_dropping_the_last_batch_is_a_way_out_and_leaves_others_out_each_epoch():
    trained(network(), 17, 8, full=True)
    short = FullBatches(loader(17, 8))
    assert len(short) == 2 and short.num_samples == 17 and [len(batch["index"]) for batch in short.epoch(0)] == [8, 8]
    whole = [batch["index"].tolist() for batch in loader(17, 8).epoch(3)]
    assert [batch["index"].tolist() for batch in short.epoch(3)] == whole[:2] and [
        batch["index"].tolist() for batch in short.epoch(3, 1)
    ] == whole[1:2]
    assert (
        len(
            {
                int(*({*range(17)} - {*torch.cat([batch["index"] for batch in short.epoch(k)]).tolist()}))
                for k in range(6)
            }
        )
        > 1
    )
    with pytest.raises(UsageError, match="train.drop_last leaves nothing of 5 samples in batches of 8"):
        FullBatches(loader(5, 8))


def test_looking_at_one_sample_leaves_no_trace(monkeypatch):
    """A student without BatchNorm takes the batch of one; banks, draws, statistics and dropout are those of a training
    that did not look.
    """
    looked = trained(network(norm=False), 17, 8)
    monkeypatch.setattr("contrastill.training.engine.check_smallest_pass", lambda *_: None)
    plain = trained(network(norm=False), 17, 8)
    assert all(torch.equal(value, plain.trained_state()[name]) for name, value in looked.trained_state().items())


def test_an_objective_that_cannot_take_one_sample_is_told_too():
    infonce = InfoNCE(4, 4, embed_dim=4)
    with pytest.raises(
        UsageError,
        match="the last batch of an epoch has 1 sample .*, and objective it: objective infonce takes its negatives "
        "from the batch.*: set train.drop_last=true",
    ):
        trained(network(norm=False), 17, 8, objective=infonce)
    trained(network(norm=False), 17, 8, objective=InfoNCE(4, 4, embed_dim=4), full=True)


class Detached(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).detach()


def frozen(made, *places):
    for place in places:
        made[place].requires_grad_(False)
    return made


@pytest.mark.parametrize("beside", [False, True])
def test_an_objective_that_reads_a_frozen_part_alone_is_refused(beside):
    student, teacher = network(frozen(module(), 0, 2)), network(seed=1)
    terms = {"crd": crd(student, teacher, 16)} | ({"cross_entropy": CrossEntropy()} if beside else {})
    transfer = Transfer([teacher], student, terms)
    with pytest.raises(
        UsageError,
        match=r"objective crd reads the student's embedding, which depends on no parameter that trains \(a frozen part",
    ):
        fit(transfer, loader(16, 8), None, TrainConfig(epochs=1, batch_size=8), progress=False)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: frozen(module(), 0, 2, 5), "the student has no parameter that trains"),
        (
            lambda: Detached(module()),
            r"objective kd reads the student's logits, which depends on no parameter that trains \(a frozen part, "
            r"detach\(\)",
        ),
    ],
    ids=["frozen", "detached"],
)
def test_a_student_that_cannot_learn_is_refused(made, message):
    student = Network(made(), taps=Taps(), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
    with pytest.raises(UsageError, match=message):
        fit(
            Transfer([network(seed=1)], student, {"kd": KD()}),
            loader(16, 8),
            None,
            TrainConfig(epochs=1, batch_size=8),
            progress=False,
        )


def test_a_frozen_part_that_others_do_not_read_alone_trains_the_rest():
    student = network(frozen(module(), 0))
    before = copy.deepcopy(student.state_dict())
    trained(student, 16, 8)
    after = student.state_dict()
    assert torch.equal(before["module.0.weight"], after["module.0.weight"]) and not torch.equal(
        before["module.2.weight"], after["module.2.weight"]
    )


def test_students_whose_weights_are_anothers_or_cannot_train():
    net = network()
    with pytest.raises(
        UsageError,
        match=r"the student has weights of teacher 1 \(0.weight\), which stay as they are: give each a module of "
        r"its own",
    ):
        Transfer([network(seed=1), net], net, {"kd": KD()})
    assert all(parameter.requires_grad for parameter in net.parameters())
    with pytest.raises(UsageError, match=r"the student's 0.weight is bfloat16, .*: call student.float\(\)"):
        Transfer([network(seed=1)], network(module().bfloat16()), {"kd": KD()})
    with torch.inference_mode():
        made = module()
    with pytest.raises(UsageError, match="0.weight was made in torch.inference_mode and cannot train"):
        Transfer([network(seed=1)], network(made), {"kd": KD()})


def test_a_loader_of_torch_is_no_loader_of_fit():
    dataset = torch.utils.data.TensorDataset(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)
    with pytest.raises(UsageError, match="train is a DataLoader, and fit takes a loader whose .*contrastill.distill"):
        fit(
            Transfer([network(seed=1)], network(), {"kd": KD()}),
            torch.utils.data.DataLoader(dataset),
            None,
            TrainConfig(epochs=1),
            progress=False,
        )


def test_teachers_that_were_put_into_training_mode_are_in_eval_mode_in_a_training():
    teacher, student = network(seed=1), network(norm=False)
    transfer = Transfer([teacher], student, {"kd": KD()})
    teacher.module.train()
    before = copy.deepcopy(teacher.state_dict())
    fit(transfer, loader(16, 8), None, TrainConfig(epochs=1, batch_size=8), progress=False)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
