"""How an image lies in the square a model sees, and how a low-resolution mask becomes one of the image again.

Source: segment-anything: the longer side fills the square, the rest is padding below or to the right, and masks are
enlarged to the square, cut to the image, and resized to it, both times bilinearly.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional

UPSCALING = 4
"""The decoder's masks are 4 x finer than its token grid: segment-anything."""


@dataclass(frozen=True)
class Fit:
    """Sizes of one image on its way through the model.

    Attributes:
        size: (H, W) of the image.
        inner: (rows, columns) of the square that it is resized to.
        square_px: Side of the square.
        grid: Tokens along the square's side.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    square_px: int
    grid: int

    @property
    def stride_px(self) -> int:
        """Pixels of the square for one pixel of a low-resolution mask, along a side."""
        return self.square_px // (self.grid * UPSCALING)

    @property
    def mask_rows_columns(self) -> tuple[int, int]:
        """Rows and columns of low-resolution masks that hold image."""
        return -(-self.inner[0] // self.stride_px), -(-self.inner[1] // self.stride_px)

    @property
    def token_rows_columns(self) -> tuple[int, int]:
        """Rows and columns of tokens whose masks an enlargement reads: the image and a mask pixel beyond it."""
        rows, columns = (min(self.grid, -(-(count + 1) // UPSCALING)) for count in self.mask_rows_columns)
        return rows, columns

    def measured_at(self, longest_px: int) -> "Fit":
        """The same for an image whose longer side has so many pixels; unchanged where it has no more, or for 0."""
        scale = longest_px / max(self.size)
        if not 0 < scale < 1:
            return self
        height, width = (max(1, round(scale * side)) for side in self.size)
        return replace(self, size=(height, width))

    def enlarging(self) -> tuple[Float[Tensor, "H h"], Float[Tensor, "W w"]]:
        """Matrices that enlarge the rows and the columns of a low-resolution mask to the image.

        Both bilinear steps in one: being linear and separable, they are what they do to unit vectors.
        """
        rows, columns = (UPSCALING * count for count in self.token_rows_columns)
        return self._along(0)[:, :rows], self._along(1)[:, :columns]

    def _along(self, axis: int) -> Float[Tensor, "L l"]:
        units = torch.eye(self.grid * UPSCALING)[None]
        in_square = functional.interpolate(units, size=self.square_px, mode="linear", align_corners=False)
        cut = in_square[..., : self.inner[axis]]
        return functional.interpolate(cut, size=self.size[axis], mode="linear", align_corners=False)[0].t().contiguous()


def fit(sam: Sam, height: int, width: int) -> Fit:
    """Where an image of this size goes; sizes are rounded as segment-anything rounds them."""
    square_px = sam.image_encoder.img_size
    scale = square_px / max(height, width)
    inner = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    return Fit((height, width), inner, square_px, sam.prompt_encoder.image_embedding_size[0])


def enlarge(
    logits: Float[Tensor, "N h w"], rows: Float[Tensor, "H h"], columns: Float[Tensor, "W w"]
) -> Float[Tensor, "N H W"]:
    """Low-resolution masks at the image's size, by the matrices of ``Fit.enlarging``."""
    return rows @ (logits @ columns.t())
