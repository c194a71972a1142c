"""A user's own module in the place of a builder: where its representation is, its preprocessing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.weight_norm import WeightNorm

from ..core.errors import UsageError
from ..core.outputs import part_of
from ..core.representation import Preprocess, Taps
from ..core.tapping import OUTPUT, call, image_side, is_part, read_tap
from .library import Trace
from .module_outputs import check_rows, output_paths, prediction_tap, traced, training_path
from .timm_adapter import classifiers_of, is_of_timm, taps_of
from .transformers_taps import check_input, is_of_transformers, taps_of_transformers
from .wrappers import refuse_empty


class _Role(Enum):
    """What a linear layer makes of the output."""

    ALL = "all of it"
    PART = "a term of it, beside other classifiers"
    INSIDE = "an inner value, as of a gate"


class UserModule:
    """The builder of an existing module: returns copies of it on the CPU.

    Args:
        module: Takes images (B, C, H, W) and returns logits (B, num_logits), or a dict, dataclass or tuple with them.
        taps: Where its representation is. Those not set are measured by a few forward passes: the embedding is the
            input of the last linear layer that all of the output goes through, or without one, as in a backbone, the
            output (B, D) or (B, D, 1, 1) itself, unless it is as long as the data has classes; the maps are for each
            size of feature map the last module that gives it. Of timm's networks both are what timm's own methods give.
            A module that returns (B, C, H, W), and of which no embedding is named, answers for each position: that is
            its prediction.
        preprocess: Its normalisation.
        shape: (C, H, W) of an image as the module takes it.
        classes: Names of its logits, where they are known.
        data_classes: Number of classes of the data, where it has any.
        trained_for: What its training says of it, see
            :func:`~.module_facts.module_training`.

    Attributes:
        shape, trained_for: As given.
        num_logits: Outputs of that layer, or D; of a prediction its channels; None where the output is neither.
        dense: Whether it answers for each position.
        classifiers: The name of that layer.

    Raises:
        UsageError: The module cannot be copied, fails on such an image, or returns several tensors of which none is
            clearly its logits or embedding, while ``taps`` do not say where they are, or name both logits and a
            prediction.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Taps,
        preprocess: Preprocess,
        shape: tuple[int, int, int],
        classes: Sequence[str] | None = None,
        data_classes: int | None = None,
        trained_for: Mapping[str, Any] | None = None,
    ) -> None:
        self.module, self.preprocess, self.classes, self._data_classes = module, preprocess, classes, data_classes
        self.shape, self.trained_for = shape, dict(trained_for or {})
        if any(is_lazy(value) for value in (*module.parameters(), *module.buffers())):
            raise UsageError(
                f"{type(module).__name__} has layers without a size yet (as nn.LazyLinear): show it an image "
                "before it is passed"
            )
        refuse_empty(module)
        check_input(module)
        if taps.prediction is not None and taps.logits is not None:
            raise UsageError(
                f"taps of {type(module).__name__} name logits ({taps.logits}) and a prediction ({taps.prediction}), "
                "and a network answers for the sample or for each position: leave out the one that is not learnt or "
                "taught"
            )
        self.classifiers: tuple[str, ...] = ()
        self.num_logits: int | None = None
        self.dense = False
        self._part = taps.logits.removeprefix(OUTPUT) if taps.logits is not None and is_part(taps.logits) else None
        trace = self._trace(shape)
        if isinstance(trace.output, Tensor) and trace.output.ndim == 0 and taps.logits is None:
            raise UsageError(
                f"{type(module).__name__} returns a single number, such as a loss or a mean, and logits are (B, C): "
                "let its forward return them, or tap the module that gives them"
            )
        if taps == Taps():
            check_rows(module, trace)
        prediction = taps.prediction
        if prediction is None and taps.embedding is None and taps.logits is None:
            prediction = prediction_tap(trace.output)
        if prediction is not None:
            self._answer_for_each_position(replace(taps, prediction=prediction), trace, shape)
            return
        if is_of_transformers(module):
            own, self.classifiers, self.num_logits = taps_of_transformers(self(), trace, shape)
            self.taps = Taps(taps.embedding or own.embedding, taps.maps or own.maps, taps.logits or own.logits)
            return
        if not isinstance(trace.output, Tensor) and taps.logits is None:
            self._part, part = output_paths(module, trace, data_classes, unclear=taps.embedding is not None)
            pooled = taps.embedding or (None if part is None else f"{OUTPUT}{part}")
            taps = Taps(pooled if self._part is None else taps.embedding, taps.maps, taps.logits)
        else:
            pooled = taps.embedding
            if self._part is None and taps.logits is None:
                self._part = training_path(self(), trace.output, shape)
        if self._part is not None:
            taps = Taps(taps.embedding, taps.maps, f"{OUTPUT}{self._part}")
            trace = self._trace(shape)
            check_rows(module, trace)
        output = trace.output
        if not isinstance(output, Tensor):
            self.taps = Taps(taps.embedding, taps.maps or trace.all_maps(), taps.logits)
            return
        if is_of_timm(module):
            self.classifiers = classifiers_of(module)
            own = taps_of(self(), self.classifiers, shape)
            embedding, maps = own.embedding, own.maps
        else:
            embedding, maps = self._embedding(trace) or pooled, trace.all_maps()
        last = module.get_submodule(self.classifiers[-1]) if self.classifiers else None
        if output.ndim == 2:
            self.num_logits = output.shape[1]
            # A convolution or a fixed projection makes the logits of what it gives: its rows are no classes.
            if isinstance(last, nn.Linear) and last.out_features != self.num_logits:
                self.classifiers = ()
        elif isinstance(last, nn.Linear):
            self.num_logits = last.out_features
        if taps.logits is not None and not is_part(taps.logits):
            images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad(), torch.random.fork_rng():
                self.num_logits = read_tap(self().eval(), taps.logits, images).shape[-1]
        self.taps = Taps(taps.embedding or embedding, taps.maps or maps, taps.logits)

    def _answer_for_each_position(self, taps: Taps, trace: Trace, shape: tuple[int, int, int]) -> None:
        own = taps
        if is_of_transformers(self.module):
            own = taps_of_transformers(self(), trace, shape)[0]
        prediction = None
        if (taps.prediction or "").startswith(OUTPUT):
            path = (taps.prediction or "").removeprefix(OUTPUT)
            prediction = part_of(trace.output, path, type(self.module).__name__) if path else trace.output
            self.num_logits = prediction.shape[1]
        maps = taps.maps or own.maps or trace.all_maps(prediction)
        self.taps = replace(taps, embedding=taps.embedding or own.embedding, maps=maps)
        self.dense = True

    def _trace(self, shape: tuple[int, int, int]) -> Trace:
        try:
            return traced(self(), shape, self._part)
        except UsageError:
            raise
        except Exception as error:  # a user's own code may raise anything
            raise _failing(self.module, shape, error) from error

    def _embedding(self, trace: Trace) -> str | None:
        """The input of the layer that makes the logits, which becomes the classifier, or what a module without one
        returns; None where that is unclear.
        """
        linear = {name for name, inner in self.module.named_modules() if isinstance(inner, nn.Linear)}
        ran = sorted(
            (name for name in linear if name in trace.seen and trace.seen[name].gives_input),
            key=lambda name: trace.seen[name].order,
        )
        # From the end: an auxiliary layer, or one that scales the logits, may run after the classifier.
        pooled_inputs = [name for name in ran if (inputs := trace.seen[name].inputs) is not None and inputs.ndim == 2]
        for name in reversed(pooled_inputs):
            role = _role(self(), name, trace, self._part)
            if role == _Role.ALL:
                self.classifiers = (name,)
                return trace.embedding([name])
            if role == _Role.PART:
                return None
        if self._part is not None:
            return None
        # An output as long as the data has classes is logits that something other than a linear layer makes.
        pooled = trace.output.ndim == 2 or trace.output.ndim == 4 and trace.output.shape[2:] == (1, 1)
        if not pooled or trace.output.shape[1] == self._data_classes or _ends_in_convolution(self(), trace.shape):
            return None
        return OUTPUT

    def __call__(self, num_classes: int | None = None, in_chans: int = 3) -> nn.Module:
        try:
            return copy.deepcopy(self.module).cpu()
        except RuntimeError as error:
            raise UsageError(
                f"{type(self.module).__name__} cannot be copied, and a training leaves what it is given as it "
                f"was: {_computed_weights(self.module) or error}"
            ) from error


def _computed_weights(module: nn.Module) -> str:
    """What to do where torch's pruning or its former weight norm compute weights of a module; nothing where they do
    not.
    """
    for name, part in module.named_modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                return (
                    f"torch.nn.utils.weight_norm computes {hook.name} of {name or 'it'} anew in each pass: take "
                    "torch.nn.utils.parametrizations.weight_norm in its place, or keep the weights as they are with "
                    f"torch.nn.utils.remove_weight_norm(module.get_submodule({name!r}), {hook.name!r})"
                )
            if isinstance(hook, prune.BasePruningMethod):
                weight, place = hook._tensor_name, f"module.get_submodule({name!r})" if name else "module"
                return (
                    f"torch.nn.utils.prune computes {weight} of {name or 'it'} anew in each pass: keep what is left "
                    f"for good with prune.remove({place}, {weight!r}), and so of each pruned layer"
                )
    return ""


def _role(module: nn.Module, name: str, trace: Trace, part: str | None) -> _Role:
    """What a layer makes of the output: seen in what becomes of two images where it says the same of both, and where
    the same is added to both.
    """
    if trace.seen[name].output is trace.output:
        return _Role.ALL
    layer, shape = module.get_submodule(name), trace.shape
    plain, same, shifted = (
        _output(module, shape, part, layer, change)
        for change in (None, lambda out: out[:1].expand_as(out), lambda out: out + 1)
    )
    if bool(plain.isnan().any()):
        raise UsageError(
            f"{type(module).__name__} returns NaN for images {shape} (channels, height, width): look at its weights, "
            "and at what its forward divides by"
        )
    # A class that is masked by −∞ says nothing of the layer.
    finite = plain.isfinite()
    plain, same, shifted = (torch.where(finite, values, 0.0) for values in (plain, same, shifted))
    if torch.allclose(same[0], same[1], rtol=1e-4, atol=1e-6) and not torch.allclose(
        plain[0], plain[1], rtol=1e-4, atol=1e-6
    ):
        return _Role.ALL
    differences = shifted - plain
    equal = torch.allclose(differences[0], differences[1], rtol=1e-3, atol=1e-4 * float(differences.abs().max()))
    return _Role.PART if equal and bool(differences.abs().max() > 0) else _Role.INSIDE


def _ends_in_convolution(module: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether the output is the mean over places of what a convolution gives, as that of a classifier without a linear
    layer.
    """
    last: list[Tensor] = []

    def keep(_: nn.Module, args: tuple, output: Tensor) -> None:
        last.append(output)

    def drop(_: nn.Module, args: tuple) -> None:
        # An untrained BatchNorm returns nearly its input.
        last[:] = [value for value in last if not any(value is arg for arg in args)]

    handles = [inner.register_forward_hook(keep) for inner in module.modules() if isinstance(inner, nn.Conv2d)]
    handles += [
        inner.register_forward_pre_hook(drop)
        for inner in module.modules()
        if isinstance(inner, nn.modules.batchnorm._BatchNorm)
    ]
    output = _output(module, shape).flatten(1)
    for handle in handles:
        handle.remove()
    means = (value.mean(dim=(2, 3)) for map_ in last if map_.ndim == 4 for value in (map_, map_.relu()))
    # An untrained network's outputs may be tiny.
    close = 1e-5 * float(output.abs().max())
    return any(mean.shape == output.shape and torch.allclose(mean, output, rtol=1e-4, atol=close) for mean in means)


def _output(
    module: nn.Module,
    shape: tuple[int, int, int],
    part: str | None = None,
    layer: nn.Module | None = None,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What a module returns of two images, with a layer's output changed."""
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    handle = (
        layer.register_forward_hook(lambda _, args, output: change(output))
        if layer is not None and change is not None
        else None
    )
    try:
        with torch.no_grad(), torch.random.fork_rng():
            output = call(module.eval(), images)
            return output if part is None else part_of(output, part, type(module).__name__)
    except Exception as error:
        raise _failing(module, shape, error) from error
    finally:
        if handle is not None:
            handle.remove()


def _failing(module: nn.Module, shape: tuple[int, int, int], error: Exception) -> UsageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return UsageError(
            f"{type(module).__name__} is a module of torch.jit, whose parts cannot be read: hand over the module that "
            "it was made from, with its weights: module.load_state_dict(scripted.state_dict())"
        )
    if "ScriptModule" in reason:
        parts = [name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
        return UsageError(
            f"{type(module).__name__} has a part of torch.jit, {parts[0] if parts else '…'}, whose layers cannot be "
            "read: put the module that it was made from in its place, with its weights"
        )
    size = image_side(getattr(module, "config", None))
    way = f"; its config is of images of {size}, which resolution={size} gives it" if size else ""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is not None and first.in_channels != shape[0]:
        way = f"; its first convolution takes {first.in_channels}: return tensors of as many channels"
        way += ", or let it read one of rgb, modality='grey' in a dict of it" if first.in_channels == 1 else ""
    if "Inference tensor" in reason:
        way = "; take torch.inference_mode() off its forward, as no loss takes what it returns"
    return UsageError(
        f"{type(module).__name__} fails on images {shape} (channels, height, width) of this data: {reason}{way}"
    )
