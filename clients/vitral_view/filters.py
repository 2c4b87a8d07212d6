"""The projection's filters as small pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pictures(weight: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Each filter from its own smallest weight (black) to its largest: (D, 3, P, P) -> (D, P, P, 3).

    A filter of equal weights is grey.
    """
    wide = weight.astype(np.float64).transpose(0, 2, 3, 1)  # D 3 P P -> D P P 3
    low = wide.min(axis=(1, 2, 3), keepdims=True)
    spread = wide.max(axis=(1, 2, 3), keepdims=True) - low
    scaled = np.divide(wide - low, spread, out=np.full_like(wide, 0.5), where=spread > 0)
    shades: NDArray[np.uint8] = np.rint(scaled * 255).astype(np.uint8)
    return shades
