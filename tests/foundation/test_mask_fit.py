import pytest
import torch

from ray_lidarseg.foundation.mask_fit import Fit, enlarge, fit
from tests.foundation.coherent_sam import coherent_sam


def test_published_sizes_of_a_nuscenes_image():
    where = Fit(size=(900, 1600), inner=(576, 1024), square_px=1024, grid=64)
    assert (where.stride_px, where.mask_rows_columns) == (4, (144, 256))
    assert where.token_rows_columns == (37, 64)  # 36 rows hold image; the enlargement reads one mask row beyond
    rows, columns = where.enlarging()
    assert (rows.shape, columns.shape) == ((900, 148), (1600, 256))


@pytest.mark.parametrize("size", [(225, 400), (376, 1241), (300, 100), (7, 5), (256, 256)])
def test_enlarges_as_segment_anything_does(size):
    sam = coherent_sam()
    where = fit(sam, *size)
    logits = torch.randn(2, 128, 128, generator=torch.Generator().manual_seed(1))
    expected = sam.postprocess_masks(logits[:, None], where.inner, size)[:, 0]
    rows, columns = (4 * count for count in where.token_rows_columns)
    torch.testing.assert_close(enlarge(logits[:, :rows, :columns], *where.enlarging()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("longest_px", "size"), [(400, (225, 400)), (512, (288, 512)), (1600, (900, 1600)), (0, (900, 1600))]
)
def test_a_smaller_size_keeps_the_shape_and_what_the_model_sees(longest_px, size):
    where = Fit(size=(900, 1600), inner=(576, 1024), square_px=1024, grid=64)
    smaller = where.measured_at(longest_px)
    assert smaller.size == size
    assert (smaller.inner, smaller.token_rows_columns) == (where.inner, where.token_rows_columns)
    assert [len(side) for side in smaller.enlarging()] == list(size)
