"""Further transforms of a view draw independently of each other, and as often as their ``p`` says."""

import collections
import pickle

import numpy as np
import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.file_views import FileViews, composed, seed_transforms, transform_seed
from contrastill.datasets.io.images import DecodedPicture
from contrastill.datasets.io.joint_views import JointViews

FLIPS = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5}]
OF_TORCHVISION = [
    {"name": "torchvision/RandomHorizontalFlip", "p": 0.5},
    {"name": "torchvision/RandomVerticalFlip", "p": 0.5},
]
MARKED = np.zeros((8, 8, 3), np.uint8)
MARKED[0, 0] = 255


def corner(pixels) -> tuple[bool, bool]:
    """Whether the marked corner lies below, and to the right."""
    y, x = np.argwhere(np.asarray(pixels) == 255)[0][:2]
    return bool(y), bool(x)


@pytest.mark.parametrize("transforms", [FLIPS, OF_TORCHVISION])
def test_of_two_flips_all_four_outcomes_come_alike_often(transforms):
    views = FileViews(8, "none", flip=False, transforms=transforms)
    picture = DecodedPicture("stored", 8, 8, torch.from_numpy(MARKED))
    draws = views.draws(0, 0, torch.arange(400))
    counts = collections.Counter(
        corner(views.view(picture, drawn, transform_seed(0, 0, row))) for row, drawn in enumerate(draws)
    )
    assert len(counts) == 4 and min(counts.values()) > 60


def test_those_of_aligned_modalities_too():
    views = JointViews((8, 8), "none", flip=False, transforms=FLIPS, modalities=("rgb", "depth"))
    sample = {"rgb": MARKED, "depth": MARKED[..., 0].astype(np.float32)}
    draws = views.draws(0, 0, torch.arange(200))
    seen = [views.view(sample, drawn, transform_seed(0, 0, row))[0] for row, drawn in enumerate(draws)]
    counts = collections.Counter(corner(view["depth"]) for view in seen)
    assert len(counts) == 4 and min(counts.values()) > 25
    assert all(corner(view["rgb"]) == corner(view["depth"]) for view in seen)


def test_a_view_is_a_function_of_its_seed_alone():
    views = FileViews(8, "none", flip=False, transforms=[*FLIPS, {"name": "GaussNoise", "p": 1.0}])
    picture, draws = DecodedPicture("stored", 8, 8, torch.from_numpy(MARKED)), views.draws(0, 0, torch.arange(4))
    first = [views.view(picture, draws[row], transform_seed(0, 0, row)) for row in range(4)]
    other = pickle.loads(pickle.dumps(views))
    again = [other.view(picture, draws[row], transform_seed(0, 0, row)) for row in (3, 1, 0, 2)]
    assert all(torch.equal(first[row], view) for row, view in zip((3, 1, 0, 2), again, strict=True))


@pytest.mark.parametrize(
    ("entry", "share"),
    [
        ({"name": "torchvision/RandomGrayscale", "p": 0.6}, 0.6),
        ({"name": "torchvision/RandomGrayscale", "p": 1.0}, 1.0),
        ({"name": "torchvision/RandomInvert"}, 0.5),  # torchvision's own default
        ({"name": "torchvision/ColorJitter", "brightness": [0.1, 0.2], "p": 0.3}, 0.3),
        ({"name": "torchvision/ColorJitter", "brightness": [0.1, 0.2]}, 1.0),
    ],
)
def test_p_of_a_transform_of_torchvision_is_its_chance(entry, share):
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 200
    compose, changed = composed([entry], (8, 8)), 0
    for row in range(500):
        seed_transforms(compose, transform_seed(0, 0, row))
        changed += not np.array_equal(compose(image=image.copy())["image"], image)
    assert changed / 500 == pytest.approx(share, abs=0.06)


def test_one_of_torchvision_that_seldom_changes_the_shape_is_refused():
    with pytest.raises(UsageError, match="do not keep 8×8 pixels"):
        composed([{"name": "torchvision/RandomZoomOut", "p": 0.01}], (8, 8))


def test_transforms_of_torchvision_run_where_rgb_is_read_alone(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Array3D((16, 16, 3), "uint8")})
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    rows = datasets.Dataset.from_dict({"image": list(images)}, features=features)
    rows.save_to_disk(str(tmp_path / "rows"))
    options = {"image": "image", "workers": 0, "crop": "none", "flip": False}
    options["transforms"] = [{"name": "torchvision/RandomInvert", "p": 1.0}]
    data = DATASETS["huggingface"]
    split = data(data.Options(path=str(tmp_path / "rows"), **options)).open("train")
    plain = next(iter(split.loader(batch_size=8, device="cpu", train=False).epoch(0)))
    view = next(iter(split.loader(batch_size=8, device="cpu", train=True).epoch(0)))
    plain = {int(index): rgb for index, rgb in zip(plain["index"], plain["rgb"], strict=True)}
    assert all(
        torch.equal(255 - rgb.int(), plain[int(index)].int())
        for index, rgb in zip(view["index"], view["rgb"], strict=True)
    )
