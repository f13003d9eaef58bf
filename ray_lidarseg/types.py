"""The one table of shape letters, the ignore id, and the array types every module shares.

Shape letters in annotations and docstrings:
``P`` points, ``V`` voxels or cells, ``B`` scans, ``R`` rays, ``S`` samples, ``C`` classes, ``F`` features,
``M`` cameras, ``H W`` pixels, ``N`` segments, ``K`` kernel offsets.

Class ids are 0 … C-1 in memory. Raw data-set ids exist only in ``datasets/taxonomy.py``.
"""

from typing import Final

IGNORE: Final = 255
"""Label of a point that is neither trained on nor evaluated. Fits the uint8 labels of shards and prediction files."""

IMAGE_SEGMENT: Final = "image_segment"
"""Extra of a ``PointBatch``: [P] int64, row in its ``segments`` of the image segment a point falls on. 0: none, or one
without a feature; such a point is not paired."""

IMAGE_FEATURES: Final = "image_features"
"""One of its ``segments``: [N, F] float16, unit feature of each image segment; zeros in row 0."""

LANGUAGE_LOGITS: Final = "language_logits"
"""One of its ``segments``: [N, C] float16, cosine of that feature with the text of each class; zeros in row 0."""

COLOURS: Final = "colours"
"""Extra of images that come as scans: [P, 3] float32, RGB of each pixel in [0, 1]."""

RAY_CAMERA: Final = "ray_camera"
"""Extra of a ``RayBatch``: [R] int64, place of the ray's camera in ``Keyframe.cameras``, -1 for a LiDAR's ray."""

RAY_SEGMENT: Final = "ray_segment"
"""Extra of a ``RayBatch``: [R] int64, image segment the ray's pixel lies in: ``geometry.rays.segment_id``; 0 none."""

RAY_TRUTH: Final = "ray_truth"
"""Extra of a ``RayBatch``: [R] int64, true class of the ray's pixel in a synthetic world; compared, never learned."""

POINT_SEGMENT: Final = "point_segment"
"""Extra of a ``PointBatch``: [P] int64, image segment a point falls on: ``geometry.rays.segment_id``; 0 none."""
