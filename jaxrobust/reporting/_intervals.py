"""Intervals of measured shares."""

from __future__ import annotations

import math


def interval_of_percentage(percent: float, count: int) -> str:
    """An accuracy with its 95 % interval over the draw of ``count`` examples (Wilson, 1927).

    Example:
        >>> interval_of_percentage(50.0, 100)
        '50.00 [40.4, 59.6]'
    """
    share, z = percent / 100, 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return f"{percent:.2f} [{100 * (middle - half):.1f}, {100 * (middle + half):.1f}]"
