import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.build import build_masks, identity
from ray_lidarseg.foundation.sam import Sam, checked_rgb, load_sam
from ray_lidarseg.foundation.settings import SamMasks
from ray_lidarseg.foundation.teachers import MaskTeacher, as_objects
from tests.foundation.coherent_sam import coherent_sam

SIZES = ((60, 90), (48, 40), (60, 90))


@pytest.fixture(scope="module")
def state():
    return coherent_sam().state_dict()


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return as_objects(
        [np.kron(rng.integers(0, 256, (h // 4, w // 5, 3)), np.ones((4, 5, 1))).astype(np.uint8) for h, w in SIZES]
    )


def settings(checkpoint, **changes):
    return SamMasks(checkpoint=str(checkpoint), **{"points_per_side": 6, "pred_iou_threshold": 0.0, **changes})


def test_is_a_mask_teacher_for_images_of_different_sizes(checkpoint, images):
    teacher = build_masks(settings(checkpoint, image_batch=2), "cpu")
    assert isinstance(teacher, Sam)
    assert isinstance(teacher, MaskTeacher)
    segments = teacher({"image": images})["segments"]
    assert segments.dtype == object
    for found, size in zip(segments, SIZES, strict=True):
        assert (found.shape, found.dtype) == (size, np.uint16)
        assert np.array_equal(np.unique(found[found > 0]), np.arange(1, found.max() + 1))
        assert found.max() >= 2


def test_batch_sizes_do_not_change_masks(checkpoint, images):
    small = Sam(settings(checkpoint, image_batch=1, prompt_batch=5), "cpu")({"image": images})["segments"]
    large = Sam(settings(checkpoint, image_batch=8, prompt_batch=64), "cpu")({"image": images})["segments"]
    assert min((a == b).mean() for a, b in zip(small, large, strict=True)) > 0.99


def test_lidar_prompts_ask_only_where_points_fall(checkpoint, images):
    teacher = Sam(settings(checkpoint, prompts="lidar"), "cpu")
    everywhere = np.stack(np.meshgrid(np.arange(90), np.arange(60)), -1).reshape(-1, 2).astype(np.float32)
    nowhere = np.zeros((0, 2), np.float32)
    asked = teacher({"image": images, "prompts": as_objects([everywhere, nowhere, nowhere])})["segments"]
    on_grid = Sam(settings(checkpoint), "cpu")({"image": images[:1]})["segments"]
    assert (asked[0] == on_grid[0]).mean() > 0.99
    assert not asked[1].any()


def test_lidar_prompts_without_lidar(checkpoint, images):
    with pytest.raises(
        DataError, match=r"masks\.prompts=lidar needs the pixels LiDAR points fall on .*masks\.prompts=grid"
    ):
        Sam(settings(checkpoint, prompts="lidar"), "cpu")({"image": images})


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 5), np.uint8), r"uint8 \[4, 5\] \(grayscale"),
        (np.zeros((4, 5, 1), np.uint8), r"uint8 \[4, 5, 1\] \(grayscale"),
        (np.zeros((4, 5, 4), np.uint8), r"uint8 \[4, 5, 4\] \(RGBA: drop alpha"),
        (np.zeros((4, 5, 3), np.float32), r"float32 \[4, 5, 3\]"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 \[0, 5, 3\]"),
    ],
)
def test_only_rgb_bytes_are_images(image, found):
    with pytest.raises(DataError, match=r"expected an RGB image, uint8 \[H, W, 3\], got " + found):
        checked_rgb(image)


def test_safetensors_and_pth_and_uri_give_the_same_model(state, checkpoint, tmp_path, images):
    save_file(state, tmp_path / "sam.safetensors")
    expected = Sam(settings(checkpoint), "cpu")({"image": images[:1]})["segments"][0]
    for place in (tmp_path / "sam.safetensors", f"file://{checkpoint}"):
        assert np.array_equal(Sam(settings(place), "cpu")({"image": images[:1]})["segments"][0], expected)


def test_identity_follows_content_not_place(checkpoint, state, tmp_path):
    copy = tmp_path / "other.pth"
    copy.write_bytes(checkpoint.read_bytes())
    assert identity(settings(checkpoint)) == identity(settings(copy, prompt_batch=7))
    torch.save({**state, "prompt_encoder.no_mask_embed.weight": torch.zeros(1, 64)}, copy)
    assert identity(settings(checkpoint)) != identity(settings(copy))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"no checkpoint file at .*gone\.pth"):
        Sam(settings(tmp_path / "gone.pth"), "cpu")


def test_truncated_files(checkpoint, state, tmp_path):
    save_file(state, tmp_path / "whole.safetensors")
    for whole, name in ((checkpoint, "cut.pth"), (tmp_path / "whole.safetensors", "cut.safetensors")):
        cut = tmp_path / name
        cut.write_bytes(whole.read_bytes()[:100_000])
        with pytest.raises(DataError, match=rf"{name} \(100,000 bytes\): it is truncated or no file of weights"):
            load_sam(cut)


def test_file_that_runs_code_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    torch.save({"image_encoder.patch_embed.proj.weight": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(DataError, match=r"cannot read checkpoint .*harm\.pth"):
        load_sam(tmp_path / "harm.pth")


def test_another_architecture_than_asked_for(checkpoint):
    with pytest.raises(DataError, match=r"holds miniature, expected vit_b: set masks\.architecture=miniature"):
        Sam(settings(checkpoint, architecture="vit_b"), "cpu")


def test_other_checkpoints(state, tmp_path):
    path = tmp_path / "other.pth"
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="not a SAM checkpoint: expected a dict of tensors, found list"):
        load_sam(path)
    torch.save({"visual.proj": torch.zeros(2)}, path)
    with pytest.raises(DataError, match=r"other\.pth: not a SAM checkpoint: .*found 1 entries \(visual\.proj"):
        load_sam(path)


def test_missing_tensors_are_named(state, tmp_path):
    path = tmp_path / "part.pth"
    torch.save({key: value for key, value in state.items() if "no_mask_embed" not in key}, path)
    with pytest.raises(DataError, match=r"looks like SAM miniature but its tensors do not fit: .*no_mask_embed"):
        load_sam(path)
