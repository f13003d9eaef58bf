import numpy as np
import pytest

from ray_lidarseg.datasets.evidence import class_logits
from ray_lidarseg.errors import DataError


def test_logit_of_a_class_is_its_best_word():
    embeddings = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    features = np.array([[0.6, 0.8], [-1, 0], [0, 0]], np.float16)
    found = class_logits(features, embeddings, np.array([0, 0, 1]))
    np.testing.assert_allclose(found, [[0.8, -0.6], [0, 1], [0, 0]], atol=1e-3)
    assert found.dtype == np.float32


def test_logits_of_other_words_than_the_features():
    with pytest.raises(DataError, match="features have 3 values, embedded words 2"):
        class_logits(np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32), np.array([0]))


@pytest.mark.parametrize("class_idx", [[0, 2], [1, 2], [0, 1, 0]])
def test_logits_of_classes_with_gaps(class_idx):
    count = len(class_idx)
    with pytest.raises(DataError, match="words in class order without gaps"):
        class_logits(np.zeros((1, 2), np.float32), np.zeros((count, 2), np.float32), np.array(class_idx))


def test_a_class_without_words_is_just_below_all_others():
    embeddings = np.array([[0, 0], [1, 0], [0, 0], [0, 1]], np.float32)
    features = np.array([[-0.6, -0.8], [0.6, -0.8]], np.float32)
    found = class_logits(features, embeddings, np.array([0, 1, 1, 2]))
    np.testing.assert_allclose(found, [[-0.802, -0.6, -0.8], [-0.802, 0.6, -0.8]], atol=1e-6)
    assert found.astype(np.float16).argmax(axis=1).tolist() == [1, 1]
    assert class_logits(features, embeddings[[0, 1]], np.array([0, 1])).astype(np.float16).argmax(axis=1).tolist() == [
        1,
        1,
    ]
