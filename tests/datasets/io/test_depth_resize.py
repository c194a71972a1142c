"""Resized metric depth: exact on planes, so that normals are too; nothing between two surfaces or out of a hole."""

import numpy as np
import pytest
import torch
from PIL import Image

from contrastill.core.registry import DATASETS
from contrastill.datasets.io.camera import Camera
from contrastill.datasets.io.depth_resize import interpolated_depth
from contrastill.datasets.io.file_splits import PairSplit
from contrastill.datasets.io.joint_views import JointViews
from contrastill.training.data import open_loader

H, W = 40, 60
CAMERA = (50.0, 45.0, 29.0, 21.0)
SIZES = [None, (20, 30), (17, 41), (50, 60), (60, 90)]
CROPS = ["none", "padded", "random_resized"]


def plane(normal=(0.3, -0.5, -0.8), distance=3.0, camera=CAMERA, size=(H, W)):
    """Depth of a plane in metres, float64, and its direction towards the camera."""
    normal = np.array(normal) / np.linalg.norm(normal)
    fx, fy, cx, cy = camera
    y, x = np.mgrid[: size[0], : size[1]]
    with np.errstate(divide="ignore"):
        return -distance / (normal[0] * (x - cx) / fx + normal[1] * (y - cy) / fy + normal[2]), normal


class Frames:
    """A reader of copies of one frame."""

    def __init__(self, **frame):
        self.frame = {"rgb": np.zeros((*frame["depth"].shape, 3), np.uint8), **frame}
        self.modalities = {name: (3 if name == "rgb" else 1, *values.shape[:2]) for name, values in self.frame.items()}

    def read(self, row):
        return self.frame


def split(depth, unit="m", camera=CAMERA, count=16, **views):
    return PairSplit(Frames(depth=depth), count, JointViews(**views), augmented=True, camera=Camera(unit, camera))


def batch_of(split, *names, train):
    loader = open_loader(split, list(names), batch_size=split.num_samples, device="cpu", train=train, seed=0)
    return next(iter(loader.epoch(0)))


def degrees(split, normal, train):
    """Mean angle between the derived normals and the plane's, where there are such; mirrored views turn its x."""
    normals = batch_of(split, "normals", train=train)["normals"].double().permute(0, 2, 3, 1)
    assert normals.isfinite().all(-1).float().mean() > 0.8
    angles = []
    for view in normals:
        view = view[view.isfinite().all(-1)]
        turned = torch.tensor(normal * np.sign([view[:, 0].mean() * normal[0], 1, 1]))
        angles.append(
            torch.rad2deg(torch.atan2(torch.linalg.cross(view, turned.expand_as(view)).norm(dim=1), view @ turned))
        )
    return torch.cat(angles).mean().item()


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", SIZES)
def test_normals_of_a_plane_are_exact_in_views_of_any_size(crop, size):
    depth, normal = plane()
    for train in (True, False):
        opened = split(depth.astype(np.float32), crop=crop, size=size)
        assert degrees(opened, normal, train) < 0.01
        millimetres = split(np.rint(1000 * depth).astype(np.uint16), "mm", crop=crop, size=size)
        assert degrees(millimetres, normal, train) < 0.3
        # Of no unit whose meaning is known: as stored.
        if size == (50, 60):
            nearest = split(depth.astype(np.float32), "relative", crop=crop, size=size)
            values = batch_of(nearest, "depth", train=train)["depth"]
            assert {*values[~values.isnan()].tolist()} <= {*depth.astype(np.float32).ravel().tolist()}


@pytest.mark.parametrize("normal", [(0.0, 0.0, -1.0), (0.0, -1.0, -0.25), (0.9, 0.1, -0.5)])
def test_grazing_planes_are_one_surface(normal):
    camera, size = (262.0, 262.0, 159.5, 119.5), (240, 320)
    depth, normal = plane(normal, 0.5, camera, size)
    depth = np.where((depth > 0) & (depth < 20), depth, np.nan)
    opened = split(depth.astype(np.float32), camera=camera, count=1, size=(112, 112), crop="none", flip=False)
    batch = batch_of(opened, "depth", "normals", train=False)
    normals = batch["normals"][0].permute(1, 2, 0)
    known = normals.isfinite().all(-1)
    # Beside where the plane ends a place has no four pixels.
    inner = -torch.nn.functional.max_pool2d(-known[None, None].float(), 5, 1, 2)[0, 0] > 0
    assert inner.float().mean() > 0.3
    assert (normals[inner] - torch.tensor(normal)).norm(dim=-1).max() < 2e-3


def test_a_slanted_rail_two_pixels_wide_is_one_surface():
    depth, _ = plane((0.0, -0.6, -0.6))
    rail = np.full((H, W), 2 * depth.max())
    rail[:, 30:32] = depth[:, 30:32]
    # Between the two columns, and a quarter of a pixel above each row but the first.
    y, x = np.arange(1, H) - 0.25, np.array([30.4])
    ours = interpolated_depth(rail.astype(np.float32), rail[1:, 30:31], y, x, "m")[:, 0]
    assert np.allclose(1 / ours, 0.75 / depth[1:, 30] + 0.25 / depth[:-1, 30], rtol=1e-5)


@pytest.mark.parametrize(
    "source,options",
    [
        ("paired_folder", {}),
        ("paired_folder", {"decoded_cache": "cache"}),
        ("huggingface", {}),
    ],
)
@pytest.mark.parametrize("kind", ["metres", "millimetres"])
def test_every_source_of_aligned_files_has_them(tmp_path, source, options, kind):
    depth, normal = plane()
    stored = depth.astype(np.float32) if kind == "metres" else np.rint(1000 * depth).astype(np.uint16)
    path = tmp_path / "set"
    if source == "huggingface":
        tables = pytest.importorskip("datasets")
        pictures = [Image.fromarray(np.zeros((H, W, 3), np.uint8)) for _ in range(4)]
        shape = tables.Array2D((H, W), str(stored.dtype))
        features = tables.Features({"image": tables.Image(), "depth": shape})
        part = tables.Dataset.from_dict({"image": pictures, "depth": [stored] * 4}, features=features)
        tables.DatasetDict({"train": part, "test": part}).save_to_disk(path)
    else:
        for part in ("train", "test"):
            for name in ("rgb", "depth"):
                (path / part / name).mkdir(parents=True)
            for row in range(4):
                Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(path / part / "rgb" / f"{row}.png")
                if kind == "metres":
                    np.save(path / part / "depth" / f"{row}.npy", stored)
                else:
                    Image.fromarray(stored).save(path / part / "depth" / f"{row}.png")
    options = {name: str(tmp_path / value) if name == "decoded_cache" else value for name, value in options.items()}
    dataset = DATASETS[source]
    chosen = dataset.Options(path=str(path), size=(50, 60), intrinsics=CAMERA, workers=0, **options)
    for part, train in (("train", True), ("test", False)):
        assert degrees(dataset(chosen).open(part), normal, train) < (0.01 if kind == "metres" else 0.3)


def resized(depth, size, unit="m", nearest=None):
    """The whole of a frame, resized, float32, and the nearest pixels."""
    places = [(np.arange(n) + 0.5) * (of / n) for n, of in zip(size, depth.shape, strict=True)]
    nearest = depth[places[0].astype(int)[:, None], places[1].astype(int)]
    return interpolated_depth(depth, nearest, places[0] - 0.5, places[1] - 0.5, unit), nearest


def by_loops(depth, size):
    """Depth in metres of a frame without edges, by the definition, in float64."""
    (height, width), out = depth.shape, np.empty(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = (i + 0.5) * height / size[0] - 0.5, (j + 0.5) * width / size[1] - 0.5
            top, left = (min(max(int(np.floor(place)), 0), count - 2) for place, count in ((y, height), (x, width)))
            down, across = y - top, x - left
            out[i, j] = 1 / sum(
                (down if a else 1 - down) * (across if b else 1 - across) / depth[top + a, left + b]
                for a in (0, 1)
                for b in (0, 1)
            )
    return out


@pytest.mark.parametrize("size", [(7, 9), (31, 43), (12, 40)])
@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "float16"])
def test_smooth_depth_is_bilinear_in_its_inverse(size, dtype):
    y, x = np.mgrid[:20, :25]
    depth = (2 + 0.1 * np.sin(y / 7) + 0.1 * np.cos(x / 9)).astype(dtype)
    ours, _ = resized(depth, size)
    assert ours.dtype == np.float32 and np.allclose(ours, by_loops(depth.astype(np.float64), size), rtol=1e-6)
    assert np.array_equal(resized(np.asfortranarray(depth), size)[0], ours)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "int64"])
def test_whole_millimetres_are_interpolated_between_their_steps(dtype):
    depth = np.rint(1000 * plane()[0]).astype(dtype)
    ours, _ = resized(depth, (60, 90), "mm")
    exact = by_loops(depth.astype(np.float64), (60, 90))
    assert ours.dtype == np.float32 and np.allclose(ours, exact, rtol=1e-6) and (ours != np.rint(ours)).mean() > 0.5


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("size", [(11, 13), (37, 55), (24, 64)])
def test_a_step_has_no_value_in_between(share, size):
    # A box before a wall, a rod of one pixel, and a hole of the wall.
    depth = np.full((24, 32), 2.0, np.float32)
    depth[5:15, 7:20] = depth[:, 25] = depth[18:20, 2:6] = 2 * (1 - share / 4)
    ours, nearest = resized(depth, size)
    assert len(np.unique(nearest)) == 2 and np.allclose(ours, nearest, rtol=1e-6, atol=0)
    # Two slanted surfaces: every value is one of them, whichever is nearer.
    far, near = (plane((0.3, -0.5, -0.8), distance)[0] for distance in (3.0, 3.0 * (1 - share)))
    inside = np.zeros((H, W), bool)
    inside[10:30, 15:45] = True
    scaled = tuple(np.round(np.array(size) * 2.1).astype(int))
    ours, nearest = resized(np.where(inside, near, far).astype(np.float32), scaled)
    surfaces = [by_loops(depth, scaled) for depth in (far, near)]
    is_near = resized(inside.astype(np.float32), scaled, "relative")[1] > 0
    exact = np.where(is_near, surfaces[1], surfaces[0])
    off = abs(ours - exact) > 1e-5 * exact
    # Where not interpolated it is the nearest pixel's, and that is at the edges alone.
    assert np.array_equal(ours[off], nearest[off]) and off.mean() < 0.25


@pytest.mark.parametrize(
    "unit,mark",
    [("mm", 0), ("mm", 65535), (0.0002, 65535), ("m", np.nan), ("m", 0), ("m", -1), ("m", np.inf), ("m", 65.535)],
)
def test_what_was_not_measured_never_leaks(unit, mark):
    # Where the mark is the highest of 16 bits, depth just below it, so that it could pass for a neighbour.
    metres = 65.6 - 0.05 * plane()[0] if mark in (65535, 65.535) else plane()[0]
    depth = metres.astype(np.float32) if unit == "m" else np.rint(1000 * metres).astype(np.uint16)
    holes = np.random.default_rng(0).random((H, W)) < 0.1
    depth[holes] = mark
    for size in ((20, 33), (57, 81)):
        ours, nearest = resized(depth, size, unit)
        clean, _ = resized(np.where(holes, np.median(depth[~holes]), depth), size, unit)
        at = [((np.arange(n) + 0.5) * (of / n) - 0.5) for n, of in zip(size, depth.shape, strict=True)]
        first = [np.clip(np.floor(place).astype(int), 0, of - 2) for place, of in zip(at, depth.shape, strict=True)]
        touched = np.any([holes[first[0][:, None] + a, first[1] + b] for a in (0, 1) for b in (0, 1)], 0)
        assert 0.1 < touched.mean() < 0.9
        assert np.array_equal(ours[touched], nearest[touched].astype(np.float32), equal_nan=True)
        assert np.isfinite(ours[~touched]).all() and not np.isin(ours[~touched], [mark]).any()
        # And elsewhere it is interpolated as if there were none.
        assert (ours[~touched] != nearest[~touched]).mean() > 0.5
        assert np.allclose(ours[~touched], clean[~touched], rtol=0.02)


def test_views_that_are_not_resized_keep_every_bit():
    depth = np.random.default_rng(0).uniform(0.5, 8, (H, W)).astype(np.float32)
    depth[::7] = np.nan
    for crop in ("none", "padded"):
        batch = batch_of(split(depth, crop=crop, flip=False), "depth", train=False)["depth"]
        assert all(np.array_equal(view[0].numpy(), depth, equal_nan=True) for view in batch)
    # A third of the sides: the centres are pixels' own.
    third = batch_of(split(depth[:39], size=(13, 20), flip=False), "depth", train=False)["depth"][0, 0]
    assert np.array_equal(third.numpy(), depth[1:39:3, 1::3], equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1), (2, 2)])
def test_frames_of_one_row_or_column_take_the_nearest(shape):
    depth = np.linspace(1, 1.01, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    ours, nearest = resized(depth, (5, 6))
    assert ours.shape == (5, 6) and (min(shape) > 1 or np.array_equal(ours, nearest))
    assert ours.min() > 0.99 and ours.max() < 1.02


def test_depth_with_fewer_pixels_than_the_picture_keeps_its_plane():
    camera = (25.0, 22.5, 14.25, 10.25)  # of a frame of half the sides
    depth = plane(camera=camera, size=(H // 2, W // 2))[0].astype(np.float32)
    views = JointViews((50, 60), crop="none", flip=False, depth_unit="m")
    view = views.plain({"rgb": np.zeros((H, W, 3), np.uint8), "depth": depth})["depth"][:, :, 0].numpy()
    x, y = 6 + (np.arange(60) + 0.5) * 48 / 60 - 0.5, (np.arange(50) + 0.5) * 40 / 50 - 0.5
    normal = plane()[1]
    rays = normal[0] * (x - 29.0) / 50 + normal[1] * (y[:, None] - 21.0) / 45 + normal[2]
    assert np.allclose(view, -3 / rays, rtol=1e-5)
