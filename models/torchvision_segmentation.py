"""The segmentation networks of torchvision, which answer for each pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.representation import Preprocess, Taps
from .library import Trace, exchange_stem, fetching, new_classifier

_SIDE = 128
"""Side of the images by which the maps are measured; all of these networks take any."""


def segmentation_builder(name: str) -> Callable[..., nn.Module]:
    """The builder of one of torchvision's segmentation networks, a key of ``torchvision.models.segmentation``.

    Normalisation is that of its default weights, its resolution the data's own: published weights were trained on
    images of 520 pixels, for which ``resolution=520`` is of use. The prediction is its output ``out``, the embedding
    the mean of its deepest map. Auxiliary classifiers are left out. With ``pretrained`` weights (COCO's pictures, the
    21 classes of VOC) and another ``num_classes`` the last layers are new.

    The builder takes ``num_classes`` (None: 21), ``in_chans`` and ``pretrained``, torchvision's ``DEFAULT`` weights.
    """

    def build(num_classes: int | None = None, in_chans: int = 3, pretrained: bool = False) -> nn.Module:
        from torchvision import models

        weights = models.get_model_weights(name).DEFAULT
        published = weights.transforms()
        module: Any
        if pretrained:
            with fetching(f"torchvision/{name}"):
                module = models.get_model(name, weights=weights)
        else:
            module = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes or 21)
        if hasattr(module, "aux_classifier"):
            module.aux_classifier = None
        classifiers = _classifiers(module)
        if pretrained and num_classes not in (None, len(weights.meta["categories"])):
            for classifier in classifiers:
                new_classifier(module, classifier, num_classes)
        elif pretrained:
            module.classes = tuple(weights.meta["categories"])
        if in_chans != 3:
            exchange_stem(module, in_chans, pretrained)
        module.preprocess = Preprocess(tuple(published.mean), tuple(published.std))
        module.num_logits = len(module.get_parameter(f"{classifiers[0]}.weight"))
        module.classifiers = classifiers
        trace = Trace(module, (in_chans, _SIDE, _SIDE), _prediction)
        maps = trace.maps(seen for seen in trace.seen if seen.startswith("backbone.") and seen.count(".") == 1)
        module.taps = Taps(embedding=maps[-1], maps=maps, prediction="output:out")
        return module

    build.__doc__ = f"torchvision's {name}."
    build.dense = True  # type: ignore[attr-defined]
    build.convert = _convert  # type: ignore[attr-defined]
    return build


def _prediction(module: nn.Module, images: Tensor) -> Tensor:
    return module(images)["out"]


def _classifiers(module: nn.Module) -> tuple[str, ...]:
    """The last layer of DeepLab and FCN, the two that LRASPP adds up."""
    names = [name for name, inner in module.named_modules() if isinstance(inner, nn.Conv2d)]
    both = tuple(name for name in names if name in ("classifier.low_classifier", "classifier.high_classifier"))
    return both or (names[-1],)


def _convert(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published file without its auxiliary classifier."""
    return {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
