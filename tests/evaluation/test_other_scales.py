"""A run evaluated, probed, exported or used as a teacher on data that have its modality in another scale: refused, or
one line that names both.
"""

import logging

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.weights import load_state_dict, save_state_dict
from contrastill.models.recipe import read_recipe
from contrastill.training.student import Student

N, SIDE = 24, 16
TARGETS = np.arange(N) % 2


def pack(path, **fields):
    """A packed file of two classes."""
    with h5py.File(path, "w") as file:
        file.attrs["classes"] = ["near", "far"]
        for split in ("train", "test"):
            file[f"{split}/rgb"] = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
            file[f"{split}/target"] = TARGETS
            for name, values in fields.items():
                file[f"{split}/{name}"] = values
    return str(path)


def noise(low, high):
    """Values (N, SIDE, SIDE) in a range, higher of class 1."""
    values = np.random.default_rng(1).random((N, SIDE, SIDE))
    return low + (high - low) * (values + TARGETS[:, None, None]) / 2


MILLIMETRES = noise(1000, 5000).astype(np.uint16)
COUNTS = noise(20_000, 24_000).astype(np.uint16)


def trained(folder, modality, path):
    out = folder / f"{modality}_run"
    contrastill.train(
        "teachers/cifar100",
        [
            f"data.path={path}",
            f"data.fields={{rgb: rgb, {modality}: {modality}}}",
            "student.model=resnet8",
            f"student.modality={modality}",
            "train.epochs=1",
            "train.batch_size=8",
            f"out={out}",
        ],
        progress=False,
    )
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    path = pack(folder / "own.h5", depth=MILLIMETRES, thermal=COUNTS)
    return {name: trained(folder, name, path) for name in ("depth", "thermal")} | {"data": path}


def evaluated(run, path, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        (row,) = contrastill.evaluate_runs([run], [f"data.path={path}"], progress=False).rows
    return row


def test_a_run_records_what_it_read(runs):
    depth, thermal = (read_recipe(runs[name] / "student.safetensors")["scale"] for name in ("depth", "thermal"))
    assert depth["kind"] == thermal["kind"] == "unsigned 16-bit integers"
    assert depth["unit"] == "mm" and 2 < depth["mean"][0] < 4 and "unit" not in thermal
    assert thermal["mean"][0] == pytest.approx(float(COUNTS.mean()), rel=1e-3)


def test_metric_depth_is_not_evaluated_on_relative_depth(runs, tmp_path, caplog):
    relative = pack(tmp_path / "relative.h5", depth=noise(1, 255).astype(np.uint8))
    narrow = pack(tmp_path / "narrow.h5", depth=noise(1, 5).astype(np.uint8))
    for path in (relative, narrow):
        with pytest.raises(
            UsageError, match="trained on depth, .* in mm of .*, and that of this data is 8-bit integers"
        ):
            evaluated(runs["depth"], path, caplog)
    named = f"packed:{narrow},fields={{depth: depth}}"
    with pytest.raises(UsageError, match="without a unit"):
        contrastill.probe_networks([runs["depth"]], [named], progress=False)
    with pytest.raises(UsageError, match="without a unit"):
        contrastill.export_run(runs["depth"], tmp_path / "a.pt2", format="torch", data=named)
    data = DepthOf(noise(1, 5).astype(np.uint8))
    with pytest.raises(UsageError, match="without a unit"):
        contrastill.linear_probe(contrastill.load_student(runs["depth"]), data, data)


class DepthOf(torch.utils.data.Dataset):
    def __init__(self, depth):
        self.depth = depth

    def __len__(self):
        return len(self.depth)

    def __getitem__(self, row):
        return {"depth": self.depth[row], "target": int(TARGETS[row])}


class BothOf(DepthOf):
    def __init__(self, depth, thermal):
        super().__init__(depth)
        self.thermal = thermal

    def __getitem__(self, row):
        return super().__getitem__(row) | {"thermal": self.thermal[row]}


def test_metres_are_metres_however_they_are_stored(runs, tmp_path, caplog):
    own = evaluated(runs["depth"], runs["data"], caplog)
    metres = pack(tmp_path / "metres.h5", depth=(MILLIMETRES / 1000).astype(np.float32))
    assert evaluated(runs["depth"], metres, caplog).scores.top1 == own.scores.top1
    assert not caplog.records


def test_relative_depth_in_floats_is_named(runs, tmp_path, caplog):
    relative = pack(tmp_path / "relative.h5", depth=noise(0.02, 1.3).astype(np.float32))
    evaluated(runs["depth"], relative, caplog)
    (record,) = caplog.records
    assert "was trained on depth of 3." in record.getMessage() and "right only if" in record.getMessage()


def test_another_scale_of_counts_is_refused_or_named(runs, tmp_path, caplog):
    evaluated(runs["thermal"], runs["data"], caplog)
    assert not caplog.records
    for name, values in {
        "eight": noise(80, 90).astype(np.uint8),
        "tenth": (COUNTS / 1000).astype(np.float32),
    }.items():
        with pytest.raises(UsageError, match="was trained on thermal of .*, and that of this data is"):
            evaluated(runs["thermal"], pack(tmp_path / f"{name}.h5", thermal=values), caplog)
    evaluated(runs["thermal"], pack(tmp_path / "twice.h5", thermal=(1.8 * COUNTS).astype(np.uint16)), caplog)
    assert "thermal of 22" in caplog.text and "right only if both are in one unit" in caplog.text
    evaluated(runs["thermal"], pack(tmp_path / "floats.h5", thermal=COUNTS.astype(np.float32)), caplog)
    (record,) = caplog.records
    assert "unsigned 16-bit integers" in record.getMessage() and "floats" in record.getMessage()


def test_a_run_without_that_record_is_evaluated_as_before(runs, tmp_path, caplog):
    import json
    import shutil

    old = tmp_path / "old"
    shutil.copytree(runs["depth"], old)
    recipe = {key: value for key, value in read_recipe(old / "student.safetensors").items() if key != "scale"}
    state = load_state_dict(old / "student.safetensors")
    save_state_dict(state, old / "student.safetensors", metadata={"contrastill": json.dumps(recipe)})
    assert (
        evaluated(old, runs["data"], caplog).scores.top1 == evaluated(runs["depth"], runs["data"], caplog).scores.top1
    )
    metres = torch.from_numpy(MILLIMETRES[:2, None] / np.float32(1000))
    assert torch.equal(Student.from_run(old)(metres), Student.from_run(runs["depth"])(metres))


def test_a_depth_student_takes_metres_and_stored_millimetres(runs):
    stored = torch.from_numpy(MILLIMETRES[:2, None])
    metres = stored.float() / 1000
    for student in (Student.from_run(runs["depth"]), contrastill.load_student(runs["depth"]).preprocess):
        torch.testing.assert_close(student(stored), student(metres))
        with pytest.raises(UsageError, match="bring the data to its unit"):
            student(stored.float())
        with pytest.raises(UsageError, match="give metres as floats"):
            student((metres * 50).to(torch.uint8))


def test_a_teacher_of_another_modality_is_named(runs, tmp_path):
    options = [f"data.path={runs['data']}", "student.model=resnet8", "train.epochs=1", f"out={tmp_path / 'out'}"]
    teacher = ["teachers.0.model=resnet8", f"teachers.0.weights={runs['depth']}"]
    with pytest.raises(UsageError, match="was trained on depth, and reads rgb here: name its modality"):
        contrastill.train("compression/cifar100_crd", [*options, *teacher], progress=False)


def test_a_teacher_reads_what_it_was_trained_on(runs, tmp_path):
    options = {"out": tmp_path / "out", "epochs": 1, "quiet": True}
    data = BothOf(MILLIMETRES, COUNTS)
    for own, other in (("depth", "thermal"), ("thermal", "depth")):
        teacher = {"model": str(runs[own]), "modality": other}
        message = f"trained on {own}, and reads {other} here: name its modality, as teachers.0.modality={own}"
        with pytest.raises(UsageError, match=message):
            contrastill.distill(teacher, "resnet8", data, student_modality="depth", **options)
    # With mean and deviation of its own it is meant.
    teacher |= {"mean": (3.0,), "std": (1.0,)}
    contrastill.distill(teacher, "resnet8", data, student_modality="depth", **options)


def test_a_student_that_starts_from_another_modality_is_named(runs, tmp_path, caplog):
    options = {"data": BothOf(MILLIMETRES, COUNTS), "epochs": 1, "quiet": True}
    student = {"model": "resnet8", "weights": str(runs["thermal"])}
    for modality in ("thermal", "depth"):
        caplog.clear()
        out = tmp_path / modality
        result = contrastill.distill(None, student, out=out, student_modality=modality, **options)
        assert result.config.student.modality == modality
        assert ("trained on thermal, and this training starts from them on depth" in caplog.text) is (
            modality == "depth"
        )


def test_a_run_is_evaluated_on_the_modality_of_its_training(runs, tmp_path):
    fields = "data.fields={rgb: rgb, depth: depth, thermal: thermal}"
    message = "was trained on thermal, and reads depth here: name its modality, as student.modality=thermal"
    for weights in ([], [f"student.weights={runs['thermal'] / 'student.safetensors'}"]):
        with pytest.raises(UsageError, match=message):
            options = [fields, "student.modality=depth", *weights]
            contrastill.evaluate_runs([runs["thermal"]], options, progress=False)
    with pytest.raises(UsageError, match="was trained on depth, and reads rgb here: .*, as student.modality=depth"):
        contrastill.evaluate_runs([runs["depth"]], ["student.modality=rgb"], progress=False)


def test_weights_of_a_run_are_probed_on_the_modality_of_its_training(runs):
    data = f"packed:{runs['data']},fields={{rgb: rgb, thermal: thermal}}"
    by_name, by_run = (
        contrastill.probe_networks([name], [data], progress=False).rows
        for name in (f"resnet8@{runs['thermal']}", runs["thermal"])
    )
    assert [row.accuracy for row in by_name] == [row.accuracy for row in by_run]


def test_a_loaded_depth_student_reads_depth(runs, tmp_path):
    student = contrastill.load_student(runs["depth"])
    data = DepthOf(MILLIMETRES)
    probes = [contrastill.linear_probe(student, part, part) for part in (data, DepthOf(MILLIMETRES / np.float32(1000)))]
    assert probes[0].num_train == N and torch.equal(probes[0].correct, probes[1].correct)
    result = contrastill.distill(
        student, "resnet8", data, out=tmp_path / "out", student_modality="depth", epochs=1, quiet=True
    )
    assert result.config.teachers[0].modality == "depth"
    with pytest.raises(UsageError, match="without a unit"):
        relative = DepthOf(noise(1, 5).astype(np.uint8))
        contrastill.distill(
            student, "resnet8", relative, out=tmp_path / "b", student_modality="depth", epochs=1, quiet=True
        )
