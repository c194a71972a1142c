"""What a value means: one scale whatever it is stored as, depth that was not measured, units, and vectors in mirrored
views.
"""

import logging

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel
from torch import nn
from torch.utils.data import Dataset

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.config.schema import DataConfig, NetworkConfig
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.datasets.io import pack
from contrastill.datasets.io.array_files import read_array
from contrastill.datasets.io.camera import Camera, clean_depth
from contrastill.datasets.io.scale import check_scale
from contrastill.datasets.user_dataset import UserDataset
from contrastill.models.build import build_network, save_student
from contrastill.training.data import measure_statistics, open_loader, open_splits
from contrastill.training.networks import build
from contrastill.training.student import Student
from contrastill.xmodal.modalities import normals

N, H, W = 24, 10, 12
SOURCES = ("packed", "paired_folder", "own")


class Samples(Dataset):
    """Samples as dicts."""

    def __init__(self, fields):
        self.fields = fields

    def __len__(self):
        return len(next(iter(self.fields.values())))

    def __getitem__(self, row):
        return {name: values[row] for name, values in self.fields.items()}


def rgb(count=N):
    return np.random.default_rng(0).integers(0, 256, (count, H, W, 3), dtype=np.uint8)


def data(source, folder, fields, test=None, **options):
    """A data set of these fields, (N, H, W) or (N, H, W, C), read from a packed file, from files, or from somebody's
    own samples.
    """
    parts = {"train": {"rgb": rgb(), **fields}, "test": {"rgb": rgb(), **(fields if test is None else test)}}
    if source == "own":
        return UserDataset(*(Samples(part) for part in parts.values()))(UserDataset.Options(**options))
    dataset = DATASETS[source]
    if source == "packed":
        path = folder / "set.h5"
        with h5py.File(path, "w") as file:
            for split, part in parts.items():
                for name, values in part.items():
                    file[f"{split}/{name}"] = values
        names = {name: name for name in parts["train"]}
        return dataset(dataset.Options(**{"path": str(path), "fields": names, "crop_padding": 0, **options}))
    for split, part in parts.items():
        for name, values in part.items():
            (folder / split / name).mkdir(parents=True)
            for row, value in enumerate(values):
                if value.dtype in (np.uint8, np.uint16) and not (value.ndim == 3 and value.dtype == np.uint16):
                    Image.fromarray(value).save(folder / split / name / f"{row:02}.png")
                else:
                    np.save(folder / split / name / f"{row:02}.npy", value)
    return dataset(dataset.Options(**{"path": str(folder), "workers": 0, "crop": "none", **options}))


def batch_of(split, modality, train=False):
    loader = open_loader(split, [modality], batch_size=split.num_samples, device="cpu", train=train)
    batch = next(iter(loader.epoch(0)))
    return batch[modality][batch["index"].argsort()]


def network(modality, mean, std):
    module = nn.Sequential(nn.Conv2d(len(mean), 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Network(module, taps=Taps(embedding="input:3"), preprocess=Preprocess(mean, std), modality=modality)


# One scale


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float32"])
def test_statistics_and_network_see_one_scale_whatever_the_dtype(tmp_path, source, dtype):
    thermal = np.random.default_rng(1).integers(40, 201, (N, H, W))
    split = data(source, tmp_path, {"thermal": thermal.astype(dtype)}).open("train")
    mean, std = measure_statistics(split, "thermal", samples=N)
    assert mean[0] == pytest.approx(thermal.mean(), rel=1e-6) and std[0] == pytest.approx(thermal.std(), rel=1e-6)
    images = batch_of(split, "thermal")
    assert images.dtype == torch.float32 and np.array_equal(images[:, 0].numpy(), thermal)
    seen = Preprocess(mean, std)(images)
    assert abs(seen.mean()) < 1e-4 and seen.std(correction=0) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("source", SOURCES)
def test_statistics_are_of_single_samples_evenly_spaced(tmp_path, source):
    # Ever warmer, as a sequence of frames may be: runs of neighbours would show other values.
    thermal = np.random.default_rng(1).integers(40, 201, (N, H, W)) + 30 * np.arange(N)[:, None, None]
    # Views that train would add borders.
    border = {"crop_padding": 3} if source == "packed" else {}
    split = data(source, tmp_path, {"thermal": thermal.astype(np.uint16)}, **border).open("train")
    mean, std = measure_statistics(split, "thermal", samples=N // 2)
    spaced = thermal[np.arange(N // 2) * N // (N // 2)]
    assert mean[0] == pytest.approx(spaced.mean(), rel=1e-6) and std[0] == pytest.approx(spaced.std(), rel=1e-6)


def test_bytes_of_another_modality_are_values_to_a_network_and_to_a_student():
    values = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    thermal = network("thermal", (100.0,), (50.0,))
    assert torch.equal(thermal({"thermal": values}).logits, thermal({"thermal": values.float()}).logits)
    colour = network("rgb", (0.5,), (0.2,))
    assert torch.allclose(colour({"rgb": values}).logits, colour({"rgb": values.float() / 255}).logits, atol=1e-6)
    recipe = {
        "model": "own",
        "modality": "thermal",
        "preprocess": {"mean": (100.0,), "std": (50.0,), "resolution": None},
    }
    student = Student(recipe, module=thermal.module)
    assert torch.equal(student(values), student(values.float()))


def test_a_loaded_student_takes_bytes_of_its_modality_as_values(tmp_path):
    for modality, scale in (("thermal", 1), ("rgb", 255)):
        shape = (2, 3 if modality == "rgb" else 1, 8, 8)
        mean, std = (0.5 * 255 / scale,) * shape[1], (0.25 * 255 / scale,) * shape[1]
        path = tmp_path / modality / "student.safetensors"
        path.parent.mkdir()
        save_student(build_network("resnet8", num_classes=2, modality=modality, mean=mean, std=std), path)
        values = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        for preprocess in (contrastill.load_student(path).preprocess, Student.from_run(path).preprocess):
            assert torch.allclose(preprocess(values), (values.float() / scale - mean[0]) / std[0], atol=1e-4)


def test_raw_counts_and_tiny_units_are_standardised_exactly(tmp_path):
    drawn = np.random.default_rng(2)
    counts = (30_000 + drawn.normal(0, 12, (N, H, W))).round().astype(np.uint16)
    tiny = (1e-7 * (3 + drawn.normal(0, 1, (N, H, W)))).astype(np.float32)
    split = data("packed", tmp_path, {"counts": counts, "tiny": tiny}).open("train")
    for name, values in (("counts", counts), ("tiny", tiny)):
        mean, std = measure_statistics(split, name, samples=N)
        seen = Preprocess(mean, std)(batch_of(split, name))
        assert (mean[0], std[0]) == pytest.approx(
            (values.mean(dtype=np.float64), values.std(dtype=np.float64)), rel=1e-6
        )
        assert abs(seen.mean()) < 1e-3 and seen.std(correction=0) == pytest.approx(1, abs=1e-3)


def test_a_modality_that_does_not_vary_is_refused_and_a_channel_is_centred(tmp_path):
    pair = np.stack([np.full((N, H, W), 0.7), np.random.default_rng(0).random((N, H, W))], -1).astype(np.float32)
    split = data("packed", tmp_path, {"pair": pair, "flat": pair[..., 0]}).open("train")
    assert measure_statistics(split, "pair", samples=N)[1][0] == 1.0
    with pytest.raises(ContrastillError, match="flat is 0.7 in all samples looked at: nothing can be learnt"):
        measure_statistics(split, "flat", samples=N)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("packed", {"crop_padding": 3}),
        ("paired_folder", {"crop": "padded"}),
        ("paired_folder", {"transforms": [{"name": "Affine", "translate_px": 4, "p": 1}]}),
    ],
)
def test_what_comes_in_from_outside_is_no_value(tmp_path, source, options):
    counts = np.full((N, H, W), 30_000, np.uint16)
    counts[:, ::2] += 40
    split = data(source, tmp_path, {"counts": counts, "semantics": np.ones((N, H, W), np.uint8)}, **options).open(
        "train"
    )
    images, labels = batch_of(split, "counts", train=True), batch_of(split, "semantics", train=True)
    outside = images.isnan()
    assert outside.any() and torch.equal(outside, labels == 0) and images[~outside].min() == 30_000
    seen = Preprocess((30_020.0,), (20.0,))(images)
    assert seen.abs().max() < 1.01 and (seen[outside] == 0).all()


def test_colours_outside_their_scale_are_refused(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["train/rgb"] = np.full((N, H, W), 200, np.float32)
        file["train/sixteen"] = np.full((N, H, W), 200, np.uint16)
    dataset = DATASETS["packed"]
    for field, message in (
        ("rgb", "goes from 200 to 200: rgb is uint8, or floats in"),
        ("sixteen", "sixteen is uint16: rgb is uint8"),
    ):
        with pytest.raises(UsageError, match=message):
            dataset(dataset.Options(path=str(tmp_path / "set.h5"), fields={"rgb": field})).open("train")
    broken = rgb().astype(np.float32) / 255
    broken[20, 3, 3, 1] = np.nan
    with pytest.raises(ContrastillError, match="rgb of sample 20 of Samples holds NaN"):
        batch_of(UserDataset(Samples({"rgb": broken}))(UserDataset.Options()).open("train"), "rgb")


# Depth


def test_marks_of_nothing_measured_are_known():
    mm = torch.tensor([0.0, 500.0, 65534.0, 65535.0, 1e10, -1.0, torch.nan, torch.inf]).reshape(1, 1, 1, -1)
    missing = [True, False, False, True, True, True, True, True]
    for values, unit in ((mm, "mm"), (mm / 1000, "m")):
        assert clean_depth(values, Camera(unit)).isnan().flatten().tolist() == missing
    assert torch.equal(clean_depth(mm, Camera("mm")).nan_to_num(), clean_depth(mm / 1000, Camera("m")).nan_to_num())
    # Without a unit 65535 may be the far end of the scale.
    assert clean_depth(mm, Camera("relative")).isnan().flatten().tolist() == [
        True,
        False,
        False,
        False,
        True,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("dtype", "scale", "marks"), [("uint16", 1, (0, 65535)), ("float32", 1e-3, (0, 65.535, 1e10, -1, np.nan, np.inf))]
)
def test_depth_that_was_not_measured_has_no_part_in_statistics(tmp_path, caplog, source, dtype, scale, marks):
    drawn = np.random.default_rng(3)
    metres = drawn.integers(800, 4000, (N, H, W)) / 1000
    depth = (metres * 1000 * scale).astype(dtype)
    missing = drawn.random((N, H, W)) < 0.3
    depth[missing] = drawn.choice(np.array(marks, dtype), missing.sum())
    with caplog.at_level(logging.WARNING):
        opened = data(source, tmp_path, {"depth": depth})
        split = opened.open("train")
        opened.open("train")
    warnings = [record.getMessage() for record in caplog.records if "taken for not measured" in record.getMessage()]
    assert (
        warnings
        and len(warnings) == len(set(warnings))
        and all(("65535" if dtype == "uint16" else "65.535") in message for message in warnings)
    )
    mean, std = measure_statistics(split, "depth", samples=N)
    assert (mean[0], std[0]) == pytest.approx((metres[~missing].mean(), metres[~missing].std()), rel=1e-5)
    assert np.array_equal(batch_of(split, "depth")[:, 0].isnan().numpy(), missing)


@pytest.mark.parametrize("source", SOURCES)
def test_units_that_differ_between_splits_are_refused(tmp_path, source):
    depth = np.random.default_rng(4).integers(50, 250, (N, H, W))
    for number, (train, test, message) in enumerate(
        [
            (
                {"depth": depth.astype(np.uint8)},
                {"depth": (10 * depth).astype(np.uint16)},
                "training split is in relative, that of the test split in mm",
            ),
            (
                {"thermal": depth.astype(np.uint8)},
                {"thermal": (100 * depth).astype(np.uint16)},
                "thermal is stored as 8-bit integers in the training split",
            ),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        opened = data(source, folder, train, test)
        with pytest.raises(UsageError, match=message):
            _splits(opened)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("dtype", "unit"), [("uint8", "relative"), ("uint16", "mm"), ("int16", "mm"), ("float16", "m"), ("float64", "m")]
)
def test_a_dtype_means_one_unit_wherever_depth_comes_from(tmp_path, source, dtype, unit):
    depth = np.random.default_rng(4).integers(1, 9, (N, H, W)) * (1000 if unit == "mm" else 1)
    assert data(source, tmp_path, {"depth": depth.astype(dtype)}).open("train").camera == Camera(unit)


def _splits(opened):
    """Both splits, as a training opens them."""
    registered = type(
        "Lent",
        (),
        {
            "Options": type("Options", (BaseModel,), {}),
            "__init__": lambda self, options: None,
            "open": lambda self, split: opened.open(split),
        },
    )
    with DATASETS.temporarily("python:lent", registered):
        return open_splits(DataConfig(name="python:lent"))


@pytest.mark.parametrize("source", ["paired_folder", "own"])
def test_units_that_differ_between_samples_are_refused(tmp_path, source):
    depth = np.random.default_rng(4).integers(50, 250, (N, H, W))
    mixed = [*depth.astype(np.uint8)[:-1], (10 * depth[-1]).astype(np.uint16)]
    with pytest.raises(ContrastillError, match=r"depth.*(unsigned 16-bit integers|float32).*8"):
        batch_of(data(source, tmp_path, {"depth": mixed}, {"depth": mixed}).open("train"), "depth")


# Vectors


def directions(count=N):
    values = np.random.default_rng(5).normal(size=(count, H, W, 3))
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def mirrored(values):
    """By a loop over pixels: from right to left, x turned."""
    out = np.empty_like(values)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            out[y, x] = values[y, values.shape[1] - 1 - x] * np.array([-1] + [1] * (values.shape[2] - 1))
    return out


@pytest.mark.parametrize("source", ["packed", "paired_folder"])
@pytest.mark.parametrize("stored", ["float32", "uint8", "uint16"])
def test_vectors_turn_with_a_mirrored_view(tmp_path, source, stored):
    truth = directions()
    truth[3, 2, 2] = np.nan
    full = {"float32": None, "uint8": 255, "uint16": 65535}[stored]
    values = truth if full is None else np.nan_to_num((truth + 1) / 2 * full).round().astype(stored)
    if full is not None:
        values[3, 2, 2] = 0
    opened = data(source, tmp_path, {"normals": values})
    plain, views = (
        batch_of(opened.open("train"), "normals", train=train).permute(0, 2, 3, 1).numpy() for train in (False, True)
    )
    step = 0 if full is None else 1.01 / full
    assert np.allclose(plain, truth, atol=step, equal_nan=True)
    turned = 0
    for seen, value in zip(views, plain, strict=True):
        if np.array_equal(seen, value, equal_nan=True):
            continue
        assert np.array_equal(seen, mirrored(value), equal_nan=True)
        turned += 1
    assert 0 < turned < N


@pytest.mark.parametrize("source", ["packed", "paired_folder"])
def test_the_option_names_the_modalities_that_are_vectors(tmp_path, source):
    fields = {"motion": directions()[..., :2], "normals": directions(), "thermal": directions()[..., 0]}
    opened = data(source, tmp_path, fields, vectors=["motion"]).open("train")
    plain, views = (batch_of(opened, "motion", train=train) for train in (False, True))
    other, same = (batch_of(opened, "normals", train=train) for train in (False, True))
    flipped = torch.tensor([not torch.equal(first, second) for first, second in zip(plain, views, strict=True)])
    assert (
        flipped.any()
        and torch.equal(views[flipped][:, 0], -plain[flipped][:, 0].flip(-1))
        and torch.equal(same[flipped], other[flipped].flip(-1))
    )
    dataset = DATASETS[source]
    options = {"path": str(tmp_path / "set.h5" if source == "packed" else tmp_path)} | (
        {"fields": {name: name for name in fields}} if source == "packed" else {}
    )
    for named, message in (
        (["motion", "heat"], "data.vectors names heat, and the data have"),
        (["thermal"], "names thermal, which cannot be vectors"),
    ):
        with pytest.raises(UsageError, match=message):
            dataset(dataset.Options(**options, vectors=named)).open("train")


@pytest.mark.parametrize("source", SOURCES)
def test_directions_coded_in_floats_are_refused(tmp_path, source):
    opened = data(source, tmp_path, {"normals": (directions() + 1) / 2})
    with pytest.raises(UsageError, match="without a negative component, so 0.5 seems to stand for zero"):
        opened.open("train")


def test_transforms_that_move_vectors_are_refused(tmp_path):
    opened = data("paired_folder", tmp_path, {"normals": directions()}, transforms=[{"name": "HorizontalFlip"}])
    with pytest.raises(UsageError, match="the vectors normals would not turn with them"):
        opened.open("train")


@pytest.mark.parametrize("vectors", [None, ["motion"], []])
def test_a_packed_copy_knows_its_vectors(tmp_path, vectors):
    coded = ((directions() + 1) / 2 * 255).round().astype(np.uint8)
    opened = data("paired_folder", tmp_path / "files", {"normals": coded, "motion": coded}, vectors=vectors)
    (tmp_path / "files").mkdir(exist_ok=True)
    split = opened.open("train")
    options = [] if vectors is None else [f"vectors=[{','.join(vectors)}]"]
    pack.write_packed(
        pack.source_of(f"paired_folder:{tmp_path / 'files'}", options=["crop=none", "workers=0", *options]),
        tmp_path / "copy.h5",
    )
    dataset = DATASETS["packed"]
    fields = {name: name for name in ("rgb", "normals", "motion")}
    copy = dataset(dataset.Options(path=str(tmp_path / "copy.h5"), fields=fields, crop_padding=0)).open("train")
    assert (
        copy.vectors
        == split.vectors
        == {None: ("normals",), "motion": ("motion",), "": ()}["" if vectors == [] else vectors and vectors[0]]
    )
    for name in ("normals", "motion"):
        assert torch.equal(batch_of(copy, name), batch_of(split, name))


@pytest.mark.parametrize("source", ["packed", "paired_folder"])
def test_normals_made_from_mirrored_depth_are_mirrored(tmp_path, source):
    y, x = np.mgrid[:H, :W]
    depth = np.stack([2 + 0.02 * k + 0.05 * x - 0.03 * y for k in range(N)]).astype(np.float32)
    split = data(source, tmp_path, {"depth": depth}, intrinsics=(20.0, 21.0, 4.3, 5.1)).open("train")
    plain, views = (batch_of(split, "normals", train=train).permute(0, 2, 3, 1).numpy() for train in (False, True))
    turned = [row for row in range(N) if not np.allclose(views[row], plain[row], atol=1e-4)]
    assert 0 < len(turned) < N and all(np.allclose(views[row], mirrored(plain[row]), atol=1e-4) for row in turned)
    assert abs(plain[..., 0]).min() > 0.1
    camera = torch.tensor([[20.0, 21.0, 4.3, 5.1]])
    assert np.allclose(normals(torch.from_numpy(depth[:1, None]), camera)[0].permute(1, 2, 0), plain[0], atol=1e-5)


def test_what_is_made_from_colours_needs_their_scale(tmp_path):
    normalised = [(np.random.default_rng(0).normal(size=(H, W, 3)).astype(np.float32), row % 2) for row in range(8)]
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UsageError, match="luminance is made from images in"):
        contrastill.distill(
            None, net, normalised_set(normalised), out=tmp_path, student_modality="luminance", epochs=1, quiet=True
        )


def normalised_set(samples):
    """A dataset of a list."""
    return type(
        "Images", (Dataset,), {"__len__": lambda self: len(samples), "__getitem__": lambda self, row: samples[row]}
    )()


def test_a_network_of_another_unit_is_refused(tmp_path):
    drawn = np.random.default_rng(6)
    counts = drawn.integers(29_950, 30_050, (N, H, W)).astype(np.uint16)
    split = data("packed", tmp_path, {"thermal": counts}).open("train")
    own = network("thermal", (120.0,), (40.0,))
    save_student(
        build_network("resnet8", num_classes=2, modality="thermal", mean=(120.0,), std=(40.0,)),
        tmp_path / "student.safetensors",
    )
    entry = NetworkConfig(model="resnet8", modality="thermal", weights=str(tmp_path / "student.safetensors"))
    measured = measure_statistics(split, "thermal", samples=N)
    with pytest.raises(
        UsageError,
        match=r"resnet8 was trained on thermal of 120 ± 40 \(mean ± deviation\), and that of this data is 30000",
    ):
        build(entry, 2, {"thermal": measured})
    check_scale(own, "own", ((300.0,), (10.0,)))
    again = build(entry.model_copy(update={"mean": measured[0], "std": measured[1]}), 2, {"thermal": measured})
    assert again.preprocess.mean == measured[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.ones((1, 10, 12), np.float32),
            r"depth is an array of shape \(1, 10, 12\), and arrays are \(height, width, channels\): return "
            r"depth.transpose",
        ),
        (
            torch.ones(10, 12, 1),
            r"depth is a tensor of shape \(10, 12, 1\), and tensors are \(channels, height, width\): return "
            r"depth.permute",
        ),
    ],
)
def test_rows_of_pixels_are_not_taken_for_channels(values, message):
    with pytest.raises(UsageError, match=message):
        UserDataset(Samples({"rgb": rgb(2), "depth": [values] * 2}))
    right = values.transpose(1, 2, 0) if isinstance(values, np.ndarray) else values.permute(2, 0, 1)
    assert UserDataset(Samples({"rgb": rgb(2), "depth": [right] * 2}))(UserDataset.Options()).open("train").modalities[
        "depth"
    ] == (1, 10, 12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.ones((13, 16, 16), np.uint16),
            r"an array of shape \(13, 16, 16\), and arrays are .*: return bands.transpose",
        ),
        (torch.ones(16, 16, 13), r"a tensor of shape \(16, 16, 13\), and tensors are .*: return bands.permute"),
    ],
)
def test_many_channels_at_the_other_end_of_a_square_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        UserDataset(Samples({"bands": [values] * 2}))
    right = values.transpose(1, 2, 0) if isinstance(values, np.ndarray) else values.permute(2, 0, 1)
    assert UserDataset(Samples({"bands": [right] * 2}))._train.shapes == {"bands": (13, 16, 16)}


def test_many_channels_of_oblong_pictures_have_a_line(caplog):
    for values, line in (
        (np.ones((13, 24, 32), np.float32), "bands is read as 32 channels of 13×24 pixels"),
        (np.ones((24, 32, 13), np.float32), None),
        (torch.ones(24, 32, 13), "bands is read as 24 channels of 32×13 pixels"),
        (torch.ones(13, 24, 32), None),
        # Patches with more bands than pixels to a side.
        (np.ones((200, 9, 9), np.float32), "bands is read as 9 channels of 200×9 pixels"),
        (np.ones((200, 11, 7), np.float32), "bands is read as 7 channels of 200×11 pixels"),
        (np.ones((40, 3, 3), np.float32), "bands is read as 3 channels of 40×3 pixels"),
        (torch.ones(9, 9, 200), "bands is read as 9 channels of 9×200 pixels"),
        (torch.ones(9, 9, 12), "bands is read as 9 channels of 9×12 pixels"),
        (np.ones((9, 9, 200), np.float32), None),
        (torch.ones(200, 9, 9), None),
        (torch.ones(5, 64, 1024), None),
        (np.ones((32, 40, 16), np.float32), None),
    ):
        caplog.clear()
        UserDataset(Samples({"bands": [values] * 2}))
        assert line in caplog.text if line else not caplog.text


def test_rgb_of_many_channels_names_the_way_out(tmp_path):
    bands = torch.randint(0, 256, (8, 13, 16, 16), dtype=torch.uint8)
    options = {"out": tmp_path / "out", "epochs": 1, "batch_size": 4, "quiet": True}
    data = torch.utils.data.TensorDataset(bands, torch.arange(8) % 2)
    with pytest.raises(
        UsageError, match="shape .2, 13, 16, 16. .* a name of their own, in samples {'multispectral': im"
    ):
        contrastill.distill(None, "resnet8", data, **options)
    entry = {"model": "resnet8", "mean": (0.5,) * 13, "std": (0.25,) * 13}
    assert contrastill.distill(None, entry, data, **options).metrics["epoch"] == 0
    named = Samples({"multispectral": [*bands], "target": [row % 2 for row in range(8)]})
    options["out"] = tmp_path / "named"
    result = contrastill.distill(None, "resnet8", named, student_modality="multispectral", **options)
    assert len(result.student.preprocess.mean) == 13


def test_a_files_channels_are_last(tmp_path):
    np.save(tmp_path / "bands.npy", np.ones((13, 16, 16), np.float32))
    with pytest.raises(
        UsageError, match=r"bands.npy is float32 \(13, 16, 16\), and arrays are .*: save bands.transpose"
    ):
        read_array(tmp_path / "bands.npy", "bands")


def test_maps_of_many_channels_and_few_pixels_are_as_they_come():
    for values, shape in (
        (torch.ones(512, 4, 4), (512, 4, 4)),
        (np.ones((4, 4, 512), np.float32), (512, 4, 4)),
        (torch.ones(3, 10, 4), (3, 10, 4)),
    ):
        assert (
            UserDataset(Samples({"features": [values] * 2}))(UserDataset.Options()).open("train").modalities["features"]
            == shape
        )


def test_identifiers_are_no_classes():
    with pytest.raises(
        UsageError, match="labels go to 1000000001, as if there were as many classes: number the classes from 0 on"
    ):
        _splits(UserDataset(Samples({"rgb": rgb(2), "target": [1_000_000_000, 1_000_000_001]}))(UserDataset.Options()))


@pytest.mark.parametrize(
    ("attribute", "value", "camera"),
    [
        ("depth_unit", np.bytes_("m"), Camera("m")),
        ("intrinsics", [20.0, 21.0, 5.5, 4.5], Camera("mm", (20.0, 21.0, 5.5, 4.5))),
        ("intrinsics", [[20.0, 0.0, 5.5], [0.0, 21.0, 4.5], [0.0, 0.0, 1.0]], Camera("mm", (20.0, 21.0, 5.5, 4.5))),
        (
            "depth_unit",
            "cm",
            "the attribute depth_unit is cm, and should be m, mm, relative or the metres of one step: set "
            "data.depth_unit",
        ),
        ("intrinsics", 525.0, r"the attribute intrinsics has the shape \(\): it holds fx, fy, cx, cy"),
    ],
)
def test_a_packed_file_describes_its_camera(tmp_path, attribute, value, camera):
    opened = data("packed", tmp_path, {"depth": np.full((N, H, W), 2000, np.uint16)})
    with h5py.File(tmp_path / "set.h5", "a") as file:
        file.attrs[attribute] = value
    if isinstance(camera, Camera):
        assert opened.open("train").camera == camera
    else:
        with pytest.raises(UsageError, match=camera):
            opened.open("train")


@pytest.mark.parametrize("source", ["packed", "own"])
def test_depth_has_one_channel(tmp_path, source):
    with pytest.raises(UsageError, match="depth has 3 channels, and should have one"):
        _splits(data(source, tmp_path, {"depth": np.ones((N, H, W, 3), np.float32)}))


def test_a_class_that_is_named_as_the_unlabelled_value_is_warned_of(tmp_path, caplog):
    opened = data("packed", tmp_path, {"semantics": np.ones((N, H, W), np.uint8)})
    for names, warns in ((["unlabelled", "wall"], False), (["wall", "floor"], True)):
        with h5py.File(tmp_path / "set.h5", "a") as file:
            file.attrs["semantic_classes"] = names
        opened.open("train")
        assert (
            "0 in semantics is unlabelled, and the first of semantic_classes, wall, is its name" in caplog.text
        ) is warns


@pytest.mark.parametrize(("steps", "unit"), [(5000, "0.0002"), (256, "0.00390625"), (1000, "mm")])
def test_depth_in_steps_of_another_length_is_in_metres(tmp_path, steps, unit):
    """TUM stores 5000 to a metre, KITTI 256; 65535 is nothing measured in each."""
    metres = np.array([[0.5, 2.0, 10.0], [0.0, 1.0, 3.0]], np.float32)
    stored = (metres * steps).astype(np.uint16)
    stored[1, 1] = 65535
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["train/depth"] = file["test/depth"] = np.stack([stored] * 4)
    config = load_config(
        "teachers/cifar100",
        [
            f"data.path={tmp_path / 'set.h5'}",
            "student.model=resnet8",
            "data.fields={depth: depth}",
            f"data.depth_unit={unit}",
        ],
    )
    options = config.data.options()
    dataset = DATASETS["packed"](DATASETS["packed"].Options(path=config.data.path, **options))
    split = dataset.open("train")
    seen = clean_depth(
        next(iter(split.loader(batch_size=2, device="cpu", train=False).epoch(0)))["depth"], split.camera
    )[0, 0]
    torch.testing.assert_close(
        seen, torch.tensor([[0.5, 2.0, 10.0], [torch.nan, torch.nan, 3.0]]), equal_nan=True, rtol=0, atol=0.5 / steps
    )
