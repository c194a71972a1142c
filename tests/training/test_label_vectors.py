"""Labels that hold a number for each class: what they are taken for, what learns from them, what is measured."""

import h5py
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.utils.data import Dataset, TensorDataset

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.label_vectors import read_label_vectors
from contrastill.core.run import Run
from contrastill.datasets.packed import Packed
from contrastill.models.build import load_student
from contrastill.training.mean_average_precision import MeanAveragePrecision

CLASSES = ["cat", "dog", "fox"]
TINY = {"epochs": 1, "quiet": True, "train.batch_size": 16}


def pictures(labels, seed):
    """Images whose thirds are bright where a class is marked."""
    images = 90 + 20 * torch.randn(len(labels), 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    for number in range(labels.shape[1]):
        images[:, :, 4 * number : 4 * number + 4] += 60 * labels[:, number].view(-1, 1, 1, 1)
    return images.clamp(0, 255).to(torch.uint8)


def several(count, seed):
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def probabilities(count, seed):
    return torch.softmax(3 * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), 1)


def pair(labels):
    return tuple(TensorDataset(pictures(rows := labels(count, seed), seed), rows) for count, seed in ((48, 1), (40, 2)))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A teacher of labels that mark several classes, and its student by the default recipe."""
    folder, data = tmp_path_factory.mktemp("several"), pair(several)
    teacher = contrastill.distill(None, "resnet8", data, out=folder / "teacher", **TINY)
    student = contrastill.distill(teacher.out, "resnet8", data, out=folder / "student", **TINY)
    return teacher, student, data


def test_the_default_for_several_classes_learns_them_one_by_one(distilled):
    teacher, student, _ = distilled
    assert [*teacher.config.objectives] == ["binary_cross_entropy"]
    assert [*student.config.objectives] == ["binary_cross_entropy", "fresh_crd", "binary_kd"]
    assert "top1" not in student.metrics


def test_map_is_that_of_scikit_learn_and_evaluate_measures_it_again(distilled, tmp_path):
    _, student, (_, test) = distilled
    images, labels = test.tensors
    with torch.no_grad():
        logits = student.student(student.student.preprocess(images))
    expected = 100 * average_precision_score(labels.numpy(), logits.numpy(), average="macro")
    assert student.metrics["mAP"] == pytest.approx(expected, abs=1e-3)
    packed = tmp_path / "data.h5"
    with h5py.File(packed, "w") as file:
        for name, part in zip(("train", "test"), distilled[2], strict=True):
            file[f"{name}/rgb"] = part.tensors[0].permute(0, 2, 3, 1).numpy()
            file[f"{name}/target"] = part.tensors[1].numpy().astype(np.uint8)
    result = contrastill.evaluate_runs([student.out], overrides=[f"data.path={packed}", "data.name=packed"])
    assert f"{expected:.2f}" in str(result)


def test_losses_are_those_of_a_naive_double_loop_with_gradients():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = (torch.rand(4, 3, generator=generator) < 0.5).double()
    student.requires_grad_()
    bce = kd = 0.0
    for row in range(4):
        for number in range(3):
            ours, theirs = student[row, number], teacher[row, number]
            yes, share = 1 / (1 + torch.exp(-ours)), 1 / (1 + torch.exp(-theirs / 2))
            bce -= labels[row, number] * torch.log(yes) + (1 - labels[row, number]) * torch.log(1 - yes)
            soft = 1 / (1 + torch.exp(-ours / 2))
            kd += share * torch.log(share / soft) + (1 - share) * torch.log((1 - share) / (1 - soft))
    cases = [
        (bce / 4, lambda: contrastill.BinaryCrossEntropy()(student, target=labels)),
        (4 * kd / 4, lambda: contrastill.BinaryKD(temperature=2.0)(student, teacher)),
    ]
    for expected, loss in cases:
        assert torch.allclose(loss(), expected, rtol=0, atol=1e-12)
        gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (loss(), expected)]
        assert torch.allclose(*gradients, rtol=0, atol=1e-12)


def test_probabilities_are_learnt_as_they_are_and_the_most_probable_class_is_measured(tmp_path):
    data = pair(probabilities)
    run = contrastill.distill(None, "resnet8", data, out=tmp_path / "run", **TINY)
    assert [*run.config.objectives] == ["cross_entropy"]
    with torch.no_grad():
        logits = run.student(run.student.preprocess(data[1].tensors[0]))
    right = (logits.argmax(1) == data[1].tensors[1].argmax(1)).float().mean().item()
    assert run.metrics["top1"] == pytest.approx(100 * right, abs=1e-3)
    logits, soft = torch.randn(4, 3), probabilities(4, 5)
    batch = {"target": soft.argmax(1), "label_vector": soft}
    loss = contrastill.CrossEntropy()(contrastill.Representation(logits=logits), None, batch)
    assert loss.item() == pytest.approx(-(soft * logits.log_softmax(1)).sum(1).mean().item(), abs=1e-6)


def test_one_hot_rows_give_the_bits_of_classes(tmp_path):
    labels = torch.arange(48) % 3
    images = pictures(torch.eye(3)[labels], 1)
    runs = [
        contrastill.distill(None, "resnet8", TensorDataset(images, rows), out=tmp_path / name, **TINY)
        for name, rows in (("classes", labels), ("rows", torch.eye(3)[labels]))
    ]
    first, second = (run.student.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.2, 0.2, 0.2], [0.5, 0.3, 0.2]], "neither hold 0 and 1 alone nor sum to 1"),
        ([[1.0, -1.0, 0.0]], "negative or infinite"),
        ([[float("nan"), 1.0, 0.0]], "negative or infinite"),
        ([["a", "b", "c"]], "give numbers"),
    ],
)
def test_other_numbers_are_refused(rows, message):
    with pytest.raises(UsageError, match=message):
        read_label_vectors({"train": np.array(rows)}, "data")


def test_both_splits_are_of_one_kind():
    """A test split whose samples happen to have one class each still marks several."""
    read = read_label_vectors({"train": several(20, 0), "test": torch.eye(3)}, "data")
    assert read["test"].targets is None
    assert torch.equal(read["test"].vectors, torch.eye(3))
    with pytest.raises(UsageError, match="different numbers of classes: 3 in train, 4 in test"):
        read_label_vectors({"train": several(20, 0), "test": torch.eye(4)}, "data")


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({"cross_entropy": {}}, "cross_entropy reads one class for each sample.*binary_cross_entropy"),
        ({"dkd": {}}, "dkd reads one class for each sample"),
        ({"fresh_crd": {"negatives_from": "other_class"}}, "class"),
    ],
)
def test_objectives_that_read_a_class_say_so(distilled, tmp_path, objectives, message):
    teacher, _, data = distilled
    with pytest.raises(UsageError, match=message):
        contrastill.distill(teacher.out, "resnet8", data, out=tmp_path / "run", objectives=objectives, **TINY)


def test_binary_cross_entropy_of_classes_is_refused(tmp_path):
    data = TensorDataset(pictures(torch.eye(3).repeat(8, 1), 0), torch.arange(24) % 3)
    with pytest.raises(UsageError, match="one class for each sample, which cross_entropy learns"):
        contrastill.distill(
            None, "resnet8", data, out=tmp_path / "run", objectives={"binary_cross_entropy": {}}, **TINY
        )


class Named(Dataset):
    """Its labels are lists of 0 and 1, as a user's own dataset may have them."""

    classes = CLASSES

    def __init__(self, count, seed, labels=None):
        self.rows = several(count, seed) if labels is None else labels
        self.images = pictures(self.rows, seed)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return self.images[place], self.rows[place].int().tolist()


def test_names_of_classes_travel_and_match_by_name(tmp_path):
    run = contrastill.distill(None, "resnet8", (Named(32, 0), Named(20, 1)), out=tmp_path / "run", **TINY)
    assert [*load_student(run.out).classes] == CLASSES
    other = Named(20, 1)
    other.classes = CLASSES[::-1]
    with pytest.raises(UsageError, match="cat, dog, fox.*fox, dog, cat.*same order"):
        contrastill.distill(None, "resnet8", (Named(32, 0), other), out=tmp_path / "other", **TINY)


def test_a_validation_share_mixing_and_resuming(tmp_path):
    """mixup of labels that mark several classes: the loss is that of both, and the best epoch is by mAP."""
    data = pair(several)
    keys = TINY | {"epochs": 2, "train.validation": 0.25, "train.mixup": 0.4, "train.checkpoint_every": 1}
    whole = contrastill.distill(None, "resnet8", data, out=tmp_path / "whole", **keys)
    assert "validation_mAP" in whole.metrics
    assert Run(whole.out).best_student.is_file()
    logits = torch.randn(2, 3)
    labels, partner, share = several(2, 0), several(2, 1), torch.tensor([0.3, 0.9])
    batch = {"label_vector": labels, "partner_label_vector": partner, "mixed_share": share}
    outputs = contrastill.Representation(logits=logits)
    mixed = share[:, None] * labels + (1 - share[:, None]) * partner
    loss = contrastill.BinaryCrossEntropy()(outputs, None, batch)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, mixed, reduction="none").sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("labels", [several, probabilities])
def test_packing_keeps_every_number(tmp_path, labels):
    path = tmp_path / "data.h5"
    rows = labels(12, 0).numpy()
    with h5py.File(path, "w") as file:
        file.attrs["classes"] = CLASSES
        file["train/rgb"] = np.zeros((12, 8, 8, 3), np.uint8)
        file["train/target"] = rows
    split = Packed(Packed.Options(path=str(path), splits={"train": "train", "test": None})).open("train")
    assert split.classes == CLASSES
    assert split.num_classes == 3
    assert np.allclose(split.label_vectors.numpy(), rows, atol=1e-6)
    batch = next(iter(split.loader(batch_size=5, device="cpu", train=True, seed=3).epoch(0)))
    assert torch.equal(batch["label_vector"], split.label_vectors[batch["index"]])
    again = tmp_path / "again.h5"
    contrastill.pack_data(f"packed:{path}", again, splits=["train"])
    with h5py.File(again) as file:
        assert np.allclose(file["train/target"][()], rows, atol=1e-6)


def test_average_precision_is_of_the_order_of_logits_and_of_classes_that_occur():
    """Logits of sure networks, whose sigmoids are equal in float32; one batch within [0, 1]; a class of none."""
    generator = torch.Generator().manual_seed(3)
    for scale, classes in ((1.0, (0, 1, 2)), (25.0, (0, 1, 2)), (1.0, (0, 2))):
        logits = scale * (1 + 0.2 * torch.randn(257, 3, generator=generator))
        logits[-1] = torch.tensor([0.2, 0.9, 0.4])
        labels = several(257, 9).long()
        labels[:, [number for number in range(3) if number not in classes]] = 0
        metric = MeanAveragePrecision()
        for part in (slice(0, 256), slice(256, 257)):
            metric.update(logits[part], labels[part])
        expected = average_precision_score(labels[:, classes].numpy(), logits[:, classes].numpy(), average="macro")
        assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
    nothing = MeanAveragePrecision()
    nothing.update(logits, torch.zeros_like(labels))
    assert nothing.compute().isnan()


def test_a_test_split_without_any_mark_is_not_measured(tmp_path, caplog):
    train, test = pair(several)
    unmarked = TensorDataset(test.tensors[0], torch.zeros_like(test.tensors[1]))
    run = contrastill.distill(None, "resnet8", (train, unmarked), out=tmp_path / "run", **TINY)
    assert "mAP" not in run.metrics
    assert "no sample of the test split is marked with a class" in caplog.text


def test_the_same_teacher_twice_is_one_teacher_for_an_average_of_sigmoids(distilled, tmp_path):
    teacher, _, data = distilled
    keys = TINY | {"objectives": {"binary_kd": {}}, "train.batch_size": 48}
    losses = []
    for number, (teachers, more) in enumerate(
        [(teacher.out, {}), ([teacher.out, teacher.out], {"ensemble.rule": "average"})]
    ):
        run = contrastill.distill(teachers, "resnet8", data, out=tmp_path / str(number), **keys, **more)
        losses.append(run.metrics["binary_kd"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(UsageError, match="entropy reads one class for each sample.*rule=average"):
        contrastill.distill(
            [teacher.out, teacher.out], "resnet8", data, out=tmp_path / "e", **keys, **{"ensemble.rule": "entropy"}
        )


def test_a_teacher_of_one_class_a_sample_is_not_read_class_by_class(distilled, tmp_path):
    teacher, _, data = distilled
    classes = TensorDataset(pictures(torch.eye(3).repeat(8, 1), 0), torch.arange(24) % 3)
    softmax = contrastill.distill(None, "resnet8", classes, out=tmp_path / "classes", **TINY)
    default = contrastill.distill(softmax.out, "resnet8", data, out=tmp_path / "default", **TINY)
    assert [*default.config.objectives] == ["binary_cross_entropy", "fresh_crd"]
    for role, data_of, objective, message in (
        (
            softmax,
            data,
            "binary_kd",
            "trained for one class of a sample, and objective binary_kd reads each on its own",
        ),
        (teacher, classes, "kd", "trained for each class on its own of a sample, and objective kd reads their softmax"),
    ):
        with pytest.raises(UsageError, match=message):
            contrastill.distill(
                role.out, "resnet8", data_of, out=tmp_path / objective, objectives={objective: {}}, **TINY
            )


class Squashed(torch.nn.Sequential):
    def forward(self, images):
        return super().forward(images).sigmoid()


def test_a_sigmoid_at_the_end_is_refused(tmp_path):
    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with pytest.raises(UsageError, match="the student ends in a sigmoid.*leave the sigmoid at its end out"):
        contrastill.distill(None, Squashed(*layers), pair(several), out=tmp_path / "run", **TINY)
    # Within the network one is a layer like any other.
    inside = torch.nn.Sequential(layers[0], torch.nn.Sigmoid(), *layers[1:])
    contrastill.distill(None, inside, pair(several), out=tmp_path / "inside", **TINY)


def test_seeds_show_the_measure(tmp_path):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for name, part in zip(("train", "test"), pair(several), strict=True):
            file[f"{name}/rgb"] = part.tensors[0].permute(0, 2, 3, 1).numpy()
            file[f"{name}/target"] = part.tensors[1].numpy().astype(np.uint8)
    keys = {"data.path": str(path), "student.model": "resnet8", "train.epochs": 1, "seeds": 2, "out": tmp_path / "runs"}
    keys |= {"objectives": {"binary_cross_entropy": {}}, "train.batch_size": 16}
    result = contrastill.train("teachers/cifar100", keys, progress=False)
    assert "mAP of the last epoch" in str(result)
    assert f"{result.runs[0].metrics['mAP']:.2f}" in str(result)


def test_what_needs_one_class_for_each_sample_says_that_labels_mark_several(distilled, tmp_path, capsys):
    _, student, (train, test) = distilled
    path = tmp_path / "several.h5"
    with h5py.File(path, "w") as file:
        for split, data in (("train", train), ("test", test)):
            file[f"{split}/rgb"] = data.tensors[0].permute(0, 2, 3, 1).numpy()
            file[f"{split}/target"] = data.tensors[1].numpy()
    marks = "has labels that mark any number of classes, and {} needs one class for each sample: contrastill evaluate"
    other = {"data.name": "packed", "data.path": str(path)}
    for call, what in (
        (lambda: contrastill.probe_networks(student.out, f"packed:{path}", progress=False), "a probe"),
        (lambda: contrastill.linear_probe(student.student, train, test), "a probe"),
        (lambda: contrastill.measure_diversity(student.out, other), "diversity"),
        (lambda: contrastill.export_run(student.out, tmp_path, int8=True, data=f"packed:{path}"), "--int8, which .*"),
    ):
        with pytest.raises(UsageError, match=marks.format(what)):
            call()
    with pytest.raises(UsageError, match="the labels of this data mark any number of classes: take sum"):
        contrastill.distill(
            [student.out, student.out], "resnet8", (train, test), out=tmp_path / "x", objectives="crd",
            ensemble={"rule": "confidence"}, **TINY,
        )  # fmt: skip


def test_a_run_of_several_classes_is_measured_by_map_on_rows_of_a_single_1(distilled, tmp_path, caplog):
    _, student, _ = distilled
    images, labels = pictures(torch.eye(3).repeat(8, 1), 5), torch.arange(24) % 3
    path = tmp_path / "single.h5"
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = images.permute(0, 2, 3, 1).numpy()
            file[f"{split}/target"] = np.eye(3, dtype=np.uint8)[labels]
    other = {"data.name": "packed", "data.path": str(path)}
    (row,) = contrastill.evaluate_runs(student.out, other, progress=False).rows
    with torch.no_grad():
        logits = contrastill.Student.from_run(student.out)(images)
    expected = 100 * average_precision_score(np.eye(3)[labels], logits.numpy())
    values = row.to_dict()
    assert values["mAP"] == pytest.approx(expected, abs=1e-3) and values.get("top1") is None
    assert any("was trained with any number of them: mAP is measured" in each.getMessage() for each in caplog.records)
