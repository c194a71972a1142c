"""Objectives of a user's own with a mistake: one sentence as they are registered, built or first called."""

import importlib
import sys
from typing import Literal

import pydantic
import pytest
import torch
from torch import nn

from contrastill import Objective, Options, Representation, Transfer, UsageError
from contrastill.core.aggregation import Sum
from contrastill.core.config.schema import ObjectiveConfig
from contrastill.core.config.validation import checked
from contrastill.core.errors import ContrastillError
from contrastill.core.objective import Setting
from contrastill.core.objective_checks import build_objectives, check_entry
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.core.teachers.source import check_parts
from contrastill.core.term import Term
from contrastill.core.value_scale import note_once
from contrastill.ensemble.rules import Entropy
from contrastill.models.build import build_network

SPEC = RepresentationSpec(4, 8, ())
SETTING = Setting(SPEC, SPEC, 16, None, 0)


def objective(**body):
    return type("Mine", (Objective,), {"per_sample": lambda self, s, t, b: s.logits.mean(1), **body})


def with_option(default, init, **body):
    options = pydantic.create_model("Options", __base__=Options, delta=(float, pydantic.Field(default, gt=0)))
    return objective(Options=options, **({} if init is None else {"__init__": init}), **body)


class Duck(nn.Module):
    """All that an objective has, and none of its bases."""

    Options, needs, needs_teacher, same_classes, per_class = Options, frozenset({"logits"}), True, False, False
    default_weight, default_warmup, initial_epochs, only_initial, joint = 1.0, 0.0, 0, False, False
    takes_mixed, least_samples, logs = False, 1, {}
    build = classmethod(lambda cls, options, setting: cls())
    build_each = classmethod(lambda cls, options, settings: [cls() for _ in settings])
    prepare = enter = lambda self, given: None
    decomposes = classmethod(lambda cls: False)

    def student_needs(self, stage):
        return self.needs

    def forward(self, *parts):
        return parts[0].logits.mean()

    initial = per_sample = forward


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda student, teacher, batch: 0, "is a function: register a class, class NAME.contrastill.Objective."),
        (nn.Linear, "is the class Linear, which does not derive from contrastill.Objective: register a class"),
        (type("Mine", (Objective,), {"__call__": lambda self, s, t, b: 0}), "no loss: .*; rename __call__ to one of"),
        (type("Mine", (Objective,), {"loss": lambda self, s, t, b: 0}), "no loss: .*; rename loss to one of them"),
        (objective(default_weigth=2.0), "an attribute default_weigth, .*: is default_weight meant"),
        (objective(same_class=True), "an attribute same_class, .*: is same_classes meant"),
        (objective(need={"embedding"}), "an attribute need, .*: is needs meant"),
        (with_option(5.0, lambda self, delta=1.0: None), "delta is 5.0 by default in Options and 1.0 in __init__"),
        (with_option(-1.0, lambda self, delta=-1.0: None), "default -1.0 of its option delta is not allowed .*greater"),
        (with_option(1.0, lambda self, detla=1.0: None), "Options has delta, and __init__ takes detla: give both"),
        (with_option(1.0, None), "Options has delta, and __init__ takes nothing: give both the same names"),
        (type("Mine", (Objective,), {"foward": lambda self, s, t, b: 0}), "no loss: .* is foward meant to be one"),
        (type("Mine", (Objective,), {}), "no loss: define per_sample.*, or forward, that of the batch$"),
        (objective(default_weight="two"), "default_weight='two': give a positive number"),
        (objective(default_weight=True), "default_weight=True: give a positive number"),
        (objective(default_weight=float("nan")), "default_weight=nan: give a positive number"),
        (objective(default_warmup=2), "default_warmup=2: give a share of the training"),
        (objective(initial_epochs=-1), "initial_epochs=-1: give a whole number"),
        (objective(needs="logits"), "needs 'logits': give a set of logits, embedding, maps"),
        (objective(takes_mixed="no"), "takes_mixed='no': give True or False"),
        (objective(Options={"power": 2}), "Options that are no pydantic model: define in it class Options"),
        (objective(Options=pydantic.create_model("Options", weight=(float, 1.0))), "an option weight, which is a key"),
        (objective(forward=lambda self, s, t: 0), "forward takes .s, t., and is called with .student, teacher, batch."),
        (objective(prepare=lambda self: 0), "prepare takes .., .*; write prepare.self, teachers.$"),
        (objective(build=lambda cls, options, setting: 0), "build is called on the class: write @classmethod above"),
    ],
)
def test_what_cannot_be_an_objective_is_refused_as_it_is_registered(entry, message):
    with pytest.raises(UsageError, match=rf"objective mine \(.*\).*{message}"):
        check_entry("mine", entry)


@pytest.mark.parametrize(
    "entry",
    [
        Duck,
        objective(default_weight=torch.tensor(2.0), needs=["logits"]),
        objective(default_weight=None),
        objective(forward=staticmethod(lambda *parts: parts[0].logits.mean())),
        objective(needs=property(lambda self: frozenset({"logits"}))),
        objective(default_weights=(1, 2), default_weight=1.0, channel=3, notes="of its own", options={}),
        with_option(2.0, lambda self, delta=None: Objective.__init__(self)),
        with_option(2.0, lambda self, **options: Objective.__init__(self)),
        with_option(2.0, None, build=classmethod(lambda cls, options, setting: cls())),
    ],
)
def test_what_does_the_work_of_an_objective_passes(entry):
    check_entry("mine", entry)
    assert len(build_objectives("mine", entry, entry.Options(), [SETTING] * 2)) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"build": classmethod(lambda cls, o, s: None)}, "build returns None: return an objective, as cls"),
        ({"build_each": classmethod(lambda cls, o, s: [cls()])}, "build_each returns 1 objectives for 2 teacher"),
        ({"build": classmethod(lambda cls, o, s: cls(**{}["x"]))}, "its options, fails: KeyError: 'x' .test_"),
        ({"__init__": lambda self: None}, r"__init__ does not call super\(\).__init__\(\)"),
        ({"__init__": lambda self: setattr(self, "map", nn.Linear(2, 2))}, r"__init__ does not call super\(\)"),
        ({"__init__": lambda self, dim: None, "needs_teacher": False}, "cannot be built from its options .*'dim'"),
    ],
)  # fmt: skip
def test_what_is_built_wrongly_is_refused_with_its_class(body, message):
    mine = objective(**body)
    with pytest.raises(ContrastillError, match=message):
        build_objectives("mine", mine, mine.Options(), [SETTING] * 2)


@pytest.mark.parametrize(
    ("logs", "message"),
    [({"x": "text"}, "that is a str"), ({"x": torch.ones(3)}, r"of shape \(3,\)"), ([1], "logs that are a list")],
)
def test_logs_that_are_no_scalars_are_refused(logs, message):
    term = Term(objective()())
    term.objectives[0].logs = logs
    with pytest.raises(UsageError, match=rf"objective \(.*Mine\) has .*{message}"):
        term.logs()


def test_names_and_definitions_of_a_registry():
    with pytest.raises(UsageError, match="Mine is registered without a name: write .register"):
        OBJECTIVES.register(objective())
    with pytest.raises(UsageError, match="python:x' has a name that begins with python:, which is taken"):
        OBJECTIVES.register("python:x")
    first, again = objective(), objective()
    try:
        assert OBJECTIVES.register("mine_again")(first) is first and OBJECTIVES.register("mine_again")(again) is again
        assert OBJECTIVES["mine_again"] is again  # a notebook's cell that is run twice
    finally:
        OBJECTIVES._entries.pop("mine_again", None)


def test_two_definitions_in_one_file_are_refused_and_a_module_that_is_reloaded_is_not(tmp_path, monkeypatch):
    first = (
        "from contrastill import OBJECTIVES, Objective\n"
        "@OBJECTIVES.register('mine_twice')\nclass Mine(Objective):\n"
        "    def forward(self, student, teacher, batch): return student.logits.mean()\n"
    )
    path = tmp_path / "defined_twice.py"
    path.write_text(first)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        module = importlib.import_module("defined_twice")
        path.write_text(f"# a line more\n\n{first}")
        assert importlib.reload(module).Mine is OBJECTIVES["mine_twice"]
        path.write_text(first + first)
        with pytest.raises(UsageError, match=r"twice, by defined_twice.Mine \(line 4\) and .*Mine \(line 8\): rename"):
            importlib.reload(module)
    finally:
        sys.modules.pop("defined_twice", None)
        OBJECTIVES._entries.pop("mine_twice", None)


def test_a_dot_in_a_name_is_refused_as_it_parts_keys():
    with pytest.raises(UsageError, match=r"objective my.loss \(.*\) has a dot in its name, .*: name it my_loss"):
        check_entry("my.loss", objective())


class Literally(Objective):
    """An objective of a user's own with options of text and numbers."""

    class Options(Options):
        centre: Literal["mean", "median"] = "mean"
        delta: float = pydantic.Field(1.0, gt=0)
        kernels: tuple[str, ...] = ()

    def __init__(self, centre="mean", delta=1.0, kernels=()):
        super().__init__()
        self.centre = centre

    def per_sample(self, student, teacher, batch):
        return student.logits.mean(1)


def test_arguments_in_python_are_checked_as_in_a_config():
    with pytest.raises(UsageError, match=r"Literally\(centre='men'\): input should be 'mean' or 'median'"):
        Literally(centre="men")
    with pytest.raises(UsageError, match=r"Literally\(delta=-1\): input should be greater than 0"):
        Literally(delta=-1)
    with pytest.raises(TypeError, match="Literally: got an unexpected keyword argument 'dleta': did you mean delta"):
        Literally(dleta=1)
    assert Literally(centre="median", kernels=["a", "b"]).centre == "median"
    assert callable(Literally(centre=len).centre) and Literally(centre=None).centre is None  # as its build may make it


def transfer_of(**objectives):
    networks = [build_network("resnet8", num_classes=4) for _ in range(2)]
    return Transfer(networks[:1], networks[1], objectives)


def batch_of_two():
    return {"rgb": torch.rand(2, 3, 16, 16), "index": torch.arange(2), "target": torch.arange(2)}


def initialised(**values):
    def init(self):
        Objective.__init__(self)
        for name, value in values.items():
            setattr(self, name, value)

    return init


def in_place(self, student, teacher, batch):
    logits = teacher.logits
    logits -= 1
    return (student.logits - logits).square().mean(1)


def in_place_of_student(self, student, teacher, batch):
    return student.logits.mul_(2).mean(1)


def in_place_of_batch(self, student, teacher, batch):
    batch["target"] += 1
    return student.logits.mean(1)


def made_late(self, student, teacher, batch):
    if not hasattr(self, "map"):
        self.map = nn.Linear(4, 4)
    return self.map(student.logits).mean(1)


def hidden_late(self, student, teacher, batch):
    self.maps = {"a": nn.Linear(4, 4)}
    return self.maps["a"](student.logits).mean(1)


def backward_itself(self, student, teacher, batch):
    loss = student.logits.square().mean(1)
    loss.sum().backward(retain_graph=True)
    return loss


def test_a_gradient_of_a_pass_before_is_no_call_of_backward():
    def with_gradient(self, student, teacher, batch):
        loss = student.logits.square().mean(1)
        (slope,) = torch.autograd.grad(loss.sum(), student.logits, create_graph=True)
        return loss + slope.square().mean(1)

    transfer = transfer_of(mine=objective(per_sample=with_gradient)())
    transfer.student(batch_of_two()).logits.sum().backward()
    transfer(batch_of_two()).loss.backward()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (in_place, "changes the teacher's logits in place, .*write t = teacher.logits - …"),
        (in_place_of_student, "changes the student's logits in place, .*write t = student.logits - …"),
        (in_place_of_batch, "changes the batch's target in place"),
        (made_late, "makes map.weight in its first step, .*make it in __init__"),
        (hidden_late, "makes maps in its first step, .*make it in __init__"),
        (backward_itself, r"calls backward\(\) itself, .* count twice: return the loss alone"),
    ],
)
@pytest.mark.parametrize("stage", ["forward", "initial"])
def test_what_the_first_step_alone_shows_is_refused(loss, message, stage):
    transfer = transfer_of(mine=objective(per_sample=loss, initial_epochs=1)())
    outputs = [transfer.teachers[0](batch_of_two()), transfer.student(batch_of_two())]
    run = getattr(transfer.terms["mine"], stage)
    with pytest.raises(UsageError, match=rf"objective mine \(.*Mine\) {message}"):
        run(outputs[1], outputs[:1], batch_of_two())


def test_a_prediction_that_the_first_step_changes_is_refused():
    def changed(self, student, teacher, batch):
        return student.prediction.mul_(2).mean((1, 2, 3))

    transfer = transfer_of(mine=objective(per_sample=changed, needs=frozenset({"prediction"}))())
    outputs = [Representation(prediction=torch.rand(2, 3, 4, 4, requires_grad=True) * 1) for _ in range(2)]
    with pytest.raises(UsageError, match="changes the student's prediction in place"):
        transfer.terms["mine"](outputs[1], outputs[:1], batch_of_two())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"maps": [nn.Linear(2, 2)]}, "weights in maps that never train, .*use nn.ModuleList"),
        ({"maps": {"a": (nn.Linear(2, 2),)}}, "weights in maps that never train, .*use nn.ModuleList"),
        ({"t": torch.zeros((), requires_grad=True)}, "weights in t that never train, .*: make it an nn.Parameter"),
        ({"map": nn.LazyLinear(4)}, "has map.weight of a lazy module, .*give its size"),
    ],
)
def test_weights_that_never_train_are_refused(body, message):
    with pytest.raises(UsageError, match=rf"objective mine \(.*Mine\) (has )?{message}"):
        transfer_of(mine=objective(__init__=initialised(**body))())


def test_weights_that_are_frozen_or_train_elsewhere_may_be_in_a_list():
    networks = [build_network("resnet8", num_classes=4) for _ in range(2)]
    layer = nn.Linear(4, 4)
    values = {"layer": layer, "list": [layer], "head": [networks[1]], "frozen": [nn.Linear(2, 2).requires_grad_(False)]}
    mine = objective(__init__=initialised(**values), per_sample=lambda self, s, t, b: self.list[0](s.logits).mean(1))
    Transfer(networks[:1], networks[1], {"mine": mine()})(batch_of_two()).loss.backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(("detached", "lines"), [(True, 1), (False, 0)])
def test_a_loss_that_reaches_its_own_weights_alone_has_a_line(caplog, detached, lines):
    def loss(self, student, teacher, batch):
        logits = student.logits.detach() if detached else student.logits
        return (self.factor * logits - teacher.logits).square().mean(1)

    note_once.cache_clear()
    mine = objective(__init__=initialised(factor=nn.Parameter(torch.ones(()))), per_sample=loss)
    transfer = transfer_of(mine=mine())
    for _ in range(2):
        transfer(batch_of_two())
    assert caplog.text.count("reaches none of the student's outputs by its gradient") == lines


def test_a_rule_that_weighs_samples_says_that_it_leaves_forward_out(caplog):
    note_once.cache_clear()
    both = objective(forward=lambda self, s, t, b: s.logits.sum())
    networks = [build_network("resnet8", num_classes=4) for _ in range(3)]
    for rule, lines in ((Sum(), 0), (Entropy(), 1)):
        Transfer(networks[:2], networks[2], {"mine": Term([both(), both()], rule=rule)})(batch_of_two())
        assert caplog.text.count("defines forward and per_sample, and the rule Entropy weighs samples") == lines


def raising(code):
    return lambda self, student, teacher, batch: eval(code)


@pytest.mark.parametrize(
    ("needs", "loss", "message"),
    [
        ("logits", raising("student.embedding.sum(1)"), "NoneType.*only what its needs name is computed: logits$"),
        ("logits", raising("batch['label']"), "KeyError: 'label' .*; the batch has rgb, index, target$"),
        ("logits", raising("self.log['x']"), "'log' .*; values for metrics.jsonl are kept in self.logs$"),
        ("logits", raising("1 / 0"), r"division by zero .*; it is called as \(student, teacher, batch\)$"),
        ("maps", raising("student.maps - teacher.maps"), "; maps are a tuple of tensors, one of each layer"),
        ("maps", raising("student.maps[9]"), "IndexError: .*; maps are a tuple of tensors, one of each layer"),
    ],
)
def test_errors_in_a_loss_name_it_and_what_they_are_about(needs, loss, message):
    transfer = transfer_of(mine=objective(per_sample=loss, needs={needs})())
    with pytest.raises(ContrastillError, match=rf"^objective mine \(.*Mine\) fails: .*{message}"):
        transfer(batch_of_two())


def test_teachers_of_prepare_are_a_list():
    term = Term(objective(prepare=lambda self, teachers: teachers.sample({"logits"}))())
    with pytest.raises(
        ContrastillError, match=r"called as \(teachers\); teachers is a list, also of one: teachers\[0\]"
    ):
        term.prepare([None])


def test_parts_of_teacher_outputs_may_be_one_text():
    assert check_parts("logits") == ("logits",) and check_parts({"maps"}) == {"maps"}
    with pytest.raises(UsageError, match="part of a representation 'embeding' does not exist: did you mean embedding"):
        check_parts("embeding")


def test_unknown_keys_of_options_that_are_a_plain_model_are_refused():
    plain = pydantic.create_model("Options", power=(float, 2.0))
    with pytest.raises(UsageError, match="objectives.mine.powr is not a key of the config: did you mean power"):
        checked(plain, {"powr": 3.0}, "objectives.mine.", ObjectiveConfig)
    assert checked(plain, {"power": 3.0}, "objectives.mine.", ObjectiveConfig).power == 3.0


def test_a_term_whose_key_torch_cannot_hold_is_refused():
    networks = [build_network("resnet8", num_classes=4) for _ in range(2)]
    for name in ("my.loss", "half"):
        with pytest.raises(UsageError, match=f"cannot be called '{name}': give it another key"):
            Transfer(networks[:1], networks[1], {name: objective()()})


def test_outputs_alone_are_compared_as_before():
    loss = objective()()(Representation(logits=torch.ones(2, 3)), Representation(logits=torch.ones(2, 3)), {})
    assert loss == 1
