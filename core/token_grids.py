"""How a transformer's tokens lie in an image."""

from __future__ import annotations

from functools import lru_cache


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
    for numbers in [range(6)] if prefixes is None else [[number] for number in prefixes]:
        for grids in (exact, cropped + padded):
            fitting = {(rows, columns) for rows, columns in grids if tokens - rows * columns in numbers}
            if fitting:
                return sorted(fitting)
    return []
