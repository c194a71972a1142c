"""Every classification and segmentation network of torchvision, as ``torchvision/NAME``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps
from .library import Trace, exchange_stem, fetching, new_classifier, pair, side, unknown_network
from .torchvision_segmentation import segmentation_builder

# Their weights were trained on (x − 0.5) / 0.5, into which torchvision turns ImageNet's normalisation inside the
# network, for three channels only; here it is their own normalisation. Their auxiliary classifiers are left out.
_INCEPTIONS = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


@MODELS.register_family("torchvision")
def torchvision_network(name: str) -> Callable[..., nn.Module]:
    """The builder of one of torchvision's networks.

    Normalisation is that of its default weights. Its resolution is theirs if it takes no other or is pretrained, else
    the data's own. The embedding is the input of its last linear layer. The maps are for each size of feature map the
    last module that gives it, of a transformer without stages four evenly spaced blocks.

    The builder takes ``num_classes`` (None: ImageNet's 1000), ``in_chans`` (other than 3, the first convolution is
    exchanged; its pretrained weights are summed over channels for one, else repeated and scaled, as timm does),
    ``resolution`` (for networks of one size) and ``pretrained``, torchvision's ``DEFAULT`` weights.

    Raises:
        UsageError: torchvision has no classification or segmentation network of that name.
    """
    from torchvision import models

    if name in models.list_models(module=models.segmentation):
        return segmentation_builder(name)
    if name not in (known := models.list_models(module=models)):
        raise unknown_network("torchvision", name, known)

    def build(
        num_classes: int | None = None,
        in_chans: int = 3,
        resolution: int | tuple[int, int] | None = None,
        pretrained: bool = False,
    ) -> nn.Module:
        weights = models.get_model_weights(name).DEFAULT
        published = weights.transforms()
        crop = published.crop_size[0]
        options = _size_option(name, resolution)
        if name in _INCEPTIONS:
            options |= {"aux_logits": False, "transform_input": False}
        if pretrained:
            sized = options.keys() & {"image_size", "input_size"}
            if sized and resolution is not None and pair(resolution) != pair(crop):
                raise UsageError(
                    f"torchvision's weights of {name} are for {crop} pixels only: leave resolution out, or take "
                    "timm's network"
                )
            with fetching(f"torchvision/{name}"):
                module = models.get_model(name, weights=weights, **options)
        else:
            options |= {"init_weights": True} if name in _INCEPTIONS else {}
            module = models.get_model(name, weights=None, num_classes=num_classes or 1000, **options)
        classifier = _last(module, nn.Linear, nn.Conv2d)
        if pretrained and num_classes not in (None, _length(module, classifier)):
            new_classifier(module, classifier, num_classes)
        if in_chans != 3:
            exchange_stem(module, in_chans, pretrained)
        default_size: int | tuple[int, int] = getattr(module, "image_size", 224)
        only = pair(resolution or default_size) if name.startswith(("vit_", "maxvit")) else None
        mean, std = ((0.5,) * 3, (0.5,) * 3) if name in _INCEPTIONS else (tuple(published.mean), tuple(published.std))
        module.preprocess = Preprocess(mean, std, side(only) if only else crop if pretrained else None)
        module.published_resolution = side(only) if only else crop
        module.num_logits = _length(module, classifier)
        module.classifiers = (classifier,)
        if hasattr(module, "class_token"):
            module.num_prefix_tokens = 1
        trace = Trace(module, (in_chans, *(only or pair(resolution or crop))))
        blocks = [inner for inner in trace.seen if re.fullmatch(r"encoder\.layers\.encoder_layer_\d+", inner)]
        module.taps = Taps(
            embedding=trace.embedding(module.classifiers), maps=trace.maps(blocks) if blocks else trace.all_maps()
        )
        return module

    build.__doc__ = f"torchvision's {name}."
    build.convert = _convert  # type: ignore[attr-defined]
    return build


def _size_option(name: str, resolution: int | tuple[int, int] | None) -> dict[str, Any]:
    """The argument that sets the size of those networks that take one size only."""
    if resolution is None:
        return {}
    if name.startswith("maxvit"):
        return {"input_size": pair(resolution)}
    if name.startswith("vit_"):
        if len({*pair(resolution)}) > 1:
            raise UsageError(
                f"torchvision/{name} takes squares only, not {pair(resolution)}: give resolution as one number"
            )
        return {"image_size": pair(resolution)[0]}
    return {}


def _last(module: nn.Module, *kinds: type[nn.Module]) -> str:
    """Name of the last layer of the first of these kinds that the module has: torchvision's networks all have one."""
    names = (name for kind in kinds for name, inner in reversed([*module.named_modules()]) if isinstance(inner, kind))
    return next(names)


def _length(module: nn.Module, classifier: str) -> int:
    return len(module.get_parameter(f"{classifier}.weight"))


def _convert(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A published file as torchvision itself reads it: without auxiliary classifiers, DenseNet's layers under today's
    names.
    """
    renamed = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key): value for key, value in state.items()
    }
    return {key: value for key, value in renamed.items() if not key.startswith(_AUXILIARY)}
