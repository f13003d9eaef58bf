from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.clip import Clip, resize_positions, self_attending
from ray_lidarseg.foundation.clip_architecture import MINIATURE, MINIATURE_SIZE_PX, build_clip_miniature
from ray_lidarseg.foundation.settings import ClipFeatures
from ray_lidarseg.foundation.teachers import TextTeacher, as_objects
from tests.foundation.clip_models import RESNET, VIT, random_clip, with_vision, write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    write_clip(path)
    return path


def clip(folder: Path, **changes) -> Clip:
    return Clip(ClipFeatures(checkpoint=f"local-dir:{folder}", **changes))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_masked_attention(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The plain twin: all blocks as they are, the last under a mask that lets a token see itself alone."""
    visual = model.visual
    tokens = visual.conv1(pixels).flatten(2).transpose(1, 2)
    token = visual.class_embedding.expand(len(pixels), 1, -1)
    tokens = visual.ln_pre(torch.cat([token, tokens], 1) + visual.positional_embedding)
    *first, last = visual.transformer.resblocks
    for block in first:
        tokens = block(tokens)
    mask = torch.full((tokens.shape[1],) * 2, -torch.inf).fill_diagonal_(0.0)
    return (visual.ln_post(last(tokens, attn_mask=mask)) @ visual.proj)[:, 1:]


def test_features_are_the_last_block_under_a_diagonal_mask(folder):
    image = picture(32, 48)  # the tower's own size: nothing is resized
    model = random_clip(VIT)
    normalised = (torch.from_numpy(image).permute(2, 0, 1) / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / (
        torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    )
    with torch.no_grad():
        expected = by_masked_attention(model, normalised[None])[0].reshape(4, 6, 24)
    found = clip(folder)({"image": as_objects([image])})["features"][0]
    assert found.shape == (4, 6, 24)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)
    with torch.no_grad():
        mixed = model.visual.ln_post(model.visual.transformer(model.visual._embeds(normalised[None])))
    assert np.abs((mixed @ model.visual.proj)[0, 1:].detach().reshape(4, 6, 24).numpy() - found).max() > 0.01


def test_value_alone_drops_residual_and_mlp():
    block = random_clip(VIT).visual.transformer.resblocks[-1]
    tokens = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        value = self_attending(block, tokens, keeps_residual=False)
        attended = block.attention(block.ln_1(tokens), attn_mask=torch.full((5, 5), -torch.inf).fill_diagonal_(0.0))
        kept = self_attending(block, tokens)
    torch.testing.assert_close(value, attended)
    after = tokens + value
    torch.testing.assert_close(kept, after + block.mlp(block.ln_2(after)))


def test_the_two_last_blocks_differ_through_the_teacher(folder):
    batch = {"image": as_objects([picture(40, 60)])}
    kept, alone = clip(folder)(batch)["features"][0], clip(folder, last_block="value")(batch)["features"][0]
    assert np.abs(kept - alone).max() > 0.01


def test_batches_of_any_size_give_the_same_features_in_order(folder):
    images = as_objects([picture(30, 50, 1), picture(60, 90, 2), picture(32, 48, 3)])
    one, all_ = clip(folder, image_batch=1), clip(folder, image_batch=8)
    for a, b in zip(one({"image": images})["features"], all_({"image": images})["features"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_another_input_size_changes_the_grid_and_resizes_the_positions(folder):
    teacher = clip(folder, image_size=(64, 96))
    assert teacher.image_size == (64, 96)
    assert teacher({"image": as_objects([picture(64, 96)])})["features"][0].shape == (8, 12, 24)


def test_square_checkpoints_see_wide_images_unless_told_otherwise(tmp_path):
    write_clip(tmp_path, with_vision(image_size=56))
    assert clip(tmp_path).image_size == (56, 104)  # 224 x 416 at a quarter
    assert clip(tmp_path, image_size=(56, 56)).image_size == (56, 56)


def test_positions_of_a_constant_and_of_a_ramp_stay_so():
    ramp = torch.arange(6.0).repeat(4, 1).reshape(24, 1)  # grows along the columns
    positions = torch.cat([torch.tensor([[7.0]]), ramp])
    resized = resize_positions(positions, (4, 6), (8, 12))
    assert resized[0].item() == 7.0
    grid = resized[1:].reshape(8, 12)
    torch.testing.assert_close(grid, grid[:1].expand(8, 12), atol=1e-5, rtol=0)  # nothing leaks between the rows
    torch.testing.assert_close(grid[0, 4:8], torch.tensor([1.75, 2.25, 2.75, 3.25]), atol=0.02, rtol=0)
    assert resize_positions(positions, (4, 6), (4, 6)) is positions


def test_same_number_of_patches_in_another_shape_is_resized_too():
    positions = torch.randn(25, 8, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(resize_positions(positions, (4, 6), (6, 4)), positions)


def test_size_that_is_no_multiple_of_the_patch(folder):
    with pytest.raises(DataError, match=r"image_size=33,48: expected multiples of .* 8 x 8 pixels; for example 32,48"):
        clip(folder, image_size=(33, 48))


def test_resnet_features_are_value_and_output_projection_of_the_pool(tmp_path):
    model = write_clip(tmp_path, RESNET)
    image = picture(64, 128)
    teacher = clip(tmp_path)
    assert teacher.image_size == (64, 128)  # 64 x 118.9, to the next multiple of 32
    found = teacher({"image": as_objects([image])})["features"][0]
    visual, mean, std = model.visual, torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    pixels = ((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        last = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
        pool = visual.attnpool
        value = torch.einsum("bchw,dc->bhwd", last, pool.v_proj.weight) + pool.v_proj.bias
        expected = value @ pool.c_proj.weight.T + pool.c_proj.bias
    assert found.shape == (2, 4, 24)
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-5)


def test_texts_are_means_of_unit_embeddings_made_unit_again(folder):
    import open_clip

    model = random_clip(VIT)
    sentences = ["a photo of a car.", "a car in a scene"]
    with torch.no_grad():
        rows = functional.normalize(model.encode_text(open_clip.SimpleTokenizer()(sentences)), dim=1)
    expected = rows.mean(0) / rows.mean(0).norm()
    found = clip(folder).embed_text([sentences, ["a tree"]])
    assert found.shape == (2, 24)
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_prompt_without_a_sentence(folder):
    with pytest.raises(DataError, match=r"at least one sentence a prompt, got none for prompts \[1\]"):
        clip(folder).embed_text([["a car"], []])


def test_a_teacher_of_words_is_recognised(folder):
    assert isinstance(clip(folder), TextTeacher)


def test_bfloat16_is_near_float32(folder):
    batch = {"image": as_objects([picture(32, 48)])}
    exact, rough = clip(folder)(batch)["features"][0], clip(folder, precision="bf16")(batch)["features"][0]
    assert rough.dtype == np.float32
    difference = np.abs(exact - rough).max()
    assert 0 < difference < 0.1 * np.abs(exact).max()


def test_one_block_is_too_few(tmp_path):
    write_clip(tmp_path, with_vision(layers=1))
    with pytest.raises(DataError, match="expected a ViT of two or more plain residual attention blocks, got 1"):
        clip(tmp_path)


def test_miniature_is_a_clip_of_its_config_and_the_same_for_a_seed(tmp_path):
    first, again = build_clip_miniature(3), build_clip_miniature(3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    write_clip(tmp_path, MINIATURE)
    teacher = clip(tmp_path)
    assert teacher.image_size == MINIATURE_SIZE_PX
    assert teacher({"image": as_objects([picture(126, 224)])})["features"][0].shape == (14, 25, 64)
