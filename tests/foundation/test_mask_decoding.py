import pytest
import torch

from ray_lidarseg.foundation.mask_decoding import ImageTokens, attend, upscale
from ray_lidarseg.foundation.sam_architecture import build_sam
from tests.foundation.coherent_sam import coherent_sam

ROWS, COLUMNS = 5, 32


def decode(sam, num_prompts=5):
    """The stock decoder's masks and predicted IoU, and what ours reads."""
    generator = torch.Generator().manual_seed(2)
    encoder = sam.prompt_encoder
    embedding = torch.randn(1, encoder.embed_dim, *encoder.image_embedding_size, generator=generator)
    points = torch.rand(num_prompts, 1, 2, generator=generator) * sam.image_encoder.img_size
    sparse, dense = encoder((points, torch.ones(num_prompts, 1)), None, None)
    position = encoder.get_dense_pe()
    stock = sam.mask_decoder(embedding, position, sparse, dense, multimask_output=True)
    tokens = (embedding + encoder.no_mask_embed.weight[..., None, None])[0].flatten(1).t()
    return *stock, ImageTokens(tokens, position[0].flatten(1).t(), encoder.image_embedding_size), sparse


@torch.no_grad()
@pytest.mark.parametrize("make", [build_sam, coherent_sam])
def test_same_as_the_published_decoder(make):
    torch.manual_seed(0)
    sam = make("miniature")
    masks, predicted_iou, image, prompts = decode(sam)
    decoded = attend(sam.mask_decoder, image, prompts)
    torch.testing.assert_close(decoded.predicted_iou, predicted_iou, atol=1e-5, rtol=1e-4)
    logits = upscale(sam.mask_decoder, decoded, torch.ones(5, 3, dtype=torch.bool), *image.grid)
    torch.testing.assert_close(logits, masks.flatten(0, 1), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_only_wanted_masks_and_rows_are_upscaled():
    sam = coherent_sam()
    masks, _, image, prompts = decode(sam)
    keep = torch.zeros(5, 3, dtype=torch.bool)
    keep[1, 2] = keep[4, 0] = keep[4, 1] = True
    logits = upscale(sam.mask_decoder, attend(sam.mask_decoder, image, prompts), keep, ROWS, COLUMNS)
    assert logits.shape == (3, 4 * ROWS, 4 * COLUMNS)
    torch.testing.assert_close(logits, masks[keep][:, : 4 * ROWS, : 4 * COLUMNS], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_no_mask_wanted():
    sam = coherent_sam()
    _, _, image, prompts = decode(sam)
    none = torch.zeros(5, 3, dtype=torch.bool)
    assert upscale(sam.mask_decoder, attend(sam.mask_decoder, image, prompts), none, ROWS, COLUMNS).shape == (
        0,
        20,
        128,
    )
