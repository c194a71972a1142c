"""Joint views: whatever moves a picture moves its depth and its labels alike, and the camera of a view knows where it
was cut out.
"""

import pickle
import re
import time

import cv2
import numpy as np
import pytest
import torch

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.datasets.io.camera import Camera
from contrastill.datasets.io.file_splits import PairSplit
from contrastill.datasets.io.file_views import transform_seed
from contrastill.datasets.io.joint_views import JointViews

H, W = 24, 32
INTRINSICS = (40.0, 42.0, 15.0, 11.0)


def frame(height=H, width=W):
    """A frame whose pixels say where they are, in each modality: rows in red and in depth's whole part, columns in
    green, depth and labels.
    """
    y, x = np.mgrid[:height, :width]
    return {
        "rgb": np.stack([5 * y, 5 * x, 0 * x + 200], -1).astype(np.uint8),
        "depth": (100 * (y + 1) + x).astype(np.uint16),
        "semantics": (x + 1).astype(np.uint8),
        "rays": np.stack([y, x], -1).astype(np.float32),
    }


class Frames:
    """A reader of copies of one frame."""

    def __init__(self, height=H, width=W, names=("rgb", "depth", "semantics", "rays")):
        self.frame = {name: values for name, values in frame(height, width).items() if name in names}
        self.modalities = {
            name: (values.shape[2] if values.ndim == 3 else 1, height, width) for name, values in self.frame.items()
        }

    def read(self, row):
        return self.frame


def split(reader=None, n=24, *, workers=0, camera=None, **views):
    names = {key: views.pop(key) for key in ("color_jitter", "modalities") if key in views}
    return PairSplit(
        reader or Frames(), n, JointViews(**views), augmented=True, workers=workers, camera=camera, **names
    )


def whole_epoch(split, k=1, train=True, batch_size=10):
    batches = list(split.loader(batch_size=batch_size, device="cpu", seed=5, train=train).epoch(k))
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    order = joined["index"].argsort()
    return {name: values[order] for name, values in joined.items()}


def where_from(batch):
    """Row and column that each pixel of depth, of labels and of rays says it comes from; −1 where nothing is."""
    depth = batch["depth"].long()[:, 0]
    rows, columns = torch.where(depth > 0, depth // 100 - 1, -1), torch.where(depth > 0, depth % 100, -1)
    assert torch.equal(columns, batch["semantics"].long()[:, 0] - 1)
    there = depth > 0
    for channel, places in ((0, rows), (1, columns)):
        # With two channels, OpenCV rounds a few ties of the nearest pixel the other way: to a neighbour, or at a border
        # to nothing.
        off = (batch["rays"][:, channel].long() - places)[there].abs()
        assert (off > 1).float().mean() < 0.01 and off.clamp(max=1).float().mean() < 0.05
    return rows, columns


@pytest.mark.parametrize(
    "views,tolerance",
    [
        ({"crop": "none", "size": None}, 0),
        ({"crop": "padded"}, 0),
        ({"crop": "random_resized"}, 1),
        ({"crop": "random_resized", "size": (20, 12)}, 1.5),
        ({"crop": "none", "size": (18, 18)}, 1.5),
        ({"crop": "padded", "transforms": [{"name": "Affine", "rotate": (-30, 30), "scale": (0.8, 1.2), "p": 1}]}, 1.5),
        ({"crop": "none", "transforms": [{"name": "RandomRotate90", "p": 1}], "size": (24, 24)}, 1.5),
        ({"crop": "none", "transforms": [{"name": "ElasticTransform", "p": 1}, {"name": "GridDistortion", "p": 1}]}, 3),
    ],
)
def test_all_modalities_stay_aligned(views, tolerance):
    batch = whole_epoch(split(**views))
    rows, columns = where_from(batch)
    # Colours blend at edges that come in, so what is compared lies in the middle of what is there.
    there = -torch.nn.functional.max_pool2d(-(rows >= 0).float()[:, None], 5, 1, 2)[:, 0] > 0
    assert there.float().mean() > 0.3
    for channel, places in ((0, rows), (1, columns)):
        off = (batch["rgb"][:, channel].float() / 5 - places)[there].abs()
        assert off.mean() <= tolerance / 2 and (off > 2 * tolerance).float().mean() <= 0.005, (off.mean(), off.max())
    assert len(torch.unique(batch["depth"].flatten(1), dim=0)) > 1


def test_photometric_transforms_are_of_rgb_alone():
    transforms = [{"name": "ColorJitter", "p": 1}, {"name": "GaussNoise", "p": 1}]
    plain, changed = (whole_epoch(split(transforms=chosen)) for chosen in ([], transforms))
    assert all(torch.equal(plain[name], changed[name]) for name in ("depth", "semantics", "rays"))
    assert all(not torch.equal(first, second) for first, second in zip(plain["rgb"], changed["rgb"], strict=True))
    jittered = whole_epoch(split(color_jitter=0.4))
    assert jittered["rgb"].dtype == torch.float32 and torch.equal(jittered["depth"], plain["depth"])


def test_nothing_but_rgb_blends():
    reader = Frames()
    reader.frame["depth"] = np.where(np.random.default_rng(0).random((H, W)) < 0.5, np.uint16(0), np.uint16(4000))
    reader.frame["semantics"] = (reader.frame["depth"] > 0).astype(np.uint8) * 9
    batch = whole_epoch(split(reader, transforms=[{"name": "Affine", "rotate": 20, "p": 1}], size=(17, 23)))
    assert set(batch["depth"].unique().tolist()) == {0, 4000} and set(batch["semantics"].unique().tolist()) == {0, 9}
    assert batch["depth"].dtype == torch.float32 and batch["semantics"].dtype == torch.uint8


def test_missing_readings_stay_missing():
    reader = Frames(names=("rgb", "depth"))
    reader.frame["depth"] = np.full((H, W), np.nan, np.float32)
    reader.frame["depth"][:, ::2] = 1.5
    for transforms in ([], [{"name": "Affine", "rotate": 20, "p": 1}]):
        depth = whole_epoch(split(reader, transforms=transforms, crop="none"))["depth"]
        assert depth.isnan().any() and set(depth[~depth.isnan()].tolist()) <= {0, 1.5}


@pytest.mark.parametrize(
    "options",
    [{}, {"crop": "padded", "transforms": [{"name": "Affine", "p": 0.5}, {"name": "GaussNoise"}]}, {"size": (9, 14)}],
)
def test_workers_ranks_and_resuming_change_no_byte(options):
    camera = Camera("mm", INTRINSICS)

    def loader(workers=0, rank=0, world=1):
        return split(workers=workers, camera=camera, **options).loader(
            batch_size=7, device="cpu", seed=3, train=True, rank=rank, world=world
        )

    def same(batches, others):
        batches, others = list(batches), list(others)
        assert len(batches) == len(others)
        for first, second in zip(batches, others, strict=True):
            assert first.keys() == second.keys() and all(
                first[name].dtype == second[name].dtype
                and torch.allclose(first[name], second[name], rtol=0, atol=0, equal_nan=True)
                for name in first
            )

    here, workers = list(loader().epoch(2)), loader(workers=2)
    same(workers.epoch(2), here)
    same(workers.epoch(2, start=1), here[1:])
    ranks = [loader(rank=rank, world=2).epoch(2) for rank in range(2)]
    same(
        ({name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in zip(*ranks, strict=True)),
        here,
    )
    assert not torch.equal(whole_epoch(split(**options), 2)["depth"], whole_epoch(split(**options), 3)["depth"])


def back_projected(batch):
    """The 3-D point of each pixel, z being the depth, and the pixel's mark."""
    fx, fy, cx, cy = batch["camera"].double().T[:, :, None, None]
    v, u = torch.meshgrid(torch.arange(batch["depth"].shape[2]), torch.arange(batch["depth"].shape[3]), indexing="ij")
    return (u - cx) / fx, (v - cy) / fy


@pytest.mark.parametrize(
    "crop,size",
    [
        ("none", None),
        ("padded", None),
        ("random_resized", (48, 64)),
        ("random_resized", (30, 20)),
        ("none", (30, 30)),
        ("padded", (48, 64)),
    ],
)
def test_the_camera_of_a_view_back_projects_as_the_frame_does(crop, size):
    # Relative, as these say where they are from and must not be interpolated.
    opened = split(crop=crop, size=size, camera=Camera("relative", INTRINSICS))
    for batch in (whole_epoch(opened), whole_epoch(opened, train=False)):
        rows, columns = where_from(batch)
        x, y = back_projected(batch)
        fx, fy, cx, cy = INTRINSICS
        there = rows >= 0
        mirrored = (columns[:, 12, 5] > columns[:, 12, 6]) | (columns[:, 12, 5] > columns[:, 12, 9])
        x = torch.where(mirrored[:, None, None], -x, x)
        # A view's pixel is the nearest of the frame's: at most half a pixel away.
        assert ((x - (columns - cx) / fx)[there].abs() * fx).max() <= 0.5 + 1e-4
        assert ((y - (rows - cy) / fy)[there].abs() * fy).max() <= 0.5 + 1e-4
    assert mirrored.sum() == 0


def test_the_camera_is_left_out_where_nobody_knows_it():
    camera = Camera("mm", INTRINSICS)
    moving = split(camera=camera, transforms=[{"name": "Affine"}])
    assert "camera" not in whole_epoch(moving) and "camera" in whole_epoch(moving, train=False)
    assert "camera" in whole_epoch(split(camera=camera, transforms=[{"name": "GaussNoise"}]))
    assert "camera" not in whole_epoch(split(camera=Camera("relative")))


@pytest.mark.parametrize("crop", ["none", "padded", "random_resized"])
def test_plain_is_the_whole_frame_or_its_centre(crop):
    same_ratio = whole_epoch(split(crop=crop, size=(H // 2, W // 2)), train=False)
    rows, columns = where_from(same_ratio)
    assert rows[0, :, 0].tolist() == list(range(1, H, 2)) and columns[0, 0].tolist() == list(range(1, W, 2))
    square = whole_epoch(split(crop=crop, size=(H, H)), train=False)
    rows, columns = where_from(square)
    assert torch.equal(square["rgb"][0], torch.from_numpy(frame()["rgb"])[:, 4:28].permute(2, 0, 1)) and columns[
        0, 0
    ].tolist() == list(range(4, 28))
    stored = whole_epoch(split(crop=crop), train=False)
    assert torch.equal(stored["depth"][0, 0], torch.from_numpy(frame()["depth"].astype(np.float32)))
    # 427 × 640 brought to 3:4 and back: a pixel of rounding cuts nothing off.
    assert JointViews((214, 321)).full_frame(427, 640).height == 427


def test_the_view_is_a_function_of_its_draws():
    views = JointViews(
        (12, 16), transforms=[{"name": "Affine", "p": 1}], modalities=("rgb", "depth", "semantics", "rays")
    )
    draws = views.draws(0, 1, torch.tensor([4]))[0]
    first, where = views.view(frame(), draws, transform_seed(0, 1, 4))
    views.view(frame(), views.draws(0, 2, torch.tensor([9]))[0], 77)
    other, again = pickle.loads(pickle.dumps(views)).view(frame(), draws, transform_seed(0, 1, 4))
    assert where == again and all(torch.equal(first[name], other[name]) for name in first)
    assert {name: tuple(values.shape) for name, values in first.items()} == {
        "rgb": (12, 16, 3),
        "depth": (12, 16, 1),
        "semantics": (12, 16, 1),
        "rays": (12, 16, 2),
    }


def test_pairs_without_rgb_and_parts_of_what_is_read():
    batch = whole_epoch(
        split(
            Frames(names=("depth", "rays")),
            transforms=[{"name": "Affine", "p": 1}, {"name": "GaussNoise"}],
            color_jitter=0.3,
        )
    )
    assert set(batch) == {"depth", "rays", "index"}
    part = split(modalities=["depth"])
    assert part.modalities == {"depth": (1, H, W)} and set(whole_epoch(part)) == {"depth", "index"}
    with pytest.raises(UsageError, match="there is no modality 'dept': there are rgb, depth, semantics, rays"):
        split(modalities=["dept"])


def test_a_split_describes_its_samples():
    opened = PairSplit(
        Frames(),
        3,
        JointViews((6, 8)),
        targets=torch.tensor([0, 1, 1]),
        classes=["a", "b"],
        augmented=False,
        semantic_classes=["unlabelled", "wall"],
    )
    assert opened.modalities == {"rgb": (3, 6, 8), "depth": (1, 6, 8), "semantics": (1, 6, 8), "rays": (2, 6, 8)}
    assert (opened.num_samples, opened.num_classes, opened.semantic_classes, opened.camera) == (
        3,
        2,
        ["unlabelled", "wall"],
        None,
    )
    batch = next(opened.loader(batch_size=3, device="cpu", train=True).epoch(0))
    assert torch.equal(batch["target"], opened.targets[batch["index"]]) and batch["rgb"].is_contiguous(
        memory_format=torch.channels_last
    )
    assert torch.equal(
        batch["depth"],
        opened.loader(batch_size=1, device="cpu", train=False).epoch(0).__next__()["depth"].expand(3, -1, -1, -1),
    )


@pytest.mark.parametrize(
    "transform,message",
    [
        ({"name": "Afine"}, "did you mean Affine"),
        ({"name": "Affine", "angle": 1}, "Affine does not take {'angle': 1}"),
        ({"name": "Resize", "height": 8, "width": 8}, "do not keep 24×32 pixels"),
        ({"name": "Transpose", "p": 0.1}, "do not keep 24×32 pixels"),
        ({"name": "RandomRotate90"}, "do not keep 24×32 pixels"),
        ({"name": "OverlayElements"}, "OverlayElements asks for overlay_metadata beside each image"),
        ({"name": "Normalize"}, "do not keep 24×32 pixels of uint8"),
    ],
)
def test_transforms_are_checked_at_construction(transform, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        split(transforms=[transform])


def test_workers_start_though_this_process_used_opencv_with_threads():
    # Once its threads sleep, a forked worker that had to end them would wait for ever.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.GaussianBlur(np.zeros((480, 640, 3), np.uint8), (7, 7), 0)
        time.sleep(0.3)
        here, there = (
            next(split(n=2, workers=workers).loader(batch_size=1, device="cpu", train=True).epoch(0))
            for workers in (0, 1)
        )
        assert all(torch.equal(here[name], there[name]) for name in here) and cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(threads)


class Broken(Frames):
    def read(self, row):
        if row == 11:
            raise ContrastillError("frame 11 is gone: bring it back")
        return {**self.frame, "depth": self.frame["depth"][: H - (row == 17)]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_reports_an_error_in_one_sentence(workers):
    loader = split(Broken(), n=14, workers=workers).loader(batch_size=4, device="cpu", train=False)
    with pytest.raises(ContrastillError) as caught:
        list(loader.epoch(0))
    assert str(caught.value) == "frame 11 is gone: bring it back"
    assert len(next(loader.epoch(0))["index"]) == 4
    with pytest.raises(
        ContrastillError, match=re.escape("modalities of one sample differ in size (rgb 24×32, depth 23×32")
    ):
        next(split(Broken(), n=18, workers=workers).loader(batch_size=6, device="cpu", train=False).epoch(0, start=2))


def test_frames_of_unknown_size_need_one():
    reader = Frames()
    reader.modalities = {name: (channels, None, None) for name, (channels, _, _) in reader.modalities.items()}
    with pytest.raises(UsageError, match=re.escape("the frames differ in size: set data.size=[HEIGHT,WIDTH]")):
        split(reader)
    assert whole_epoch(split(reader, size=(8, 8)))["rgb"].shape == (24, 3, 8, 8)


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "Morphological", "operation": "dilation", "p": 0.1},
        {"name": "Morphological", "operation": "erosion"},
        {"name": "Affine", "rotate": 30, "fill_mask": 255},
        {"name": "CoarseDropout", "fill_mask": 9},
    ],
)
def test_transforms_that_change_values_are_refused(transform):
    with pytest.raises(UsageError, match=f"{transform['name']}, as it is set here, would change values of depth, sem"):
        split(transforms=[transform])
    assert JointViews(transforms=[transform], modalities=("rgb",)).compose is not None


@pytest.mark.parametrize(
    "name",
    "D4 CoarseDropout ElasticTransform Erasing GridDropout GridDistortion GridElasticDeform OpticalDistortion "
    "Perspective PixelDropout RandomGridShuffle Rotate ThinPlateSpline XYMasking".split(),
)
def test_transforms_that_move_pixels_are_taken(name):
    options = {
        "GridElasticDeform": {"num_grid_xy": (4, 4), "magnitude": 3},
        "XYMasking": {"num_masks_x": 2, "mask_x_length": 5},
    }
    views = JointViews(size=(16, 16), transforms=[{"name": name, **options.get(name, {})}], modalities=("rgb", "depth"))
    assert views.compose is not None
