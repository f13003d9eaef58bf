from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.prompts import vocabulary
from ray_lidarseg.miniature import captions, crops
from ray_lidarseg.miniature import training_pictures as images
from ray_lidarseg.miniature.training_pictures import SKY, TruePicture, truth_segments
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.types import IGNORE

ROAD, TERRAIN = (NUSCENES.class_names.index(name) for name in ("driveable_surface", "terrain"))


@pytest.fixture(scope="module")
def pictures() -> list[TruePicture]:
    scene = Scene(replace(PRESETS["tiny"], image_size=(160, 90)), 9700, 0)
    return list(images.scene_pictures(scene, (1,)))


def test_segments_are_whole_objects_connected_ground_and_the_sky():
    objects = np.array([[0] * 8] * 4 + [[0, 0, 7, 7, 0, 7, 7, 0]] * 12)
    classes = np.full((16, 8), SKY, np.uint8)
    classes[4:] = np.array([ROAD, ROAD, 3, 3, ROAD, 3, 3, TERRAIN])
    found = truth_segments(objects, classes)
    assert found.dtype == np.uint16
    assert len(np.unique(found[4:, [2, 3, 5, 6]])) == 1, "one object in two pieces is one segment"
    assert (found[4:, 4] == 0).all(), "twelve pixels of road between them are too few"
    assert found[5, 0] != 0
    assert (found[4:, 7] == 0).all()
    assert (found[:4] == found[0, 0]).all()
    assert found[0, 0] not in (0, found[5, 0], found[5, 2])
    assert sorted(np.unique(found)) == [0, 1, 2, 3]


def test_truth_lies_under_the_picture(pictures):
    assert len(pictures) == 6
    for entry in pictures:
        assert entry.image.shape == (*entry.classes.shape, 3) == (90, 160, 3)
        assert set(np.unique(entry.segments)) - {0} == set(range(1, int(entry.segments.max()) + 1))
        assert set(np.unique(entry.classes)) <= {*range(17), IGNORE}
        assert (entry.kitti[entry.classes == SKY] == 0).all()
        assert (entry.classes[:4] == SKY).mean() + (entry.kitti[:4] > 0).mean() > 0.99
    sky = [entry.segments[entry.classes == SKY] for entry in pictures]
    assert all(len(np.unique(ids)) == 1 for ids in sky if len(ids))


def test_the_label_image_fits_the_colours(pictures):
    """Sky is brighter than road, grass and trees are greener than both: the truth belongs to this very image."""
    pixels = np.concatenate([entry.image.reshape(-1, 3) for entry in pictures]).astype(float)
    classes = np.concatenate([entry.classes.ravel() for entry in pictures])
    green = pixels[:, 1] - pixels[:, [0, 2]].mean(axis=1)
    assert pixels[classes == SKY].mean() > pixels[classes == ROAD].mean() + 30
    plants = np.isin(classes, (TERRAIN, 15))
    assert green[plants].mean() > green[classes == ROAD].mean() + 5


def test_pictures_are_kept_and_read_back(tmp_path, monkeypatch, pictures):
    monkeypatch.setattr(images, "scene_pictures", lambda scene: iter(pictures[:2]))
    images.render_pictures(tmp_path, 9700, 1)
    monkeypatch.setattr(images, "scene_pictures", lambda scene: pytest.fail("rendered again"))
    images.render_pictures(tmp_path, 9700, 1)
    again = images.load_pictures(tmp_path, 9700, 1)
    np.testing.assert_array_equal(again[1].segments, pictures[1].segments)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    with pytest.raises(DataError, match=r"no pictures of scene 1 of world seed 9700 .*miniature images"):
        images.load_pictures(tmp_path, 9700, 2)


def test_no_seed_is_a_benchmarks_or_another_stages():
    scenes = {(seed + 0, index) for seed in (9000, 9500, 9600) for index in range(200)}
    assert len(scenes) == 600
    assert min(images.TRAIN_SEED, images.CHOICE_SEED, images.TEST_SEED) >= 9000


def test_kinds_tell_poles_from_buildings_and_leave_the_rest_whole():
    classes = np.array([[14, 14, 15, 15, 3, SKY, IGNORE, 14]], np.uint8)
    kitti = np.array([[80, 50, 71, 70, 10, 0, 0, 10]], np.uint8)
    found = captions.kinds_of(classes, kitti)[0]
    first = [captions.KINDS[i].words[0] for i in found[:6]]
    assert first == ["pole", "building", "trunk", "tree", "car", "sky"]
    assert (found[6:] == IGNORE).all()
    assert [captions.KINDS[i].class_idx for i in found[:6]] == [14, 14, 15, 15, 3, SKY]


def test_no_word_has_two_meanings():
    for meanings in (captions.CLASSES, captions.KINDS):
        words = [word for meaning in meanings for word in meaning.words]
        assert len(words) == len(set(words))
    owners = {}
    for meaning in (*captions.CLASSES, *captions.KINDS):
        for word in meaning.words:
            assert owners.setdefault(word, meaning.class_idx) == meaning.class_idx
    assert {name.replace("_", " ") for name in NUSCENES.class_names} <= set(owners)


@pytest.mark.parametrize("dataset", ["nuscenes", "semantickitti"])
def test_every_word_that_is_asked_later_was_taught(dataset):
    assert set(vocabulary(dataset).words) <= set(captions.all_words())


def test_sentences_hold_a_word_of_each_meaning():
    sentences = captions.draw_sentences(captions.KINDS, np.random.default_rng(0))
    assert len(sentences) == len(captions.KINDS)
    for sentence, meaning in zip(sentences, captions.KINDS, strict=True):
        assert any(word in sentence for word in meaning.words)


def test_a_crop_cuts_all_planes_alike():
    rng = np.random.default_rng(3)
    ids = np.arange(60 * 100).reshape(60, 100)
    image = np.stack([ids % 251, ids // 251, ids * 0], axis=-1).astype(np.uint8)
    picture = TruePicture(image, image[..., 0], image[..., 1], ids.astype(np.uint16))
    shapes = set()
    for _ in range(20):
        cut = crops.crop(picture, rng)
        shapes.add(cut.classes.shape)
        np.testing.assert_array_equal(cut.segments % 251, cut.classes)
        np.testing.assert_array_equal(cut.segments // 251, cut.kitti)
        assert cut.image.shape[:2] == cut.classes.shape
        assert cut.classes.shape[0] >= 27
    assert len(shapes) > 5


def test_resizing_ids_takes_the_centre():
    np.testing.assert_array_equal(crops.resize_classes(np.arange(16).reshape(4, 4), (2, 2)), [[5, 7], [13, 15]])
