"""The table of `contrastill bench`: published figures, paired differences, and what does not compare."""

import numpy as np
import pytest

from contrastill.compress.benchmark import BENCHMARKS
from contrastill.compress.published import published
from contrastill.compress.results import append_row, bits_of, pack_bits, paired, read_rows, summarise, tables_of

CIFAR = BENCHMARKS["cifar100"]


def test_published_figures():
    assert (
        published("resnet32x4", "resnet8x4", "crd").top1 == 75.51
        and "ICLR 2020" in published("vgg13", "vgg8", "kd").source
    )
    assert (
        published("wrn_40_2", "ShuffleV1", "crd+kd").top1 == 76.27
        and published("ResNet50", "MobileNetV2", "attention").top1 == 58.58
    )
    assert (
        published("resnet110", "resnet20", "student").top1 == 69.06
        and published("ResNet50", "vgg8", "teacher").top1 == 79.34
    )
    assert (
        published("wrn_40_2", "wrn_40_1", "fsp") is None
        and published("vgg13", "MobileNetV2", "fsp") is None
        and published("a", "b", "kd") is None
    )
    assert published("vgg13", "vgg8", "dkd").top1 == 74.68 and published("resnet32x4", "ShuffleV1", "dkd") is None
    assert (
        published("resnet56", "resnet20", "crd+wttm").top1 == 72.20
        and "480 epochs" in published("vgg13", "vgg8", "mlkd").note
    )
    assert published("vgg13", "vgg8", "kd", "objectives.kd.standardize=true").top1 == 74.36


def row(pair, objective, seed, right, *, vary=None, given=(), images=(50_000, None)):
    bits = np.array(right, dtype=bool)
    return {"pair": pair, "objective": objective, "vary": vary, "seed": seed, "given": list(given),
        "top1": 100 * float(bits.mean()),
            "train_images": images[0], "images": images[1] or len(bits), "correct": pack_bits(bits)}  # fmt: skip


def test_differences_are_paired_by_image_and_seed():
    generator = np.random.default_rng(0)
    ours, theirs = (generator.random((3, 37)) < share for share in (0.7, 0.5))
    difference = paired(
        {seed: row("", "a", seed, bits) for seed, bits in enumerate(ours)},
        {seed: row("", "b", seed, bits) for seed, bits in enumerate(theirs[:2])},
    )
    each = [
        [100 * (float(a) - float(b)) for a, b in zip(*bits, strict=True)]
        for bits in zip(ours[:2], theirs[:2], strict=True)
    ]
    by_image = [sum(values) / 2 for values in zip(*each, strict=True)]
    by_seed = [sum(values) / 37 for values in each]

    def error(values):
        mean = sum(values) / len(values)
        return (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5

    assert (difference.mean, difference.error) == pytest.approx(
        (sum(by_seed) / 2, max(error(by_image), error(by_seed)))
    ) and difference.seeds == 2
    assert bits_of(row("", "a", 0, ours[0])).tolist() == ours[0].tolist()
    assert paired({0: row("", "a", 0, ours[0])}, {1: row("", "b", 1, ours[0])}) is None
    assert paired({0: row("", "a", 0, ours[0])}, {0: row("", "b", 0, ours[0][:5])}) is None
    one, other = ({**row("", "a", 0, ours[0]), "test": images} for images in ("one", "other"))
    assert paired({0: one}, {0: other}) is None and paired({0: one}, {0: row("", "b", 0, ours[0])}) is not None


def test_the_table_shares_students_and_says_when_figures_do_not_compare():
    right, wrong = [True, True, True, False], [True, False, False, False]
    rows = [row("resnet20", "student", 0, wrong)]
    rows += [row(f"{teacher}:resnet20", "kd", 0, right) for teacher in ("resnet56", "resnet110")]
    summary = summarise(rows, CIFAR)
    assert summary.pairs == ["resnet56:resnet20", "resnet110:resnet20"] and not summary.comparable
    assert any("4 test images instead of 10,000" in note for note in summary.notes)
    accuracy, differences = tables_of(summary)
    assert accuracy.columns == ["objectives", "resnet56 → resnet20", "resnet110 → resnet20"]
    assert accuracy.rows == [
        ["student", *["25.00 (1), published 69.06"] * 2],
        ["kd", "75.00 (1), published 70.66", "75.00 (1), published 70.67"],
    ]
    assert differences.rows[0][0] == "kd" and differences.rows[0][1].startswith("+50.00 ± 28.87 to student")
    full = np.arange(10_000) % 4 > 0
    assert summarise([row("resnet56:resnet20", "kd", 0, full)], CIFAR).comparable
    for changed in ({"given": ["train.epochs=12"]}, {"vary": ["train.lr", "0.1"]}, {"images": (10_000, None)}):
        assert not summarise([row("resnet56:resnet20", "kd", 0, full, **changed)], CIFAR).comparable
    assert summarise(
        [row("resnet56:resnet20", "kd", 0, full, given=["train.evaluate_every=240", "objectives.kd.temperature=4.0"])],
        CIFAR,
    ).comparable


def test_only_the_published_options_have_published_figures():
    def figure(objective, **options):
        (entry,) = summarise([row("resnet32x4:resnet8x4", objective, 0, [True], **options)], CIFAR).entries.values()
        return entry.published and entry.published.top1

    assert figure("kd") == figure("kd", vary=["objectives.kd.standardize", "false"]) == 73.33
    assert (
        figure("kd", given=["objectives.kd.standardize=true"])
        == figure("kd", vary=["objectives.kd.standardize", "true"])
        == 76.62
    )
    assert figure("crd", vary=["objectives.crd.num_negatives", "16"]) is None and figure("crd") == 75.51


def test_a_row_that_was_cut_off_harms_no_other(tmp_path):
    path = tmp_path / "results.jsonl"
    append_row(path, row("a:b", "kd", 0, [True]))
    with open(path, "a") as file:
        file.write('{"pair": "a:')
    append_row(path, row("a:b", "kd", 1, [True]))
    append_row(path, row("a:b", "kd", 0, [False]))
    assert {key: stored["top1"] for key, stored in read_rows(path).items()} == {
        ("a:b", "kd", None, 0): 0,
        ("a:b", "kd", None, 1): 100,
    }
