"""Optimisers of timm, parameter groups, frozen parts and clipping."""

import math

import pytest
import torch
from accelerate import Accelerator
from timm.optim import list_optimizers, param_groups_layer_decay
from torch import nn

import contrastill
from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import UsageError
from contrastill.core.transfer import Transfer
from contrastill.models.build import build_network
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.training.checkpoint import _join_tensors, _split_tensors
from contrastill.training.freezing import freeze_modules
from contrastill.training.optimizer import Clipping, match_memory, new_optimizer, parameter_groups, rate_notes


def transfer(name="resnet8"):
    torch.manual_seed(0)
    return Transfer([], build_network(name, num_classes=4), {"cross_entropy": CrossEntropy()})


def step(network, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.rand(parameter.shape, generator=generator) - 0.5
    torch.manual_seed(seed)
    optimizer.step()


@pytest.mark.parametrize("name", list_optimizers(exclude_filters=["fused*", "bnb*", "kron*"]))
def test_each_of_timms_optimisers_goes_on_from_a_checkpoint_to_the_same_bits_or_is_refused(name):
    config = TrainConfig(optimizer=f"timm/{name}", lr=1e-3)
    network = transfer()
    try:
        optimizer = new_optimizer(network, config)
    except UsageError as error:
        assert name == "adahessian" and "second derivatives" in str(error)
        return
    for seed in range(3):
        step(network, optimizer, seed)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    tensors, rest = _split_tensors(optimizer.state_dict())
    tensors = {key: value.clone() for key, value in tensors.items()}
    step(network, optimizer, 3)
    other = transfer()
    resumed = new_optimizer(other, config)
    other.load_state_dict(weights)
    import json

    resumed.load_state_dict(_join_tensors(json.loads(json.dumps(rest)), tensors))
    step(other, resumed, 3)
    assert any(not torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_layers_have_the_rates_that_timm_gives_them():
    network = transfer("timm/vit_tiny_patch16_224")
    config = TrainConfig(layer_decay=0.7, decay_biases=False, weight_decay=0.1)
    own = {
        id(parameter): (group["weight_decay"], round(group.get("lr_scale", 1.0), 9))
        for group in parameter_groups(network, config)
        for parameter in group["params"]
    }
    module = network.student.module
    groups = param_groups_layer_decay(
        module, weight_decay=0.1, layer_decay=0.7, no_weight_decay_list=module.no_weight_decay()
    )
    expected = {
        id(parameter): (group["weight_decay"], round(group["lr_scale"], 9))
        for group in groups
        for parameter in group["params"]
    }
    assert own == expected and len({scale for _, scale in own.values()}) == 14


def test_a_network_without_timms_groups_has_layers_by_its_parameters_and_its_classifier_the_whole_rate():
    network = transfer("resnet14")
    (head,) = [group for group in parameter_groups(network, TrainConfig(layer_decay=0.5)) if "lr_scale" not in group]
    assert {id(parameter) for parameter in head["params"]} == {id(p) for p in network.student.module.fc.parameters()}


def test_backbone_has_a_rate_of_its_own():
    network = transfer()
    groups = parameter_groups(network, TrainConfig(backbone_lr=0.1, decay_biases=False))
    scales = {id(p): group.get("lr_scale", 1.0) for group in groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in network.student.module.named_parameters():
        assert scales[id(parameter)] == (1.0 if name.startswith("fc.") else 0.1), name
        assert decays[id(parameter)] == (0.0 if parameter.ndim == 1 else 5e-4), name


def test_frozen_modules_neither_train_nor_count_their_batches():
    student = build_network("resnet8", num_classes=4)
    freeze_modules(student, ("layer1",))
    student.train()
    before = {name: value.clone() for name, value in student.module.state_dict().items()}
    student(torch.rand(4, 3, 16, 16)).logits.sum().backward()
    frozen = {name for name, value in student.module.named_parameters() if value.grad is None}
    moved = {name for name, value in student.module.state_dict().items() if not torch.equal(value, before[name])}
    assert frozen and all(name.startswith("layer1.") for name in frozen)
    assert moved and not any(name.startswith("layer1.") for name in moved)
    freeze_modules(student, ("backbone",))
    student.train()
    assert {name for name, value in student.module.named_parameters() if value.requires_grad} == {
        "fc.weight",
        "fc.bias",
    }
    with pytest.raises(UsageError, match="layer7"):
        freeze_modules(student, ("layer7",))


@pytest.mark.parametrize(("options", "largest"), [({"clip_norm": 0.5}, None), ({"clip_value": 0.25}, 0.25), ({}, None)])
def test_clipping_is_torchs(options, largest):
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.3, -1.2, 0.4])
    measured = Clipping(TrainConfig(**options), Accelerator(cpu=True), unscaled=False)([parameter])
    if "clip_norm" in options:
        assert measured["gradient_norm"].item() == pytest.approx(1.3)
        assert parameter.grad.tolist() == pytest.approx([value * 0.5 / 1.3 for value in (0.3, -1.2, 0.4)], rel=1e-5)
    else:
        assert measured == {}
        assert parameter.grad.abs().max().item() == pytest.approx(largest or 1.2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "lamb"}, "such as timm/lamb"),
        ({"optimizer": "timm/lambda"}, "timm has no such optimiser"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "take one"),
    ],
)
def test_settings_that_do_not_fit_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_a_single_module_is_frozen_by_its_name():
    assert TrainConfig(freeze="layer1") == TrainConfig(freeze=["layer1"])


def test_options_that_an_optimiser_does_not_take_are_named():
    with pytest.raises(UsageError, match="train.optimizer_options"):
        new_optimizer(transfer(), TrainConfig(optimizer_options={"betas": [0.9, 0.99]}))
    optimizer = new_optimizer(transfer(), TrainConfig(optimizer="adamw", optimizer_options={"betas": [0.9, 0.95]}))
    assert math.isclose(optimizer.param_groups[0]["betas"][1], 0.95)


@pytest.mark.parametrize(
    ("optimizer", "option", "hint"),
    [
        ("sgd", "betas", "there are dampening, "),
        ("adamw", "Betas", r"did you mean betas"),
        ("adamw", "params", "there are amsgrad, betas"),
        ("timm/momentum", "betas", "there are dampening, "),  # timm passes over it
        ("timm/lamb", "max_norm", r"did you mean max_grad_norm"),
        ("timm/adamw", "opt", "there are amsgrad, betas"),
    ],
)
def test_options_of_unknown_names_are_named_with_the_optimiser(optimizer, option, hint):
    with pytest.raises(
        UsageError, match=rf"optimizer_options has {option}, which train.optimizer={optimizer} does not take: {hint}"
    ):
        new_optimizer(transfer(), TrainConfig(optimizer=optimizer, optimizer_options={option: [0.9, 0.99]}))


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        ("sgd", {"maximize": True}, "maximize=True, by which the training would raise its loss"),
        ("adamw", {"maximize": 1}, "maximize=1, and train.optimizer=adamw takes true or false there"),
        ("adamw", {"eps": True}, "eps=True, and train.optimizer=adamw takes a number there, such as 1e-08"),
        ("timm/lamb", {"bias_correction": 1}, "bias_correction=1, and train.optimizer=timm/lamb takes true or false"),
    ],
)
def test_options_that_turn_a_training_round_or_are_of_another_kind_are_refused(optimizer, options, message):
    with pytest.raises(UsageError, match=message):
        new_optimizer(transfer(), TrainConfig(optimizer=optimizer, optimizer_options=options))


@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum", "layer_decay", "filter_bias_and_bn"])
def test_options_that_have_keys_of_their_own_are_refused(name):
    with pytest.raises(UsageError, match=f"train.optimizer_options has {name}, which is a key of its own"):
        new_optimizer(transfer(), TrainConfig(optimizer_options={name: 0.5}))


def test_a_restored_state_lies_in_memory_as_its_weights_do():
    network = transfer()
    network.to(memory_format=torch.channels_last)
    optimizer = new_optimizer(network, TrainConfig())
    step(network, optimizer, 0)
    tensors, rest = _split_tensors(optimizer.state_dict())
    optimizer.load_state_dict(_join_tensors(rest, {key: value.contiguous() for key, value in tensors.items()}))
    match_memory(optimizer)
    for parameter, state in optimizer.state.items():
        assert state["momentum_buffer"].stride() == parameter.stride()
        assert state["momentum_buffer"].abs().sum() > 0


def test_a_list_of_weights_without_decay_will_do():
    network = transfer()
    network.student.module.no_weight_decay = ["conv1.weight"]
    groups = parameter_groups(network, TrainConfig(decay_biases=False))
    undecayed = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert id(network.student.module.conv1.weight) in undecayed


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.pool = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, images):
        return self.fc(self.pool(self.norm(self.stem(images)).relu()).flatten(1))


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, images):
        return self.fc(images.mean((2, 3)))


def announced(student, tmp_path, capsys, objectives=("cross_entropy",), teacher=None, **settings):
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.TensorDataset(images, torch.arange(16) % 4)
    result = contrastill.distill(
        teacher,
        student,
        (data, data),
        out=tmp_path / "run",
        epochs=1,
        batch_size=8,
        objectives=list(objectives),
        **settings,
    )
    assert result.metrics["loss"] > 0
    return " ".join(capsys.readouterr().err.split())


def test_the_layers_of_a_module_without_groups_are_told(tmp_path, capsys):
    line = announced(Small(), tmp_path, capsys, layer_decay=0.5)
    assert (
        "train.layer_decay: Small has no group_matcher, so 12 parameters in a row are a layer: stem … norm 0, fc 1; "
        "the last has the whole rate" in line
    )
    network = transfer("resnet14")
    (note,) = rate_notes(network, TrainConfig(layer_decay=0.5))
    assert "conv1 … bn1 0, layer1 0–1, layer2 1–2, layer3 2–3, fc 4;" in note
    assert rate_notes(transfer("timm/vit_tiny_patch16_224"), TrainConfig(layer_decay=0.5)) == []


def test_frozen_modules_without_weights_are_told(tmp_path, capsys):
    line = announced(Small(), tmp_path, capsys, freeze=["pool", "norm"])
    assert "train.freeze: pool of Small has no weights, and is kept in eval mode alone" in line
    assert "norm of Small" not in line


def test_a_rate_of_the_backbone_that_all_has_is_told(tmp_path, capsys):
    line = announced(Small(), tmp_path, capsys, ["fresh_crd"], Small(), backbone_lr=0.1)
    assert "all of Small that trains has the factor 0.1, as nothing trains its classifier fc" in line
    (note,) = rate_notes(transfer("resnet14"), TrainConfig(backbone_lr=0.01, lr=0.2))
    assert note == "train.backbone_lr: all of CifarResNet but its classifier fc trains at 0.002, 0.01 times train.lr"


@pytest.mark.parametrize(
    ("student", "settings", "message"),
    [
        (
            Linear,
            {"layer_decay": 0.5},
            "train.layer_decay=0.5 changes no rate: all of Linear that trains is of its last",
        ),
        (Small, {"layer_decay": 1.0}, "train.layer_decay=1 changes no rate, as all layers .* 1: leave it out, or"),
        (Linear, {"backbone_lr": 0.1}, "train.backbone_lr=0.1 changes no rate: nothing of Linear trains but its .* fc"),
        (
            Small,
            {"backbone_lr": 0.1, "freeze": ["backbone"]},
            "nothing of Small trains but its classifier fc; leave it",
        ),
        (Small, {"layer_decay": 0.1, "freeze": ["stem", "norm"]}, "all of Small that trains is of its last layer"),
        (
            Small,
            {"freeze": ["stem", "norm", "fc"]},
            r"no parameter that trains \(train.freeze=\['stem', 'norm', 'fc'\]",
        ),
    ],
)
def test_rates_that_change_nothing_are_refused(student, settings, message, tmp_path, capsys):
    with pytest.raises(UsageError, match=message):
        announced(student(), tmp_path, capsys, **settings)
