"""Parameters that have no part in a look at a few samples train all the same; those that nothing ever reads rest."""

import json
import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.config.schema import TrainConfig
from contrastill.core.objective import Objective
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.run import Run
from contrastill.core.transfer import Transfer
from contrastill.core.unread import reading
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.training.checkpoint import checkpoints, load_checkpoint
from contrastill.training.engine import fit
from contrastill.training.optimizer import new_optimizer
from contrastill.training.optimizer_state import with_all_parameters
from helpers.lora import Lora

SAMPLES, BATCH = 16, 8


class MaskToken(nn.Module):
    """Has a part in training mode alone, in places that are not drawn."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.full((6,), 0.3))

    def forward(self, x):
        return torch.cat((x[:, :3], x[:, 3:] + self.token[3:]), 1) + self.token if self.training else x


class Experts(nn.Module):
    """Each takes the samples of one brightness: two samples have no part in most."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        numbers, out = (x.detach().double().sum(1) * 1e4).long() % 4, torch.zeros_like(x)
        for number, layer in enumerate(self.layers):
            rows = (numbers == number).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, layer(x[rows]))
        return out + x


class Embedded(Objective):
    """Reads the embedding alone."""

    needs = frozenset({"embedding"})
    needs_teacher = False

    def per_sample(self, student, teacher, batch):
        return student.embedding.square().mean(1)


def network(part, *, alone=False):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), part(), nn.Linear(6, 4)]
    module = nn.Sequential(*layers)
    if alone:
        for layer in (module[0], module[4]):
            layer.requires_grad_(False)
    return Network(module, taps=Taps("input:4"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))


def loader(rank=0, world=1):
    images = torch.randint(256, (SAMPLES, 8, 8, 3), generator=torch.Generator().manual_seed(0))
    padded = PaddedImages.zeros(SAMPLES, 6, 6, 3, dtype=torch.uint8, padding=1)
    padded.interior.copy_(images[:, 1:7, 1:7])
    split = TensorSplit({"rgb": padded}, targets=torch.arange(SAMPLES) % 4, num_classes=4, flip=False)
    return split.loader(batch_size=BATCH, device="cpu", seed=3, train=True, rank=rank, world=world)


def trained(student, accelerator=None, objective=CrossEntropy, run=None, **options):
    accelerator = accelerator or Accelerator(cpu=True)
    config = TrainConfig(**{"batch_size": BATCH, "epochs": 2, "lr": 0.1, "schedule": "constant", **options})
    data = loader(accelerator.process_index, accelerator.num_processes)
    transfer = Transfer([], student, {"one": objective()})
    fit(transfer, data, None, config, run=run, accelerator=accelerator, progress=False)
    return {name: value.detach().clone() for name, value in student.module.state_dict().items()}


def naive(student):
    """The same by a plain loop."""
    student.train()
    optimizer = torch.optim.SGD(
        [p for p in student.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=5e-4
    )
    for epoch in range(2):
        for batch in loader().epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(batch).logits, batch["target"]).backward()
            optimizer.step()
    return student.module.state_dict()


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("part", [MaskToken, Experts, Lora])
def test_what_a_look_misses_trains_as_in_a_plain_loop(part, alone):
    got, expected = trained(network(part, alone=alone)), naive(network(part, alone=alone))
    before = network(part, alone=alone).module.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6, msg=name)
        if name.startswith("3.") and not (part is Lora and name.endswith(("weight", "bias"))):
            assert not torch.equal(value, before[name])


def test_only_what_nothing_ever_reads_rests_and_the_start_says_so(capsys):
    student = network(MaskToken)
    before = {name: value.clone() for name, value in student.module.state_dict().items()}
    transfer = Transfer([], student, {"one": Embedded()})
    fit(transfer, loader(), None, TrainConfig(batch_size=BATCH, epochs=1), accelerator=Accelerator(cpu=True))
    after = student.module.state_dict()
    assert {name for name in before if torch.equal(before[name], after[name])} == {"4.weight", "4.bias"}
    assert all(parameter.requires_grad for parameter in student.module.parameters())
    assert "not trained: 4.weight, 4.bias of the student, as no objective reads what" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_head_that_timms_intermediate_maps_go_round_rests_too():
    module = pytest.importorskip("timm").create_model("test_vit", num_classes=4, img_size=16, patch_size=4)
    taps = Taps(maps=("forward_intermediates:0",))
    student = Network(module, taps=taps, preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
    names, parameters = zip(*student.named_parameters(), strict=True)
    looked = reading(student, parameters, {"rgb": torch.rand(2, 3, 16, 16)}, {"one": {"maps"}})
    rest = {name for name, idle in zip(names, looked.idle, strict=True) if idle}
    assert {"module.head.weight", "module.head.bias"} <= rest


def test_the_look_in_training_mode_leaves_no_trace():
    class Drawing(MaskToken):
        def __init__(self):
            super().__init__()
            self.passes, self.norm = 0, nn.BatchNorm1d(6)

        def forward(self, x):
            self.passes += self.training
            return self.norm(super().forward(x + (random.random() + np.random.rand() if self.training else 0)))

    student = network(Drawing)
    transfer = Transfer([], student, {"one": CrossEntropy()}).train()
    state = {name: value.clone() for name, value in student.state_dict().items()}
    draws = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    assert transfer.freeze_unread(next(loader().epoch(0))) == [] and not transfer.all_always_read
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert (random.getstate(), str(np.random.get_state())) == draws[1:] and student.module[3].passes == 0
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "decay_biases": False}])
def test_a_run_that_began_without_them_goes_on(options, tmp_path):
    def both(groups):
        transfer = Transfer([], network(MaskToken), {"one": CrossEntropy()})
        transfer.enter("main", next(loader().epoch(0)))
        optimizer = new_optimizer(transfer, TrainConfig(**options))
        if not groups:
            token = transfer.student.module[3].token
            for group in optimizer.param_groups:
                group["params"] = [one for one in group["params"] if one is not token]
        transfer(next(loader().epoch(0))).loss.backward()
        optimizer.step()
        return transfer, optimizer

    _, old = both(False)
    transfer, new = both(True)
    state = old.state_dict()
    new.load_state_dict(with_all_parameters(state, new, transfer.missed_in_eval))
    key = "exp_avg" if options else "momentum_buffer"
    without = [p for group in new.param_groups for p in group["params"] if p not in new.state]
    assert len(without) == 1 and without[0] is transfer.student.module[3].token
    assert all(p.shape == entry[key].shape for p, entry in new.state.items())
    assert (
        with_all_parameters(new.state_dict(), new, transfer.missed_in_eval)["param_groups"]
        == (new.state_dict()["param_groups"])
    )
    trained(network(MaskToken), run=Run(tmp_path), epochs=1)
    assert load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1]).position.epoch == 1
    assert not math.isnan(float(trained(network(MaskToken), run=Run(tmp_path))["3.token"].sum()))


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_student_with_other_weights_in_eval_mode_is_loaded_and_averaged_as_it_was_measured(ema, tmp_path):
    data = TensorDataset(torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4)
    module = network(Lora).module
    with torch.no_grad():
        module[3].lora_b.normal_(0, 2)
    call = {"objectives": "cross_entropy", "epochs": 20, "batch_size": 4, "lr": 0.01, "quiet": True, "ema": ema}
    result = contrastill.distill(None, module, (data, None), out=tmp_path / "run", **call)
    images = data.tensors[0]
    with torch.no_grad():
        measured = result.student(images)
        fresh = contrastill.load_student(result.out, module=network(Lora).module)
        again = contrastill.Student.from_run(result.out, module=network(Lora).module.eval())
        for answer in (fresh(images), again(images)):
            torch.testing.assert_close(answer, measured, rtol=1e-3, atol=1e-4)


def test_two_processes_train_them_too(ranks, tmp_path):
    ranks(f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')", 2, tmp_path)
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for part in (MaskToken, Experts, Lora):
            expected = naive(network(part))
            for name, value in expected.items():
                torch.testing.assert_close(results[part.__name__][name], value, rtol=1e-4, atol=1e-5, msg=name)
        before = network(MaskToken).module.state_dict()
        moved = {name for name, value in results["embedded"].items() if not torch.equal(value, before[name])}
        assert moved == {"0.weight", "0.bias", "3.token"}
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 1


if __name__ == "__main__":
    folder = Path(sys.argv[-1])
    accelerator = Accelerator(cpu=True)
    outcome = {
        part.__name__: trained(network(part), accelerator, run=Run(folder) if part is MaskToken else None)
        for part in (MaskToken, Experts, Lora)
    }
    outcome["embedded"] = trained(network(MaskToken), accelerator, Embedded)
    torch.save(outcome, folder / f"{accelerator.process_index}.pt")
    torch.distributed.destroy_process_group()
