import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.build import build_features, identity
from ray_lidarseg.foundation.settings import TimmFeatures
from ray_lidarseg.foundation.teachers import TextTeacher, as_objects
from ray_lidarseg.foundation.timm_features import Timm

NAME = "test_vit"  # timm's own tiny ViT: width 64, patch 16, 160 x 160


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(NAME, pretrained=False).eval()


@pytest.fixture
def weights(tmp_path, model):
    path = tmp_path / "weights.pth"
    torch.save({"model": model.state_dict()}, path)  # with its classifier
    return path


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_features_are_the_normalised_patch_tokens(weights, model):
    teacher = Timm(TimmFeatures(model=NAME, checkpoint=str(weights), image_size=(160, 160)))
    image = picture(160, 160)
    config = model.pretrained_cfg
    pixels = ((torch.from_numpy(image) / 255 - torch.tensor(config["mean"])) / torch.tensor(config["std"])).permute(
        2, 0, 1
    )
    with torch.no_grad():
        tokens = model.forward_features(pixels[None])[0, 1:]
    found = teacher({"image": as_objects([image])})["features"][0]
    assert teacher.feature_dim == 64
    np.testing.assert_allclose(found, tokens.reshape(10, 10, 64).numpy(), atol=1e-5)


def test_any_size_in_whole_patches(weights):
    settings = TimmFeatures(model=NAME, checkpoint=str(weights), image_batch=1)
    teacher = build_features(settings, "cpu")
    grids = teacher({"image": as_objects([picture(50, 90), picture(90, 160)])})["features"]
    assert [grid.shape for grid in grids] == [(16, 28, 64)] * 2
    assert not isinstance(teacher, TextTeacher)
    with pytest.raises(DataError, match="image_size=100,160: expected multiples of the patch of test_vit, 16 x 16"):
        Timm(settings.model_copy(update={"image_size": (100, 160)}))


def test_safetensors_hold_the_same_and_identity_is_their_content(tmp_path, weights, model):
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(kept, tmp_path / "weights.safetensors")
    batch = {"image": as_objects([picture(50, 90)])}
    settings = [
        TimmFeatures(model=NAME, checkpoint=str(tmp_path / name)) for name in ("weights.pth", "weights.safetensors")
    ]
    first, second = (Timm(choice)(batch)["features"][0] for choice in settings)
    np.testing.assert_array_equal(first, second)
    assert identity(settings[0]) != identity(settings[1])  # other bytes
    assert "checkpoint" not in identity(settings[0])


@pytest.mark.parametrize("other", ["test_vit2", "vit_tiny_patch16_224"])
def test_weights_of_another_architecture(weights, other):
    with pytest.raises(DataError, match=f"weights of another architecture than {other}: .*give the features.model"):
        Timm(TimmFeatures(model=other, checkpoint=str(weights)))


def test_another_patch_is_not_resampled_silently(tmp_path, model):
    state = dict(model.state_dict())
    state["patch_embed.proj.weight"] = torch.zeros(64, 3, 8, 8)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=r"patches are \[64, 3, 8, 8\], expected \[64, 3, 16, 16\]"):
        Timm(TimmFeatures(model=NAME, checkpoint=str(tmp_path / "weights.pth")))


def test_truncated_file(weights):
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"is no whole weight file .*download it again"):
        Timm(TimmFeatures(model=NAME, checkpoint=str(weights)))


def test_file_without_names(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "weights.pth")
    with pytest.raises(DataError, match="expected named weights, got Tensor"):
        Timm(TimmFeatures(model=NAME, checkpoint=str(tmp_path / "weights.pth")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_base_patch14_dino2", "timm knows no features.model=.*did you mean 'vit_base_patch14"),
        ("hf-hub:someone/model", "timm knows no features.model=hf-hub:someone/model"),
        ("test_resnet", "no vision transformer that takes any input size"),
    ],
)
def test_models_that_give_no_patches(weights, name, message):
    with pytest.raises(DataError, match=message):
        Timm(TimmFeatures(model=name, checkpoint=str(weights)))


def test_missing_checkpoint(tmp_path):
    with pytest.raises(DataError, match=r"no checkpoint file at .*absent.pth .*nothing is downloaded for you"):
        Timm(TimmFeatures(checkpoint=str(tmp_path / "absent.pth")))
