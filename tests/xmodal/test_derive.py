"""Derived modalities in batches: what is available, what is refused and why, and the loader that adds them."""

import copy
import subprocess
import sys

import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.core.registry import MODALITIES
from contrastill.datasets.io.camera import Camera
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.datasets.rendered_rooms import Rooms
from contrastill.xmodal.derive import DerivedLoader, available, check, derive
from contrastill.xmodal.hha import gravity
from contrastill.xmodal.modalities import Modality, inverse_depth, luminance, modality, normals

INTRINSICS = (9.0, 9.0, 3.5, 3.5)
RGBD = {"rgb": (3, 8, 8), "depth": (1, 8, 8)}


def batch(count=3):
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(count, 1, 8, 8, generator=generator) + 1
    depth[:, :, 2, 3] = 0
    return {
        "rgb": torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator),
        "depth": depth,
        "index": torch.arange(count),
        "camera": torch.tensor(INTRINSICS).expand(count, 4),
    }


class Kept:
    """A loader of one batch, with attributes of its own."""

    num_samples, train = 3, True

    def __len__(self):
        return 1

    def epoch(self, k, start=0):
        yield from [batch()][start:]

    def in_order(self, view):
        yield batch()


def test_what_is_available():
    assert available({"rgb": (3, 8, 8)}, None) == {"rgb": 3, "luminance": 1, "chrominance": 2, "grey": 1}
    assert available({"depth": (1, 8, 8)}, None) == {"depth": 1, "normalized_depth": 1}
    assert available({"depth": (1, 8, 8)}, Camera("relative", INTRINSICS)) == {"depth": 1, "normalized_depth": 1}
    assert available({"depth": (1, 8, 8)}, Camera("mm")) == {"depth": 1, "normalized_depth": 1, "inverse_depth": 1}
    assert set(available(RGBD, Camera("m", INTRINSICS))) == {"rgb", "depth", *MODALITIES}
    assert available({"normals": (5, 8, 8)}, None) == {"normals": 5}  # what is stored comes first


@pytest.mark.parametrize(
    ("name", "modalities", "camera", "message"),
    [
        ("depth", {"rgb": (3, 8, 8)}, None, "modality depth is not in this data, which has rgb"),
        ("rgb", {"depth": (1, 8, 8)}, Camera("m"), "modality rgb is not in this data, which has depth"),
        ("rgb", {"pixel_values": (3, 8, 8)}, None, r"call what is rgb so, in your samples or by data\.folders"),
        (
            "luminance",
            {"depth": (1, 8, 8)},
            Camera("m"),
            "modality luminance is made from rgb, and this data has only depth",
        ),
        ("normals", {"rgb": (3, 8, 8)}, None, "modality normals is made from depth"),
        ("luminance", {"rgb": (1, 8, 8)}, None, r"made from rgb with 3 channel\(s\), and that of this data has 1"),
        (
            "inverse_depth",
            RGBD,
            None,
            "modality inverse_depth needs depth in metres.*set data.depth_unit=m, mm, relative or the metres of "
            "one step",
        ),
        (
            "hha",
            RGBD,
            Camera("relative", INTRINSICS),
            "modality hha needs depth in metres, and that of this data is relative: read depth or normalized_depth",
        ),
        ("normals", RGBD, Camera("relative", INTRINSICS), "relative"),
        (
            "normals",
            RGBD,
            Camera("mm"),
            r"modality normals needs the camera's intrinsics.*data.intrinsics=\[fx,fy,cx,cy\]",
        ),
        ("luminence", RGBD, None, "did you mean luminance"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(name, modalities, camera, message):
    with pytest.raises(UsageError, match=message):
        check(name, modalities, camera)
    assert name not in available(modalities, camera)


def test_what_can_be_is_not_refused():
    for name in available(RGBD, Camera("mm", INTRINSICS)):
        check(name, RGBD, Camera("mm", INTRINSICS))


def test_derive_adds_modalities_and_cleans_depth():
    original, camera = batch(), Camera("mm", INTRINSICS)
    copies = {name: values.clone() for name, values in original.items()}
    result = derive(original, ["rgb", "luminance", "normals"], camera)
    assert set(result) == {*original, "luminance", "normals"}
    assert all(torch.equal(original[name], copies[name]) for name in copies)  # the batch itself is left alone
    assert torch.equal(result["luminance"], luminance(original["rgb"])) and result["rgb"] is original["rgb"]
    assert result["depth"][:, :, 2, 3].isnan().all() and torch.allclose(
        result["depth"][0, 0, 0], original["depth"][0, 0, 0] / 1000
    )
    assert torch.equal(result["normals"].nan_to_num(), normals(result["depth"], original["camera"]).nan_to_num())


def test_depth_of_unknown_unit_stays_as_stored_and_nothing_metric_is_derived():
    result = derive(batch(), ["depth", "normalized_depth"], None)
    assert result["depth"].isnan().sum() == 3 and torch.equal(result["depth"].nan_to_num(0.0), batch()["depth"])
    for name, camera in (("inverse_depth", None), ("hha", Camera("relative", INTRINSICS)), ("normals", Camera("m"))):
        with pytest.raises(UsageError, match=f"modality {name} needs"):
            derive(batch(), [name], camera)
    without = {name: values for name, values in batch().items() if name != "camera"}
    with pytest.raises(UsageError, match="the batch has no camera"):
        derive(without, ["normals"], Camera("m", INTRINSICS))


def test_a_stored_modality_is_not_made_anew():
    stored = {**batch(), "luminance": torch.zeros(3, 1, 8, 8)}
    assert derive(stored, ["luminance"], None)["luminance"] is stored["luminance"]


def test_the_loader_adds_to_every_batch_and_passes_the_rest_through():
    loader = DerivedLoader(Kept(), {"inverse_depth"}, Camera("m"))
    assert loader.num_samples == 3 and len(loader) == 1 and loader.train is True
    for derived in (next(loader.epoch(0)), next(loader.in_order(0))):
        assert torch.equal(derived["inverse_depth"].nan_to_num(), inverse_depth(derived["depth"]).nan_to_num())
    assert list(loader.epoch(0, 1)) == []
    assert copy.deepcopy(loader).num_samples == 3
    with pytest.raises(AttributeError):
        loader.nothing_of_the_kind  # noqa: B018


def test_views_of_a_split_bring_their_own_camera():
    """A plane stays a plane with one normal, however its views are cropped and mirrored."""
    v, u = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    depth = 1000 / (0.5 + 0.1 * (u - 3.5) / 9 + 0.05 * (v - 3.5) / 9)  # millimetres
    images = PaddedImages.zeros(16, 8, 8, 1, dtype=torch.float32, padding=2)
    images.interior[:] = depth[..., None]
    split = TensorSplit({"depth": images}, flip=True, camera=Camera("mm", INTRINSICS))
    seen = set()
    for derived in DerivedLoader(split.loader(batch_size=8, device="cpu", train=True), ["normals"], split.camera).epoch(
        0
    ):
        expected = -torch.nn.functional.normalize(torch.tensor([0.1, 0.05, 0.5]), dim=0)
        for normal in derived["normals"]:
            mirrored = bool(normal[0].nanmean() > 0)
            seen.add(mirrored)
            known = normal[:, normal.isfinite().all(0)]
            assert known.shape[1] >= 9
            sign = torch.tensor([-1.0 if mirrored else 1.0, 1.0, 1.0])
            assert torch.allclose(known, (expected * sign)[:, None].expand_as(known), atol=1e-3)
    assert seen == {True, False}


def test_views_of_the_rendered_rooms_know_which_way_is_down():
    rooms = Rooms(Rooms.Options(modalities=["depth", "semantics"], size=48, train_samples=24, crop_padding=4))
    split, seen = rooms.open("train"), 0
    loader = DerivedLoader(split.loader(batch_size=12, device="cpu", train=True), ["normals", "hha"], split.camera)
    for derived in loader.epoch(0):
        down = gravity(derived["normals"])
        for normal, height, semantics, gravitation in zip(
            derived["normals"], derived["hha"][:, 1], derived["semantics"], down, strict=True
        ):
            floor = (
                torch.nn.functional.max_pool2d((semantics != split.semantic_classes.index("floor")).float(), 3, 1, 1)[0]
                == 0
            )
            floor &= normal.isfinite().all(0)
            if floor.sum() < 50:
                continue
            seen += 1
            up = torch.nn.functional.normalize(normal[:, floor].mean(1), dim=0)
            assert up @ -gravitation > 0.99  # 8 degrees
            assert height[floor].median().abs() < 0.12
    assert seen > 12


def test_a_new_modality_is_a_function_and_a_line():
    try:

        @modality("twice", of="depth", channels=1)
        def twice(depth):
            """Twice the depth."""
            return 2 * depth

        assert isinstance(MODALITIES["twice"], Modality) and twice.__doc__ == "Twice the depth."
        assert available({"depth": (1, 8, 8)}, None)["twice"] == 1
        assert torch.equal(derive(batch(), ["twice"], None)["twice"].nan_to_num(), 2 * batch()["depth"])
    finally:
        MODALITIES._entries.pop("twice", None)


def test_asking_for_the_names_loads_no_kornia():
    code = (
        "import sys; from contrastill.core.registry import MODALITIES; assert 'hha' in list(MODALITIES); "
        "assert 'kornia' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
