"""Transfer across modalities through the command line: real small runs on rendered rooms, packed sensors and a user's
folder.
"""

import json

import cv2
import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.cli.main import main
from contrastill.core.run import Run

ROOMS = ["data.name=rooms", "data.size=24", "data.train_samples=64", "data.test_samples=32"]
SHORT = ["train.epochs=2", "train.batch_size=16", "train.lr=0.01"]


def train(*arguments):
    assert main(["train", *map(str, arguments), "--quiet"]) == 0


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two teachers of rendered rooms: one sees colours, one surface normals."""
    root = tmp_path_factory.mktemp("teachers")
    for modality in ("rgb", "normals"):
        stored = "[rgb]" if modality == "rgb" else "[rgb,depth]"
        train(
            "teachers/rooms",
            *ROOMS,
            f"data.modalities={stored}",
            "student.model=resnet8",
            f"student.modality={modality}",
            *SHORT,
            f"out={root / modality}",
        )
    return root


def xmodal(teachers, out, *more):
    return [
        "xmodal/rooms_rgb_to_depth_crd",
        *ROOMS,
        "teachers.0.model=resnet8",
        f"teachers.0.weights={teachers / 'rgb'}",
        *SHORT,
        f"out={out}",
        *more,
    ]


def test_a_student_of_depth_is_distilled_from_rgb_and_normals(teachers, tmp_path, capsys):
    out = tmp_path / "run"
    second = ["teachers.1.model=resnet8", f"teachers.1.weights={teachers / 'normals'}", "teachers.1.modality=normals"]
    train(*xmodal(teachers, out, *second, "objectives.attention.weight=10", "objectives.kd.weight=1"))
    rows = Run(out).history()
    assert len(rows) == 2 and {"dense_crd", "attention", "kd", "loss"} <= rows[-1].keys() and "top1" in rows[-1]
    student = contrastill.load_student(out)
    assert student.conv1.weight.shape[1] == 1 and student.preprocess.mean == pytest.approx((0.0,), abs=0.05)
    assert (
        main(
            [
                "evaluate",
                str(out),
                "--baselines",
                "random,teacher",
                "evaluation.epochs=2",
                "evaluation.batch_size=16",
                "--json",
            ]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert {(row["role"], row["task"]) for row in printed} == {
        (role, task) for role in ("student", "random", "teacher") for task in ("segmentation", "classification")
    }
    assert (out / "predictions.png").stat().st_size > 10_000


def test_cached_teacher_outputs_give_the_loss_of_live_teachers(teachers, tmp_path):
    plain = ["data.crop_padding=0", "data.flip=false"]  # a single view, so that live teachers see the same
    train(*xmodal(teachers, tmp_path / "live", *plain))
    train(*xmodal(teachers, tmp_path / "kept", *plain, "train.views=1"))
    live, cached = (Run(tmp_path / name).history() for name in ("live", "kept"))
    for live_row, cached_row in zip(live, cached, strict=True):
        assert live_row["loss"] == pytest.approx(cached_row["loss"], rel=1e-4)


def test_statistics_of_a_modality_are_those_of_the_data(teachers, tmp_path):
    from contrastill.datasets.rendered_rooms import Rooms

    train(*xmodal(teachers, tmp_path / "run", "student.modality=depth", "train.epochs=1"))
    preprocess = contrastill.load_student(tmp_path / "run").preprocess
    split = Rooms(Rooms.Options(modalities=["depth"], size=24, train_samples=64)).open("train")
    metres = split.images["depth"].interior
    valid = metres[metres > 0].double()
    assert preprocess.mean[0] == pytest.approx(valid.mean().item(), rel=1e-4)
    assert preprocess.std[0] == pytest.approx(valid.std(unbiased=False).item(), rel=1e-3)


@pytest.fixture(scope="module")
def sensors(tmp_path_factory):
    """A packed file like those of real sensors: millimetres with holes, no classes, no test split; and label maps in a
    group of its own.
    """
    path = tmp_path_factory.mktemp("sensors") / "sensors.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.create("names", ["unlabelled", "near", "far"], dtype=h5py.string_dtype())
        for group, count in (("train", 24), ("labelled", 36)):
            depth = generator.integers(600, 4000, (count, 6, 8)).repeat(4, 1).repeat(4, 2).astype(np.uint16)
            file[f"{group}/rgb"] = np.stack([depth // 16] * 3, 3).astype(np.uint8)
            file[f"{group}/semantics"] = np.where(depth > 2000, 2, 1).astype(np.uint8)
            depth[:, :4, :4] = 0
            file[f"{group}/depth_mm"] = depth
        file["labelled/place"] = np.array([f"room {number % 3}" for number in range(36)], dtype=h5py.string_dtype())
    return path


@pytest.fixture
def of_sensors(teachers, sensors, tmp_path):
    """A config of a depth student on that file, measured on its other group."""
    config = tmp_path / "sensors.yaml"
    config.write_text(
        f"""
data: {{name: packed, path: {sensors}, fields: {{rgb: rgb, depth: depth_mm}}, target: null,
       splits: {{train: train, test: null}}}}
teachers: [{{model: resnet8, weights: {teachers / "rgb"}}}]
student: {{model: conv5, modality: depth}}
objectives: {{dense_crd: {{}}}}
train: {{epochs: 1, batch_size: 8}}
evaluation:
  data: {{fields: {{rgb: rgb, depth: depth_mm, semantics: semantics}}, semantic_names: names, target: place,
         splits: {{train: labelled, test: labelled}}, blocks: 6}}
  tasks: [segmentation, classification]
  epochs: 3
  batch_size: 8
"""
    )
    return config


def test_a_packed_file_without_labels_teaches_and_another_group_is_evaluated(of_sensors, tmp_path, capsys):
    out = tmp_path / "run"
    train(
        of_sensors, "objectives.dense_crd.pairs=[[3,-1]]", "objectives.fitnet={features: embedding, standardize: true}",
        "train.epochs=2", "train.optimizer=adamw",
        "train.lr=0.001", "train.views=2", f"out={out}",
    )  # fmt: skip
    assert "top1" not in Run(out).history()[-1]
    assert main(["evaluate", str(out), "--json"]) == 0
    segmentation, classification = json.loads(capsys.readouterr().out)
    assert segmentation["images"] == 12 and segmentation["train_images"] == 24 and segmentation["miou"] > 30
    assert classification["task"] == "classification"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["student.modality=hha"], "needs the camera's intrinsics, and none are known: set data.intrinsics="),
        (
            ["student.modality=depth", "data.depth_unit=relative", "teachers.0.modality=normals"],
            "needs depth in metres, and that of this data is relative",
        ),
        (["student.modality=thermal"], "modality 'thermal' does not exist"),
        (["data.fields={depth: depth_mm}"], "the file has a field rgb, which data.fields does not name: set"),
        (["data.splits={train: labelled, test: labelled}"], "set data.blocks"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(of_sensors, tmp_path, capsys, changes, message):
    assert main(["train", str(of_sensors), f"out={tmp_path / 'run'}", *changes]) == 2
    stderr = capsys.readouterr().err
    assert message in stderr and "Traceback" not in stderr and not (tmp_path / "run").exists()


def test_a_depth_of_the_wrong_unit_is_warned_of(sensors, caplog):
    from contrastill.datasets.packed import Packed

    Packed(Packed.Options(path=str(sensors), fields={"depth": "depth_mm"}, depth_unit="m", target=None)).open("train")
    assert "can hardly be m: set data.depth_unit=mm" in caplog.text and "goes from 60" in caplog.text
    caplog.clear()
    split = Packed(Packed.Options(path=str(sensors), fields={"depth": "depth_mm"}, target=None)).open("train")
    assert split.camera.unit == "mm" and not caplog.text


@pytest.mark.parametrize(("mark", "unit"), [(9999.0, "m"), (1000.0, "m"), (655.35, "m"), (32767, "mm")])
def test_a_mark_that_may_be_a_depth_is_named(mark, unit, caplog):
    from contrastill.datasets.io.camera import warn_of_unit

    depth = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(0)) * 9 + 0.5
    depth = depth if unit == "m" else (1000 * depth).round()
    warn_of_unit(depth, unit, f"without {mark}")
    farther = depth.clone()
    farther[0, 0, 0] = mark  # one pixel, as of a far wall
    warn_of_unit(farther, unit, f"one of {mark}")
    clipped = depth.clamp(max=float(depth.quantile(0.9)))  # no gap below the highest value
    warn_of_unit(clipped, unit, f"clipped {mark}")
    assert not caplog.text
    depth[:, ::10] = mark
    warn_of_unit(depth, unit, f"with {mark}")
    assert f"10 % of the depth values read are {mark:g} ({unit}), and the next are up to 9" in caplog.text


def test_a_folder_of_two_user_sensors(tmp_path):
    generator = np.random.default_rng(1)
    for modality in ("rgb", "thermal"):
        (tmp_path / "data" / modality).mkdir(parents=True)
    for number in range(20):
        heat = generator.integers(20000, 30000, (6, 8)).repeat(4, 0).repeat(4, 1).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"data/thermal/{number:03}.png"), heat)
        cv2.imwrite(str(tmp_path / f"data/rgb/{number:03}.png"), (heat >> 7).astype(np.uint8)[..., None].repeat(3, 2))
    out = tmp_path / "run"
    train(
        "xmodal/paired_folder_crd", f"data.path={tmp_path / 'data'}", "data.size=[24,32]", "data.workers=0",
        "teachers.0.model=resnet8", "teachers.0.weights=null",
        "teachers.0.resolution=null", "teachers.0.num_classes=5", "student.model=torchvision/resnet18",
        "student.weights=null", "student.modality=thermal",
        "student.resolution=[32,48]", "train.epochs=1", "train.batch_size=8", "train.views=2", "train.warmup_epochs=0",
        f"out={out}",
    )  # fmt: skip
    student = contrastill.load_student(out)
    assert (
        student.conv1.weight.shape[1] == 1
        and 20000 < student.preprocess.mean[0] < 30000
        and student.preprocess.resolution == (32, 48)
    )


def test_weights_of_an_rgb_network_start_a_depth_student(tmp_path):
    from contrastill.models.build import build_network, save_student

    torch.manual_seed(0)
    save_student(build_network("resnet8", num_classes=5), tmp_path / "rgb.safetensors")
    student = contrastill.load_student(tmp_path / "rgb.safetensors")
    depth = build_network(
        "resnet8", num_classes=5, weights=tmp_path / "rgb.safetensors", modality="depth", statistics=((2.0,), (1.0,))
    )
    assert depth.preprocess.mean == (2.0,) and depth.preprocess.std == (1.0,)
    torch.testing.assert_close(depth.module.conv1.weight, student.conv1.weight.sum(1, keepdim=True))
    wide = build_network(
        "resnet8",
        num_classes=5,
        weights=tmp_path / "rgb.safetensors",
        modality="four",
        statistics=((0.0,) * 4, (1.0,) * 4),
    )
    grey = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(wide.module.conv1(grey.expand(-1, 4, -1, -1)), student.conv1(grey.expand(-1, 3, -1, -1)))
