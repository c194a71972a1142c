"""Segmenters of a user's own datasets: names of pixel classes, no labels at all, teachers of other classes."""

import logging

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.value_scale import note_once
from contrastill.datasets.io.pixel_class_names import pixel_class_names
from contrastill.datasets.packed import Packed
from contrastill.objectives.scale_invariant import ScaleInvariant
from contrastill.training.pixel_labels import pixel_labels


class Frames(Dataset):
    """Frames whose colour says their class; ``order`` is how the classes are numbered."""

    def __init__(self, order="abc", classes=None, labelled=True, empty=False, damaged=False):
        generator = torch.Generator().manual_seed(0)
        self.shown = torch.randint(0, 3, (8, 8, 8), generator=generator)
        self.order, self.labelled, self.empty, self.damaged = order, labelled, empty, damaged
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.shown)

    def __getitem__(self, row):
        colours = torch.eye(3, dtype=torch.uint8) * 200
        sample = {"rgb": colours[self.shown[row]].permute(2, 0, 1)}
        if self.labelled:
            numbers = torch.tensor([self.order.index(name) + 1 for name in "abc"])
            labels = numbers[self.shown[row]][None]
            sample["semantics"] = torch.zeros_like(labels) if self.empty else labels
            if self.damaged:
                sample["semantics"] = sample["semantics"].float().index_fill(2, torch.tensor([0]), float("nan"))
        return sample


def perfect(order):
    """A segmenter that is right, whose channels are in an order of its own."""
    teacher = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        teacher.weight.copy_(20 * torch.eye(3)[["abc".index(name) for name in order]][:, :, None, None])
    teacher.classes = [*order]
    return teacher


def distilled(teacher, data, out, **options):
    options = {"epochs": 12, "lr": 0.3, "batch_size": 4, "quiet": True, "out": out, **options}
    return contrastill.distill(teacher, nn.Conv2d(3, 3, 1), data, **options)


def test_a_teacher_is_matched_by_the_names_of_the_label_maps(tmp_path):
    data = (Frames(classes=["a", "b", "c"]), Frames(classes=["a", "b", "c"]))
    result = distilled(perfect("cab"), data, tmp_path / "x", objectives="dense_kd")
    assert result.metrics["miou"] == 100 and result.student.classes == ["a", "b", "c"]
    other = (Frames(classes=["x", "b", "c"]), Frames(classes=["x", "b", "c"]))
    with pytest.raises(UsageError, match="class_map"):
        distilled(perfect("cab"), other, tmp_path / "y", objectives="dense_kd")


def test_a_segmenter_of_transformers_is_matched_by_its_id2label(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_attention_heads=[1] * 4, sr_ratios=[1] * 4,
        decoder_hidden_size=8, id2label={0: "c", 1: "a", 2: "b"},
    )  # fmt: skip
    teacher = transformers.SegformerForSemanticSegmentation(config)
    data = [Frames(classes=["a", "b", "c"])] * 2
    result = distilled(teacher, tuple(data), tmp_path / "x", objectives="dense_kd", epochs=1, lr=0.01)
    assert result.student.classes == ["a", "b", "c"]
    unnamed = (Frames(labelled=False), Frames(labelled=False))
    result = distilled(teacher, unnamed, tmp_path / "y", objectives="dense_kd", epochs=1, lr=0.01)
    assert result.student.classes == ["c", "a", "b"]
    other = [Frames(classes=["x", "b", "c"])] * 2
    with pytest.raises(UsageError, match="class_map"):
        distilled(teacher, tuple(other), tmp_path / "z", objectives="dense_kd")


@pytest.mark.parametrize(
    ("end", "message"), [(nn.Softmax(1), "returns probabilities"), (nn.Sigmoid(), "ends in a sig")]
)
def test_probabilities_are_right_where_values_are_compared_as_they_are(tmp_path, end, message):
    data = (Frames(labelled=False), Frames(labelled=False))
    teacher = nn.Sequential(perfect("abc"), end)
    distilled(teacher, data, tmp_path / "x", objectives="dense_regression", epochs=1)
    distilled(perfect("abc"), data, tmp_path / "y", objectives="cwd", epochs=1)
    with pytest.raises(UsageError, match=f"teacher 0 {message}.*, and objective cwd reads logits: leave the s"):
        distilled(teacher, data, tmp_path / "z", objectives=["dense_regression", "cwd"], epochs=1)


def test_splits_that_number_their_label_maps_otherwise_are_refused(tmp_path):
    data = (Frames(classes=["a", "b", "c"]), Frames("cab", classes=["c", "a", "b"]))
    with pytest.raises(UsageError, match=r"a, b, c\), those of the test split 4 \(unlabelled, c, a, b\)"):
        distilled(None, data, tmp_path / "x")


def test_names_of_the_label_maps_begin_with_the_unlabelled_one(tmp_path):
    data = Frames()
    data.semantic_classes = ["a", "b", "c"]
    with pytest.raises(UsageError, match="begins with a: the first names 0"):
        distilled(None, data, tmp_path / "x")
    data.semantic_classes = ["unlabelled", "a", "b", "c"]
    assert distilled(None, data, tmp_path / "y", epochs=1).student.classes == ["a", "b", "c"]


def named_frames(names=("unlabelled", "a", "b", "c")):
    data = Frames()
    data.semantic_classes = [*names]
    return data


def test_datasets_that_are_put_together_keep_the_names_of_their_label_maps(tmp_path, caplog):
    note_once.cache_clear()
    both = ConcatDataset([named_frames(), Subset(named_frames(), range(4))])
    for place, test in enumerate((named_frames(), ConcatDataset([named_frames()]))):
        read = distilled(None, (both, test), tmp_path / str(place), epochs=1)
        assert read.student.classes == ["a", "b", "c"]
    with caplog.at_level(logging.WARNING):
        assert pixel_class_names(ConcatDataset([named_frames(), Frames()]), labelled=True, highest=3) is None
    assert "name the values of their label maps (unlabelled, a, b and 1 more) and others that do not" in caplog.text
    other = ConcatDataset([named_frames(), named_frames(["void", "b", "a", "c"])])
    with pytest.raises(UsageError, match="whose semantic_classes are unlabelled, a, b and 1 more, and void, b, a and"):
        pixel_class_names(other, labelled=True, highest=3)


def test_names_of_one_split_alone_are_no_number_of_classes(tmp_path):
    with pytest.raises(UsageError, match="have no names in the train split and 3 named classes in the test split: giv"):
        distilled(None, (Frames(), named_frames()), tmp_path / "x")


def test_nothing_is_trained_from_label_maps_without_a_label(tmp_path):
    with pytest.raises(UsageError, match="no pixel of the training split's label maps is labelled"):
        distilled(None, (Frames(empty=True), Frames()), tmp_path / "x")
    # Beside a teacher such samples are unlabelled ones.
    data = (Frames(empty=True, classes=["a", "b", "c"]), Frames(classes=["a", "b", "c"]))
    assert distilled(perfect("abc"), data, tmp_path / "y").metrics["miou"] > 90


def test_a_map_beside_an_embedding_is_named_by_a_tap(tmp_path):
    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 3, 1)

        def forward(self, images):
            return {"seg": self.stem(images), "features": images.mean((2, 3))}

    with pytest.raises(UsageError, match=r"neither a teacher nor a label .*semantics.*Taps\(prediction='output:KEY'\)"):
        contrastill.distill(None, Keyed(), Frames(), out=tmp_path / "x", quiet=True)
    with pytest.raises(
        UsageError, match=r"teacher 0 \(Keyed\) answers for the sample: .*Taps\(prediction='output:KEY'"
    ):
        distilled(Keyed(), Frames(), tmp_path / "y", objectives="dense_kd")


class Narrower(nn.Module):
    """Has fewer channels in training."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.conv(images)[:, : 2 if self.training else 3]


def test_shapes_that_do_not_fit_are_of_an_objective_and_a_teacher(tmp_path):
    data = (Frames(classes=["a", "b", "c"]), Frames(classes=["a", "b", "c"]))
    options = {"objectives": {"mine": {"name": "dense_kd"}}, "out": tmp_path / "x", "epochs": 1, "quiet": True}
    with pytest.raises(UsageError, match=r"^objective mine towards teacher 0 \(Conv2d\): DenseKD compares predictions"):
        contrastill.distill([perfect("abc"), perfect("cab")], Narrower(), data, **options)
    with pytest.raises(UsageError, match="^objective pixel_cross_entropy: the label maps hold 3"):
        contrastill.distill(None, Narrower(), data, **options | {"objectives": "pixel_cross_entropy"})
    unlabelled = (Frames(labelled=False), Frames(labelled=False))
    with pytest.raises(UsageError, match="^teacher 1: objective dense_kd compares .* the teacher has 4 channels"):
        contrastill.distill(
            [nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1)],
            nn.Conv2d(3, 3, 1),
            unlabelled,
            **options | {"objectives": "dense_kd"},
        )


class Without(Frames):
    """One sample lacks its label map."""

    def __getitem__(self, row):
        sample = super().__getitem__(row)
        if row == 5:
            del sample["semantics"]
        return sample


def test_an_epoch_in_which_no_position_counts_has_a_line(tmp_path, caplog):
    unsure = perfect("abc")
    with torch.no_grad():
        unsure.weight.zero_()
    data = (Frames(labelled=False), Frames(labelled=False))
    options = {"objectives": "pseudo_labels", "epochs": 2}
    with caplog.at_level(logging.WARNING):
        distilled(perfect("abc"), data, tmp_path / "x", **options)
        assert "counted no position" not in caplog.text
        distilled([perfect("abc"), unsure], data, tmp_path / "y", **options)
    lines = [record.message for record in caplog.records if "counted no position" in record.message]
    assert [line.partition(",")[0] for line in lines] == [
        f"objective pseudo_labels counted no position in epoch {epoch} towards teacher 1" for epoch in (1, 2)
    ]
    assert (
        "loosen objectives.pseudo_labels.confidence=0.9 or objectives.pseudo_labels.only_unlabelled=True or" in lines[0]
    )


def test_samples_without_label_maps_are_named_by_the_field(tmp_path, caplog):
    with pytest.raises(
        contrastill.ContrastillError, match="sample 5 of Without has no semantics, .* here zeros, which"
    ):
        distilled(None, (Without(), Frames()), tmp_path / "x")
    with pytest.raises(contrastill.ContrastillError, match="sample 5 of Without has no semantics"):
        distilled(None, (Frames(), Without()), tmp_path / "y", epochs=1)
    with caplog.at_level(logging.WARNING):
        assert "miou" not in distilled(None, (Frames(), Frames(labelled=False)), tmp_path / "z", epochs=1).metrics
    assert "the test split has no semantics, so no mIoU is measured" in caplog.text


def test_answers_that_are_no_map_of_classes_are_named(tmp_path):
    with pytest.raises(UsageError, match="predicts one number for each position, .* background are 2$"):
        contrastill.distill(None, nn.Conv2d(3, 1, 1), Frames(), out=tmp_path / "x", quiet=True)
    pooled = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(UsageError, match=r"\(Sequential\) answers for the sample, with .*\(B, C, 1, 1\): take unet"):
        contrastill.distill(None, pooled, Frames(), out=tmp_path / "y", objectives="pixel_cross_entropy", quiet=True)


def test_a_student_whose_answers_nothing_would_train_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing would train what the student answers"):
        distilled(nn.Conv2d(3, 4, 1), Frames(labelled=False), tmp_path / "x")


@pytest.mark.parametrize("name", ["cwd", "dense_regression"])
def test_what_compares_all_channels_refuses_a_cache_of_the_largest(tmp_path, name):
    data = Frames(classes=["a", "b", "c"])
    with pytest.raises(UsageError, match=f"cache.prediction=1 .*{name}"):
        distilled(perfect("abc"), data, tmp_path / "x", objectives=name, views=1, cache={"prediction": 1})


def test_other_mistakes_are_named(tmp_path):
    with pytest.raises(contrastill.ContrastillError, match="no whole numbers"):
        distilled(None, Frames(damaged=True), tmp_path / "x")
    with pytest.raises(UsageError, match="depth=depth"):
        ScaleInvariant()(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2), depth=torch.rand(1, 1, 2, 2))
    network = contrastill.Network(
        nn.Conv2d(3, 2, 1),
        taps=contrastill.Taps(prediction="output:"),
        preprocess=contrastill.Preprocess((0.5,) * 3, (0.25,) * 3),
    )
    with pytest.raises(UsageError, match=r"pass images \(B, C, H, W\)"):
        contrastill.predict_in_windows(network, {"rgb": torch.rand(3, 8, 8)}, 4, 2)


class Shown(Dataset):
    """Frames whose label maps are of some classes; ``key`` is what they are called."""

    def __init__(self, numbers, count=8, classes=None, key="semantics"):
        self.numbers, self.count, self.key = torch.tensor(numbers), count, key
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        generator = torch.Generator().manual_seed(row)
        return {
            "rgb": torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator),
            self.key: self.numbers[torch.randint(0, len(self.numbers), (8, 8), generator=generator)],
        }


@pytest.mark.parametrize(
    ("train", "test", "names", "line"),
    [
        ([1, 2], [1, 2, 3], None, "the 8 training samples has class 3, and 8 of the 8 test samples do"),
        ([1, 2, 3], [2, 3, 4], None, "the 8 training samples has class 4, and 8 of the 8"),
        ([0, 1], [1, 2, 3], ["floor", "wall", "door"], "has class 2 (wall), 3 (door), and 8 of the 8"),
        ([1, 2], [2, 0], None, None),
        ([0, 255], [1, 2], None, None),
    ],
    ids=["one more", "one higher", "named", "fewer", "no labels to learn from"],
)
def test_pixel_classes_of_the_test_split_alone_are_named(tmp_path, caplog, train, test, names, line):
    note_once.cache_clear()
    data = (Shown(train, classes=names), Shown(test, classes=names))
    teacher, objective = (None, "pixel_cross_entropy") if max(train) < 255 else (nn.Conv2d(3, 2, 1), "dense_kd")
    student = {} if teacher is None else {"student.num_classes": 2}
    options = {"epochs": 1, "batch_size": 4, "quiet": True, "objectives": objective, **student}
    with caplog.at_level(logging.WARNING):
        contrastill.distill(teacher, "unet/resnet8", data, out=tmp_path / "run", **options)
    lines = [text for record in caplog.records if "no label map of" in (text := record.getMessage())]
    assert len(lines) == (line is not None) and (line is None or line in lines[0])


def test_pixel_classes_of_a_packed_file_are_named_and_looked_for_until_they_are_there(tmp_path, caplog):
    note_once.cache_clear()
    labels = np.ones((400, 4, 4), np.uint8)
    labels[397] = 2
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for split, values in (("train", labels), ("test", np.full((8, 4, 4), 2, np.uint8))):
            file[f"{split}/rgb"], file[f"{split}/semantics"] = np.full((*values.shape, 3), 200, np.uint8), values
        file["test/semantics"][0] = 3
    splits = {
        name: Packed(
            Packed.Options(path=str(tmp_path / "data.h5"), fields={"rgb": "rgb", "semantics": "semantics"})
        ).open(name)
        for name in ("train", "test")
    }
    with caplog.at_level(logging.WARNING):
        assert pixel_labels(splits)["train"].num_classes == 3
    assert "no label map of the 400 training samples has class 3, and 1 of the 8 test samples do" in caplog.text


@pytest.mark.parametrize("key", ["mask", "Annotation", "labels"])
def test_label_maps_under_another_name_are_named(tmp_path, key):
    data = (Shown([1, 2], key=key), Shown([1, 2], key=key))
    options = {"epochs": 1, "quiet": True, "objectives": "pixel_cross_entropy", "out": tmp_path / "run"}
    way = rf"has no label maps \(modality semantics\), and has {key}: call .* data.modalities={{semantics: {key}}}"
    with pytest.raises(UsageError, match=way):
        contrastill.distill(None, "unet/resnet8", data, **options)
