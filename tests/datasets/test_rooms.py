"""Rendered rooms: functions of (seed, index) alone, right in their geometry, and a data set like any other."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.datasets.rendered_rooms import Rooms
from contrastill.datasets.rooms.kinds import KINDS
from contrastill.datasets.rooms.render import CEILING, FIRST_KIND, FLOOR, SEMANTICS, WALL, intrinsics, render
from contrastill.datasets.rooms.scene import draw_scene
from contrastill.datasets.rooms.shade import FARTHEST

FIELDS = ("rgb", "depth", "semantics", "target")


@pytest.fixture(scope="module")
def frames():
    return render(np.arange(96), seed=0, split=0, size=32)


def test_a_frame_is_the_same_bytes_alone_in_any_batch_and_thread(frames):
    alone = render(np.array([37]), seed=0, split=0, size=32)
    other = render(np.array([80, 37, 3]), seed=0, split=0, size=32)
    with ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(lambda k: render(np.arange(k, k + 24), seed=0, split=0, size=32), range(0, 96, 24)))
    for name in FIELDS:
        expected = getattr(frames, name)
        assert (getattr(alone, name)[0] == expected[37]).all() and (
            getattr(other, name) == expected[[80, 37, 3]]
        ).all(), name
        assert (np.concatenate([getattr(part, name) for part in threads]) == expected).all(), name


def test_seeds_splits_and_samples_differ(frames):
    seen = {frame.tobytes() for frame in frames.rgb}
    assert len(seen) == 96
    for other in (render(np.arange(96), seed=1, split=0, size=32), render(np.arange(96), seed=0, split=1, size=32)):
        assert not seen & {frame.tobytes() for frame in other.rgb}


def test_every_kind_is_as_frequent_as_the_others_and_shows_the_most_pixels(frames):
    assert (np.bincount(frames.target, minlength=len(KINDS)) == 96 // len(KINDS)).all()
    assert frames.semantics.max() < len(SEMANTICS) and frames.semantics.min() >= FLOOR
    shown = np.stack([(frames.semantics == FIRST_KIND + kind).sum((1, 2)) for kind in range(len(KINDS))], 1)
    own = shown[np.arange(96), frames.target]
    # Two objects of another kind may together show more than the main one; a single one may not.
    assert (own >= 0.03 * 32 * 32).all() and (own == shown.max(1)).mean() > 0.9
    assert (shown > 0).sum(1).mean() > 1.5  # others stand about
    assert all((frames.semantics == name).any((1, 2)).mean() > 0.3 for name in (FLOOR, WALL, CEILING))


def backprojected(depth, size, scene):
    """World coordinates of the pixels of one frame, (S, S, 3)."""
    camera = intrinsics(size)
    v, u = np.mgrid[:size, :size] + 0.5
    local = np.stack([(u - camera["cx"]) / camera["fx"] * depth, (v - camera["cy"]) / camera["fy"] * depth, depth], -1)
    return scene.eye[0] + local @ scene.axes[0]


def drawn(k, seed, frames):
    """The scene of a frame."""
    return draw_scene(np.array([k]), seed, 0, int(frames.attempt[k]))


@pytest.mark.parametrize("size", [32, 48])
def test_depth_back_projected_lies_on_the_room(size):
    index = np.arange(24)
    clean = render(index, seed=3, split=0, size=size, noise=False)
    for k in index:
        scene = drawn(k, 3, clean)
        world = backprojected(clean.depth[k].astype(float), size, scene)
        floor, wall, objects = (
            (clean.semantics[k] == FLOOR),
            (clean.semantics[k] == WALL),
            (clean.semantics[k] >= FIRST_KIND),
        )
        assert not floor.any() or np.abs(world[floor][:, 2]).max() < 1e-4
        beside = np.minimum(
            np.abs(world[wall][:, :2] - scene.low[0, :2]), np.abs(world[wall][:, :2] - scene.high[0, :2])
        ).min(-1)
        assert not wall.any() or beside.max() < 1e-4
        inside = (world[objects] > scene.low[0] - 1e-4) & (world[objects] < scene.high[0] + 1e-4)
        assert inside.all()
    assert (clean.semantics == FLOOR).any((1, 2)).sum() > 12


def test_the_depth_of_a_ball_is_that_of_the_formula():
    ball, index = KINDS.index("ball"), np.arange(120)
    clean = render(index, seed=5, split=0, size=48, noise=False)
    worst = []
    for k in index[clean.target == ball]:
        scene = drawn(k, 5, clean)
        parts = scene.parts
        own = np.flatnonzero(parts.object == 0)
        assert len(own) == 1
        world = backprojected(clean.depth[k].astype(float), 48, scene)
        local = (world - parts.centre[own[0]]) @ parts.turn[own[0]] / parts.half[own[0]]
        radius = np.sqrt((local**2).sum(-1))[clean.semantics[k] == FIRST_KIND + ball]
        worst.append(np.median(np.abs(radius - 1)))
    assert np.median(worst) < 1e-5


def test_depth_is_metres_or_zero_and_noise_is_small(frames):
    clean = render(np.arange(96), seed=0, split=0, size=32, noise=False)
    assert np.isfinite(frames.depth).all() and frames.depth.max() < FARTHEST + 0.5 and (clean.depth > 0).all()
    missing = frames.depth == 0
    assert 0.005 < missing.mean() < 0.2
    error = np.abs(frames.depth - clean.depth)[~missing]
    assert 0 < np.median(error) < 0.01 and (frames.semantics == clean.semantics).all()
    assert 2 < np.abs(frames.rgb.astype(int) - clean.rgb).mean() < 15


def test_modalities_are_flipped_and_cropped_together():
    data = Rooms(
        Rooms.Options(
            modalities=["rgb", "depth", "semantics"], train_samples=24, test_samples=12, size=16, crop_padding=2
        )
    )
    split = data.open("train")
    assert (
        split.num_samples == 24
        and split.num_classes == 12
        and split.modalities == {"rgb": (3, 16, 16), "depth": (1, 16, 16), "semantics": (1, 16, 16)}
    )
    plain = {
        int(k): batch
        for batch in split.loader(batch_size=1, device="cpu", train=False).epoch(0)
        for k in batch["index"]
    }
    flipped = 0
    for batch in split.loader(batch_size=1, device="cpu", train=True).epoch(1):
        k, depth = int(batch["index"]), batch["depth"][0, 0]
        padded = torch.nn.functional.pad(plain[k]["depth"][0, 0], (2, 2, 2, 2))
        meaning = torch.nn.functional.pad(plain[k]["semantics"][0, 0], (2, 2, 2, 2))
        for mirror in (False, True):
            seen, marks = (value.flip(1) if mirror else value for value in (depth, batch["semantics"][0, 0]))
            offsets = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[y : y + 16, x : x + 16], seen)]
            if offsets:
                assert any(torch.equal(meaning[y : y + 16, x : x + 16], marks) for y, x in offsets)
                flipped += mirror
                break
        else:
            pytest.fail("the depth is no crop of the frame")
    assert 4 < flipped < 20


def test_options():
    assert Rooms(Rooms.Options(train_samples=12, test_samples=12)).open("test").classes == list(KINDS)
    with pytest.raises(UsageError, match="no split 'val'"):
        Rooms(Rooms.Options()).open("val")
    with pytest.raises(UsageError, match="data.modalities"):
        load_config("teachers/rooms", ["data.modalities=[sound]"])
    with pytest.raises(UsageError, match="data.size=4 is not allowed"):
        load_config("teachers/rooms", ["data.size=4"])
