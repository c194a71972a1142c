"""The optimiser of a training: its parameter groups, and what is done to a gradient before a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..core.config.schema import TrainConfig
from ..core.errors import UsageError, nearest
from ..core.representation import Network
from ..core.transfer import Transfer
from ..models.build import classifier_names

_PARAMETERS_PER_LAYER = 12
"""Of a student that does not name its layers; timm's default."""

LR_SCALE = "lr_scale"
"""Key of a parameter group: its factor of the learning rate; 1 where it is missing."""


_KEYS = {
    **{name: f"train.{name}" for name in ("lr", "weight_decay", "momentum", "nesterov", "layer_decay")},
    "filter_bias_and_bn": "train.decay_biases=false",
    "param_group_fn": "train.layer_decay or train.backbone_lr",
}
"""Arguments of optimisers that a config has keys for, or that would be passed over."""


def new_optimizer(transfer: Transfer, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of student and heads.

    Args:
        transfer: What is trained.
        config: ``optimizer``, its options, rate and weight decay.

    Raises:
        UsageError: The optimiser does not take its options, or needs what the training loop does not give.
    """
    groups, options = parameter_groups(transfer, config), dict(config.optimizer_options)
    for name in options:
        if name in _KEYS:
            raise UsageError(f"train.optimizer_options has {name}, which is a key of its own: set {_KEYS[name]}")
    shared = {"lr": config.lr, "weight_decay": config.weight_decay}
    try:
        _check_options(config.optimizer, options)
        if config.optimizer == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, **{**shared, **options})
        elif config.optimizer == "sgd":
            momentum = {"momentum": config.momentum, "nesterov": config.nesterov}
            optimizer = torch.optim.SGD(groups, **{**shared, **momentum, **options})
        else:
            from timm.optim import create_optimizer_v2

            name = config.optimizer.removeprefix("timm/")
            optimizer = create_optimizer_v2(groups, opt=name, momentum=config.momentum, **{**shared, **options})
    except UsageError:
        raise
    except (TypeError, ValueError, LookupError, AssertionError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"train.optimizer={config.optimizer} does not take these settings ({reason}): change "
            "train.optimizer_options"
        ) from error
    if getattr(optimizer, "is_second_order", False):
        raise UsageError(
            f"train.optimizer={config.optimizer} needs second derivatives, which the training does not compute: "
            "choose another"
        )
    return optimizer


def _check_options(optimizer: str, options: Mapping[str, Any]) -> None:
    """Refuse options that an optimiser does not have, as timm passes over some of them; true where it has a number, and
    the reverse; and the one by which a training would raise its loss.
    """
    kind: Any = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}.get(optimizer)
    if kind is None:
        from timm.optim import get_optimizer_class

        kind = get_optimizer_class(optimizer.removeprefix("timm/"), bind_defaults=False)
    parameters = signature(kind).parameters
    known = {*parameters} - {"params", *_KEYS}
    unknown = [name for name in options if name not in known]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        hint = nearest(unknown[0], known, f"there are {', '.join(sorted(known))}")
        raise UsageError(
            f"train.optimizer_options has {unknown[0]}, which train.optimizer={optimizer} does not take: {hint}"
        )
    for name, value in options.items():
        default = parameters[name].default if name in parameters else None
        # True is a 1 for Python, and never meant as one.
        if isinstance(default, (bool, float, int)) and isinstance(value, bool) != isinstance(default, bool):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise UsageError(
                f"train.optimizer_options has {name}={value!r}, and train.optimizer={optimizer} takes {kind} there, "
                f"such as {default}"
            )
        if name == "maximize" and value:
            raise UsageError(
                "train.optimizer_options has maximize=True, by which the training would raise its loss: leave it out"
            )


def parameter_groups(transfer: Transfer, config: TrainConfig) -> list[dict[str, Any]]:
    """Student and heads by weight decay and learning rate: one group, as the paper has it, where nothing else is asked
    for.

    Raises:
        UsageError: ``layer_decay`` or ``backbone_lr`` for a student whose layers or classifier are not known, or where
            nothing of it that trains has another rate by that.
    """
    student = transfer.student
    scales = _layer_scales(student, config.layer_decay)
    names = [name for name, parameter in student.module.named_parameters() if parameter.requires_grad]
    if scales and config.layer_decay == 1.0:
        raise UsageError(
            "train.layer_decay=1 changes no rate, as all layers keep the factor 1: leave it out, or take one below 1"
        )
    if scales and names and all(scales[name] == 1.0 for name in names):
        raise UsageError(
            f"train.layer_decay={config.layer_decay:g} changes no rate: all of {type(student.module).__name__} that "
            "trains is of its last layer; leave it out"
        )
    if config.backbone_lr is not None:
        classifiers = require_classifiers(student, "train.backbone_lr")
        if names and all(_inside(name, classifiers) for name in names):
            raise UsageError(
                f"train.backbone_lr={config.backbone_lr:g} changes no rate: nothing of {type(student.module).__name__} "
                f"trains but its classifier {', '.join(classifiers)}; leave it out"
            )
        scales = {
            name: scales.get(name, 1.0) * (1.0 if _inside(name, classifiers) else config.backbone_lr)
            for name, _ in student.module.named_parameters()
        }
    undecayed = set() if config.decay_biases else _without_decay(student.module)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in _trained(transfer):
        decays = config.decay_biases or (parameter.ndim > 1 and name not in undecayed)
        key = (config.weight_decay if decays else 0.0, scales.get(name, 1.0))
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay} | ({} if scale == 1.0 else {LR_SCALE: scale})
        for (decay, scale), parameters in groups.items()
    ]


def match_memory(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimiser's state, as a checkpoint holds it, the layout in memory of its weights: sums over it, as norms
    are, then have the same bits as without a stop.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _without_decay(module: nn.Module) -> set[str]:
    """The weights that a network itself lists in ``no_weight_decay``, a method or a list."""
    names: Any = getattr(module, "no_weight_decay", ())
    return set(names() if callable(names) else names)


def _trained(transfer: Transfer) -> Iterator[tuple[str, nn.Parameter]]:
    """What trains, with the names that the student's own module gives its parameters."""
    names = {id(parameter): name for name, parameter in transfer.student.module.named_parameters()}
    for name, parameter in transfer.named_parameters():
        if parameter.requires_grad:
            yield names.get(id(parameter), name), parameter


def _layer_scales(student: Network, decay: float | None) -> Mapping[str, float]:
    """The factor of the rate of each of the student's parameters, by timm's grouping of its layers."""
    if decay is None:
        return {}
    layers = _layers(student)
    last = max(layers.values())
    return {name: decay ** (last - layers.get(name, last)) for name, _ in student.module.named_parameters()}


def _layers(student: Network) -> dict[str, int]:
    """The number of each parameter's layer, from the input on: as the module's ``group_matcher`` says, or so many
    parameters at a time.
    """
    from timm.models import group_parameters
    from timm.optim import auto_group_layers

    module: Any = student.module
    if hasattr(module, "group_matcher"):
        return group_parameters(module, module.group_matcher(coarse=False), reverse=True)
    named: Any = _Named(module, require_classifiers(student, "train.layer_decay"))
    return auto_group_layers(named, layers_per_group=_PARAMETERS_PER_LAYER)


def rate_notes(transfer: Transfer, config: TrainConfig) -> list[str]:
    """What ``layer_decay``, ``backbone_lr`` and ``freeze`` mean for this student where the config does not say it."""
    student, notes = transfer.student, []
    module, who = student.module, type(student.module).__name__
    if config.layer_decay is not None and not hasattr(module, "group_matcher"):
        notes.append(
            f"train.layer_decay: {who} has no group_matcher, so {_PARAMETERS_PER_LAYER} parameters in a row are a "
            f"layer: {_layers_in_words(_layers(student))}; the last has the whole rate"
        )
    if config.backbone_lr is not None:
        classifiers = classifier_names(student)
        trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        if trained and not any(_inside(name, classifiers) for name in trained):
            notes.append(
                f"train.backbone_lr: all of {who} that trains has the factor {config.backbone_lr:g}, as nothing trains "
                f"its classifier {', '.join(classifiers)}"
            )
        else:
            notes.append(
                f"train.backbone_lr: all of {who} but its classifier {', '.join(classifiers)} trains at "
                f"{config.backbone_lr * config.lr:g}, {config.backbone_lr:g} times train.lr"
            )
    modules = dict(module.named_modules())
    notes += [
        f"train.freeze: {name} of {who} has no weights, and is kept in eval mode alone"
        for name in config.freeze
        if name in modules and not any(True for _ in modules[name].parameters())
    ]
    return notes


def _layers_in_words(layers: Mapping[str, int]) -> str:
    """The layers of each child of a module, those of equal ones together.

    Example:
        >>> _layers_in_words({"stem.weight": 0, "norm.weight": 0, "body.0.weight": 0, "body.1.weight": 1, "fc.bias": 2})
        'stem … norm 0, body 0–1, fc 2'
    """
    children: dict[str, list[int]] = {}
    for name, layer in layers.items():
        children.setdefault(name.partition(".")[0], []).append(layer)
    parts: list[tuple[list[str], str]] = []
    for child, numbers in children.items():
        first, last = min(numbers), max(numbers)
        span = f"{first}" if first == last else f"{first}–{last}"
        if parts and parts[-1][1] == span:
            parts[-1][0].append(child)
        else:
            parts.append(([child], span))
    return ", ".join(f"{names[0]}{f' … {names[-1]}' if len(names) > 1 else ''} {span}" for names, span in parts)


class _Named:
    """A module with the name of its classifier where timm looks for it."""

    def __init__(self, module: nn.Module, classifiers: tuple[str, ...]) -> None:
        self.named_parameters = module.named_parameters
        self.pretrained_cfg = {"classifier": tuple(f"{name}." for name in classifiers)}


def require_classifiers(student: Network, key: str) -> tuple[str, ...]:
    """The student's classifiers, as its own module names them; a UsageError of ``key`` where they are not known."""
    if not (names := classifier_names(student)):
        raise UsageError(
            f"{key} needs to know the student's classifier, and {type(student.module).__name__} does not say which "
            "it is: name what the classifier reads, as student.embedding=input:MODULE"
        )
    return names


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


class Clipping:
    """``train.clip_norm`` and ``train.clip_value``: limits of the gradient of an optimiser step.

    Args:
        config: With one of the two, or neither.
        accelerator: Takes the factor of fp16 out of the gradient.
        unscaled: Whether that has been done already.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, *, unscaled: bool) -> None:
        self._norm, self._value, self._accelerator, self._unscaled = (
            config.clip_norm,
            config.clip_value,
            accelerator,
            unscaled,
        )

    def __call__(self, parameters: list[Tensor]) -> dict[str, Tensor]:
        """Clip the gradient; its norm before, by the name of its column in metrics.jsonl, where a norm is the limit."""
        if self._norm is None and self._value is None:
            return {}
        if not self._unscaled:
            self._accelerator.unscale_gradients()
        if self._norm is None:
            torch.nn.utils.clip_grad_value_(parameters, self._value or 0.0)
            return {}
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._norm)
        # That of a step which fp16's scaler leaves out is no number.
        return {"gradient_norm": torch.where(norm.isfinite(), norm, 0.0).detach()}
