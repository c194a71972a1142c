"""What a measure of diversity leaves in a folder, and what of it a report and a figure take for the run's own."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest

import contrastill

QUIET = {"progress": False}
SHORT = {"train.epochs": 1, "train.batch_size": 16, "student.model": "resnet8"}


def pack(path, seed=0, count=40):
    draw = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = draw.integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)
            file[f"{split}/target"] = np.arange(count) % 4
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data, two teachers and a student of both, whose checkpoint before the last is there too."""
    folder = tmp_path_factory.mktemp("trained")
    data = {"data.path": str(pack(folder / "own.h5"))}
    for seed in range(2):
        settings = {**data, **SHORT, "seed": seed, "out": str(folder / f"t{seed}")}
        contrastill.train("teachers/cifar100", settings, **QUIET)
    teachers = [{"model": "resnet8", "weights": str(folder / f"t{seed}")} for seed in range(2)]
    settings = {**data, **SHORT, "train.epochs": 2, "objectives": {"cross_entropy": {}, "kd": {}}, "teachers": teachers}
    settings |= {"out": str(folder / "run"), "train.views": None}
    contrastill.train("compression/cifar100_crd", settings, **QUIET)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained / "run", tmp_path / "run")


def text_of(run):
    contrastill.write_report(run, **QUIET)
    page = re.sub(r'"data:image[^"]*"', "", (run / "report.html").read_text())
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", page)).split())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data.limit": 20}, "samples"),
        ({"teachers.1.weights": "t0"}, "networks"),
        ({"teachers.0.resolution": 12, "teachers.1.resolution": 12}, "networks"),
    ],
)
def test_other_data_and_networks_have_files_of_their_own(trained, run, tmp_path, capsys, change, what):
    own = contrastill.measure_diversity(run)
    written = (run / "diversity.json").read_text()
    change = {key: str(trained / value) if value == "t0" else value for key, value in change.items()}
    other = contrastill.measure_diversity(run, change)
    (file,) = run.glob("diversity-*.json")
    assert (run / "diversity.json").read_text() == written and other.picture == file.with_suffix(".png")
    assert f"these are other {what} than the run's own: the measures are in {file}" in str(other)
    assert str(file) in "".join(capsys.readouterr().err.split()) and not own.notes
    text = text_of(run)
    assert "run: networks and their ensemble" in text and f"run ({file.stem.removeprefix('diversity-')}): net" in text
    assert f"their ensemble {own.ensemble.top1:.2f} {own.ensemble.nll:.4f}" in text
    points = contrastill.ensemble_figure(run, tmp_path / "f.png").points
    assert [point.error for point in points if point.kind == "ensemble"] == [100 - own.ensemble.top1]
    # As an earlier version named it; what it does not record cannot be told.
    file.rename(run / "diversity.json")
    if "teachers.0.resolution" not in change:
        assert "what diversity.json measured is left out" in text_of(run)
        assert {point.kind for point in contrastill.ensemble_figure(run, tmp_path / "f.png").points} == {"distilled"}


def test_data_that_were_replaced_are_not_the_runs_and_a_copy_is(trained, run, tmp_path):
    data, before = trained / "own.h5", (trained / "own.h5").read_bytes()
    try:
        pack(data, seed=1)
        other = contrastill.measure_diversity(run)
        assert "no longer those" in other.notes[0] and not (run / "diversity.json").exists()
        assert "no longer those" in text_of(run)
        assert {point.kind for point in contrastill.ensemble_figure(run, tmp_path / "f.png").points} == {"distilled"}
        (file,) = run.glob("diversity-own-*.json")
        shutil.copy(file, run / "diversity.json")
        assert "is left out, as it is of other data (contents of test differs)" in text_of(run)
        assert {point.kind for point in contrastill.ensemble_figure(run, tmp_path / "f.png").points} == {"distilled"}
    finally:
        data.write_bytes(before)
    shutil.copy(data, tmp_path / "copy.h5")
    contrastill.measure_diversity(run, {"data.path": str(tmp_path / "copy.h5")})
    assert "left out" not in text_of(run)
    # An earlier version recorded neither facts nor hashes.
    written = json.loads((run / "diversity.json").read_text())
    old = {**written, "data": {**written["data"], "path": str(data)}}
    del old["facts"]
    (run / "diversity.json").write_text(json.dumps(old))
    assert "left out" not in text_of(run) and "run: networks and their ensemble" in text_of(run)


def test_a_student_before_its_end_is_named_by_its_checkpoint(run, capsys):
    student = (run / "student.safetensors").rename(run / "later")
    early = contrastill.measure_diversity(run)
    step = early.student.weights
    assert step.startswith("checkpoint after step") and f"student resnet8, {step}" in str(early)
    assert f"student resnet8, {step}" in text_of(run)
    student.rename(run / "student.safetensors")
    text = text_of(run)
    assert f"of the student is left out, with the picture, as it is of a {step}" in text
    assert f"student resnet8, {step} {early.student.top1:.2f}" not in text and "teachers.1 resnet8" in text
    assert contrastill.measure_diversity(run).student.name == "student resnet8" and "left out" not in text_of(run)


def test_probes_name_the_checkpoint_of_a_run_that_has_not_ended(run, tmp_path, capsys):
    student = (run / "student.safetensors").rename(run / "later")
    other = str(run.parent / "t")
    shutil.copytree(run, other)
    student.rename(run / "student.safetensors")
    names, data = [other, f"{run}:teacher"], str(pack(tmp_path / "probed.h5"))
    spec = contrastill.ProbeSpec(layers=None)
    report = contrastill.probe_networks(names, [data], spec, out=run, **QUIET)
    step = report.networks[0].weights
    assert step.startswith("checkpoint after step") and f"{other}, {step}" in str(report)
    assert f"`{other}`, {step}: resnet8" in (run / "probe.md").read_text() and step in capsys.readouterr().err
    assert f"t, {step}" in text_of(run)
    (run / "student.safetensors").rename(tmp_path / "t" / "student.safetensors")
    text = text_of(run)
    assert f"What probe.json measured of t is left out, as it is of a {step}, before the training ended" in text
    assert f"t, {step} " not in text.replace(f"of a {step}", "") and "run:teacher" in text


def test_seeds_of_other_data_each_are_not_measured_together(tmp_path):
    data = [str(pack(tmp_path / f"{name}.h5", seed=place)) for place, name in enumerate("ab")]
    for seed in range(2):
        settings = {**SHORT, "data.path": data[0], "data.limit": 40 - 8 * seed, "seed": seed}
        contrastill.train("teachers/cifar100", {**settings, "out": str(tmp_path / "two" / f"seed-{seed}")}, **QUIET)
    with pytest.raises(contrastill.UsageError, match=r"seed-1 has other data than .*seed-0 \(data.limit differs\)"):
        contrastill.measure_diversity(tmp_path / "two")
    measured = contrastill.measure_diversity(tmp_path / "two", {"data.path": data[1], "data.limit": None})
    assert len(measured.networks) == 2 and measured.picture.name.startswith("diversity-b-")
    pack(tmp_path / "a.h5", seed=5)
    settings = {**SHORT, "data.path": data[0], "data.limit": 40, "seed": 2, "out": str(tmp_path / "two" / "seed-2")}
    contrastill.train("teachers/cifar100", settings, **QUIET)
    shutil.rmtree(tmp_path / "two" / "seed-1")
    with pytest.raises(contrastill.UsageError, match=r"seed-2 has other data than .*\(contents of test"):
        contrastill.measure_diversity(tmp_path / "two")
