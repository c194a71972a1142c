"""`contrastill probe` as a user runs it: networks and data by their notation, one table, pictures, and what it
refuses.
"""

import json
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from contrastill import UsageError
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config, to_yaml
from contrastill.evaluation import probe_inputs
from contrastill.evaluation.probe_inputs import data_named, network_named
from contrastill.models.build import build_network, save_student
from contrastill.probe.cka import linear_cka
from contrastill.probe.features import features_of
from contrastill.probe.linear import linear_probe

ROOMS = "rooms,size=16,train_samples=72,test_samples=48"

CONFIG = """
out: {out}
data: {{name: rooms, size: 16, train_samples: 24, test_samples: 12}}
teachers: [{{model: resnet14, weights: {teacher}}}]
student: {{model: resnet8}}
objectives: {{kd: {{weight: 1}}}}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run with a teacher, one that has no student yet, and a depth student; weights are random, as a probe
    asks for none else.
    """
    folder = tmp_path_factory.mktemp("runs")
    for name in ("teacher", "kd", "begun", "depth"):
        (folder / name).mkdir()
    torch.manual_seed(0)
    save_student(build_network("resnet14", num_classes=12), folder / "teacher" / "student.safetensors")
    save_student(build_network("resnet8", num_classes=12), folder / "kd" / "student.safetensors")
    save_student(
        build_network("resnet8", num_classes=12, modality="depth", mean=(2.5,), std=(1.2,)),
        folder / "depth" / "student.safetensors",
    )
    (folder / "made.yaml").write_text(CONFIG.format(out=folder / "kd", teacher=folder / "teacher"))
    for name, changes in {
        "kd": [],
        "begun": [],
        "depth": ["student.modality=depth", "data.modalities=[rgb,depth]"],
    }.items():
        (folder / name / "config.yaml").write_text(to_yaml(load_config(str(folder / "made.yaml"), changes)))
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Three classes that are bright in different degrees, and a set whose test split has a class more."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, classes in (("three", (3, 3)), ("other", (2, 3))):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for split, count, many in (("train", 36, classes[0]), ("test", 24, classes[1])):
                target = np.arange(count) % many
                file[f"{split}/rgb"] = (
                    target[:, None, None, None] * 80 + generator.integers(0, 60, (count, 16, 16, 3))
                ).astype(np.uint8)
                file[f"{split}/target"] = target
            file.attrs["classes"] = ["dark", "grey", "light"]
    with h5py.File(folder / "unlabelled.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = np.zeros((8, 16, 16, 3), np.uint8)
    return folder


def probed(capsys, *arguments):
    assert main(["probe", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_networks_by_data_sets_and_layers(runs, packed, tmp_path, capsys):
    teacher, data = f"{runs / 'kd'}:teacher", str(packed / "three.h5")
    everything = [
        "--layers",
        "maps.1,embedding",
        "--shots",
        "1,2",
        "--knn",
        "5",
        "--logme",
        "--cka",
        teacher,
        "--correlation",
        teacher,
    ]
    arguments = [
        runs / "kd",
        teacher,
        "resnet8",
        "--data",
        ROOMS,
        "--data",
        data,
        *everything,
        "--out",
        tmp_path / "out",
    ]
    result = probed(capsys, *arguments)
    texts = [str(runs / "kd"), teacher, "resnet8"]
    assert [(row["data"], row["network"], row["layer"]) for row in result["rows"]] == [
        (entry, text, layer) for entry in (ROOMS, data) for text in texts for layer in ("maps.1", "embedding")
    ]
    assert [entry["model"] for entry in result["networks"]] == ["resnet8", "resnet14", "resnet8"]
    assert result["data"] == [
        {"name": ROOMS, "short": "rooms", "classes": 12, "train": 72, "test": 48},
        {"name": data, "short": "three", "classes": 3, "train": 36, "test": 24},
    ]
    for row in result["rows"]:
        assert row["low"] < row["top1"] < row["high"] or row["top1"] in (0, 100)
        assert (
            [entry["shots"] for entry in row["shots"]] == [1, 2] and np.isfinite(row["logme"]) and row["knn"]["k"] == 5
        )
    bright = [row for row in result["rows"] if row["data"] == data and row["layer"] == "embedding"]
    assert all(row["top1"] > 90 and row["knn"]["top1"] > 90 for row in bright)

    # The same by hand.
    network = build_network("resnet8", weights=runs / "kd")
    rooms = data_named(ROOMS).open()
    by_hand = linear_probe(network, rooms.train, rooms.test)
    assert (
        result["rows"][1]["top1"] == pytest.approx(by_hand.top1)
        and result["rows"][1]["weight_decay"] == by_hand.weight_decay
    )
    cka = result["cka"][0]
    assert (cka["network"], cka["other"], cka["data"]) == (texts[0], teacher, ROOMS)
    assert cka["rows"] == cka["columns"] == ["maps.0", "maps.1", "maps.2", "maps.3", "embedding"]
    both = (network, build_network("resnet14", weights=runs / "teacher"))
    layers = [
        features_of(entry, rooms.test.loader(batch_size=48, device="cpu", train=False), ["maps.2", "embedding"])
        for entry in both
    ]
    assert cka["values"][2][4] == pytest.approx(
        linear_cka(layers[0]["maps.2"].values, layers[1]["embedding"].values), abs=1e-4
    )
    assert np.diag(result["cka"][1]["values"]) == pytest.approx(1)  # the teacher beside itself
    assert [(entry["data"], entry["network"]) for entry in result["correlation"]] == [
        (entry, text) for entry in (ROOMS, data) for text in (texts[0], "resnet8")
    ]
    logits = [
        features_of(entry, rooms.test.loader(batch_size=48, device="cpu", train=False), ["logits"])[
            "logits"
        ].values.numpy()
        for entry in both
    ]
    difference = np.corrcoef(logits[1], rowvar=False) - np.corrcoef(logits[0], rowvar=False)
    assert result["correlation"][0]["mean_absolute_difference"] == pytest.approx(
        np.abs(difference).sum() / 132, abs=1e-3
    )

    names = ["probe_layers.png", "probe_shots.png", "cka.png", "correlation.png"]
    assert result["pictures"] == [str(tmp_path / "out" / name) for name in names]
    for path in result["pictures"]:
        with Image.open(path) as picture:
            assert picture.width > 500 and len(set(picture.convert("RGB").resize((200, 150)).get_flattened_data())) > 60
    stored = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert stored == {key: value for key, value in result.items() if key != "written"}
    page = (tmp_path / "out" / "probe.md").read_text()
    first = result["rows"][1]
    assert (
        f"{first['top1']:.1f} [{first['low']:.1f}, {first['high']:.1f}]" in page
        and "| network | rooms, maps.1 | rooms, embedding | three, maps.1 |" in page
        and "LogME" in page
    )
    assert page.count(f"| {teacher} |") == 6  # the probe, neighbours, LogME, two numbers of shots, correlations


def test_only_what_is_asked_for_and_a_second_time_from_the_cache(runs, packed, tmp_path, capsys, monkeypatch):
    from contrastill.core.representation import Network

    arguments = [runs / "kd", "--data", packed / "three.h5", "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    first = probed(capsys, *arguments)
    assert first["pictures"] == [] and first["cka"] == [] and {"knn", "shots", "logme"}.isdisjoint(first["rows"][0])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["probe.json", "probe.md"]
    looks, forward = [], Network.forward

    def counted(self, batch, needs=None):
        looks.append(len(batch["rgb"]))
        return forward(self, batch, needs)

    monkeypatch.setattr(Network, "forward", counted)
    assert probed(capsys, *arguments)["rows"] == first["rows"]
    assert looks == [
        2,
        8,
        8,
    ]  # for the names of the layers, and to compare what is kept of both splits with what the network gives now


def test_positions_of_layers_that_have_none_are_named(runs, packed, tmp_path, capsys):
    arguments = ["probe", "resnet8", "--data", str(packed / "three.h5"), "--out", str(tmp_path), "--spatial", "4"]
    assert main([*arguments, "-q"]) == 0
    assert capsys.readouterr().err == (
        "spatial=4 changes nothing, as embedding has no positions and it is of maps.0, maps.1, …: leave it out\n"
    )
    assert main([*arguments, "--cka", "resnet8", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_the_table_says_how_many_neighbours_each_column_is_of(runs, packed, tmp_path):
    from contrastill import ProbeSpec, probe_networks

    names = [str(packed / f"{name}.h5") for name in ("three", "few")]
    with h5py.File(names[0]) as source, h5py.File(names[1], "w") as file:
        for split, count in (("train", 6), ("test", 24)):
            for field in ("rgb", "target"):
                file[f"{split}/{field}"] = source[f"{split}/{field}"][:count]
        file.attrs["classes"] = source.attrs["classes"]

    def table(data):
        report = probe_networks(runs / "kd", data, ProbeSpec(knn=20), progress=False)
        return next(table for table in report.tables() if "nearest" in table.title)

    both, one = table(names), table(names[:1])
    assert both.title.startswith("k nearest neighbours,")
    assert both.columns == ["network", "three, embedding, k=20", "few, embedding, k=6"]
    assert one.title.startswith("20 nearest neighbours,") and one.columns == ["network", "three, embedding"]


def test_all_layers_of_networks_of_different_depth_and_the_printed_table(runs, packed, tmp_path, capsys):
    small = "torchvision/mobilenet_v3_small"
    arguments = [str(runs / "kd"), small, "--data", str(packed / "three.h5"), "--layers", "all", "--out", str(tmp_path)]
    assert main(["probe", *arguments]) == 0
    output = capsys.readouterr()
    result = json.loads((tmp_path / "probe.json").read_text())
    counts = [sum(row["network"] == name for row in result["rows"]) for name in (arguments[0], small)]
    assert counts[0] == 5 and counts[1] > 4 and "logits" not in {row["layer"] for row in result["rows"]}
    assert (
        "linear probe (exact)" in output.out and "probe_layers.png" in output.out and "three.h5: reading" in output.err
    )


def test_classes_can_be_left_out(runs, packed, tmp_path, capsys):
    data = f"{packed / 'three.h5'},classes=[light,0]"
    result = probed(capsys, runs / "kd", "--data", data, "--out", tmp_path)
    assert (
        result["data"] == [{"name": data, "short": "three", "classes": 2, "train": 24, "test": 16}]
        and result["rows"][0]["num_test"] == 16
    )
    # The test split of this one has a class that its train split lacks.
    result = probed(capsys, runs / "kd", "--data", f"{packed / 'other.h5'},classes=[dark,grey]", "--out", tmp_path)
    assert result["rows"][0]["num_train"] == 36 and result["rows"][0]["num_test"] == 16


def test_classes_with_commas_in_their_names_are_written_in_quotes(packed, tmp_path):
    path = shutil.copy(packed / "three.h5", tmp_path / "named.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["classes"] = ["dark, very", "very", "light"]
    for listed, numbers in (("'dark, very',light", [0, 2]), ('light, "dark, very"', [0, 2]), ("very,light", [1, 2])):
        assert data_named(f"{path},classes=[{listed}]").open().chosen.tolist() == numbers
    with pytest.raises(UsageError, match="class 'dark' does not exist: .* A name with a comma is written in quotes"):
        data_named(f"{path},classes=[dark, very]").open()


def test_a_depth_network_reads_depth(runs, tmp_path, capsys):
    result = probed(capsys, runs / "depth", "--data", f"{ROOMS},modalities=[rgb,depth]", "--out", tmp_path)
    assert result["networks"][0]["modality"] == "depth" and 0 <= result["rows"][0]["top1"] <= 100


def test_the_folds_of_stl10(runs, tmp_path, capsys):
    folder, rng = tmp_path / "stl10_binary", np.random.default_rng(0)
    folder.mkdir()
    for name, count in (("train", 40), ("test", 20)):
        rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{name}_X.bin")
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
    lines = [
        " ".join(str(10 * ((fold + part) % 4) + place) for part in range(2) for place in range(10))
        for fold in range(10)
    ]
    (folder / "fold_indices.txt").write_text("\n".join(lines) + "\n")
    data = f"stl10:{tmp_path},size=16"
    every = probed(capsys, runs / "kd", "--data", f"{data},fold=all", "--knn", 3, "--out", tmp_path / "out")["rows"][0]
    alone = [
        probed(capsys, runs / "kd", "--data", f"{data},fold={fold}", "--out", tmp_path / "one")["rows"][0]
        for fold in (0, 7)
    ]
    assert [every["folds"][fold] for fold in (0, 7)] == pytest.approx([row["top1"] for row in alone])
    assert every["top1"] == pytest.approx(np.mean(every["folds"])) and every["std"] == pytest.approx(
        np.std(every["folds"], ddof=1)
    )
    assert every["num_train"] == 20 and len(every["knn"]["folds"]) == 10
    assert f"{every['top1']:.1f} ± {every['std']:.1f}" in (tmp_path / "out" / "probe.md").read_text()


def test_how_networks_and_data_are_written(runs, packed):
    assert network_named(f"{runs / 'kd'}:teachers.0").teacher == 0 and network_named(str(runs / "kd")).teacher is None
    entry = network_named(f"resnet8@{runs / 'kd'}").entry
    assert (entry.model, entry.weights) == ("resnet8", str(runs / "kd"))
    assert network_named("efficientnet_lite0@pretrained").entry.weights == "pretrained"
    data = data_named("rooms,size=8,modalities=[rgb,depth],scene_seed=3")
    assert (data.options.size, data.options.modalities, data.options.scene_seed, data.options.crop_padding) == (
        8,
        ["rgb", "depth"],
        3,
        0,
    )
    assert (
        data_named(str(packed / "three.h5")).name == "packed"
        and data_named(f"packed:{packed / 'three.h5'}").short == "three"
    )


@pytest.mark.parametrize(
    ("networks", "data", "options", "code", "message"),
    [
        (["{runs}/begun"], ROOMS, [], 1, "neither student.safetensors nor a checkpoint"),
        (["{runs}/nothing"], ROOMS, [], 2, "neither the folder of a run nor a network"),
        (["{runs}"], ROOMS, [], 2, "is no run"),
        (["{runs}/kd:teachers.3"], ROOMS, [], 2, "has no teachers.3: it has 1 teacher"),
        (["resnet9"], ROOMS, [], 2, "did you mean resnet8"),
        (["resnet8@"], ROOMS, [], 2, "names no weights after @"),
        (["resnet8@pretrained"], ROOMS, [], 2, "has no published weights"),
        (["resnet8@gone.pth"], ROOMS, [], 2, "gone.pth do not exist"),
        (["{runs}/depth"], ROOMS, [], 2, "depth is not in this data"),
        (["resnet8"], ROOMS, ["--layers", "embedding,maps.7"], 2, "resnet8 has no layer maps.7: it has maps.0, maps.1"),
        (["resnet8"], ROOMS, ["--layers", "all,logits"], 2, "all alone"),
        (["resnet8"], ROOMS, ["--shots", "1,few"], 2, "--shots 1,few"),
        (["resnet8"], ROOMS, ["--protocol", "crb"], 2, "did you mean crd"),
        (["resnet8"], ROOMS, ["--cka", "resnet9"], 2, "did you mean resnet8"),
        (["resnet8"], "{packed}/three.h5", ["--correlation", "{runs}/kd"], 2, "tells 12 classes apart and resnet8 3"),
        (["resnet8"], "room", [], 2, "neither a file nor a folder nor NAME:PATH"),
        (["resnet8"], "romms:x", [], 2, "did you mean rooms"),
        (["resnet8"], "cifar100:nowhere", [], 2, "nowhere does not exist"),
        (["resnet8"], "stl10", [], 2, "write stl10:PATH"),
        (["resnet8"], "rooms,sise=8", [], 2, "did you mean size"),
        (["resnet8"], "rooms,fold=all", [], 2, "no official folds"),
        (["resnet8"], "{packed}/unlabelled.h5", [], 2, "has no classes, and a probe needs one for each sample"),
        (["resnet8"], "{packed}/other.h5", [], 2, "class 2 (light)"),
        (["resnet8"], "{packed}/three.h5,classes=[dark,gray]", [], 2, "did you mean grey"),
        (["resnet8"], "{packed}/three.h5", ["--shots", "13"], 2, "13"),
    ],
)
def test_what_cannot_be_probed(runs, packed, tmp_path, capsys, networks, data, options, code, message):
    def filled(text):
        return text.format(runs=runs, packed=packed) if "{" in text else text

    arguments = [*map(filled, networks), "--data", filled(data), *map(filled, options), "--out", str(tmp_path)]
    assert main(["probe", *arguments]) == code
    output = capsys.readouterr().err
    assert message in output and "Traceback" not in output


def test_splits_of_other_classes_are_named_with_the_way_out(packed, monkeypatch):
    def opened(train, test, counts=(2, 2)):
        splits = {
            name: SimpleNamespace(targets=torch.arange(count), num_classes=count, classes=classes)
            for name, count, classes in (("train", counts[0], train), ("test", counts[1], test))
        }
        monkeypatch.setattr(probe_inputs, "dataset_of", lambda *_: SimpleNamespace(open=splits.get))
        return data_named(str(packed / "three.h5")).open()

    with pytest.raises(
        UsageError, match=r"2 classes \(a, b\) in its train split and 2 classes \(b, a\) in its test spl"
    ):
        opened(["a", "b"], ["b", "a"])
    with pytest.raises(
        UsageError, match="2 classes in its train split and 3 classes in its test split: number both spl"
    ):
        opened(None, None, (2, 3))
    assert opened(["a", "b"], ["a", "b"]).test.classes == ["a", "b"]
    assert opened(None, ["a", "b"]).train.classes is None  # by number, which the data says in a line


def test_numbers_and_texts_of_a_table_are_refused_with_the_way_out(tmp_path, capsys):
    tables = pytest.importorskip("datasets", reason="pip install 'contrastill[datasets]'")
    picture = np.zeros((8, 8, 3), np.uint8)
    splits = {
        name: tables.Dataset.from_dict(
            {"image": [picture] * 2, "label": labels},
            features=tables.Features({"image": tables.Image(), "label": tables.Value(kind)}),
        )
        for name, kind, labels in (("train", "int64", [0, 1]), ("test", "string", ["a", "b"]))
    }
    tables.DatasetDict(splits).save_to_disk(tmp_path / "table")
    assert (
        main(["probe", "resnet8", "--data", f"huggingface:{tmp_path / 'table'}", "--out", str(tmp_path / "out")]) == 2
    )
    message = " ".join(capsys.readouterr().err.split())
    assert "/test are texts, and those of" in message and "dataset.cast_column('label', datasets.ClassLabel(" in message


def test_data_have_to_be_named(capsys):
    assert main(["probe", "resnet8"]) == 2
    assert "--data" in capsys.readouterr().err
