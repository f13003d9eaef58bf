"""The one table of shape letters, the ignore id, and the array types every module shares.

Shape letters in annotations and docstrings:
``P`` points, ``V`` voxels or cells, ``B`` scans, ``R`` rays, ``S`` samples, ``C`` classes, ``F`` features,
``M`` cameras, ``H W`` pixels, ``N`` segments, ``K`` kernel offsets.

Class ids are 0 … C-1 in memory. Raw data-set ids exist only in ``datasets/taxonomy.py``.
"""

from typing import Final

IGNORE: Final = 255
"""Label of a point that is neither trained on nor evaluated. Fits the uint8 labels of shards and prediction files."""
