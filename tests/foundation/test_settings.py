import pytest

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.foundation.build import identity
from ray_lidarseg.foundation.settings import (
    MINIATURE_SAM,
    ClipFeatures,
    PairSettings,
    SamMasks,
    SlicMasks,
    TimmFeatures,
    settings_of,
    split_overrides,
    teacher_names,
)


def test_defaults_are_the_papers():
    assert settings_of("masks", "slic", {}) == SlicMasks(num_segments=150, compactness=6.0, sigma=3.0)
    sam = settings_of("masks", "sam", {"checkpoint": "sam_vit_h.pth"})
    assert (sam.points_per_side, sam.pred_iou_threshold, sam.stability_threshold, sam.nms_iou) == (32, 0.88, 0.95, 0.7)
    assert settings_of("pairs", "pairs", {}).min_depth_m == 1.0
    assert settings_of("features", "clip", {}) == ClipFeatures(checkpoint="miniature")


def test_the_miniature_sam_has_thresholds_of_its_own_that_words_override():
    shipped = settings_of("masks", "sam", {})
    assert {key: getattr(shipped, key) for key in MINIATURE_SAM} == MINIATURE_SAM
    assert settings_of("masks", "sam", {"stability_threshold": "0.8"}).stability_threshold == 0.8
    assert settings_of("masks", "sam", {"points_per_side": "8"}).pred_iou_threshold == shipped.pred_iou_threshold


def test_words_become_values():
    clip = settings_of(
        "features", "clip", {"image_size": "224,416", "templates": "a {}, the {}", "last_block": "value"}
    )
    assert clip.image_size == (224, 416)
    assert clip.templates == ("a {}", "the {}")
    assert settings_of("pairs", "pairs", {"occlusion": "no"}) == PairSettings(occlusion=False)
    assert settings_of("masks", "sam", {"points_per_side": "8"}).points_per_side == 8


def test_overrides_are_sorted_by_kind():
    found = split_overrides(["masks.num_segments=100", "features.image_size=224, 416", "pairs.occlusion=no"])
    assert found == {
        "masks": {"num_segments": "100"},
        "features": {"image_size": "224, 416"},
        "pairs": {"occlusion": "no"},
    }
    assert split_overrides(["features.checkpoint=s3://b/c?endpoint_override=d=e"])["features"] == {
        "checkpoint": "s3://b/c?endpoint_override=d=e"
    }


@pytest.mark.parametrize("pair", ["masks.num_segments", "num_segments=3", "masks.=3", "=3"])
def test_overrides_that_are_no_pairs(pair):
    with pytest.raises(RecipeError, match=r"expected KEY.KEY=VALUE, for example masks.num_segments=100"):
        split_overrides([pair])


@pytest.mark.parametrize(
    ("kind", "name", "overrides", "message"),
    [
        ("mask", "slic", {}, "no settings 'mask': expected one of masks, features, pairs; did you mean 'masks'"),
        ("masks", "slick", {}, "no masks teacher 'slick': expected one of slic, sam, files; did you mean 'slic'"),
        ("masks", "slic", {"num_segment": "3"}, "unknown key 'masks.num_segment'; did you mean 'masks.num_segments'"),
        ("masks", "slic", {"xyz": "3"}, "unknown key 'masks.xyz'; known are compactness, max_iterations"),
        ("masks", "slic", {"num_segments": "many"}, r"masks.num_segments: expected a whole number .got 'many'"),
        ("masks", "slic", {"num_segments": "70000"}, r"masks.num_segments: expected at most 65535"),
        ("masks", "sam", {"nms_iou": "1.2"}, r"masks.nms_iou: expected at most 1 "),
        ("masks", "files", {}, r"masks.folder is missing: give --set masks.folder="),
        ("features", "timm", {}, r"features.checkpoint is missing"),
        ("features", "clip", {"image_size": "224"}, r"features.image_size"),
        ("features", "clip", {"image_size": "a,b"}, r"features.image_size.0"),
        ("features", "clip", {"templates": "a photo"}, r"each of templates must hold \{\} once"),
        ("features", "clip", {"model": "ViT-B-16"}, r"model has no effect: checkpoint 'miniature' brings its own"),
        ("pairs", "pairs", {"min_depth_m": "-1"}, r"pairs.min_depth_m: expected at least 0 "),
    ],
)
def test_what_does_not_fit_says_so(kind, name, overrides, message):
    with pytest.raises(RecipeError, match=message):
        settings_of(kind, name, overrides)


def test_names_of_teachers():
    assert teacher_names("masks") == ("slic", "sam", "files")
    assert teacher_names("features") == ("clip", "timm")


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        SlicMasks().num_segments = 3


@pytest.mark.parametrize("section", [SlicMasks, SamMasks, ClipFeatures, TimmFeatures, PairSettings])
def test_speed_only_fields_exist(section):
    assert set(section.model_fields) >= section.SPEED_ONLY


def test_a_size_to_measure_masks_at_is_part_of_a_layers_name_only_where_it_is_set():
    plain, small = settings_of("masks", "sam", {}), settings_of("masks", "sam", {"measured_px": "512"})
    assert "measured_px" not in identity(plain)
    assert identity(small) == {**identity(plain), "measured_px": 512}
