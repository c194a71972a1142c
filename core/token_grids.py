"""How a transformer's tokens lie in an image."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor, nn

_PREFIXES = 6  # class, distillation and register tokens are at most five


@lru_cache(maxsize=64)
def token_grids(tokens: int, size: tuple[int, int], prefixes: tuple[int, ...] | None) -> list[tuple[int, int]]:
    """The grids (height, width) of square patches that so many tokens can be, with the class and register tokens before
    them.

    Grids of patches that divide the image come first: only where there is none, patches at the border may be cropped or
    padded.

    Args:
        tokens: N.
        size: Height and width of the image, in pixels.
        prefixes: Possible numbers of tokens before the patches, the likeliest first; None is up to five, in any number.
    """
    height, width = size
    exact = [
        (height // patch, width // patch) for patch in range(1, min(size) + 1) if height % patch == width % patch == 0
    ]
    cropped = [(height // patch, width // patch) for patch in range(1, min(size) + 1)]
    padded = [(-(-height // patch), -(-width // patch)) for patch in range(1, max(size) + 1)]
    for numbers in [range(_PREFIXES)] if prefixes is None else [[number] for number in prefixes]:
        for grids in (exact, cropped + padded):
            fitting = {(rows, columns) for rows, columns in grids if tokens - rows * columns in numbers}
            if fitting:
                return sorted(fitting)
    return []


def token_layout(module: nn.Module) -> tuple[int | None, tuple[int, int] | None]:
    """How many tokens a module puts before its patches, and the patches' height and width, where it says so.

    It says so by attributes ``num_prefix_tokens`` and ``config.patch_size``; with the latter, as transformers' modules
    have it, the tokens before the patches are those it has parameters for.
    """
    prefix, patch = getattr(module, "num_prefix_tokens", None), _pair(getattr(module, "config", None), "patch_size")
    if prefix is None and patch is not None:
        own = {name.rpartition(".")[2]: value for name, value in module.named_parameters()}
        single = sum(name in own for name in ("cls_token", "class_embedding", "distillation_token"))
        prefix = single + (own["register_tokens"].shape[1] if "register_tokens" in own else 0)
    return prefix if isinstance(prefix, int) else None, patch


def token_map(value: Tensor, size: tuple[int, int], module: nn.Module) -> Tensor | None:
    """Tokens (B, N, C) of a module as a map (B, C, h, w) of patches in rows; None where their grid is not clear.

    Args:
        value: Its tokens, those of the patches last.
        size: Height and width of the images, in pixels.
        module: See :func:`token_layout`.
    """
    prefix, patch = token_layout(module)
    known = patch if patch is not None and prefix is not None else None
    patch = known or _first_stride(module)
    grid = None if patch is None else (size[0] // patch[0], size[1] // patch[1])
    before = -1 if grid is None else value.shape[1] - grid[0] * grid[1]
    if grid is not None and (before == prefix if prefix is not None else 0 <= before < _PREFIXES):
        grids = [grid]
    elif known is not None:
        return None
    else:  # a later stage of several, or patches that are padded
        grids = token_grids(value.shape[1], size, None if prefix is None else (prefix, 0))
    # Hiera computes on its patches in the order of its pooling windows.
    if len(grids) != 1 or hasattr(module, "unroll"):
        return None
    height, width = grids[0]
    return value[:, value.shape[1] - height * width :].transpose(1, 2).unflatten(2, (height, width))


def _first_stride(module: nn.Module) -> tuple[int, int] | None:
    """The kernel of a module's first convolution where it is the stride too."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.kernel_size != first.stride or first.kernel_size == (1, 1) or first.padding != (0, 0):
        return None
    height, width = first.stride
    return height, width


def _pair(config: object, name: str) -> tuple[int, int] | None:
    """A side or (height, width) of a module's config."""
    value = getattr(config, name, None)
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    return None
