"""Labels of 32 bits a point, class below and instance above: are they what their reader takes them for?"""

import numpy as np
from jaxtyping import UInt32

from ray_lidarseg.errors import DataError

CLASS_MASK = 0xFFFF
"""The class within a label; above it stands the instance."""


def refuse_pairs(raw: UInt32[np.ndarray, "P"], uri: str) -> None:
    """Refuses 32-bit ids that are two 16-bit ids each: where the upper half repeats the lower, it is no instance.

    Raises:
        DataError: See above.
    """
    lower, upper = raw & CLASS_MASK, raw >> 16
    repeated = (lower == upper) & (raw != 0)
    if 2 * np.count_nonzero(repeated) > np.count_nonzero(raw) and len(np.unique(lower[repeated])) > 1:
        raise DataError(
            f"{uri} holds the same ids in the upper and the lower 16 bits, as two uint16 ids a point would: labels and "
            "scan do not belong together; if the upper bits are instances, set label_format to uint32"
        )


def refuse_upper_half(raw: UInt32[np.ndarray, "P"], uri: str) -> None:
    """Refuses ids of which only the upper half says anything: the lower one is the class, so all would be class 0.

    Raises:
        DataError: See above.
    """
    if not (raw & CLASS_MASK).any() and len(np.unique(raw)) > 1:
        raise DataError(
            f"{uri}: the lower 16 bits of each uint32, which hold the class, are 0 everywhere, the upper ones are not: "
            "the file is float32, big-endian, or has class and instance swapped; write little-endian uint32 with the "
            "class below"
        )
