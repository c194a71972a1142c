"""The card of a run's student says what was measured of these weights."""

import json
import shutil

import contrastill
from contrastill.cli.main import main


def card(path):
    return str(contrastill.Student.from_run(path).generate_model_card())


def test_each_file_of_a_run_has_the_figures_of_its_own_epoch(short_training, tmp_path):
    out = tmp_path / "run"
    assert main([*short_training, "train.validation=0.25", "train.evaluate_every=1", f"out={out}"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for row, top1, validated in zip(rows, (11, 22, 33), (40, 60, 60), strict=True):
        row |= {"top1": top1, "validation_top1": validated}
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last, best = card(out), card(out / "student_best.safetensors")
    assert "| measured on the test split after the last epoch | top-1 33.00 %" in last and "3 epochs" in last
    when = "after epoch 2 of 3, the best validated one (top-1 60.00 %)"
    assert f"| measured on the test split {when} | top-1 22.00 %" in best and "| 2 epochs, seed" in best
    # An epoch in which the test split was not measured, and a file of one's own.
    del rows[1]["top1"]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"{when} | nothing |" in card(out / "student_best.safetensors")
    shutil.copy(out / "student.safetensors", out / "mine.safetensors")
    assert "| measured on the test split | nothing: these weights are neither of" in card(out / "mine.safetensors")
    contrastill.Student.from_run(out / "student_best.safetensors").save_pretrained(tmp_path / "hub")
    assert when in (tmp_path / "hub" / "README.md").read_text()
    assert when in str(contrastill.Student.from_pretrained(tmp_path / "hub").generate_model_card())
