"""Every image network of Hugging Face transformers, as ``hf/NAME``: a local folder or a repository of the Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import ContrastillError, UsageError
from ..core.registry import MODELS
from ..core.representation import Preprocess
from .image_processor import published_preprocess, read_json, reads_bgr
from .library import fetching, new_classifier, side
from .reused_weights import with_channels
from .timm_adapter import reach_hub
from .transformers_taps import (
    HEAD,
    class_names,
    classifiers_of,
    image_shape,
    image_side,
    is_of_transformers,
    taps_of_transformers,
    trace_with_states,
)

log = logging.getLogger(__name__)


@MODELS.register_family("hf")
def transformers_network(name: str) -> Callable[..., nn.Module]:
    """The builder of one of transformers' networks.

    With ``num_classes``, or where its config names one, it is a classifier (``…ForImageClassification``), else the
    model without a head or the backbone that its config names; of CLIP and SigLIP the vision tower. Normalisation,
    and of pretrained networks the resolution, is that of its ``preprocessor_config.json``. The embedding is the
    classifier's input; without one ``image_embeds``, ``pooler_output``, the last map averaged or the class token, the
    first of these that it has. The maps are its hidden states: the last of each scale, of a transformer without stages
    the patches of four evenly spaced blocks; of a backbone its ``feature_maps``.

    The builder takes ``num_classes`` (None: as its config has), ``in_chans``, ``config`` (JSON, in the place of the
    name's own) and ``pretrained``, which reads safetensors only.

    Raises:
        UsageError: transformers is not installed.
    """
    _library()

    def build(
        num_classes: int | None = None, in_chans: int = 3, config: str | None = None, pretrained: bool = False
    ) -> nn.Module:
        own = _config(name) if config is None else _config_of(json.loads(config), name)
        kind, own = _kind(own, num_classes, name)
        channels = getattr(own, "num_channels", 3)
        unused: set[str] = set()
        if pretrained:
            module, unused = _pretrained(kind, own, name, num_classes)
            own = module.config
            if num_classes is not None and num_classes != own.num_labels:
                for classifier in classifiers_of(module, trace_with_states(module, image_shape(module, channels))):
                    new_classifier(module, classifier, num_classes)
                own.num_labels = module.num_labels = num_classes
            if in_chans != channels:
                module = _with_channels(module, in_chans)
        else:
            if num_classes is not None:
                own.num_labels = num_classes
            own.num_channels = in_chans
            try:
                module = kind(own)
            except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:  # values that do not go together
                raise _bad_config(name, error) from error
        module.config.architectures = [type(module).__name__]
        shape = image_shape(module, in_chans)
        preprocess = published_preprocess(name if config is None else None, own, warn=pretrained)
        if len(preprocess.mean) != in_chans:
            preprocess = Preprocess((preprocess.mean[0],) * in_chans, (preprocess.std[0],) * in_chans, side(shape[1:]))
        if pretrained:
            _turn_to_rgb(name, module)
        fixed = preprocess.resolution if pretrained else image_side(own)
        module.preprocess = Preprocess(preprocess.mean, preprocess.std, fixed)
        module.published_resolution = preprocess.resolution or fixed
        module.classes = class_names(module)
        module.taps, module.classifiers, module.num_logits = taps_of_transformers(
            module, trace_with_states(module, shape), shape, unused
        )
        return module

    build.__doc__ = f"transformers' {name}."
    build.config_of = _config_json  # type: ignore[attr-defined]
    build.turn = lambda module: _turn_to_rgb(name, module)  # type: ignore[attr-defined]
    return build


def _config_json(module: Any) -> str:
    """The config of a transformers' module as JSON, as the builder takes it."""
    return module.config.to_json_string(use_diff=False)


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UsageError("hf/NAME needs transformers: pip install 'contrastill[transformers]'") from error
    return transformers


def _config(name: str) -> Any:
    """The config in a folder or of the Hub.

    Raises:
        UsageError: There is no such folder, or its network is none of transformers' own.
        ContrastillError: It could not be fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"hf/{name} is a folder without config.json: name one that save_pretrained wrote")
        return _config_of(read_json(folder / "config.json"), name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(f"hf/{name}: there is no folder {name}: name one with config.json, or a repository of the Hub")
    with fetching(f"hf/{name}"):
        from huggingface_hub import hf_hub_download

        reach_hub(name, "config.json")
        return _config_of(read_json(Path(hf_hub_download(name, "config.json"))), name)


def _config_of(values: dict[str, Any], name: str) -> Any:
    transformers = _library()
    kind = values.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        what = f"of the type {kind}, which transformers {transformers.__version__} does not have" if kind else "no type"
        raise UsageError(
            f"hf/{name}: its config is {what}: code of a repository is never run; name a network of transformers"
        )
    try:
        return transformers.CONFIG_MAPPING[kind].from_dict(values)
    except Exception as error:  # what a class checks of its values
        raise _bad_config(name, error) from error


def _bad_config(name: str, error: Exception) -> UsageError:
    return UsageError(
        f"hf/{name}: its config.json makes no network: {' '.join(str(error).split())[:200]}: mend it there"
    )


def _kind(config: Any, num_classes: int | None, name: str) -> tuple[Any, Any]:
    """The class to build and its config."""
    transformers = _library()
    named = (getattr(config, "architectures", None) or [""])[0]
    own = getattr(transformers, named, None)
    if own is not None and HEAD in named:
        return own, config
    if num_classes is not None:
        kind = transformers.AutoModelForImageClassification._model_mapping.get(type(config), None)
        if kind is None:
            raise UsageError(
                f"hf/{name} has no classifier: transformers has none for {config.model_type}; leave num_classes out "
                "and distil its embedding or maps"
            )
        return kind[0] if isinstance(kind, tuple) else kind, config
    if hasattr(config, "vision_config"):
        prefix = named.removesuffix("Model")
        projected = getattr(transformers, f"{prefix}VisionModelWithProjection", None)
        width = getattr(config, "projection_dim", None)
        config = config.vision_config
        if projected is not None:
            config.projection_dim = width or config.projection_dim
            return projected, config
    elif own is not None and (named.endswith(("Backbone", "WithProjection")) or named.endswith("VisionModel")):
        return own, config
    kind = transformers.AutoModel._model_mapping.get(type(config), None)
    kind = kind[0] if isinstance(kind, tuple) else kind
    if kind is None or getattr(kind, "main_input_name", "") != "pixel_values":
        raise UsageError(f"hf/{name} ({config.model_type}) reads no images alone: name a network for images")
    return kind, config


def _pretrained(kind: Any, config: Any, name: str, num_classes: int | None) -> tuple[Any, set[str]]:
    """A network with its published weights, and the names of those that the file lacks."""
    import torch

    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    # Of another shape is as missing, and refused below: the library's own error names neither.
    options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    with _reading_folder(folder) if folder.is_dir() else fetching(f"hf/{name}"), _quiet():
        module, info = kind.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=folder.is_dir(),
            **options,
        )
    lacking = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    rest = sorted(key for key in lacking if "pooler." not in key and not (num_classes and "classifier" in key))
    if rest:
        raise UsageError(
            f"the weights of hf/{name} have no {', '.join(rest[:3])}{' …' if rest[3:] else ''} of the shape that a "
            f"{kind.__name__} with its config.json has: name a folder whose weights and config belong together"
        )
    return module, lacking


@contextmanager
def _reading_folder(folder: Path) -> Iterator[None]:
    """Turn any error of reading weights from a folder into one sentence."""
    try:
        yield
    except Exception as error:  # the library raises what it likes
        raise ContrastillError(
            f"the weights in {folder} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:160]}): "
            "save them as safetensors, as save_pretrained does; pickles are not read"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own report of missing and unexpected weights, which are checked here."""
    from transformers.utils import logging as its

    before, bars = its.get_verbosity(), its.is_progress_bar_enabled()
    its.set_verbosity_error()
    its.disable_progress_bar()
    try:
        yield
    finally:
        its.set_verbosity(before)
        if bars:
            its.enable_progress_bar()


def _with_channels(module: Any, in_chans: int) -> nn.Module:
    """The same network for another number of input channels; the first convolution's weights are spread evenly."""
    module.config.num_channels = in_chans
    other = type(module)(module.config)
    own = other.state_dict()
    other.load_state_dict({key: with_channels(value, own[key]) for key, value in module.state_dict().items()})
    return other


def _turn_to_rgb(name: str, module: Any) -> None:
    """Let a network with weights trained on blue, green, red take red, green, blue: its first convolution's channels
    swap.
    """
    import torch

    if not reads_bgr(name, module.config):
        return
    first = next(inner for inner in module.modules() if isinstance(inner, nn.Conv2d))
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))
    log.info("%s was trained on BGR images: its first convolution is turned to take RGB", type(module).__name__)


def published_of(module: nn.Module) -> Preprocess | None:
    """The preprocessing of a transformers' module made elsewhere, from the folder or cache it came from."""
    name = getattr(module, "name_or_path", "")
    if not is_of_transformers(module) or not name:
        return None
    try:
        published = published_preprocess(name, module.config, warn=False, local=True)
    except ContrastillError as error:
        log.debug("%s has no image processor: %s", name, error)
        return None
    if reads_bgr(name, module.config):
        raise UsageError(
            f"{type(module).__name__} of {name} was trained on BGR images, and images are RGB here: pass "
            f"'hf/{name}', which turns its first convolution"
        )
    return published
