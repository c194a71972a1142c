"""How sure a share is."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, in per cent: it stays within 0 and 100, and is no point where all or none were
    right.

    The shares from which the found one is less than 1.96 of their standard deviations away (Wilson, JASA 1927); 0 to
    100 where there is nothing.

    Args:
        right: How many were right.
        count: Of how many.

    Example:
        >>> [round(bound, 1) for bound in wilson(50, 100)]
        [40.4, 59.6]
    """
    if count < 1:
        return 0.0, 100.0
    share, extra = right / count, _Z**2 / count
    middle = (share + extra / 2) / (1 + extra)
    half = _Z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    # Exactly at the ends, where rounding would leave a little.
    return 100 * (middle - half) if right else 0.0, 100 * (middle + half) if right < count else 100.0
