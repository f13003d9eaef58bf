from pathlib import Path

import pytest

from ray_lidarseg.errors import RecipeError, ResourceError
from ray_lidarseg.foundation.build import identity
from ray_lidarseg.foundation.prompts import vocabulary_of
from ray_lidarseg.foundation.settings import settings_of
from ray_lidarseg.prepare.requested_layers import Teachers, probe, uses_gpu
from ray_lidarseg.runtime.pool import Actors


def test_names_and_keys_of_the_command_line_make_layers_in_order() -> None:
    teachers = Teachers.of("slic", overrides=["masks.num_segments=100", "pairs.occlusion=no"])
    masks, pairs = teachers.layers()
    assert (masks.kind, masks.identity["num_segments"], masks.reads) == ("masks", 100, ())
    assert (pairs.kind, pairs.identity["occlusion"], pairs.reads) == ("pairs", False, (masks.name,))
    assert Teachers().layers() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "clip"), r"--features clip is pooled over segments: say which, for example --masks slic"),
        (("", "", ["masks.num_segments=3"]), r"--set masks.num_segments has no effect without --masks"),
        (("slic", "", ["features.image_batch=3"]), r"--set features.image_batch has no effect without --features"),
        (("", "", ["pairs.occlusion=no"]), r"--set pairs.occlusion has no effect without --masks"),
        (("slic", "", ["masks.num_segmens=3"]), r"unknown key 'masks.num_segmens'; did you mean 'masks.num_segments'"),
    ],
)
def test_what_has_no_effect_or_is_unknown_is_said(arguments: tuple, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Teachers.of(*arguments)


def test_paths_are_found_by_workers_in_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    teachers = Teachers.of("files", "clip", ["masks.folder=m", "features.checkpoint=local-dir:c"])
    assert teachers.masks.folder == str(tmp_path / "m")
    assert teachers.features.checkpoint == f"local-dir:{tmp_path}/c"
    assert Teachers.of("sam", overrides=["masks.checkpoint=s3://b/x.pth"]).masks.checkpoint == "s3://b/x.pth"
    assert Teachers.of("sam").masks.checkpoint == "miniature"


def test_only_networks_want_a_gpu() -> None:
    teachers = Teachers.of("sam", "clip")
    assert [uses_gpu(s) for s in (teachers.masks, teachers.features, teachers.pairs)] == [True, True, False]
    assert not uses_gpu(Teachers.of("slic").masks)


def test_actors_of_the_command_line() -> None:
    assert Actors.of() == Actors(1, 0, 1.0, None)
    assert Actors.of("2:8", 3.0, "0.5") == Actors(2, 8, 3.0, 0.5)
    assert Actors.of("4") == Actors(4, 4)
    assert (Actors.of("1:2", 2.5, "1").threads, Actors.of("1:2", 0.5).threads) == (2, 1)
    for wrong in (("", float("nan")), ("", float("inf")), ("", 1.0, "nan"), ("", 1.0, "inf")):
        with pytest.raises(ResourceError, match=r"expected 1 <= MIN <= MAX, CPUs above 0"):
            Actors.of(*wrong)
    for wrong in (("8:2",), ("0:2",), ("1:2", 0.0), ("1:2", 1.0, "-1"), ("a:b",), ("1:2", 1.0, "many")):
        with pytest.raises(ResourceError, match=r"expected"):
            Actors.of(*wrong)


def test_words_that_mean_no_class_are_embedded_beside_the_classes() -> None:
    settings = settings_of("features", "clip", {"reject": "sky,own car"})
    found = probe(settings, vocabulary_of([["car"], ["road"]]), 1).text
    assert found is not None
    assert (found.num_classes, found.embeddings.shape, found.reject.shape) == (2, (2, 64), (2, 64))
    plain = settings_of("features", "clip", {})
    assert identity(settings)["reject"] == ["sky", "own car"]
    assert "reject" not in identity(plain)  # layers of before keep their names
