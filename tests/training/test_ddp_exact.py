"""Several processes and several passes a step train the student that a plain loop of one process trains, in float64 to
1e-10; each rank runs this file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from contrastill.core.config.schema import TrainConfig
from contrastill.core.crd.loss import CRDLoss
from contrastill.core.crd.teacher_rows import TeacherRows
from contrastill.core.errors import ContrastillError
from contrastill.core.objective import Objective, Setting
from contrastill.core.registry import DATASETS, OBJECTIVES
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.representation_spec import describe
from contrastill.core.run import Run
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorLoader, TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.ensemble.rules import Gradient
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.kd import KD
from contrastill.training.checkpoint import load_newest
from contrastill.training.engine import fit

BATCH, EPOCHS, LR, CLASSES, POISON = 7, 2, 0.2, 4, 5
# Batches of 7, 7 and 1 or 2: shares differ in size, are smaller than the number of passes, and of the last batch some
# are empty.
CASES = {
    "all": {"mode": "all", "samples": 15, "accumulation": 2},
    "shared": {"mode": "shared", "samples": 16, "accumulation": 1},
    "sampled": {"mode": "sampled", "samples": 15, "accumulation": 3},
    "duplicates": {"mode": "all", "samples": 16, "accumulation": 3, "duplicates": True},
    "sharded": {"mode": "shared", "samples": 15, "accumulation": 2, "placement": "sharded"},
    "labels": {"mode": None, "samples": 15, "accumulation": 2},
    "skip": {"mode": "sampled", "samples": 15, "accumulation": 2, "poisoned": True},
    # Students of the batch are contrasted within a pass: with them one pass is what a plain loop makes.
    "fresh": {"mode": None, "samples": 15, "accumulation": 1, "fresh": {"criterion": "sigmoid"}},
    "fresh sharded": {
        "mode": None,
        "samples": 16,
        "accumulation": 1,
        "duplicates": True,
        "fresh": {"row_placement": "sharded", "negatives_from": "other_sample"},
    },
    "fresh passes": {
        "mode": None,
        "samples": 15,
        "accumulation": 2,
        "fresh": {"student_rows": "none", "refresh_rows": True, "row_placement": "sharded"},
    },
    "fresh skip": {
        "mode": None,
        "samples": 15,
        "accumulation": 3,
        "poisoned": True,
        "duplicates": True,
        "fresh": {"student_rows": "none"},
    },
    "clipped and averaged": {
        "mode": None,
        "samples": 15,
        "accumulation": 3,
        "recipe": {"clip_norm": 0.3, "ema": 0.5, "decay_biases": False},
    },
    # The last batch has 1 sample, which is looked at before the first step, and counts for nothing there.
    "balance": {"mode": None, "samples": 15, "accumulation": 1, "balance": 3},
    "gradient": {"mode": None, "samples": 16, "accumulation": 1, "gradient": True},
}
# What is of a pass: contrast with its students, calls that are counted, weights by its gradient.
SINGLE_PASS = {"fresh", "fresh sharded", "balance", "gradient"}
# A stage of its own, whose objective rests afterwards; BatchNorm in it sees each process's share.
INITIAL = {"mode": None, "samples": 16, "accumulation": 1, "initial": True, "recipe": {"initial_epochs": 1}}


class Double(nn.Module):
    def forward(self, x):
        return x.double()


class Poison(Objective):
    """No number for every batch, share or pass that holds sample POISON, else 0."""

    needs_teacher = False

    def forward(self, student, teacher, batch):
        return torch.where((batch["index"] == POISON).any(), torch.nan, 0.0) * student.logits.mean()


class Repeating(TensorLoader):
    """Every batch names its first samples again at its end."""

    def epoch(self, k, start=0):
        order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(k))
        order = torch.cat([torch.cat((rows, rows))[2 : len(rows) + 2] for rows in order.split(BATCH)])
        yield from self._training(order, k, self.rank, self.world, start)


def split(samples):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(samples) % CLASSES
    images = targets.view(-1, 1, 1, 1) * 50 + torch.randint(60, (samples, 8, 8, 3), generator=generator)
    padded = PaddedImages.zeros(samples, 6, 6, 3, dtype=torch.uint8, padding=1)
    padded.interior.copy_(images[:, 1:7, 1:7])
    return TensorSplit({"rgb": padded}, targets=targets, num_classes=CLASSES, flip=True)


def loader(case, train, rank=0, world=1):
    kind = Repeating if train and case.get("duplicates") else TensorLoader
    return kind(
        split(case["samples"]),
        batch_size=BATCH,
        device=torch.device("cpu"),
        seed=3,
        train=train,
        rank=rank,
        world=world,
    )


def network(seed):
    torch.manual_seed(seed)
    module = nn.Sequential(
        Double(),
        nn.Conv2d(3, 6, 3),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    )
    taps = Taps(embedding="5", maps=("3",))
    return Network(module.double(), taps=taps, preprocess=Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3))


def build(case):
    teacher, student = network(7), network(1)
    if case.get("dropout"):
        student.module.insert(4, nn.Dropout(0.3))
        student = Network(student.module, taps=Taps(embedding="6"), preprocess=student.preprocess)
    teachers = [teacher, network(8)] if case.get("gradient") else [teacher]
    kd = Term([KD(), KD()], 0.9, rule=Gradient(0.8)) if case.get("gradient") else Term(KD(), 0.9)
    terms = {"cross_entropy": Term(CrossEntropy(), 1.0), "kd": kd}
    if case["mode"]:
        spec = describe(student, {"rgb": torch.zeros(2, 3, 6, 6, dtype=torch.uint8)})
        options = OBJECTIVES["crd"].Options(
            embed_dim=8,
            num_negatives=5,
            negatives=case["mode"],
            bias=3.0,
            bank_placement=case.get("placement", "replicated"),
        )
        terms["crd"] = Term(
            OBJECTIVES["crd"].build(
                options, Setting(spec, spec, case["samples"], torch.arange(case["samples"]) % CLASSES, 0)
            ),
            0.5,
        )
    if "fresh" in case:
        spec = describe(student, {"rgb": torch.zeros(2, 3, 6, 6, dtype=torch.uint8)})
        options = OBJECTIVES["fresh_crd"].Options(embed_dim=8, num_negatives=6, **case["fresh"])
        terms["fresh"] = Term(
            OBJECTIVES["fresh_crd"].build(
                options, Setting(spec, spec, case["samples"], torch.arange(case["samples"]) % CLASSES, 0)
            ),
            0.5,
        )
    for name, options in {"agglomerate": {"dense": False, "balance": "per_channel"}, "ab": {}}.items():
        if case.get({"agglomerate": "balance", "ab": "initial"}[name]):
            spec = describe(student, {"rgb": torch.zeros(2, 3, 6, 6, dtype=torch.uint8)})
            options |= {"estimate_steps": case["balance"]} if name == "agglomerate" else {}
            setting = Setting(spec, spec, case["samples"], torch.arange(case["samples"]) % CLASSES, 0)
            terms[name] = Term(OBJECTIVES[name].build(OBJECTIVES[name].Options(**options), setting), 0.5)
    if case.get("poisoned"):
        terms["poison"] = Term(Poison())
    return Transfer(teachers, student, terms).double()


def banks(transfer):
    modules = list(transfer.terms.modules())
    rows = [
        torch.cat((module.embeddings, module.place[:, None]), 1)
        for module in modules
        if isinstance(module, TeacherRows)
    ]
    return rows + [
        torch.stack((module.bank.student, module.bank.teacher)) for module in modules if isinstance(module, CRDLoss)
    ]


def config(case, **options):
    policy = "skip" if case.get("poisoned") else "stop"
    return TrainConfig(batch_size=BATCH, lr=LR, weight_decay=1e-2, schedule="constant", on_nan=policy,
                       **{"epochs": EPOCHS, "accumulation_steps": case["accumulation"], **case.get("recipe", {}),
                          **options})  # fmt: skip


def trained(case, accelerator, run=None, **options):
    """What a training by fit comes to, and the banks after each of its steps."""
    transfer, steps = build(case), []
    plain = transfer.commit

    def commit():
        plain()
        steps.extend(banks(transfer))

    transfer.commit = commit
    rank, world = accelerator.process_index, accelerator.num_processes
    train, test = loader(case, True, rank, world), loader(case, False, rank, world)
    result = fit(transfer, train, test, config(case, **options), run=run, accelerator=accelerator, progress=False)
    state = transfer.trained_state()
    if "ema" in case.get("recipe", {}):
        state |= {f"ema.{name}": value for name, value in result.student.state_dict().items()}
    return {"state": state, "steps": steps, "rows": result.history}


def naive(case):
    """The same by a loop over whole batches in which nothing is held, dealt out or left to the engine."""
    transfer, data, steps, rows = build(case).train(), loader(case, True), [], []
    transfer.prepare(data)
    recipe = case.get("recipe")
    groups = [
        {"params": [p], "weight_decay": 0.0 if recipe and p.ndim == 1 else 1e-2}
        for p in transfer.parameters()
        if p.requires_grad
    ]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=0.9)
    average, step = {name: value.clone() for name, value in transfer.student.state_dict().items()}, 0
    for epoch in range(EPOCHS):
        sums, count = {}, 0
        for batch in data.epoch(epoch):
            if case.get("poisoned") and POISON in batch["index"].tolist():
                continue
            output = transfer(batch)
            optimizer.zero_grad()
            output.loss.backward()
            if recipe:
                norm = torch.cat([group["params"][0].grad.flatten() for group in groups]).norm().item()
                for group in groups:
                    group["params"][0].grad *= min(1, recipe["clip_norm"] / (norm + 1e-6))
                sums["gradient_norm"] = sums.get("gradient_norm", 0.0) + norm * len(batch["index"])
            optimizer.step()
            decay = min(recipe["ema"], (1 + step) / (10 + step)) if recipe else 0.0
            average = {name: decay * average[name] + (1 - decay) * value.detach()
                       for name, value in transfer.student.state_dict().items()}  # fmt: skip
            step += 1
            steps.extend(banks(transfer))
            count += len(batch["index"])
            for name, value in {"loss": output.loss, **output.terms, **output.logs}.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(batch["index"])
        rows.append({name: value / count for name, value in sums.items()})
    state = transfer.trained_state() | ({f"ema.{name}": value for name, value in average.items()} if recipe else {})
    return {"state": state, "steps": steps, "rows": rows}


def compare(got, expected):
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert len(got["steps"]) == len(expected["steps"])
    for one, other in zip(got["steps"], expected["steps"], strict=True):
        torch.testing.assert_close(one, other, **close)
    assert set(got["state"]) == set(expected["state"])
    for name, value in expected["state"].items():
        torch.testing.assert_close(got["state"][name], value, **close)
    for row, other in zip(got["rows"], expected["rows"], strict=True):
        assert {name: row[name] for name in other} == pytest.approx(other, rel=1e-10, abs=1e-10)


def rank_main(folder):
    """What each rank does: all cases, then a loss that is no number on the one rank that has the sample."""
    accelerator, results = Accelerator(cpu=True), {}
    for name, case in CASES.items():
        (folder / name).mkdir(exist_ok=True)
        results[name] = trained(case, accelerator, Run(folder / name))
    (folder / "initial").mkdir(exist_ok=True)
    results["initial"] = trained(INITIAL, accelerator, Run(folder / "initial"))
    # Stopped between two epochs: draws of dropout go on on each rank from where that rank was, and shares of the
    # batches before differed in size.
    dropping = {"mode": None, "samples": 15, "accumulation": 1, "dropout": True}
    for name, epochs in {"whole": [EPOCHS], "resumed": [1, EPOCHS]}.items():
        (folder / name).mkdir(exist_ok=True)
        for last in epochs:
            results[name] = trained(dropping, accelerator, Run(folder / name), epochs=last)
    try:  # each process has a disk of its own, and only the first finds its checkpoint
        trained(dropping, accelerator, Run(folder / "whole" if accelerator.is_main_process else folder / "elsewhere"))
    except ContrastillError as error:
        results["elsewhere"] = str(error)
    poisoned = {**CASES["skip"], "samples": 15}
    try:
        rank, world = accelerator.process_index, accelerator.num_processes
        stop = config(poisoned).model_copy(update={"on_nan": "stop"})
        fit(
            build(poisoned),
            loader(poisoned, True, rank, world),
            None,
            stop,
            run=Run(folder / "stopped"),
            accelerator=accelerator,
            progress=False,
        )
    except ContrastillError as error:
        results["stopped"] = str(error)
    torch.save(results, folder / f"{accelerator.process_index}.pt")
    torch.distributed.destroy_process_group()


def launched(ranks, folder, processes):
    """What each rank came to: of two through torchrun, as users start them, of three in processes that share what is
    loaded already.
    """
    if processes == 2:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            __file__,
            str(folder),
        ]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "ACCELERATE_USE_CPU": "true",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        answer = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr[-4000:]
    else:
        ranks(f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')", processes, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


def bad_batch(samples):
    for number, batch in enumerate(loader({"samples": samples}, True).epoch(0)):
        if POISON in batch["index"].tolist():
            return number, batch["index"].tolist()
    raise AssertionError


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_train_as_one_does(ranks, tmp_path, processes):
    ranks = launched(ranks, tmp_path, processes)
    for name, case in CASES.items():
        expected = naive(case)
        for rank in ranks:
            compare(rank[name], expected)
            assert len(rank[name]["steps"]) == len(ranks[0][name]["steps"])
            assert all(torch.equal(*pair) for pair in zip(rank[name]["steps"], ranks[0][name]["steps"], strict=True)), (
                name
            )
            assert all(
                torch.equal(value, ranks[0][name]["state"][key]) for key, value in rank[name]["state"].items()
            ), name
        padded = load_newest(tmp_path / name / "checkpoints")
        assert all(torch.equal(padded.model[key], value) for key, value in ranks[0][name]["state"].items())
        alone = trained(case, Accelerator(cpu=True), accumulation_steps=1)
        assert [row["top1"] for row in alone["rows"]] == [row["top1"] for row in ranks[0][name]["rows"]]
    for rank in ranks:
        for key, value in rank["whole"][
            "state"
        ].items():  # from three on DDP adds gradients up in another order in its first step, which is 1e-16
            torch.testing.assert_close(rank["resumed"]["state"][key], value, rtol=1e-12, atol=1e-12)
        assert (
            f"find different checkpoints in {tmp_path}" in rank["elsewhere"]
            and "(process 0: step 6, 1: none" in rank["elsewhere"]
        )
    assert [row["skipped"] for row in ranks[0]["skip"]["rows"]] == [1, 1]
    assert [set(row) & {"ab", "kd"} for row in ranks[0]["initial"]["rows"]] == [{"ab"}, {"kd"}, {"kd"}]
    # Only one rank saw the loss that was no number, and all of them stop and say the same.
    number, indices = bad_batch(15)
    record = json.loads((tmp_path / "stopped" / "bad_batch.json").read_text())
    assert record == {"step": number + 1, "epoch": 0, "batch": number, "terms": ["poison"], "indices": indices}
    assert all(f"since step {number + 1} (epoch 0, objective poison)" in rank["stopped"] for rank in ranks)


@pytest.mark.parametrize("accumulation", [1, 2, 3, 20])
@pytest.mark.parametrize("name", [name for name in CASES if name not in SINGLE_PASS])
def test_passes_add_up_to_the_whole_batch(name, accumulation):
    compare(trained(CASES[name], Accelerator(cpu=True), accumulation_steps=accumulation), naive(CASES[name]))


def folder_of_images(root, samples):
    for number in range(samples):
        path = root / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (20 * number, 100, 50)).save(path)
    return DATASETS["image_folder"](
        DATASETS["image_folder"].Options(path=str(root), size=8, workers=0, test_fraction=0.5)
    ).open("train")


@pytest.mark.parametrize("kind", ["tensors", "files"])
@pytest.mark.parametrize(("samples", "world"), [(1, 3), (2, 3), (3, 3), (9, 4)])
def test_a_training_slice_is_never_empty_and_padding_is_the_last_sample(tmp_path, kind, samples, world):
    data = split(samples) if kind == "tensors" else folder_of_images(tmp_path, samples)

    def shares(train):
        loaders = [
            data.loader(batch_size=4, device="cpu", seed=1, train=train, rank=rank, world=world)
            for rank in range(world)
        ]
        return list(zip(*(loader.epoch(2) for loader in loaders), strict=True))

    whole = data.loader(batch_size=4, device="cpu", seed=1, train=True).epoch(2)
    for batch, dealt in zip(whole, shares(True), strict=True):
        real = [share for share in dealt if "is_padding" not in share]
        assert torch.cat([share["index"] for share in real]).equal(batch["index"])
        for share in dealt[len(real) :]:
            assert all(torch.equal(share[key], batch[key][-1:]) for key in batch) and share["is_padding"].tolist() == [
                True
            ]
    assert all("is_padding" not in share for dealt in shares(False) for share in dealt)
    assert sum(len(share["index"]) for dealt in shares(False) for share in dealt) == samples


if __name__ == "__main__":
    rank_main(Path(sys.argv[-1]))
