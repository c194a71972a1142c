"""The picture of probes of every layer says of each data set what its bars are."""

import pytest

from contrastill.evaluation import probe_figures
from contrastill.evaluation.probe_inputs import NetworkName, data_named
from contrastill.evaluation.probe_report import (
    ProbeAccuracy,
    ProbedData,
    ProbedNetwork,
    ProbeReport,
    ProbeRow,
    ProbeSpec,
)

INTERVAL, FOLDS = ProbeAccuracy(50.0, 40.0, 60.0), ProbeAccuracy(50.0, None, None, 2.0, [48.0, 52.0])
FIRST, SECOND = (data_named(f"rooms,train_samples={count},test_samples=30") for count in (40, 50))


@pytest.mark.parametrize(
    ("accuracies", "title", "panels"),
    [
        ((INTERVAL, INTERVAL), "linear probes of every layer; bars: 95 % intervals", ["one", "two"]),
        ((FOLDS, FOLDS), "linear probes of every layer; bars: ± standard deviation over folds", ["one", "two"]),
        (
            (INTERVAL, FOLDS),
            "linear probes of every layer",
            ["one; bars: 95 % intervals", "two; bars: ± standard deviation over folds"],
        ),
    ],
)
def test_bars_are_called_what_they_are(monkeypatch, tmp_path, accuracies, title, panels):
    drawn = []
    monkeypatch.setattr(probe_figures, "draw_charts", lambda charts, path, **texts: drawn.append((charts, texts)))
    sources = (FIRST, SECOND)
    rows = [
        ProbeRow("n", source.text, layer, "exact", 10, 10, accuracy, None, 1.0)
        for source, accuracy in zip(sources, accuracies, strict=True)
        for layer in ("maps.0", "embedding")
    ]
    data = [ProbedData(source.text, short, 2, 10, 10) for source, short in zip(sources, ("one", "two"), strict=True)]
    network = ProbedNetwork("n", "network", "resnet8", "none", "rgb", 1)
    report = ProbeReport(ProbeSpec(layers=None), (network,), tuple(data), tuple(rows))
    probe_figures.draw_all(report, [NetworkName("n")], sources, tmp_path)
    ((charts, texts),) = drawn
    assert texts["title"] == title and [chart.title for chart in charts] == panels
