import json
import logging
from pathlib import Path

import pytest
import torch

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.build import build_features, identity
from ray_lidarseg.foundation.clip_checkpoint import clip_files, load_clip
from ray_lidarseg.foundation.image_tensors import Preprocess
from ray_lidarseg.foundation.settings import ClipFeatures
from tests.foundation.clip_models import VIT, with_vision, write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    write_clip(path)
    return path


@pytest.fixture
def tiny_name(monkeypatch) -> str:
    """The tiny ViT among open_clip's named architectures."""
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-tiny-test", VIT["model_cfg"])
    return "ViT-tiny-test"


def from_folder(folder: Path) -> ClipFeatures:
    return ClipFeatures(checkpoint=f"local-dir:{folder}")


def test_folder_brings_weights_and_preprocessing(folder):
    model, preprocess = load_clip(from_folder(folder))
    expected = write_clip(folder / "again", seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert tuple(preprocess.mean) == (0.5, 0.4, 0.3)
    assert tuple(preprocess.std) == (0.2, 0.3, 0.4)
    assert not model.training


def test_folder_by_uri_is_the_same(folder):
    assert clip_files(ClipFeatures(checkpoint=f"local-dir:file://{folder}")) == clip_files(from_folder(folder))


def test_file_with_a_name_has_clips_own_preprocessing(folder, tiny_name):
    model, preprocess = load_clip(ClipFeatures(checkpoint=str(folder / "open_clip_model.safetensors"), model=tiny_name))
    assert preprocess == Preprocess()
    assert preprocess.mean[0] == 0.48145466
    assert model.visual.grid_size == (4, 6)


def test_training_checkpoint_with_nested_and_prefixed_weights(folder, tiny_name, tmp_path):
    state = {f"module.{key}": value for key, value in load_clip(from_folder(folder))[0].state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "epoch_3.pt")
    model, _ = load_clip(ClipFeatures(checkpoint=str(tmp_path / "epoch_3.pt"), model=tiny_name))
    assert torch.equal(model.visual.proj, state["module.visual.proj"])


def test_weights_of_another_architecture(folder, tmp_path):
    (tmp_path / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(with_vision(layers=4)))
    with pytest.raises(DataError, match=r"weights of another architecture than its own config: .*Missing key"):
        load_clip(from_folder(tmp_path))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(with_vision(width=64)))
    with pytest.raises(DataError, match=r"weights of another architecture .*size mismatch"):
        load_clip(from_folder(tmp_path))


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_truncated_weights(folder, tmp_path, name):
    whole = tmp_path / "whole"
    if name.endswith(".bin"):
        torch.save(load_clip(from_folder(folder))[0].state_dict(), whole)
    else:
        whole.write_bytes((folder / name).read_bytes())
    (tmp_path / name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "open_clip_config.json").write_text(json.dumps(VIT))
    with pytest.raises(DataError, match=r"is no whole weight file .*download it again"):
        load_clip(from_folder(tmp_path))


def test_folder_without_config_or_weights(tmp_path, folder):
    with pytest.raises(DataError, match=r"expected open_clip_config.json and one of .* got neither"):
        load_clip(from_folder(tmp_path))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(VIT))
    with pytest.raises(DataError, match=r"got \['open_clip_config.json'\]; download both into one folder"):
        load_clip(from_folder(tmp_path))
    with pytest.raises(DataError, match="got neither"):
        load_clip(from_folder(tmp_path / "absent"))


@pytest.mark.parametrize("text", ["{", "[]", '{"embed_dim": 4}'])
def test_config_that_is_none(folder, tmp_path, text):
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(DataError, match=r"open_clip_config.json.*download it again"):
        load_clip(from_folder(tmp_path))


def test_plain_folder_names_the_prefix(folder):
    with pytest.raises(DataError, match=r"is a folder; .* give features.checkpoint=local-dir:"):
        load_clip(ClipFeatures(checkpoint=str(folder)))


@pytest.mark.parametrize("checkpoint", ["openai", "laion2b_s34b_b88k"])
def test_a_tag_that_would_download_is_refused(checkpoint):
    with pytest.raises(DataError, match=f"no checkpoint file at {checkpoint} .*nothing is downloaded for you"):
        load_clip(ClipFeatures(checkpoint=checkpoint, model="ViT-B-16-quickgelu"))


def test_a_hub_is_refused():
    with pytest.raises(DataError, match=r"would download: .* give features.checkpoint=local-dir:FOLDER"):
        load_clip(ClipFeatures(checkpoint="hf-hub:laion/CLIP-ViT-B-16"))


def test_file_without_a_model_name(folder):
    with pytest.raises(DataError, match=r"is a single file: also give features.model.*ViT-B-16-quickgelu"):
        load_clip(ClipFeatures(checkpoint=str(folder / "open_clip_model.safetensors")))


def test_unknown_model_name_gets_a_hint(folder):
    settings = ClipFeatures(checkpoint=str(folder / "open_clip_model.safetensors"), model="ViT-B-16-quickglu")
    with pytest.raises(DataError, match=r"knows no architecture .*did you mean 'ViT-B-16-quickgelu'"):
        load_clip(settings)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("EVA02-B-16", "an image tower of timm"),
        ("roberta-ViT-B-32", "a text tower of a hub"),
        ("coca_ViT-B-32", "attentional pooling"),
    ],
)
def test_towers_without_dense_features_are_refused(folder, model, reason):
    settings = ClipFeatures(checkpoint=str(folder / "open_clip_model.safetensors"), model=model)
    with pytest.raises(DataError, match=f"{model} has .*{reason}.*use --features timm"):
        load_clip(settings)


def test_config_that_open_clip_cannot_build(folder, tmp_path):
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    wrong = {"model_cfg": {**VIT["model_cfg"], "embedding": 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(wrong))
    with pytest.raises(DataError, match=r"open_clip cannot build a model of this config: .*embedding"):
        load_clip(from_folder(tmp_path))


def test_identity_is_of_the_content_not_of_the_place(folder, tmp_path):
    write_clip(tmp_path / "same")
    write_clip(tmp_path / "other", seed=1)
    first = identity(from_folder(folder))
    assert first == identity(from_folder(tmp_path / "same"))
    assert first != identity(from_folder(tmp_path / "other"))
    assert first == identity(ClipFeatures(checkpoint=f"local-dir:{folder}", image_batch=3, precision="bf16"))
    assert first != identity(ClipFeatures(checkpoint=f"local-dir:{folder}", last_block="value"))
    (tmp_path / "same" / "open_clip_config.json").write_text(json.dumps({**VIT, "preprocess_cfg": {}}))
    assert first != identity(from_folder(tmp_path / "same"))
    json.dumps(first)


def test_build_gives_the_teacher(folder, caplog):
    caplog.set_level(logging.WARNING)
    teacher = build_features(from_folder(folder), "cpu")
    assert teacher.feature_dim == 24
    assert not caplog.records
