"""The pieces of the report page: escaping, numbers, means and spreads, charts, pictures, the command that makes a run
again.
"""

import html.parser
import json
import math
import re
import shlex

import numpy as np
import pytest
import torch

from contrastill.core.config.loading import load_config, to_yaml
from contrastill.core.errors import UsageError
from contrastill.core.run import Run
from contrastill.plots.chart import Chart, Series, series_at_places, series_with_std
from contrastill.plots.png import draw_charts
from contrastill.probe.projection import principal_axes
from contrastill.report.markup import Markup, element, is_number, join, number
from contrastill.report.page import Section, page
from contrastill.report.page_parts import Cell, figure, measured, picture, table
from contrastill.report.reproduce import reproduction
from contrastill.report.runs import RunFolders, RunSeries, find
from contrastill.report.scatter import Scatter, scatter
from contrastill.report.svg import draw
from contrastill.training.versions import versions

HOSTILE = '<script>alert("1")</script>&\'"'


def chart(series, **options):
    return Chart("Loss", "epoch", "loss", series, **options)


class Balanced(html.parser.HTMLParser):
    """Complains about elements that are closed in another order than they were opened; collects the tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "input", "hr", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# Markup


def test_every_text_and_attribute_is_escaped():
    markup = element("p", HOSTILE, element("b", HOSTILE), [HOSTILE, None], title=HOSTILE, hidden=True, class_=None)
    assert "<script" not in markup and markup.count("&lt;script&gt;") == 4
    ((_, paragraph), *rest) = Balanced(markup).tags
    assert paragraph == {"title": HOSTILE, "hidden": None} and [tag for tag, _ in rest] == ["b"]
    assert join(Markup("<i>x</i>"), "<i>") == "<i>x</i>&lt;i&gt;"


def test_hostile_names_stay_text_in_tables_charts_and_pages():
    series = [Series(HOSTILE, [(1, 2.0), (2, 1.0)])]
    body = join(table(HOSTILE, [HOSTILE, "b"], [[HOSTILE, measured(1.0)]], notes=[HOSTILE]),
        figure(chart(series, places=[HOSTILE] * 3)),
                scatter(Scatter(HOSTILE, [[0, 0], [1, 1]], [0, 1], [HOSTILE, "b"])))  # fmt: skip
    text = page(HOSTILE, element("p", HOSTILE), [Section("a", HOSTILE, body)], HOSTILE)
    tags = Balanced(text).tags
    assert [tag for tag, _ in tags].count("script") == 1 and "alert" not in "".join(tag for tag, _ in tags)
    values = next(attrs["data-values"] for tag, attrs in tags if tag == "svg" and "data-values" in attrs)
    assert json.loads(values)[0]["name"] == HOSTILE
    assert not any(name in attrs for _, attrs in tags for name in ("onclick", "onload", "onerror"))


def test_a_page_refers_to_nothing_outside_itself():
    text = page("t", Markup(""), [Section("a", "A", element("p", "x"))], "m")
    for tag, attrs in Balanced(text).tags:
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
    assert "@import" not in text and "url(" not in text
    assert any(
        attrs.get("content", "").startswith("default-src 'none'") for tag, attrs in Balanced(text).tags if tag == "meta"
    )


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (1.005, ".1f", "1.0"),
        (-2.0, "+.2f", "−2.00"),
        (None, ".2f", "–"),
        (float("inf"), ".2f", "–"),
        ("7", ".2f", "–"),
        (True, ".2f", "–"),
        (1e-7, "g", "1e-07"),
    ],
)
def test_numbers_as_text(value, form, text):
    assert number(value, form) == text


def test_what_is_no_number_sorts_last():
    markup = table("t", ["name", "x"], [["a", measured(None)], ["b", measured(2.0)], ["c", Cell("three", 3)]])
    assert [attrs.get("data-value") for tag, attrs in Balanced(markup).tags if tag == "td"] == [None, "2.0", "3"]
    assert [
        attrs.get("class") for tag, attrs in Balanced(markup).tags if tag == "th" and attrs.get("scope") == "col"
    ] == [None, "number"]


# Charts


@pytest.mark.parametrize(
    "points",
    [
        [(1, 1.0)],
        [(1, 0.0), (2, 0.0)],
        [(1, -3.0), (2, 5.0)],
        [(n, 10.0**-n) for n in range(1, 6)],
        [(n, 1 / n) for n in range(1, 241)],
        [(1, 5.0), (2, 5.0)],
    ],
    ids=["one", "zeros", "negative", "decades", "long", "constant"],
)
def test_lines_stay_inside_the_picture_and_ticks_are_text(points):
    tags = Balanced(draw(chart([Series("a", points, [(y - 0.1, y + 0.1) for _, y in points], 3)]))).tags
    for attrs in (attrs for tag, attrs in tags if tag in ("polyline", "polygon")):
        for place in attrs["points"].split():
            x, y = map(float, place.split(","))
            assert -6 <= x <= 466 and -6 <= y <= 296
    assert sum(tag == "text" for tag, _ in tags) >= 5
    assert sum("marker" in attrs.get("class", "") for _, attrs in tags) <= 26


def test_a_band_on_a_logarithmic_axis_is_whole():
    high = 300.0
    tags = Balanced(draw(chart([series_with_std("a", [(1, 129.0, high - 129.0), (2, 4.0, 1.0)])], log=True))).tags
    assert json.loads(tags[0][1]["data-axis"])["y1"] >= high


@pytest.mark.parametrize("low", [1_000_000.5, 2.302585, 4.60517])
def test_ticks_have_the_digits_that_tell_them_apart(low):
    markup = str(draw(chart([Series("a", [(1, low), (2, low * (1 + 1e-6))])])))
    ticks = re.findall(r'text-anchor="end"[^>]*>([^<]+)<', markup)
    assert len({*ticks}) == len(ticks) > 2


def test_the_table_of_a_long_chart_has_values_of_each_line():
    lines = [Series("a", [(n, 1.0 * n) for n in range(1, 101)]), Series("b", [(n, 2.0 * n) for n in range(2, 101, 2)])]
    rows = str(figure(chart(lines))).split("<tr")[2:]
    assert sum("–" not in row for row in rows) >= 50


def test_one_chart_is_drawn_as_svg_and_as_png(tmp_path):
    lines = [
        series_with_std("distilled", [(1, 30.0, 0.5), (4, 28.0, None)]),
        Series("baseline", [(1, 33.0), (4, 33.0)], style=1, line="level"),
        Series("teachers", [(1, 25.0), (4, 24.0)], style=2, line="dotted"),
    ]
    assert lines[0].bounds == [(29.5, 30.5), (28.0, 28.0)]
    gap = series_at_places("a", [1.0, None, 3.0], [0.5, None, None], [1.5, None, None])
    assert gap.points == [(0, 1.0), (2, 3.0)] and gap.bounds == [(0.5, 1.5), (3.0, 3.0)]
    charts = [chart(lines), Chart("layers", "layer", "top-1, %", [gap], ["maps.0", "maps.1", "embedding"], (0, 100))]
    for legend in ("inside", "below", "shared"):
        draw_charts(charts, tmp_path / f"{legend}.png", title="t", legend=legend)
        assert (tmp_path / f"{legend}.png").read_bytes().startswith(b"\x89PNG")
    drawn = [Balanced(draw(each)).tags for each in charts]
    assert [sum(tag == "polyline" for tag, _ in tags) for tags in drawn] == [3, 1]
    assert [sum(tag == "polygon" and attrs["class"] == "band" for tag, attrs in tags) for tags in drawn] == [1, 1]


@pytest.mark.parametrize(
    ("values", "log", "is_log"),
    [((1.0, 9.0), None, False), ((1.0, 11.0), None, True), ((0.0, 11.0), None, False), ((1.0, 11.0), False, False)],
)
def test_the_axis_is_logarithmic_beyond_a_decade(values, log, is_log):
    assert chart([Series("a", [*enumerate(values)])], log=log).is_log is is_log


def test_what_a_pointer_reads_is_what_was_drawn():
    points = [(1, 2.123456789), (2, 1.5)]
    tags = Balanced(draw(chart([Series("a", points)]))).tags
    assert json.loads(tags[0][1]["data-values"])[0]["points"] == [[1, 2.12346], [2, 1.5]]


def test_styles_differ_beyond_the_colours():
    looks = set()
    for style in range(35):
        svg = draw(chart([Series("a", [(1, 1.0), (2, 2.0)], style=style)]))
        tags = Balanced(svg).tags
        line = next(attrs for tag, attrs in tags if tag == "polyline")
        group = next(attrs["class"] for tag, attrs in tags if tag == "g")
        looks.add((group, line.get("stroke-dasharray")))
    assert len(looks) == 35
    # With their markers, far more.
    assert len({draw(chart([Series("a", [(1, 1.0), (2, 2.0)], style=style)])) for style in range(140)}) == 140


def test_a_damaged_picture_is_a_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"cut off")
    assert "damaged" in picture(tmp_path / "a.png", "a") and "not there" in picture(tmp_path / "b.png", "b")


# Projection


def test_principal_axes_are_those_of_the_covariance():
    values = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.diag(
        torch.tensor([5.0, 3, 1, 1, 0.5, 0.1]).double()
    )
    projection = principal_axes(values.float())
    lengths, axes = np.linalg.eigh(np.cov(values.numpy(), rowvar=False))
    assert np.allclose(projection.shares.numpy(), lengths[::-1][:2] / lengths.sum(), atol=1e-5)
    expected = (values.numpy() - values.numpy().mean(0)) @ axes[:, ::-1][:, :2]
    assert np.allclose(np.abs(projection.points.numpy()), np.abs(expected), atol=1e-4)


def test_projections_of_little_and_of_nothing():
    projection = principal_axes(torch.ones(5, 3))
    assert projection.points.abs().max() < 1e-12 and projection.shares.tolist() == [0.0, 0.0]
    assert principal_axes(torch.arange(4.0)[:, None]).points.shape == (4, 2)
    with pytest.raises(UsageError, match="not finite"):
        principal_axes(torch.tensor([[1.0, float("nan")], [0.0, 0.0]]))
    with pytest.raises(UsageError, match="at least two"):
        principal_axes(torch.ones(1, 3))


# The command of a run


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("teachers/rooms", ["student.model=resnet8", "seed=3", "out=runs/a b/it's; $HOME `x` \"y\""]),
        ("compression/rooms_crd", ["objectives.crd=null", "objectives.dkd.beta=3.0", "train.milestones=[0.5, 0.6]",
            "out=runs/é\n2"]),
        ("compression/rooms_crd", ["teachers.1.model=resnet14", "teachers.1.weights=a b/it's", "ensemble.rule=average",
            "objectives.crd=null"]),
        ("xmodal/rooms_rgb_to_depth_crd", ["objectives.dense_crd=null",
            "objectives.hint={name: fitnet, weight: 1, pair: [-1, -1]}"]),
    ],
)  # fmt: skip
def test_the_command_is_recorded_as_given(name, overrides, tmp_path):
    config = load_config(name, overrides)
    assert shlex.split(config.command) == ["contrastill", "train", name, *overrides]
    assert config.model_copy(update={"seed": 7}).command == config.command and "command" not in to_yaml(config)
    run = Run(tmp_path)
    run.record(versions(), config.command)
    assert json.loads(run.versions.read_text())[0]["command"] == config.command
    assert "command" not in run.latest_versions()


def test_a_config_read_in_another_spelling_is_the_same_run(tmp_path):
    first = load_config("teachers/rooms", ["train.epochs=3", f"out={tmp_path}"])
    run = Run(tmp_path)
    run.claim(to_yaml(first))
    run.record(versions(), first.command)
    second = load_config(str(run.config), ["train.epochs=3"])
    assert second == first and second.command != first.command
    run.claim(to_yaml(second))
    run.record(versions(), second.command)
    assert [entry["command"] for entry in json.loads(run.versions.read_text())] == [first.command]


def test_versions_are_recorded_once_and_again_when_they_change(tmp_path):
    run, now = Run(tmp_path), versions()
    assert run.latest_versions() == {}
    run.record(now)
    run.record({**now, "date": "later"})
    assert json.loads(run.versions.read_text()) == [now] and now["torch"] == torch.__version__
    run.record({**now, "torch": "9.9"})
    assert [entry["torch"] for entry in json.loads(run.versions.read_text())] == [now["torch"], "9.9"]
    assert run.latest_versions()["torch"] == "9.9"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (None, "contrastill train '{}/config.yaml'"),
        ("[{", "contrastill train '{}/config.yaml'"),
        ('[{"torch": "2.0", "command": 3}, 7]', "contrastill train '{}/config.yaml'"),
        ('[{"torch": "2.0", "command": "contrastill.distill(…)"}]', "contrastill.distill(…)"),
        ('[{"command": "contrastill train a"}, {"command": "contrastill train b"}]', "contrastill train a"),
    ],
)
def test_a_run_without_a_recorded_command_is_trained_by_its_config(tmp_path, text, command):
    path = tmp_path / "a run"
    path.mkdir()
    if text is not None:
        (path / "versions.json").write_text(text)
    group = RunSeries("a", path, [Run(path)], [None])
    body = reproduction(RunFolders(tmp_path, [group], [])).body
    assert element("code", command.format(path)) in body


def test_numbers_are_finite():
    assert is_number(1.0) and not is_number(None) and not is_number(math.nan)


# How far a run has come

AB = ["objectives.crd=null", "objectives.ab={}"]


@pytest.mark.parametrize(
    ("overrides", "samples", "epochs"),
    [
        (["train.epochs=2"], 48, 2),
        ([*AB, "train.epochs=2", "train.initial_epochs=2"], 48, 4),
        ([*AB, "train.epochs=2"], 48, 32),
        (["train.epochs=null"], 30_000, 100),
        ([*AB, "train.epochs=null", "train.initial_epochs=2"], 30_000, 102),
        (["train.epochs=null"], None, None),
    ],
)
def test_a_run_is_as_long_as_its_stages_together(tmp_path, overrides, samples, epochs):
    run, shown = Run(tmp_path / "run"), epochs or "?"
    teacher = ["teachers.0.model=resnet14", "teachers.0.weights=none", f"data.path={tmp_path}/data.h5"]
    config = load_config("compression/cifar100_crd", ["data.name=packed", *teacher, *overrides, f"out={run.path}"])
    run.claim(to_yaml(config), None if samples is None else {"train": {"samples": samples}})
    rows = [json.dumps({"epoch": epoch, "loss": 1.0}) + "\n" for epoch in range(epochs or 3)]

    def incomplete():
        group, = find([str(run.path)]).groups  # fmt: skip
        return group.incomplete

    run.metrics.write_text("".join(rows[:-1]))
    assert incomplete() == [f"run: unfinished: {len(rows) - 1} of {shown} epochs"]
    run.student.write_bytes(b"weights")
    assert incomplete() == ([f"run: metrics.jsonl is cut off after {len(rows) - 1} of {epochs} epochs"] * bool(epochs))
    run.metrics.write_text("".join(rows))
    assert incomplete() == []
