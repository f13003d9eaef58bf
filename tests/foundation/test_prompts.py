import numpy as np
import pytest

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.datasets.semantickitti import CLASSES as SEMANTICKITTI
from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.prompts import (
    TEMPLATES,
    Vocabulary,
    vocabulary,
    vocabulary_of,
)
from ray_lidarseg.recipe.ontology import parse_ontology

ONTOLOGY = """
name: acme
classes:
  - {name: light_vehicle, raw_ids: [1], synonyms: [car, van, light-vehicle]}
  - {name: road, raw_ids: [2]}
sensor: {num_beams: 64, fov_up_deg: 20, fov_down_deg: -20, min_range_m: 1, max_range_m: 100, intensity: none}
"""


def test_nuscenes_has_openscenes_43_words_in_class_order():
    words = vocabulary("nuscenes")
    assert len(words.words) == 43
    assert words.num_classes == 16
    assert tuple(nuscenes.SPEC.words) == NUSCENES.class_names
    assert words.class_idx[words.words.index("excavator")] == NUSCENES.class_names.index("construction_vehicle")
    assert words.class_idx[words.words.index("woods")] == 15


def test_semantickitti_has_words_for_all_of_its_classes():
    assert tuple(semantickitti.SPEC.words) == SEMANTICKITTI.class_names
    words = vocabulary("semantickitti")
    assert words.num_classes == 19
    assert len(set(words.words)) == len(words.words)


def test_ontology_brings_names_and_synonyms():
    words = vocabulary("manifest", parse_ontology(ONTOLOGY))
    assert words.words == ("light vehicle", "car", "van", "road")
    assert words.class_idx.tolist() == [0, 0, 0, 1]


def test_data_set_without_words():
    with pytest.raises(DataError, match=r"data set manifest needs an ontology: .*its classes, their words"):
        vocabulary("manifest")
    with pytest.raises(DataError, match=r"no words for the classes of data set 'cityscapes'"):
        vocabulary("cityscapes")


def test_class_without_a_word():
    with pytest.raises(DataError, match=r"none for classes \[1\]"):
        vocabulary_of([["car"], ["_ "], ["tree"]])


def test_sentences_of_each_word():
    words = vocabulary_of([["car"], ["traffic-cone"]])
    assert words.prompts(["a {} in a scene", "{}"]) == [
        ["a car in a scene", "car"],
        ["a traffic cone in a scene", "traffic cone"],
    ]
    assert len(words.prompts()[0]) == len(TEMPLATES)
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_embedding_asks_the_teacher_for_the_sentences():
    class Teacher:
        feature_dim = 1

        def __call__(self, batch):
            raise AssertionError("no image is needed")

        def embed_text(self, prompts):
            return np.array([[float(len(sentences[0]))] for sentences in prompts], np.float32)

    assert vocabulary_of([["car"], ["tree"]]).embed(Teacher(), ["a {}"]).tolist() == [[5.0], [6.0]]


def test_vocabulary_counts_its_classes():
    assert Vocabulary(("a", "b"), np.array([0, 1])).num_classes == 2
