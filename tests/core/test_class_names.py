"""Classes are matched by their names: on other data, towards teachers, in caches, ensembles, exports and folders of
splits.
"""

import json

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import contrastill
from contrastill.cli.main import main
from contrastill.core.classes import apply_class_map, match_classes
from contrastill.core.config.loading import load_config, make_config, to_yaml
from contrastill.core.config.yaml_values import override_value, values_of
from contrastill.core.errors import UsageError
from contrastill.core.registry import OBJECTIVES
from contrastill.core.run import Run
from contrastill.evaluation.diversity import measure_diversity
from contrastill.evaluation.train import overrides_as_text, resolve_config
from contrastill.models.build import build_network, save_student
from contrastill.models.recipe import read_recipe
from contrastill.training.assemble import assemble
from contrastill.training.data import open_splits

SHADES = {"grey": 140, "ash": 130, "black": 20, "coal": 60, "white": 230, "zinc": 180}
DARK, CLEAR = ["ash", "black", "white"], ["white", "ash", "black"]


def pack(path, classes, *, named=True, count=30, labelled=True):
    """A file whose images are of one shade a class; ``classes`` are in the order of their numbers."""
    draw = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            target = np.arange(count) % len(classes)
            shade = np.array([SHADES[name] for name in classes])[target]
            file[f"{split}/rgb"] = (shade[:, None, None, None] + draw.integers(-10, 10, (count, 8, 8, 3))).astype(
                np.uint8
            )
            if labelled:
                file[f"{split}/target"] = target
        if named:
            file.attrs["classes"] = classes
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("class_names")


SHORT = ["student.model=resnet8", "train.epochs=8", "train.lr=0.05", "train.batch_size=10", "data.crop_padding=0"]


@pytest.fixture(scope="module")
def run(folder):
    """A network that tells ash, black and white apart, in this order."""
    out = folder / "run"
    short = [
        *SHORT,
        f"out={out}",
        "-q",
    ]
    assert main(["train", "teachers/cifar100", f"data.path={pack(folder / 'dark.h5', DARK)}", *short]) == 0
    assert Run(out).history()[-1]["top1"] > 90
    return out


def evaluated(run, *arguments, capsys):
    assert main(["evaluate", str(run), *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)[0], captured.err


def refused(*arguments, capsys):
    """The one sentence of a refusal."""
    assert main([*arguments]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_places_are_found_by_name():
    assert match_classes("abc", "cab", "it", "the data", "") == [2, 0, 1]
    assert match_classes("abcd", "db", "it", "the data", "") == [3, 1] and match_classes(
        "abcd", "db", "it", "the data", "", length=4
    ) == [3, 1, 0, 2]
    assert match_classes(["a", "a"], ["a", "a"], "it", "the data", "") == [0, 1]  # the same list needs no matching
    with pytest.raises(UsageError, match="it has no class z, which the data has .its own are a, b, c.: rename"):
        match_classes("abc", "bcz", "it", "the data", "rename")
    with pytest.raises(UsageError, match="more than one class called a"):
        match_classes(["a", "a", "b"], ["b", "a"], "it", "the data", "")


@pytest.mark.parametrize(
    ("given", "names", "places"),
    [
        ((2, 0), ("x", "y"), [2, 0]),
        (("x", "y", "z"), ("x", "y", "z"), None),
        ({"cat": "x", 1: "y"}, ("x", "y", "elk"), None),
        ({"cat": "elk"}, ("elk", "dog", None), None),
    ],
)
def test_a_class_map_says_places_or_names(given, names, places):
    network = build_network("resnet8", num_classes=3)
    network.recipe["classes"] = ("cat", "dog", "elk")
    apply_class_map(network, given, None, ("x", "y") if places else None, "it")
    assert network.recipe["classes"] == names and (
        network.classes is None if places is None else network.classes.tolist() == places
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("x", "y"), "names 2 classes, and it has 3"),
        ({"cat": "x", "dog": "x"}, "two of its classes for one"),
        ({"cow": "x"}, "'cow', which is none of its own classes .cat, dog, elk."),
        ({"cat": "w"}, "the data's class 'w' does not exist"),
    ],
)
def test_a_class_map_that_fits_nothing_is_refused(given, message):
    network = build_network("resnet8", num_classes=3)
    network.recipe["classes"] = ("cat", "dog", "elk")
    with pytest.raises(UsageError, match=message):
        apply_class_map(network, given, 2, ("x", "y"), "it")


@pytest.mark.parametrize(
    ("given", "name"),
    [("[oui, non, null]", "null"), ("{a: x, b: null}", "null"), ("[a, 1.5]", "1.5"), ("[a, 3]", "3")],
)
def test_a_name_that_yaml_takes_for_something_else_is_to_be_quoted(given, name):
    with pytest.raises(UsageError, match=f"or a mapping .*; a class that is called {name} is written in quotes"):
        load_config("compression/rooms_crd", [f"teachers.0.class_map={given}"])
    quoted = given.replace(name, f"'{name}'")
    read = load_config("compression/rooms_crd", [f"teachers.0.class_map={quoted}"]).teachers[0].class_map
    assert name in (read.values() if isinstance(read, dict) else read)


@pytest.mark.parametrize("given", [{2: "x", 0: "y", 1: "z"}, {0: "x"}, {np.int64(2): "x"}])
def test_a_number_that_is_the_name_of_another_class_is_refused(given, tmp_path):
    """In quotes it is the name, from the call to config.yaml and back."""
    own = ("2", "0", "1")

    def written(class_map):
        config = make_config(
            {
                "out": "x",
                "data": {"name": "cifar100", "path": "x"},
                "student": {"model": "resnet8"},
                "teachers": [{"model": "resnet8", "class_map": class_map}],
                "objectives": {"kd": {}},
            },
            {},
        )
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        read = load_config(str(tmp_path / "config.yaml")).teachers[0].class_map
        assert read == config.teachers[0].class_map == resolve_config(config, {"seed": 1}).teachers[0].class_map
        network = build_network("resnet8", num_classes=3)
        network.recipe["classes"] = own
        apply_class_map(network, read, 3, ("x", "y", "z"), "it")
        return network.recipe["classes"]

    with pytest.raises(UsageError, match="has the number ., a place, and its class called . is at the place .: write"):
        written(given)
    overrides = overrides_as_text({"teachers.0.class_map": given})
    with pytest.raises(UsageError, match="has the number ., a place"):
        written(yaml_of(overrides[0]))
    quoted = {str(key): name for key, name in given.items()}
    assert written(quoted)[own.index(next(iter(quoted)))] == "x"


def yaml_of(override):
    """The value of an override, as a config has it."""
    return values_of(override_value(override.partition("=")[2]))


def test_a_class_that_is_named_twice_is_refused():
    network = build_network("resnet8", num_classes=3)
    network.recipe["classes"] = ("cat", "dog", "elk")
    with pytest.raises(UsageError, match="class_map of it names one of its classes twice, by 'cat' and 0"):
        apply_class_map(network, {"cat": "x", 0: "y"}, 2, ("x", "y"), "it")


@pytest.mark.parametrize("given", [{"cat": "dog", "dog": "cat"}, {"cat": "dog"}, {0: "dog"}, (1, 0, 2), (1, 0)])
def test_a_class_map_against_the_names_that_both_have_is_refused(given):
    network = build_network("resnet8", num_classes=3)
    network.recipe["classes"] = ("cat", "dog", "elk")
    with pytest.raises(UsageError, match="takes its class (cat|dog) for the data's (cat|dog), and both have"):
        apply_class_map(network, given, None, ("cat", "dog"), "it")


@pytest.mark.parametrize(
    ("own", "given", "names"),
    [
        (("bass", "bass guitar"), {"bass guitar": "bass"}, ("bass", "piano")),  # one word for two things
        (("cat", "dog"), (0, 1), ("cat", "dog")),
        (("0", "1"), {"0": "1", "1": "0"}, ("0", "1")),  # numbers in two lists
        (("0", "1"), (1, 0), ("0", "1")),
    ],
)
def test_a_class_map_that_contradicts_no_name_is_taken(own, given, names):
    network = build_network("resnet8", num_classes=2)
    network.recipe["classes"] = own
    apply_class_map(network, given, 2, names, "it")


def test_evaluation_goes_by_names_and_not_by_numbers(run, folder, capsys):
    own, _ = evaluated(run, capsys=capsys)
    other, _ = evaluated(run, f"data.path={pack(folder / 'clear.h5', CLEAR)}", capsys=capsys)
    assert other["top1"] > 90 and own["top1"] > 90
    # Some of its classes: the others stay possible answers.
    part, message = evaluated(run, f"data.path={pack(folder / 'part.h5', ['white', 'black'])}", capsys=capsys)
    assert part["top1"] > 90 and "has 2 of the 3 classes of student resnet8" in message and "counts as wrong" in message


def test_evaluation_on_other_classes_is_refused_unless_a_class_map_names_them(run, folder, capsys):
    other = f"data.path={pack(folder / 'other.h5', ['zinc', 'ash', 'coal'])}"
    message = refused("evaluate", str(run), other, capsys=capsys)
    assert (
        "has no class zinc, coal, which" in message
        and "its own are ash, black, white" in message
        and "student.class_map" in message
    )
    row, _ = evaluated(run, other, "student.class_map={white: zinc, black: coal}", capsys=capsys)
    assert row["top1"] > 60
    row, _ = evaluated(run, other, "student.class_map=[2,0,1]", capsys=capsys)
    assert row["top1"] > 60


def test_a_mapping_of_some_classes_gives_one_number_in_each_form(run, folder, capsys):
    """Places too leave the other classes possible answers: grey is ash to the network, and not white."""
    other = f"data.path={pack(folder / 'two.h5', ['grey', 'coal'])}"
    nameless = f"data.path={pack(folder / 'two_nameless.h5', ['grey', 'coal'], named=False)}"
    by_name, _ = evaluated(run, other, "student.class_map={white: grey, black: coal}", capsys=capsys)
    for data in (other, nameless):
        by_place, message = evaluated(run, data, "student.class_map=[2,1]", capsys=capsys)
        assert by_place["top1"] == by_name["top1"] < 60
        assert "has 2 of the 3 classes of student resnet8" in message and "counts as wrong" in message
        assert "number alone" not in message
    whole = f"data.path={pack(folder / 'turned.h5', CLEAR, named=False)}"
    row, message = evaluated(run, whole, "student.class_map=[2,0,1]", capsys=capsys)
    assert row["top1"] > 90 and "number alone" not in message and "wrong" not in message
    assert "student.class_map=[PLACE,…]" in refused("evaluate", str(run), nameless, capsys=capsys)


@pytest.mark.parametrize("given", ["{0: 1, 1: 0}", "{ash: 1, black: 0}", "{0: foo}", "{ash: 2, black: 1, white: 0}"])
def test_a_mapping_to_data_without_names_is_refused_with_the_form_that_fits(run, folder, given, capsys):
    nameless = pack(folder / "unnamed.h5", DARK, named=False)
    line = "says what the data calls its classes, and the data has no names for them: give a list of places instead"
    message = refused("evaluate", str(run), f"data.path={nameless}", f"student.class_map={given}", capsys=capsys)
    assert f"class_map of student resnet8 of {run} {line}" in message and "number alone" not in message
    teacher = f"teachers=[{{model: resnet8, weights: {run}, class_map: {given}}}]"
    short = [f"data.path={nameless}", *SHORT, f"out={folder / 'mapped'}", "objectives={kd: {}}", "-q"]
    assert line in refused("train", "teachers/cifar100", teacher, *short, capsys=capsys)
    row, _ = evaluated(run, f"data.path={nameless}", "student.class_map=[0,1,2]", capsys=capsys)
    assert row["top1"] > 90


@pytest.mark.parametrize(("others", "classes"), [(True, ("x", "y", "a", None)), (False, ("x", "y"))])
def test_classes_without_a_place_stay_answers_where_that_is_asked_for(others, classes):
    network = build_network("resnet8", num_classes=4)
    network.recipe["classes"] = ("a", "b", "x", "c")
    apply_class_map(network, (3, 1), 2, ("x", "y"), "it", others=others)
    assert network.recipe["classes"] == classes and network.recipe["num_classes"] == len(classes)
    assert network.classes.tolist() == [3, 1, 0, 2][: len(classes)]


def test_data_without_names_is_matched_by_number_and_that_is_said_once(run, folder, capsys):
    row, message = evaluated(run, f"data.path={pack(folder / 'nameless.h5', DARK, named=False)}", capsys=capsys)
    assert row["top1"] > 90 and message.count("matched by number alone") == 1
    _, message = evaluated(run, capsys=capsys)
    assert "number" not in message


def test_an_unfinished_student_is_named_by_the_data_that_it_was_trained_on(tmp_path, capsys):
    """Without its file of weights, which holds the names, and on other data than its own."""
    short = [
        *SHORT,
        f"out={tmp_path / 'run'}",
        "-q",
    ]
    path = pack(tmp_path / "clear.h5", CLEAR)
    assert main(["train", "teachers/cifar100", f"data.path={path}", *short]) == 0
    (tmp_path / "run" / "student.safetensors").unlink()
    own, message = evaluated(tmp_path / "run", capsys=capsys)
    other, _ = evaluated(tmp_path / "run", f"data.path={pack(tmp_path / 'dark.h5', DARK)}", capsys=capsys)
    assert (
        own["weights"].startswith("checkpoint") and own["top1"] > 90 and other["top1"] > 90 and "number" not in message
    )


def test_teachers_are_evaluated_by_name_too(run, tmp_path, capsys):
    """On data in another order than the one that the run was trained on, by the names that its class_map gave them."""
    renamed = ["zinc", "ash", "coal"]
    config = kd(
        run, pack(tmp_path / "renamed.h5", renamed), tmp_path / "out", "teachers.0.class_map={white: zinc, black: coal}"
    )
    assert main(["train", str(_written(config, tmp_path)), "-q"]) == 0
    command = [
        "evaluate",
        str(tmp_path / "out"),
        f"data.path={pack(tmp_path / 'turned.h5', renamed[::-1])}",
        "--teachers",
        "--json",
    ]
    assert main(command) == 0
    _, teacher = json.loads(capsys.readouterr().out)
    assert teacher["top1"] > 60


def test_networks_of_an_ensemble_are_compared_class_by_class(run, tmp_path, capsys):
    assert (
        main(["train", str(_written(kd(run, pack(tmp_path / "clear.h5", CLEAR), tmp_path / "out"), tmp_path)), "-q"])
        == 0
    )
    result = measure_diversity(tmp_path / "out", [f"data.path={pack(tmp_path / 'dark.h5', DARK)}"])
    assert result.networks[0].top1 > 90 and result.student is not None
    with pytest.raises(UsageError, match=r"teachers.0 .* has no class zinc"):
        measure_diversity(tmp_path / "out", [f"data.path={pack(tmp_path / 'other.h5', ['ash', 'white', 'zinc'])}"])


def _written(config, folder):
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder / "config.yaml"


def kd(run, path, out, *more, objective="kd"):
    common = [
        f"data.path={path}",
        "student.model=resnet8",
        "train.epochs=1",
        "train.batch_size=10",
        "data.crop_padding=0",
        f"out={out}",
    ]
    teacher = [
        "teachers.0.model=resnet8",
        f"teachers.0.weights={run}",
        "objectives.crd=null",
        f"objectives.{objective}.weight=1",
    ]
    return load_config("compression/cifar100_crd", [*common, *teacher, *more])


def teacher_logits(config, number=0):
    """A teacher's logits of one test image a class, as the objectives see them."""
    parts = assemble(config)
    batch = next(iter(parts.splits["test"].loader(batch_size=9, device="cpu", train=False).epoch(0)))
    return parts.transfer.teachers[number](batch, frozenset({"logits"})).logits, batch["target"], parts


LOGITS = sorted(
    name
    for name, objective in OBJECTIVES.items()
    if objective.needs_teacher and "logits" in objective.needs and not objective.per_class
)


@pytest.mark.parametrize("objective", LOGITS)
def test_every_objective_on_logits_sees_the_teacher_in_the_order_of_the_data(run, folder, tmp_path, objective):
    config = kd(run, pack(tmp_path / "clear.h5", CLEAR), tmp_path / "out", objective=objective)
    logits, target, parts = teacher_logits(config)
    assert (logits.argmax(1) == target).all() and parts.transfer.student.recipe["classes"] == tuple(CLEAR)
    with pytest.raises(
        UsageError, match=r"teacher 0 \(resnet8\) has no class zinc, which the data has .*teachers.0.class_map"
    ):
        assemble(kd(run, pack(tmp_path / "other.h5", ["ash", "white", "zinc"]), tmp_path / "out", objective=objective))


def test_a_teacher_of_other_classes_still_teaches_by_its_embedding(run, tmp_path):
    path = pack(tmp_path / "other.h5", ["ash", "white", "zinc"])
    parts = assemble(kd(run, path, tmp_path / "out", objective="fresh_crd"))
    assert parts.transfer.teachers[0].classes is None and not parts.transfer.remarks


def test_a_teacher_of_more_classes_answers_for_those_of_the_data(run, tmp_path):
    logits, target, _ = teacher_logits(kd(run, pack(tmp_path / "two.h5", ["white", "ash"]), tmp_path / "out"))
    assert logits.shape[1] == 2 and (logits.argmax(1) == target).all()


def test_each_teacher_of_an_ensemble_has_its_own_order(run, folder, tmp_path):
    second = tmp_path / "second"
    short = [
        *SHORT,
        f"out={second}",
        "-q",
    ]
    assert main(["train", "teachers/cifar100", f"data.path={pack(tmp_path / 'clear.h5', CLEAR)}", *short]) == 0
    third = ["black", "white", "ash"]
    more = [
        "teachers.1.model=resnet8",
        f"teachers.1.weights={second}",
        "ensemble.rule=confidence",
        "ensemble.batched=true",
    ]
    path = pack(tmp_path / "third.h5", third)
    for number in (0, 1):
        logits, target, parts = teacher_logits(kd(run, path, tmp_path / "out", *more), number)
        assert (logits.argmax(1) == target).all()
    # Without labels and names the first teacher's order is the student's.
    bare = pack(tmp_path / "bare.h5", third, named=False, labelled=False)
    parts = assemble(kd(run, bare, tmp_path / "out", *more[:2], "objectives.cross_entropy=null"))
    assert parts.transfer.student.recipe["classes"] == tuple(DARK) and parts.transfer.teachers[1].recipe[
        "classes"
    ] == tuple(DARK)
    # With labels and without names nobody knows which of the two orders the labels have.
    with pytest.raises(UsageError, match="different orders, and the data does not name its own"):
        assemble(kd(run, pack(tmp_path / "numbers.h5", third, named=False), tmp_path / "out", *more[:2]))
    network = build_network("resnet8", weights=second)
    assert network.recipe["classes"] == tuple(CLEAR)


def test_cached_outputs_are_those_of_the_order_they_are_read_in(run, tmp_path):
    cache = ["train.views=1", f"train.teacher_cache={tmp_path / 'cache'}"]
    for name, classes in (("dark", DARK), ("clear", CLEAR)):
        # The same images in the same order: all that differs is how their classes are numbered.
        path = tmp_path / f"{name}.h5"
        pack(path, DARK)
        with h5py.File(path, "r+") as file:
            for split in ("train", "test"):
                file[f"{split}/target"][...] = [classes.index(DARK[number]) for number in file[f"{split}/target"][()]]
            file.attrs["classes"] = classes
        parts = assemble(kd(run, path, tmp_path / "out", *cache, "objectives.cross_entropy=null"))
        parts.transfer.source.start_epoch(0)
        batch = next(iter(parts.train.epoch(0)))
        (outputs,) = parts.transfer.teacher_outputs(batch)
        assert (outputs.logits.argmax(1) == batch["target"]).float().mean() > 0.9, name


def test_the_default_recipe_matches_logits_where_the_names_are_the_datas(run, tmp_path):
    student = {"model": "resnet8"}
    options = {"epochs": 1, "batch_size": 10, "quiet": True, "data.crop_padding": 0}
    same = contrastill.distill(
        run, student, {"path": pack(tmp_path / "clear.h5", CLEAR)}, out=tmp_path / "same", **options
    )
    other = contrastill.distill(
        run, student, {"path": pack(tmp_path / "other.h5", ["ash", "white", "zinc"])}, out=tmp_path / "other", **options
    )
    assert "wttm" in same.config.objectives and "wttm" not in other.config.objectives
    assert same.student.classes == CLEAR and other.student.classes == ["ash", "white", "zinc"]


def test_matching_by_number_is_said_where_a_module_teaches(run, tmp_path, capsys):
    class Tiny(nn.Sequential):
        def __init__(self, outputs):
            super().__init__(
                nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs)
            )

    data = {"path": pack(tmp_path / "clear.h5", CLEAR)}
    contrastill.distill(Tiny(3), {"model": "resnet8"}, data, out=tmp_path / "a", objectives="kd", epochs=1)
    assert capsys.readouterr().err.count("classes of teacher 0 (Tiny) are matched by number alone") == 1
    # What load_student gives knows its classes.
    with pytest.raises(UsageError, match="has no class zinc"):
        other = {"path": pack(tmp_path / "other.h5", ["zinc", "ash", "white"])}
        contrastill.distill(
            contrastill.load_student(run),
            {"model": "resnet8"},
            other,
            out=tmp_path / "b",
            objectives="kd",
            epochs=1,
            quiet=True,
        )


def test_a_student_from_the_hub_teaches_as_its_network_does(run, tmp_path):
    data, options = (
        {"path": pack(tmp_path / "clear.h5", CLEAR)},
        {"objectives": "kd", "epochs": 1, "quiet": True, "data.crop_padding": 0},
    )
    teachers = {"hub": contrastill.Student.from_run(run), "plain": contrastill.load_student(run)}
    losses = [
        contrastill.distill(one, {"model": "resnet8"}, data, out=tmp_path / name, **options).metrics["kd"]
        for name, one in teachers.items()
    ]
    assert losses[0] == losses[1]


def test_correlations_of_classes_are_those_of_the_same_classes(run, tmp_path, capsys):
    """A network beside itself with its classes in another order: no difference."""
    other = tmp_path / "other"
    contrastill.distill(
        None, {"model": "resnet8"}, {"path": pack(tmp_path / "clear.h5", CLEAR)}, out=other, epochs=1, quiet=True
    )
    network = build_network("resnet8", weights=run)
    places = match_classes(DARK, CLEAR, "it", "the data", "")
    for parameter in network.module.fc.parameters():
        parameter.data = parameter.data[places]
    network.recipe["classes"] = tuple(CLEAR)
    save_student(network, other / "student.safetensors")
    command = [
        "probe",
        str(other),
        "--correlation",
        str(run),
        "--data",
        f"packed:{tmp_path / 'clear.h5'}",
        "--layers",
        "embedding",
        "--json",
        "-q",
    ]
    assert main([*command, "--out", str(tmp_path / "probe")]) == 0
    assert json.loads(capsys.readouterr().out)["correlation"][0]["mean_absolute_difference"] < 1e-5


def test_a_student_knows_its_classes_wherever_it_goes(run, tmp_path):
    assert contrastill.load_student(run).classes == DARK and read_recipe(run / "student.safetensors")[
        "classes"
    ] == tuple(DARK)
    hub = tmp_path / "hub"
    contrastill.Student.from_run(run).save_pretrained(hub)
    config = json.loads((hub / "config.json").read_text())
    assert (
        config["label_names"] == DARK
        and config["id2label"] == {"0": "ash", "1": "black", "2": "white"}
        and config["label2id"]["white"] == 2
    )
    assert "ash, black, white" in (hub / "README.md").read_text()
    again = contrastill.Student.from_pretrained(hub)
    assert again.classes == DARK and build_network("resnet8", weights=hub / "model.safetensors").recipe[
        "classes"
    ] == tuple(DARK)
    exported = contrastill.export_student(run, tmp_path / "student.pt2", format="torch", size=8)
    extra = {"classes.json": ""}
    torch.export.load(exported.path, extra_files=extra)
    assert json.loads(extra["classes.json"]) == DARK == exported.classes


def test_an_onnx_file_knows_its_classes(run, folder, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    clear = pack(folder / "clear.h5", CLEAR)
    assert (
        main(
            [
                "export",
                str(run),
                "--out",
                str(tmp_path / "s.onnx"),
                "--size",
                "8",
                "--int8",
                "--data",
                f"packed:{clear}",
                "--json",
                "-q",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == DARK and report["int8"]["top1_fp32"] > 90
    for name in ("s.onnx", "s.int8.onnx"):
        known = (
            onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"])
            .get_modelmeta()
            .custom_metadata_map
        )
        assert json.loads(known["classes"]) == DARK


@pytest.mark.parametrize("objective", ["cross_entropy", "kd"])
def test_a_single_logit_is_refused(tmp_path, objective):
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)

    def net():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))

    for labels in (torch.arange(16) % 2, torch.zeros(16, dtype=torch.int64)):
        data = torch.utils.data.TensorDataset(images, labels)
        with pytest.raises(UsageError, match="give the network 2 outputs"):
            contrastill.distill(
                None if objective == "cross_entropy" else net(),
                net(),
                (data, data),
                out=tmp_path / "out",
                objectives=objective,
                epochs=1,
            )
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_resumed_on_data_whose_classes_changed_order(tmp_path, capsys):
    path = pack(tmp_path / "data.h5", DARK)
    command = [
        "train",
        "teachers/cifar100",
        f"data.path={path}",
        "student.model=resnet8",
        "train.epochs=1",
        "data.crop_padding=0",
        f"out={tmp_path / 'run'}",
        "-q",
    ]
    assert main(command) == 0
    with h5py.File(path, "r+") as file:
        file.attrs["classes"] = CLEAR
    assert "names of classes of train differ" in refused(*command, capsys=capsys)


# Folders and datasets


def pictures(root, folders, shade=SHADES, count=3):
    """Images of one shade a class in folders such as ``Train/ash``."""
    from PIL import Image

    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(count):
            mode = "L" if folder.endswith("depth") else "RGB"
            Image.new("L", (8, 8), shade[folder.split("/")[-1]] + number).convert(mode).save(
                root / folder / f"{number}.png"
            )
    return root


@pytest.mark.parametrize(
    ("train", "test"),
    [("training", "validation"), ("Train", "Test"), ("train", "valid"), ("TRAIN", "Val"), ("Training", "Testing")],
)
def test_folders_called_as_splits_in_other_ways_are_splits(tmp_path, train, test):
    pictures(tmp_path, [f"{train}/ash", f"{train}/black", f"{test}/ash", f"{test}/black"])
    config = load_config("teachers/cifar100", [f"data.path={tmp_path}", "student.model=resnet8"])  # the inspector
    assert config.data.name == "image_folder"
    splits = open_splits(config.data)
    assert splits["train"].classes == splits["test"].classes == ["ash", "black"] and splits["train"].num_samples == 6
    assert main(["data", "pack", str(tmp_path), str(tmp_path / "packed.h5"), "-q"]) == 0
    with h5py.File(tmp_path / "packed.h5") as file:
        assert list(file.attrs["classes"]) == ["ash", "black"] and len(file["test/target"]) == 6


@pytest.mark.parametrize("train", ["Training", "TRAIN"])
def test_folders_of_modalities_are_in_splits_called_so_too(tmp_path, train):
    grey = {"rgb": 90, "depth": 90}
    pictures(tmp_path, [f"{split}/{name}" for split in (train, "Validation") for name in grey], grey)
    config = load_config("xmodal/paired_folder_crd", [f"data.path={tmp_path}", "data.name=null"])
    assert config.data.name == "paired_folder"
    assert {name: split.num_samples for name, split in open_splits(config.data).items()} == {"train": 3, "test": 3}


@pytest.mark.parametrize(
    "folders", [("train", "val", "validation"), ("train", "training", "test"), ("Test", "train", "test")]
)
def test_two_folders_for_one_split_are_refused(tmp_path, folders):
    pictures(tmp_path, [f"{split}/{name}" for split in folders for name in ("ash", "black")])
    with pytest.raises(
        UsageError, match="has .* and .*, and either could be the folder to (train|test) on: keep one of them"
    ):
        open_splits(load_config("teachers/cifar100", [f"data.path={tmp_path}", "student.model=resnet8"]).data)


def test_a_class_called_valid_is_a_class(tmp_path):
    pictures(tmp_path, ["valid", "invalid"], {"valid": 10, "invalid": 100}, count=20)
    splits = open_splits(load_config("teachers/cifar100", [f"data.path={tmp_path}", "student.model=resnet8"]).data)
    assert splits["train"].classes == ["invalid", "valid"]


class Named(torch.utils.data.Dataset):
    def __init__(self, classes, labels):
        self.classes, self.labels = classes, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return torch.full((3, 8, 8), SHADES[self.classes[self.labels[place]]], dtype=torch.uint8), self.labels[place]


def test_a_test_dataset_is_numbered_as_the_training_dataset(tmp_path):
    """As torchvision's ImageFolder numbers folders of which the test split lacks one."""
    from contrastill.datasets.user_dataset import UserDataset

    train, test = (
        Named(DARK, [0, 1, 2] * 4),
        torch.utils.data.Subset(Named(["black", "white"], [0, 1, 1, 0]), [1, 0, 2]),
    )
    splits = {name: UserDataset(train, test)(UserDataset.Options()).open(name) for name in ("train", "test")}
    assert splits["test"].classes == DARK and splits["test"].num_classes == splits["train"].num_classes == 3
    batch = next(iter(splits["test"].loader(batch_size=3, device="cpu", train=False).epoch(0)))
    assert batch["target"].tolist() == [2, 1, 2]
    with pytest.raises(
        UsageError, match="the training dataset Named has no class zinc, which the test dataset Named has"
    ):
        UserDataset(train, Named(["ash", "zinc"], [0, 1]))(UserDataset.Options()).open("test")


def test_classes_are_kept_when_a_test_folder_lacks_one(tmp_path):
    pictures(tmp_path, ["train/ash", "train/black", "train/white", "test/black", "test/white"])
    splits = open_splits(load_config("teachers/cifar100", [f"data.path={tmp_path}", "student.model=resnet8"]).data)
    assert splits["test"].classes == DARK and splits["test"].targets.unique().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("seg_train", "seg_test"),
            "has folders seg_train and seg_test, which are splits rather than classes: call them train and test",
        ),
        (("Training Data", "Test Data"), "has folders Training Data and Test Data, which are splits"),
        (("train2017", "val2017"), "has folders train2017 and val2017, which are splits"),
        (("images/train", "images/val"), "images holds splits, so it is no class: set data.path=.*images"),
    ],
)
def test_folders_that_seem_to_be_splits_are_no_classes(tmp_path, folders, message):
    pictures(tmp_path, [f"{split}/{name}" for split in folders for name in ("ash", "black")], count=20)
    with pytest.raises(UsageError, match=message):
        open_splits(load_config("teachers/image_folder", [f"data.path={tmp_path}", "student.model=resnet8"]).data)


def test_classes_with_words_of_splits_in_their_names_are_classes(tmp_path):
    shades = {"steam train": 10, "test tube": 60, "valley": 100, "validated": 200}
    pictures(tmp_path, [*shades], shades, count=20)
    splits = open_splits(load_config("teachers/image_folder", [f"data.path={tmp_path}", "student.model=resnet8"]).data)
    assert splits["train"].classes == sorted(shades)


def own_classes(*datasets):
    from contrastill.datasets.io.user_samples import UserSamples

    return [UserSamples(dataset).classes for dataset in datasets]


@pytest.mark.parametrize("kind", [tuple, np.array, lambda names: {name: number for number, name in enumerate(names)}])
@pytest.mark.parametrize("attribute", ["classes", "class_to_idx"])
def test_names_in_a_tuple_an_array_or_a_mapping_are_names(kind, attribute):
    data = torch.utils.data.TensorDataset(torch.zeros(3, 3, 8, 8), torch.arange(3))
    setattr(data, attribute, kind(DARK))
    assert own_classes(data) == [DARK]


def test_datasets_that_are_put_together_number_their_classes_alike():
    from torch.utils.data import ConcatDataset, Subset

    one, other = Named(DARK, [0, 1, 2]), Named(DARK[::-1], [0, 1, 2])
    assert own_classes(ConcatDataset([one, Subset(one, [1])])) == [DARK]
    with pytest.raises(
        UsageError, match="ConcatDataset puts together datasets whose classes are .*: number all by one list of classes"
    ):
        own_classes(ConcatDataset([one, Subset(other, [1])]))


@pytest.mark.parametrize("attribute", ["classes", "vectors"])
def test_one_text_is_no_list_of_names(tmp_path, attribute):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"], file[f"{split}/target"] = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
        file.attrs[attribute] = "ash, black"
    with pytest.raises(UsageError, match=rf"the attribute {attribute} is 'ash, black', and should be a list of names"):
        open_splits(
            load_config("teachers/cifar100", [f"data.path={tmp_path / 'data.h5'}", "student.model=resnet8"]).data
        )


def images_of(labels, **attributes):
    data = torch.utils.data.TensorDataset(torch.zeros(len(labels), 3, 8, 8), torch.tensor(labels))
    vars(data).update(attributes)
    return data


def test_a_test_dataset_without_names_is_matched_by_number_with_a_line(caplog):
    from contrastill.datasets.user_dataset import UserDataset

    opened = UserDataset(images_of([0, 1, 2], classes=DARK), images_of([0, 1, 2]))(UserDataset.Options())
    assert (
        opened.open("test").targets.tolist() == [0, 1, 2]
        and "matched by number alone, as TensorDataset has no names" in caplog.text
    )
    caplog.clear()
    both = UserDataset(*(images_of([0, 1, 2], classes=DARK) for _ in range(2)))(UserDataset.Options())
    assert both.open("test").classes == DARK and not caplog.text


def test_a_dataset_with_too_few_names_says_that_they_are_left_out(caplog):
    from contrastill.datasets.user_dataset import UserDataset

    data = UserDataset(images_of([0, 1, 2], classes=DARK[:2]))(UserDataset.Options())
    assert data.open("train").classes is None
    assert "TensorDataset.classes has 2 names, and labels go to 2" in caplog.text


def test_a_student_that_is_not_tested_says_why(tmp_path, caplog):
    student = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(2, 3)
    )
    data = images_of([0, 1, 2]), images_of([2, 3, 4])
    result = contrastill.distill(
        None, student, data, out=tmp_path / "run", objectives="cross_entropy", epochs=1, quiet=True
    )
    assert (
        "top1" not in result.metrics
        and "the student has 3 outputs and the data 5 classes, so no accuracy is measured" in caplog.text
    )


def test_accents_that_are_coded_in_another_way_are_the_same_name(tmp_path):
    """As a folder comes from macOS: e and an accent, where others have one letter."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    pictures(
        tmp_path,
        [f"train/{composed}", "train/zinc", f"test/{decomposed}", "test/zinc"],
        {composed: 10, decomposed: 10, "zinc": 200},
    )
    config = load_config("teachers/image_folder", [f"data.path={tmp_path}", "student.model=resnet8"])
    splits = open_splits(config.data)
    assert splits["train"].classes == splits["test"].classes == [composed, "zinc"] and splits[
        "test"
    ].targets.tolist() == [0, 0, 0, 1, 1, 1]
    pictures(tmp_path, [f"train/{decomposed}"], {decomposed: 10})
    with pytest.raises(UsageError, match="train has two folders .*, whose accents are coded in different ways"):
        open_splits(config.data)


NUMBERS = ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]  # as folders are sorted


def test_classes_called_by_numbers_are_not_matched_by_place():
    """A class without a name that has the number 2 may be the third, or the one called 2."""
    from contrastill.core.classes import check_numbers
    from contrastill.datasets.user_dataset import UserDataset
    from contrastill.training.class_order import answer_for

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 12))
    taps, preprocess = contrastill.Taps(embedding="input:1"), contrastill.Preprocess((0.0,) * 3, (1.0,) * 3)
    for of_network, of_data, message in [
        (NUMBERS, None, "of the student are called 0, 1, 10, …, .* and D has no"),
        (None, NUMBERS, "of D are called 0, 1, 10, …"),
    ]:
        network = contrastill.Network(module, taps=taps, preprocess=preprocess)
        network.recipe = {"num_classes": 12, "classes": of_network}
        (split,) = [UserDataset(images_of(list(range(12)), classes=of_data))(UserDataset.Options()).open("train")]
        with pytest.raises(UsageError, match=message):
            answer_for(network, split, "the student", "D", "")
    with pytest.raises(
        UsageError,
        match="of the other dataset are called 0, 1, 10, …, numbers in another order, and TensorDataset has no names",
    ):
        UserDataset(images_of(list(range(12)), classes=NUMBERS), images_of(list(range(12))))(
            UserDataset.Options()
        ).open("test")
    check_numbers([f"{number:02}" for number in range(12)], "a", "b", "")
    check_numbers(["3d", "2d"], "a", "b", "")
