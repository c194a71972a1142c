"""Derived modalities: colours against their formulas, surfaces against geometry that is known, gravity against a loop
in float64.
"""

import numpy as np
import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.core.registry import MODALITIES
from contrastill.datasets.io.camera import Camera, clean_depth, view_camera
from contrastill.datasets.rooms.render import FLOOR, intrinsics, render
from contrastill.datasets.rooms.scene import draw_scene
from contrastill.xmodal.hha import gravity, hha
from contrastill.xmodal.modalities import (
    SOURCES,
    chrominance,
    grey,
    inverse_depth,
    luminance,
    normalized_depth,
    normals,
)

HEIGHT, WIDTH = 48, 64
CAMERA = (60.0, 58.0, 30.0, 25.0)  # fx, fy, cx, cy: on purpose not in the middle
EYE, TABLE = 1.5, 0.7  # metres above the floor


def rays(camera=CAMERA, height=HEIGHT, width=WIDTH):
    """Directions of the pixels in float64, (H, W, 3), 1 along the camera's axis."""
    fx, fy, cx, cy = camera
    v, u = np.mgrid[:height, :width].astype(float)
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)


def plane(normal, distance, camera=CAMERA):
    """Depth of the plane normal · x = distance, (1, 1, H, W)."""
    return torch.from_numpy(distance / (rays(camera) @ np.asarray(normal))).float()[None, None]


def turned(pitch, roll):
    """The matrix from an upright camera's coordinates to those of one that is pitched and rolled, degrees."""
    p, r = np.deg2rad([pitch, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_z @ about_x


def room(pitch, roll, camera=CAMERA):
    """Depth (1, 1, H, W) of floor, table top and three walls, the masks of floor and table (H, W), and gravity."""
    turn = turned(pitch, roll)
    upright = rays(camera) @ turn  # each ray in the coordinates of an upright camera
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = {
            name: offset / upright[..., axis]
            for name, axis, offset in (("floor", 1, EYE), ("left", 0, -1.6), ("right", 0, 2.1), ("back", 2, 4.0))
        }
        table = (EYE - TABLE) / upright[..., 1]
        x, z = table * upright[..., 0], table * upright[..., 2]
    reach = {name: np.where(values > 0, values, np.inf) for name, values in reach.items()}
    reach["table"] = np.where((table > 0) & (abs(x) < 0.7) & (z > 1.2) & (z < 2.6), table, np.inf)
    names, values = list(reach), np.stack(list(reach.values()))
    nearest = values.argmin(0)
    depth = torch.from_numpy(values.min(0)).float()[None, None]
    return depth, nearest == names.index("floor"), nearest == names.index("table"), turn @ np.array([0.0, 1.0, 0.0])


def cameras(*each):
    return torch.tensor(each or (CAMERA,), dtype=torch.float32)


def degrees(a, b):
    """Angles between unit vectors along the first axis."""
    return np.rad2deg(np.arccos(np.clip((np.asarray(a) * np.asarray(b)).sum(0), -1, 1)))


# ---- colour


def naive_lab(colour):
    """CIE's formulas for one sRGB colour in [0, 1], D65, two-degree observer."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    matrix = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    xyz = [
        sum(m * c for m, c in zip(row, linear, strict=True)) / white
        for row, white in zip(matrix, (0.95047, 1.0, 1.08883), strict=True)
    ]
    x, y, z = (t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


COLOURS = [
    (0, 0, 0),
    (255, 255, 255),
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (119, 119, 119),
    (12, 3, 200),
    (250, 180, 7),
    (3, 4, 5),
]


def test_luminance_and_chrominance_are_those_of_cielab():
    rgb = torch.tensor(COLOURS, dtype=torch.uint8).T.reshape(1, 3, 3, 3)
    expected = torch.tensor([naive_lab([c / 255 for c in colour]) for colour in COLOURS]).T.reshape(1, 3, 3, 3)
    for values in (rgb, rgb.float() / 255, rgb.to(memory_format=torch.channels_last)):
        assert torch.allclose(luminance(values), expected[:, :1], atol=0.02)
        assert torch.allclose(chrominance(values), expected[:, 1:], atol=0.02)
    assert (
        luminance(rgb).dtype == torch.float32
        and luminance(rgb).shape == (1, 1, 3, 3)
        and chrominance(rgb).shape == (1, 2, 3, 3)
    )


def test_grey_is_luma_in_the_unit_interval():
    rgb = torch.tensor(COLOURS, dtype=torch.uint8).T.reshape(1, 3, 3, 3)
    expected = torch.tensor([(0.299 * r + 0.587 * g + 0.114 * b) / 255 for r, g, b in COLOURS]).reshape(1, 1, 3, 3)
    assert torch.allclose(grey(rgb), expected, atol=1e-5) and torch.allclose(
        grey(rgb.float() / 255), expected, atol=1e-5
    )


def test_rgb_of_another_scale_is_refused():
    with pytest.raises(UsageError, match="uint8, or floats"):
        luminance(torch.zeros(1, 3, 2, 2, dtype=torch.uint16))


# ---- depth


def test_depth_is_metres_and_nan_where_nothing_was_measured():
    stored = torch.tensor([0.0, -3.0, float("nan"), float("inf"), -float("inf"), 1234.0, 2500.0]).reshape(1, 1, 1, 7)
    metres = clean_depth(stored, Camera("mm"))
    assert metres.isnan().flatten().tolist() == [True] * 5 + [False] * 2
    assert (
        metres[..., 5:].flatten().tolist() == torch.tensor([1.234, 2.5]).tolist()
    )  # the nearest floats, not merely near ones
    for camera in (Camera("m"), Camera("relative"), None):
        assert torch.equal(clean_depth(stored, camera)[..., 5:], stored[..., 5:])
    assert torch.equal(
        clean_depth(torch.tensor([[[[0, 1500]]]], dtype=torch.uint16), Camera("mm"))[..., 1:], torch.tensor([[[[1.5]]]])
    )


def test_half_precision_depth_is_refused():
    with pytest.raises(UsageError, match="store it as float32"):
        clean_depth(torch.ones(1, 1, 2, 2, dtype=torch.float16), Camera("m"))


def test_inverse_and_normalized_depth():
    depth = torch.rand(3, 1, 9, 7, generator=torch.Generator().manual_seed(0)) * 4 + 0.5
    depth[0, 0, :4] = torch.nan
    depth[2] = torch.nan
    assert torch.equal(inverse_depth(depth).isnan(), depth.isnan())
    assert torch.allclose(inverse_depth(depth)[1], 1 / depth[1])
    values = normalized_depth(depth)
    assert torch.equal(values.isnan(), depth.isnan())
    for frame in values[:2]:
        known = frame[frame.isfinite()].double()
        assert abs(known.mean()) < 1e-5 and abs(known.std(correction=0) - 1) < 1e-5
    assert torch.allclose(
        normalized_depth(depth * 37), values, atol=1e-5, equal_nan=True
    )  # the scale of relative depth does not matter
    assert normalized_depth(torch.full((1, 1, 5, 5), 0.3)).abs().max() < 0.01  # a flat frame is no noise


# ---- normals


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.3, -0.4, -0.9), (0, -1, -0.2), (-0.8, 0.1, -0.6)])
def test_normals_of_planes_are_exact_up_to_the_border(normal):
    normal = np.array(normal) / np.linalg.norm(normal)
    depth = plane(normal, -2.5)
    seen = (depth > 0.3) & (depth < 20)
    estimated = normals(torch.where(seen, depth, torch.nan), cameras())
    known = estimated[0].isfinite().all(0).numpy()
    assert known.sum() > 300
    assert degrees(estimated[0].numpy()[:, known], normal[:, None]).max() < 0.1
    assert torch.allclose(estimated[0].norm(dim=0)[torch.from_numpy(known)], torch.ones(()), atol=1e-5)


def test_normals_of_a_sphere_each_view_with_its_own_camera():
    centre, radius, views, estimated = np.array([0.1, -0.2, 3.0]), 1.0, [], []
    for camera in ((60.0, 58.0, 30.0, 25.0), (90.0, 88.0, 20.0, 30.0), (45.0, 45.0, 31.5, 23.5)):
        direction = rays(camera)
        a, b, c = (direction**2).sum(-1), direction @ centre, centre @ centre - radius**2
        inside = b * b - a * c
        depth = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, np.nan)
        views.append((camera, depth, (direction * depth[..., None] - centre) / radius))
    depth = torch.from_numpy(np.stack([depth for _, depth, _ in views])).float()[:, None]
    estimated = normals(depth, cameras(*(camera for camera, _, _ in views)))
    for normal, (camera, _, expected) in zip(estimated, views, strict=True):
        # Where the surface turns away the difference over three pixels is no longer the slope.
        front = normal.isfinite().all(0).numpy() & (
            (-expected * rays(camera)).sum(-1) > 0.5 * np.linalg.norm(rays(camera), axis=-1)
        )
        assert front.sum() > 200
        assert np.median(degrees(normal.numpy()[:, front], expected[front].T)) < 0.5
        assert degrees(normal.numpy()[:, front], expected[front].T).max() < 3


def test_normals_point_to_the_camera_and_do_not_depend_on_the_unit():
    depth, _, _, _ = room(10, 5)
    estimated = normals(depth, cameras())
    assert ((estimated[0].permute(1, 2, 0).numpy() * rays()).sum(-1) < 1e-6).all()
    stored = (depth * 1000).round()
    metric, milli = clean_depth(stored / 1000, Camera("m")), clean_depth(stored, Camera("mm"))
    assert torch.equal(normals(metric, cameras()), normals(milli, cameras())) and torch.equal(
        hha(metric, cameras()), hha(milli, cameras())
    )


@pytest.mark.parametrize("name", ["inverse_depth", "normalized_depth", "normals", "hha"])
def test_what_was_not_measured_never_becomes_a_number(name):
    depth, _, _, _ = room(10, 5)
    holes = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) < 0.02
    entry = MODALITIES[name]
    results = []
    for value in (0.0, -5.0, float("nan"), float("inf"), -float("inf")):
        stored = depth.clone()
        stored[0, 0, holes] = value
        results.append(entry.function(clean_depth(stored, Camera("m")), *([cameras()] if entry.intrinsics else [])))
        assert torch.equal(results[-1].view(torch.int32), results[0].view(torch.int32)), value
    result = results[0]
    near = torch.nn.functional.max_pool2d(holes.float()[None, None], 3, 1, 1)[0, 0] > 0
    lost = {"normals": [near] * 3, "hha": [holes, holes, near]}.get(name, [holes])
    assert torch.equal(result[0].isnan(), torch.stack(lost)) and not result.isinf().any()


def test_a_frame_without_any_reading_and_a_batch_without_any_frame():
    for entry in MODALITIES.values():
        if entry.of != "depth":
            continue
        result = entry.function(
            torch.full((2, 1, 8, 8), torch.nan), *([cameras(CAMERA, CAMERA)] if entry.intrinsics else [])
        )
        assert result.shape == (2, entry.channels, 8, 8) and result.isnan().all(), entry.name
        empty = entry.function(torch.zeros(0, 1, 8, 8), *([torch.zeros(0, 4)] if entry.intrinsics else []))
        assert empty.shape == (0, entry.channels, 8, 8), entry.name


def test_a_mirrored_view_has_mirrored_normals():
    depth, _, _, _ = room(10, 5)
    zero = torch.zeros(1)
    mirrored = view_camera(
        CAMERA, top=zero, left=zero, height=HEIGHT, width=WIDTH, size=(HEIGHT, WIDTH), flip=torch.tensor([True])
    )
    expected = normals(depth, cameras()).flip(3) * torch.tensor([-1.0, 1.0, 1.0])[None, :, None, None]
    assert torch.allclose(normals(depth.flip(3), mirrored), expected, atol=1e-4)
    assert torch.allclose(hha(depth.flip(3), mirrored), hha(depth, cameras()).flip(3), atol=0.1)


# ---- gravity and HHA

TILTS = [(0, 0), (15, -8), (20, 20), (-18, 12), (5, 0)]


@pytest.mark.parametrize(("pitch", "roll"), TILTS)
def test_gravity_of_a_room_seen_by_a_tilted_camera(pitch, roll):
    depth, _, _, expected = room(pitch, roll)
    assert degrees(gravity(normals(depth, cameras()))[0].numpy(), expected) < 1.0


def naive_gravity(facing):
    """Gupta et al. in float64, for normals (P, 3)."""
    down = np.array([0.0, 1.0, 0.0])
    for limit in (45,) * 5 + (15,) * 5:
        matrix = np.zeros((3, 3))
        for normal in facing:
            angle = np.rad2deg(np.arccos(np.clip(normal @ down, -1, 1)))
            if angle < limit or angle > 180 - limit:
                matrix -= np.outer(normal, normal)
            elif abs(angle - 90) < limit:
                matrix += np.outer(normal, normal)
        vector = np.linalg.eigh(matrix)[1][:, 0]
        down = vector if vector @ down > 0 else -vector
    return down


@pytest.mark.parametrize(("pitch", "roll"), TILTS[1:4])
def test_gravity_is_that_of_a_loop_in_float64(pitch, roll):
    noise = torch.randn(1, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    facing = normals(room(pitch, roll)[0] * (1 + 0.003 * noise), cameras())[:, :, ::2, ::2]
    expected = naive_gravity(facing[0].flatten(1).T.double().numpy())
    assert degrees(gravity(facing)[0].numpy(), expected) < 0.05


def test_a_lone_wall_does_not_turn_gravity_over():
    facing = normals(plane((0.3, -0.1, -0.9), -2.5), cameras())
    down = gravity(facing)[0]
    assert (
        down[1] > 0.95 and abs(down @ facing[0, :, 20, 20]) < 0.02
    )  # the direction in the wall that is nearest to the camera's y axis
    assert torch.equal(gravity(torch.full((1, 3, 4, 4), torch.nan)), torch.tensor([[0.0, 1.0, 0.0]]))


def test_hha_is_disparity_height_above_the_floor_and_angle_with_gravity():
    for pitch, roll in [(15, -8), (20, 20), (5, 0)]:
        depth, floor, table, _ = room(pitch, roll)
        disparity, height, angle = hha(depth, cameras())[0].numpy()
        assert floor.sum() > 90 and table.sum() > 30
        assert np.allclose(disparity, 1 / depth[0, 0].numpy())
        assert abs(height[floor]).max() < 0.05 and abs(np.median(height[table]) - TABLE) < 0.02
        assert np.median(angle[floor]) > 178.5 and abs(np.median(angle[~floor & ~table]) - 90) < 1.5


def test_a_batch_is_its_frames_one_by_one():
    frames = [room(pitch, roll) for pitch, roll in TILTS]
    depth = torch.cat([frame[0] for frame in frames])
    depth[2, 0, 5:9, 7:20] = torch.nan
    own = cameras(*(tuple(value * (1 + 0.01 * k) for value in CAMERA) for k in range(len(TILTS))))
    for name in ("normals", "hha"):
        batched = MODALITIES[name].function(depth, own)
        again = MODALITIES[name].function(depth, own)
        assert torch.equal(batched.view(torch.int32), again.view(torch.int32))
        for k in range(len(TILTS)):
            assert torch.allclose(
                batched[k : k + 1],
                MODALITIES[name].function(depth[k : k + 1], own[k : k + 1]),
                atol=1e-3,
                equal_nan=True,
            )


def test_autocast_changes_nothing():
    depth, rgb = (
        room(10, 5)[0],
        torch.randint(256, (1, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    )
    for entry in MODALITIES.values():
        arguments = (rgb,) if entry.of == "rgb" else (depth, cameras()) if entry.intrinsics else (depth,)
        expected = entry.function(*arguments)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = entry.function(*arguments)
        assert result.dtype == torch.float32 and torch.equal(result.view(torch.int32), expected.view(torch.int32)), (
            entry.name
        )


def test_no_modality_makes_the_device_wait_for_the_host(monkeypatch):
    def waits(*_, **__):
        raise AssertionError("the host reads a value from the device")

    for method in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(torch.Tensor, method, waits)
    monkeypatch.setattr(torch.linalg, "eigh", waits)
    for entry in MODALITIES.values():
        values = torch.ones(2, SOURCES[entry.of], 16, 16)
        entry.function(values, *([cameras(CAMERA, CAMERA)] if entry.intrinsics else []))
    with pytest.raises(AssertionError, match="host"):
        bool(torch.ones(1).sum() > 0)


def test_rendered_rooms_have_the_floors_normal_and_the_scenes_gravity():
    size, index = 64, np.arange(16)
    frames = render(index, seed=0, split=0, size=size)
    clean = render(index, seed=0, split=0, size=size, noise=False)
    fx, fy, cx, cy = intrinsics(size).values()
    camera = cameras((fx, fy, cx - 0.5, cy - 0.5)).expand(len(index), 4)
    off, noisy = [], []
    ideal = normals(clean_depth(torch.from_numpy(clean.depth)[:, None], Camera("m")), camera)
    estimated = normals(clean_depth(torch.from_numpy(frames.depth)[:, None], Camera("m")), camera)
    down, measured = gravity(ideal), gravity(estimated)
    for k in index:
        scene = draw_scene(index[k : k + 1], 0, 0, int(frames.attempt[k]), distractors=True)
        up = scene.axes[0] @ np.array([0.0, 0.0, 1.0])
        off.append(degrees(down[k].numpy(), -up))
        noisy.append(degrees(measured[k].numpy(), -up))
        # Floor all around: elsewhere the 3 × 3 pixels reach across an edge.
        floor = (
            torch.nn.functional.max_pool2d((torch.from_numpy(frames.semantics[k]) != FLOOR).float()[None], 3, 1, 1)[0]
            == 0
        )
        if floor.sum() > 20:
            assert degrees(ideal[k][:, floor].numpy(), up[:, None]).max() < 1
            known = floor & estimated[k].isfinite().all(0)
            mean = estimated[k][:, known].mean(1)
            assert degrees((mean / mean.norm()).numpy(), up) < 5
    assert np.median(off) < 1 and np.median(noisy) < 3
