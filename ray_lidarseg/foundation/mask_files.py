"""Masks the user already has: an index map for each image, found by the image's name.

For an image ``…/sequences/00/image_2/000007.png`` the first of these that exists is taken, so that data sets whose file
names repeat between drives keep their folders, and all others may lie flat::

    FOLDER/sequences/00/image_2/000007.png
    FOLDER/00/image_2/000007.png
    FOLDER/image_2/000007.png
    FOLDER/000007.png
"""

import io
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt16
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.datasets.image_files import read_ids
from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.segment_maps import renumbered, require_ids
from ray_lidarseg.foundation.settings import FileMasks
from ray_lidarseg.foundation.teachers import Batch, as_objects

_NUM_FOLDERS = 3  # parents of the image that may be repeated under FOLDER


class MaskFiles:
    """Stored masks as a mask teacher: 0 stays "no segment", other ids are numbered anew without gaps.

    Args:
        settings: Folder and suffix of the masks.
        device: Not used.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, settings: FileMasks, device: str = "cpu") -> None:
        self.settings = settings
        self._filesystem, self._folder = storage.resolve(settings.folder)
        if storage.info_of(settings.folder).type != fs.FileType.Directory:
            raise DataError(f"masks.folder: there is no folder {settings.folder}; give the one that holds the masks")

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """See ``MaskTeacher``; the batch must hold ``uri``.

        Raises:
            DataError: A mask is missing, of another size than its image, no index map, or holds ids beyond
                0 … 65535.
        """
        if "uri" not in batch:
            raise DataError(
                "masks of files need each image's uri to find its mask: expected the key 'uri' in the batch"
            )
        pairs = zip(batch["uri"], batch["image"], strict=True)
        return {"segments": as_objects([self.segments(uri, image.shape[:2]) for uri, image in pairs])}

    def segments(self, uri: str, size_px: tuple[int, int]) -> UInt16[np.ndarray, "H W"]:
        """Mask of one image.

        Args:
            uri: Where the image lies.
            size_px: H, W of the image.
        """
        path = self._find(uri)
        ids = require_ids(self._read(path), path)
        if ids.shape != tuple(size_px):
            raise DataError(
                f"{path}: expected {size_px[0]} x {size_px[1]} (height x width) as its image {uri}, got "
                f"{ids.shape[0]} x {ids.shape[1]}; make masks at the image's full size"
            )
        return renumbered(ids)

    def _find(self, uri: str) -> str:
        candidates = _candidates(uri, self._folder, self.settings.suffix)
        with storage.explained("look for masks in", self._folder):
            found = self._filesystem.get_file_info(candidates)
        for info in found:
            if info.type == fs.FileType.File:
                return str(info.path)
        raise DataError(
            f"no mask for image {uri}: expected {candidates[-1]} (or under the image's own folders, {candidates[0]}); "
            "write it, or choose another masks.suffix"
        )

    def _read(self, path: str) -> np.ndarray:
        inside = path.removeprefix(self._folder).strip("/")
        data = storage.read_bytes(storage.join(storage.absolute(self.settings.folder), *inside.split("/")))
        return _load_npy(data, path) if self.settings.suffix == ".npy" else read_ids(data, path)


def _candidates(uri: str, folder: str, suffix: str) -> list[str]:
    """Where the mask may lie, the longest path first."""
    *folders, name = storage.parts_of(uri)
    parents, image = folders[-_NUM_FOLDERS:], PurePosixPath(name)
    return ["/".join([folder.rstrip("/"), *parents[first:], image.stem + suffix]) for first in range(len(parents) + 1)]


def _load_npy(data: bytes, path: str) -> np.ndarray:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is no whole .npy file ({error}); write it again") from error
