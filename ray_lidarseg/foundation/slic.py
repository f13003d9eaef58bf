"""SLIC superpixels: the mask teacher that needs no weights.

Achanta et al., "SLIC Superpixels", 2012, in scikit-image; parameters of SLidR (Sautier et al., CVPR 2022): about 150
segments of the full image. Every pixel belongs to a segment, so 0 does not occur.
"""

import numpy as np
from jaxtyping import UInt8, UInt16

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.segment_maps import MAX_SEGMENTS, renumbered
from ray_lidarseg.foundation.settings import SlicMasks
from ray_lidarseg.foundation.teachers import Batch, as_objects


class Slic:
    """Superpixels as a mask teacher.

    Args:
        settings: Number, compactness and blur of the superpixels.
        device: Not used: SLIC runs on a CPU core.
    """

    def __init__(self, settings: SlicMasks, device: str = "cpu") -> None:
        self.settings = settings

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """See ``MaskTeacher``."""
        return {"segments": as_objects([self.segments(image) for image in batch["image"]])}

    def segments(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt16[np.ndarray, "H W"]:
        """Superpixels of one image, ids from 1.

        Raises:
            DataError: SLIC made more segments than 65535.
        """
        from skimage.segmentation import slic

        ids = slic(
            image,
            n_segments=self.settings.num_segments,
            compactness=self.settings.compactness,
            sigma=self.settings.sigma,
            max_num_iter=self.settings.max_iterations,
            start_label=1,
            channel_axis=-1,
        )
        if ids.max() > MAX_SEGMENTS:
            raise DataError(f"SLIC made {ids.max()} segments, at most {MAX_SEGMENTS} fit; lower masks.num_segments")
        return renumbered(ids.astype(np.uint16))
