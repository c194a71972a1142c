"""`contrastill demo`: the whole job at a small size in two processes, its table, its pictures, and a second call, in
one, that trains nothing and measures the same.
"""

import json

import pytest
import torch
from PIL import Image

from contrastill.cli.main import main
from contrastill.core.errors import ContrastillError
from contrastill.evaluation.demo import _beside
from contrastill.evaluation.demo_comparisons import DemoComparisons

SMALL = ["data.size=16", "data.train_samples=128", "data.test_samples=64", "train.epochs=1", "evaluation.epochs=1"]


@pytest.fixture
def one_thread(monkeypatch):
    """Sums of several threads are rounded otherwise."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_demo_compares_teacher_and_students(tmp_path, capsys, one_thread):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--json", "--jobs", "2", *SMALL]) == 0
    results = json.loads(capsys.readouterr().out)
    result, across, together, elsewhere = (
        results["compression"],
        results["rgb_to_depth"],
        results["ensemble"],
        results["probe"],
    )
    colour, dense = results["luminance_to_chrominance"], results["segmentation"]
    teacher, baseline, *distilled = result["rows"]
    assert teacher["parameters"] > baseline["parameters"] and len(distilled) == 2
    assert all(row["parameters"] == baseline["parameters"] and 0 <= row["top1"] <= 100 for row in distilled)
    assert json.loads((out / "comparison.json").read_text()) == result
    with Image.open(out / "comparison.png") as picture:
        assert picture.width > 1000 and len(set(picture.convert("RGB").resize((220, 124)).get_flattened_data())) > 500
    assert [row["name"].split(" (")[0] for row in across["rows"]][::4] == [
        "depth, untrained",
        "the teacher, on RGB",
    ] and len(across["rows"]) == 5
    assert (
        all(0 < row["miou"] < 100 for row in across["rows"])
        and json.loads((out / "rgb_to_depth" / "comparison.json").read_text()) == across
    )
    assert [row["name"].split(" (")[0] for row in colour["rows"]] == [
        "colour, untrained",
        "colour, supervised",
        "colour, CRD",
        "the teacher, on lightness",
    ]
    assert (
        all(0 < row["miou"] < 100 for row in colour["rows"])
        and json.loads((out / "luminance_to_chrominance" / "comparison.json").read_text()) == colour
    )
    assert [row["name"] for row in dense["rows"]] == [
        "the teacher, on RGB (linear/resnet8)",
        "depth, KD without labels (linear/resnet8)",
    ]
    assert all(0 < row["miou"] < 100 and 0 < row["pixel_accuracy"] < 100 for row in dense["rows"])
    assert json.loads((out / "segmentation" / "comparison.json").read_text()) == dense
    with Image.open(dense["picture"]) as picture:
        assert picture.width > 400
    with Image.open(across["picture"]) as picture:
        assert picture.width > 800
    names = [
        "teacher (resnet20)",
        "teacher (resnet14)",
        "both teachers, mean of their probabilities",
        "student of the first (resnet8)",
        "student of both (resnet8)",
    ]
    assert [row["name"] for row in together["rows"]] == names
    assert together["rows"][0]["top1"] == teacher["top1"] and together["rows"][3]["top1"] == distilled[1]["top1"]
    assert (
        0 < together["disagreement"] <= 100
        and json.loads((out / "ensemble" / "comparison.json").read_text()) == together
    )
    with Image.open(together["picture"]) as picture:
        assert picture.width > 800
    assert [(row["name"], row["run"]) for row in elsewhere["rows"]] == [
        (row["name"], row["run"]) for row in result["rows"]
    ]
    assert all(row["low"] < row["top1"] < row["high"] for row in elsewhere["rows"]) and (
        elsewhere["train_images"],
        elsewhere["images"],
    ) == (600, 400)
    assert json.loads((out / "probe" / "comparison.json").read_text()) == elsewhere
    page = (out / "report.html").read_text(encoding="utf-8")
    assert results["report"] == str(out / "report.html") and all(
        comparison["title"].split(" on ")[0] in page for comparison in (across, colour, dense, together)
    )
    assert "depth, KD without labels" in (out / "second_process.log").read_text(encoding="utf-8")
    others = ("ensemble", "rgb_to_depth", "luminance_to_chrominance", "segmentation", "probe")
    written = (out / "crd_kd" / "student.safetensors").stat().st_mtime_ns
    assert main(["demo", "--out", str(out), "--jobs", "1", *SMALL]) == 0
    output = capsys.readouterr().out
    assert (
        "student of both (resnet8)" in output
        and "depth, CRD (resnet8)" in output
        and "colour, CRD (resnet8)" in output
        and "student, CRD + KD (resnet8)" in output
        and "depth, KD without labels (linear/resnet8)" in output
        and "one seed (0), 64 test images" in output
        and "rooms they have not seen" in output
        and output.endswith(f"for a browser: {out / 'report.html'}\n")
    )
    assert (out / "crd_kd" / "student.safetensors").stat().st_mtime_ns == written
    capsys.readouterr()
    assert main(["demo", "--out", str(out), "--jobs", "1", "--seed", "1", *SMALL]) == 2
    assert "seed" in capsys.readouterr().err
    assert {
        name: json.loads((out / folder / "comparison.json").read_text())
        for name, folder in zip(("compression", *others), ("", *others), strict=True)
    } == {name: result for name, result in results.items() if name != "report"}


def test_an_error_of_the_second_process_is_that_of_the_demo(tmp_path):
    (tmp_path / "luminance_to_chrominance").write_text("")
    demo = DemoComparisons(tmp_path, 0, SMALL, False)
    with pytest.raises(ContrastillError, match=r"luminance_to_chrominance and segmentation: .*luminance") as error:
        with _beside(demo) as others:
            others()
    assert error.value.exit_code in (1, 2)
