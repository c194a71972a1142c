"""Reads logits, pooled embedding and feature maps off any module by name, in one forward, without editing it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import checked
from .errors import UsageError, required, unknown_name
from .input_values import as_batch, missing_modality
from .memory_order import MemoryOrder
from .preprocess import Preprocess
from .tapping import INTERMEDIATES, PRE_LOGITS, Tapping, hooked, module_of
from .token_grids import token_map

PARTS = ("logits", "embedding", "maps", "prediction")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Representation:
    """A network's outputs for a batch; parts that were not asked for are None, or empty.

    Attributes:
        logits: (B, C), what the network itself returns unless another module was tapped.
        embedding: (B, D), pooled, before the classifier.
        maps: Feature maps (B, C_i, H_i, W_i), in the order of the forward pass.
        prediction: (B, C, h, w), an answer for each position, at any stride: logits of C classes, or with C = 1 a
            quantity such as depth.
    """

    logits: Tensor | None = None
    embedding: Tensor | None = None
    maps: tuple[Tensor, ...] = ()
    prediction: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """All that are there: logits, embedding, maps, prediction."""
        values = (self.logits, self.embedding, *self.maps, self.prediction)
        return tuple(value for value in values if value is not None)

    def map(self, function: Callable[[Tensor], Tensor]) -> Representation:
        """With ``function`` applied to each tensor, in the order of :meth:`tensors`."""

        def mapped(value: Tensor | None) -> Tensor | None:
            return None if value is None else function(value)

        return Representation(
            mapped(self.logits), mapped(self.embedding), tuple(map(function, self.maps)), mapped(self.prediction)
        )

    def only(self, part: str) -> Representation:
        """One part out of ``PARTS`` alone."""
        return Representation(**{part: getattr(self, part)})

    def require_logits(self) -> Tensor:
        """The logits (B, C) that ``needs`` asked for; a UsageError where there are none."""
        return required(self.logits, "logits")

    def require_embedding(self) -> Tensor:
        """The embedding (B, D) that ``needs`` asked for; a UsageError where there is none."""
        return required(self.embedding, "embedding")

    def require_prediction(self) -> Tensor:
        """The prediction (B, C, h, w) that ``needs`` asked for; a UsageError where there is none."""
        return required(self.prediction, "prediction")


@checked
@dataclass(frozen=True)
class Taps:
    """Where in a module its representation is: names as in ``named_modules()``.

    ``"layer3"`` is that module's output, ``"input:fc"`` the first argument of module ``fc``, ``"nhwc:layers.1"`` the
    output of a module whose channels come last, (B, H, W, C), turned to (B, C, H, W). ``"output:"`` is what the network
    itself returns, ``"output:logits"`` a key, attribute or place (``"output:0"``) of it. Of a network with timm's
    methods ``"forward_intermediates:2"`` is the map of that index and ``"forward_head:pre_logits"`` the features before
    the classifier.

    Attributes:
        embedding: (B, D), or (B, D, H, W), which is averaged over H and W.
        maps: Modules whose outputs are (B, C_i, H_i, W_i), or a transformer's tokens (B, N, C): the last h·w of them,
            square patches in rows, become (B, C, h, w); class token and up to four registers before them are left out.
        logits: None is what the module itself returns, unless that is the prediction.
        prediction: Of a network that answers for each position, (B, C, h, w).
    """

    embedding: str | None = None
    maps: tuple[str, ...] = ()
    logits: str | None = None
    prediction: str | None = None

    @property
    def dense(self) -> bool:
        """Whether the network's own answer is for each position rather than for the sample."""
        return self.prediction is not None and self.logits is None

    def names(self, needs: Collection[str] = PARTS) -> list[str]:
        """The taps that give ``needs``, each once."""
        taps = {
            "logits": (self.logits,),
            "embedding": (self.embedding,),
            "maps": self.maps,
            "prediction": (self.prediction,),
        }
        return list(dict.fromkeys(name for part in PARTS if part in needs for name in taps[part] if name is not None))


def _single(value: Tensor) -> Tensor:
    """What autocast left in 16 bits, in float32."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


@checked
class Network(nn.Module):
    """Any module with its modality, its own preprocessing, and where its representation is.

    Args:
        module: Takes images (B, C, H, W). It is not changed: hooks are there during a forward pass only, so copies
            and wrappers of it work.
        taps: Where logits, embedding and maps are.
        preprocess: Normalisation and resolution of this network.
        modality: Key of the batch that it reads.

    Raises:
        UsageError: A tap names no module of it.

    Example:
        >>> module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> taps, preprocess = Taps(embedding="input:3", maps=("0",)), Preprocess((0.5,) * 3, (0.25,) * 3)
        >>> network = Network(module, taps=taps, preprocess=preprocess)
        >>> outputs = network({"rgb": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)})
        >>> outputs.logits.shape, outputs.embedding.shape, outputs.maps[0].shape
        (torch.Size([2, 10]), torch.Size([2, 8]), torch.Size([2, 8, 30, 30]))
    """

    def __init__(self, module: nn.Module, *, taps: Taps, preprocess: Preprocess, modality: str = "rgb") -> None:
        super().__init__()
        known = [name for name, _ in module.named_modules() if name]
        for method, name in (("forward_intermediates", INTERMEDIATES), ("forward_head", PRE_LOGITS)):
            if any(tap.startswith(name) for tap in taps.names()) and not hasattr(module, method):
                raise UsageError(f"{type(module).__name__} has no method {method}, which a tap reads: name a module")
        for name in taps.names():
            if name.startswith(INTERMEDIATES) and not name.removeprefix(INTERMEDIATES).isdigit():
                raise UsageError(f"the tap {name} has no index: name the map as {INTERMEDIATES}2")
        for name in hooked(taps.names()):
            if module_of(name) not in known:
                if hasattr(module, "_orig_mod"):
                    raise UsageError(
                        f"{name} is not seen in a compiled module: pass it as it is, and compile the Network"
                    )
                raise unknown_name(f"in {type(module).__name__}, the module", module_of(name), known)
        self.module = module
        self.taps = taps
        self.preprocess = replace(preprocess, colours=preprocess.colours and modality == "rgb")
        self.modality = modality
        self.classes: Tensor | None
        self.register_buffer("classes", None, persistent=False)
        self.recipe: dict[str, Any] = {}
        self._frozen = self._first_batch_stands = False
        self.frozen_modules: tuple[str, ...] = ()
        self.precision: torch.dtype | None = None
        self.order = MemoryOrder()

    def __call__(self, batch: Mapping[str, Tensor] | Tensor, needs: Collection[str] | None = None) -> Representation:
        batch = as_batch(batch, self.modality, self._name)
        # Around the call and not in forward, which torch.compile's wrapper takes the place of.
        if self.precision is None or self.modality not in batch:
            return super().__call__(batch, needs)
        lower = self.precision != torch.float32
        with torch.autocast(batch[self.modality].device.type, dtype=self.precision if lower else None, enabled=lower):
            outputs = super().__call__(batch, needs)
        # Who reads it computes in a precision of its own.
        return outputs.map(_single)

    def forward(self, batch: Mapping[str, Tensor], needs: Collection[str] | None = None) -> Representation:
        """Look at a batch once.

        Args:
            batch: Has this network's modality, (B, C, H, W).
            needs: Out of ``logits``, ``embedding``, ``maps``, ``prediction``; nothing else is kept. None is whatever
                is tapped.

        Raises:
            UsageError: The batch lacks the modality, ``needs`` asks for what is not tapped, or a tapped tensor has
                another shape than its part of a representation.
            ContrastillError: A tapped module did not run, ran twice, or its tensor was changed in place afterwards.
        """
        if self.modality not in batch:
            raise missing_modality(batch, self.modality, self._name)
        asked = self.parts(needs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            once = self.training or self._first_batch_stands
            images = self.order.of(self.preprocess(batch[self.modality], once=once, like=self.module))
            tapped, output = self.order.run(self.module, self.taps.names(asked), self._name, images)
            tapped.check()
            return self.read(asked, output, tapped, images, required=needs is not None)

    def read(
        self,
        asked: Collection[str],
        output: object,
        tapped: Mapping[str, Tensor] | Tapping,
        images: Tensor,
        *,
        required: bool,
    ) -> Representation:
        """The representation in what the module returned and its taps gave.

        Args:
            asked: Parts that are tapped, see :meth:`parts`.
            output: What the module returned.
            tapped: What each tap gave, by its name.
            images: What the module was given, (B, C, H, W).
            required: Whether logits that are none are an error.

        Raises:
            UsageError: A tapped tensor has another shape than its part of a representation.
        """
        outputs = Representation()
        if "logits" in asked:
            outputs.logits = self._logits(output, tapped, required)
        if "embedding" in asked:
            assert self.taps.embedding is not None, "parts() refuses what has no tap"
            outputs.embedding = self._embedding(tapped[self.taps.embedding])
        if "maps" in asked:
            outputs.maps = tuple(self._map(name, tapped[name], images) for name in self.taps.maps)
        if "prediction" in asked:
            assert self.taps.prediction is not None, "parts() refuses what has no tap"
            outputs.prediction = self._prediction(tapped[self.taps.prediction])
        if any(value.is_complex() for value in outputs.tensors()):
            raise UsageError(f"{self._name} returns complex numbers: let it return real ones, as .abs() or .real does")
        return outputs

    def map_classes(self, classes: Sequence[int]) -> Network:
        """Answer with the data's classes in the place of its own: class c by its own logit ``classes[c]``, or by
        that channel of its prediction; returns itself.

        Args:
            classes: (C,) places in its own logits.
        """
        self.classes = torch.as_tensor(classes, dtype=torch.int64)
        return self

    def freeze(self, *, check_every_batch: bool = False) -> Network:
        """Make it a teacher: in eval mode for good, without gradients, and, unless ``check_every_batch``, with a first
        batch that stands for all where values are compared with the scale of its training; returns itself.
        """
        self._frozen, self._first_batch_stands = True, not check_every_batch
        self.requires_grad_(False)
        return self.eval()

    def compute_in(self, precision: str | None) -> Network:
        """Look under an autocast of its own, whatever the caller's is, and answer in float32; returns itself.

        In ``bf16`` logits, embedding and each map are within 5 % of their norm in float32 (.3 % for 10 layers, 3 % for
        110), in ``fp16`` within 1 %, as long as no activation passes 65 504: beyond, they are no numbers.

        Args:
            precision: ``"fp32"``, ``"bf16"``, ``"fp16"``; None takes the caller's autocast, as it is without this call.
        """
        self.precision = None if precision is None else PRECISIONS[precision]
        return self

    def train(self, mode: bool = True) -> Network:
        """As ``nn.Module.train``, but what is frozen stays in eval mode."""
        super().train(mode and not self._frozen)
        for name in self.frozen_modules:
            self.module.get_submodule(name).eval()
        return self

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    def parts(self, needs: Collection[str] | None) -> frozenset[str]:
        """The parts to read; refuses what has no tap."""
        tapped = {
            "logits": self.taps.logits is not None or self.taps.prediction is None,
            "embedding": self.taps.embedding is not None,
            "maps": bool(self.taps.maps),
            "prediction": self.taps.prediction is not None,
        }
        if needs is None:
            return frozenset(part for part, there in tapped.items() if there)
        for part in needs:
            if part not in tapped:
                raise unknown_name("part of a representation", part, tapped)
            if not tapped[part]:
                raise UsageError(f"{self._name} has no tap for its {part}: {self._way_to(part)}")
        return frozenset(needs)

    def _way_to(self, part: str) -> str:
        """What to do about a part that is read and not tapped."""
        if part == "logits":
            return "it answers for each position: take objectives that read its prediction, such as dense_kd or cwd"
        if part == "prediction":
            return "it does not answer for each position: take a segmenter, such as unet/resnet20"
        return f"name the module that gives it, as {part}=…"

    def _prediction(self, value: Tensor) -> Tensor:
        if value.ndim != 4:
            raise UsageError(
                f"the prediction of {self._name} at {self.taps.prediction} is {tuple(value.shape)}: tap a module that "
                "gives (B, C, H, W)"
            )
        return value if self.classes is None else value[:, self.classes]

    def _logits(self, output: object, tapped: Mapping[str, Tensor] | Tapping, required: bool) -> Tensor | None:
        logits = output if self.taps.logits is None else tapped[self.taps.logits]
        if isinstance(logits, Tensor) and logits.ndim == 2:
            return logits if self.classes is None else logits[:, self.classes]
        if required:
            kind = f"a {type(output).__name__}, not logits:"
            if isinstance(logits, Tensor):
                kind = f"{tuple(logits.shape)}, and logits are (B, C): flatten it, or"
            raise UsageError(f"{self._name} returns {kind} tap the module that gives them")
        return None

    def _embedding(self, value: Tensor) -> Tensor:
        if value.ndim == 4:
            return value.mean(dim=(2, 3))
        if value.ndim == 2:
            return value
        raise UsageError(
            f"the embedding of {self._name} at {self.taps.embedding} is {tuple(value.shape)}: tap a module that "
            "gives (B, D) or (B, D, H, W)"
        )

    def _map(self, name: str, value: Tensor, images: Tensor) -> Tensor:
        if value.ndim == 3:
            laid_out = token_map(value, (images.shape[2], images.shape[3]), self.module)
            if laid_out is None:
                raise UsageError(
                    f"the {value.shape[1]} tokens of {self._name} at {name} cannot be laid out for images of "
                    f"{tuple(images.shape[2:])} pixels: "
                    "tap a module that gives (B, C, H, W), or of timm's networks forward_intermediates:INDEX"
                )
            return laid_out
        if value.ndim != 4:
            raise UsageError(
                f"the map of {self._name} at {name} is {tuple(value.shape)}: tap a module that gives (B, C, H, W) "
                "or (B, N, C)"
            )
        return value
