"""Every network of timm, as ``timm/NAME``; a tag that names its weights may follow: ``timm/resnet50.a1_in1k``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..core.errors import ContrastillError, UsageError
from ..core.registry import MODELS
from ..core.representation import Preprocess, Taps
from ..core.tapping import INTERMEDIATES, PRE_LOGITS, run
from .library import PATIENCE, Trace, fetching, pair, side, unknown_network

log = logging.getLogger(__name__)


@MODELS.register_family("timm")
def timm_network(name: str) -> Callable[..., nn.Module]:
    """The builder of one of timm's networks.

    Normalisation is that of its ``pretrained_cfg``. Its resolution is that of the ``pretrained_cfg`` if it takes no
    other or is pretrained, else the data's own. The embedding is the classifier's input, pooled as the network itself
    pools (for a vision transformer the class token or the mean of its patches); where there are several classifiers,
    what timm's ``forward_head(…, pre_logits=True)`` makes of their inputs. The maps are those of timm's
    ``forward_intermediates``: the last of each scale, of a transformer without stages four evenly spaced blocks.

    The builder takes ``num_classes`` (None: the number its weights came with), ``in_chans`` (other than the weights'
    own, timm sums or repeats the first layer over channels), ``resolution`` (for networks of one size; position
    embeddings are resized) and ``pretrained``.

    Raises:
        UsageError: timm has no network or tag of that name.
    """
    import timm

    if not timm.is_model(name):
        raise unknown_network("timm", name, timm.list_models())
    architecture, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*") if tag else []
    if tag and name not in tagged:
        raise unknown_network("timm", name, tagged or [architecture])

    config = timm.get_pretrained_cfg(name)
    assert config is not None, name  # the name is registered, see above

    def build(
        num_classes: int | None = None,
        in_chans: int = 3,
        resolution: int | tuple[int, int] | None = None,
        pretrained: bool = False,
    ) -> nn.Module:
        options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        if resolution is not None and config.fixed_input_size:
            options["img_size"] = pair(resolution)
        module: Any = _create(name, config, {**options, "in_chans": in_chans}, pretrained)
        own = module.pretrained_cfg
        published = side(options.get("img_size", own["input_size"][1:]))
        module.preprocess = Preprocess(
            tuple(own["mean"]), tuple(own["std"]), published if config.fixed_input_size or pretrained else None
        )
        module.published_resolution = published
        module.num_logits = module.num_classes
        module.classifiers = classifiers_of(module)
        module.taps = taps_of(module, module.classifiers, (in_chans, *pair(resolution or own["input_size"][1:])))
        return module

    build.__doc__ = f"timm's {name}."
    build.convert = _convert  # type: ignore[attr-defined]
    build.published = config.has_weights  # type: ignore[attr-defined]
    return build


def _create(name: str, config: Any, options: Mapping[str, Any], pretrained: bool) -> nn.Module:
    if not pretrained:
        return _create_with(name, options)
    with fetching(f"timm/{name}"), _checked_hashes():
        if config.hf_hub_id:
            reach_hub(config.hf_hub_id, config.hf_hub_filename)
        return _create_with(name, options, pretrained=True)


def _create_with(name: str, options: Mapping[str, Any], **more: Any) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, **options, **more)
    except (AssertionError, TypeError, ValueError) as error:
        if "img_size" not in options:
            raise
        raise UsageError(
            f"timm/{name} cannot be built for a resolution of {side(options['img_size'])}: leave resolution out, "
            "or choose another"
        ) from error


@contextmanager
def _checked_hashes() -> Iterator[None]:
    """Compare what is fetched from an address with the hash in its name, which timm leaves out by itself."""
    from timm.models import _builder

    before = _builder._CHECK_HASH
    _builder.set_pretrained_check_hash(True)
    try:
        yield
    finally:
        _builder.set_pretrained_check_hash(before)


def reach_hub(repository: str, filename: str | None) -> None:
    """Ask the hub once, unless the file is in its cache: its own client tries for most of a minute.

    Raises:
        Exception: It cannot be reached, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.utils import get_session

    repository, _, revision = repository.partition("@")
    names = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in names):
        return
    if constants.HF_HUB_OFFLINE:
        raise ContrastillError(
            f"the published weights {repository} are not in Hugging Face's cache and HF_HUB_OFFLINE is set: unset "
            "it, or give a file as weights=FILE"
        )
    get_session().head(constants.ENDPOINT, timeout=PATIENCE)


def is_of_timm(module: nn.Module) -> bool:
    return type(module).__module__.startswith("timm.models.") and hasattr(module, "get_classifier")


def taps_of(module: Any, classifiers: tuple[str, ...], shape: tuple[int, int, int]) -> Taps:
    """Embedding and maps as timm's own methods give them; by hooks where those give the same, or where a network has no
    such methods.
    """
    trace = Trace(module, shape)
    embedding = trace.embedding(classifiers[:1])
    maps = trace.maps(entry["module"] for entry in getattr(module, "feature_info", []))
    if not _is_before_classifier(module, classifiers, trace, shape) and _works_once(
        module, trace, shape, lambda module, images: run(module, [PRE_LOGITS], images)
    ):
        embedding = PRE_LOGITS
    if methods := _works_once(module, trace, shape, _by_methods):
        _, every = methods.output
        chosen = methods.indices_of_maps(every)
        if len(maps) != len(chosen) or not all(
            methods.gives(name, every[index]) for name, index in zip(maps, chosen, strict=True)
        ):
            maps = tuple(f"{INTERMEDIATES}{index}" for index in chosen)
    return Taps(embedding, maps)


def _works_once(
    module: Any, trace: Trace, shape: tuple[int, int, int], call: Callable[[nn.Module, Tensor], Any]
) -> Trace | None:
    """The trace of a call in which each layer does what it does in the module's own forward; None where it is another
    or fails.
    """
    try:
        other = Trace(module, shape, call)
    except Exception as error:  # timm before forward_intermediates, or a network without it
        log.debug("%s has no such method: %s", type(module).__name__, error)
        return None
    return other if other.work() == trace.work() else None


def _by_methods(module: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits and all maps of timm's methods."""
    features, maps = module.forward_intermediates(images, output_fmt="NCHW")
    return module.forward_head(features), maps


def _pre_logits(module: Any, images: Tensor) -> Tensor:
    return module.forward_head(module.forward_features(images), pre_logits=True)


def _is_before_classifier(module: Any, classifiers: tuple[str, ...], trace: Trace, shape: tuple[int, int, int]) -> bool:
    """Whether what goes into a single classifier is what timm calls the features before the logits: all other layers
    made it, and it is pooled.
    """
    if len(classifiers) != 1 or classifiers[0] not in trace.seen:
        return False
    try:
        before = Trace(module, shape, _pre_logits)
    except Exception as error:
        log.debug("%s has no such method: %s", type(module).__name__, error)
        return True
    work, (classifier,) = trace.work(), classifiers
    inputs = trace.seen[classifier].inputs
    if inputs is None or inputs.shape[:2] != before.output.shape[:2] or inputs.shape[2:].numel() > 1:
        return False
    return before.work() == {
        name: done for name, done in work.items() if name != classifier and not name.startswith(f"{classifier}.")
    }


def classifiers_of(module: Any) -> tuple[str, ...]:
    """Names of the layers that give the logits; a distilled transformer has two."""
    classifier = module.get_classifier()
    parts = [*classifier] if isinstance(classifier, (Sequence, nn.ModuleList)) else [classifier]
    names = {id(inner): name for name, inner in module.named_modules()}
    return tuple(names[id(part)] for part in parts if id(part) in names)


def _convert(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict in the form its authors published, or for another resolution, as timm itself converts it."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    return convert(dict(state), module) if convert else state
