import numpy as np
import pytest
import torch

from ray_lidarseg.datasets.evidence import TextEmbeddings, class_logits
from ray_lidarseg.models.word_classifier import Words, ZeroShot
from tests.methods.conftest import MODELS, NUM_CLASSES, SENSOR, scan

WORDS = TextEmbeddings(
    np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32),
    np.array([0, 0, 1]),
    ("car", "automobile", "road"),
    np.array([[-1.0, 0.0]], np.float32),
)


def test_the_nearest_word_of_a_class_counts_by_hand():
    words = Words().read(WORDS)
    features = torch.tensor([[0.0, 1.0], [0.8, 0.6], [-1.0, 0.0]])
    torch.testing.assert_close(words(features), torch.tensor([[1.0, 0.8], [0.8, 0.96], [0.0, -0.6]]))
    assert words.is_rejected(features).tolist() == [False, False, True]
    assert not Words().read(TextEmbeddings(WORDS.embeddings, WORDS.class_idx, WORDS.names)).is_rejected(features).any()


def test_it_is_what_layers_say_of_their_own_features():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 2)).astype(np.float32)
    features = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = class_logits(features, WORDS.embeddings, WORDS.class_idx)
    np.testing.assert_allclose(Words().read(WORDS)(torch.from_numpy(features)).numpy(), expected, atol=1e-6)


def test_a_state_dict_holds_the_words_though_no_recipe_knows_their_number():
    full, empty = Words().read(WORDS), Words()
    empty.load_state_dict(full.state_dict())
    assert (empty.num_classes, len(empty.embeddings)) == (2, 4)
    features = torch.randn(5, 2)
    assert torch.equal(empty(features), full(features))
    assert empty.is_rejected(torch.tensor([[-1.0, 0.0]])).tolist() == [True]
    assert Words().num_classes == 0


@pytest.mark.parametrize("name", ["fidnet", "minkunet"])
def test_a_segmentor_of_words_scores_points_and_cells(name):
    from ray_lidarseg.models.build import build_segmentor
    from ray_lidarseg.recipe import schema

    backbone = build_segmentor(schema.Recipe(model=MODELS[name]), SENSOR, NUM_CLASSES)
    model = ZeroShot(backbone, torch.nn.Linear(backbone.feature_dim, 2), Words().read(WORDS)).eval()
    batch = scan(0)
    output = model(batch)
    assert output.point_logits.shape == (len(batch), 2)
    torch.testing.assert_close(output.point_features.norm(dim=1), torch.ones(len(batch)))
    torch.testing.assert_close(output.point_logits, 100 * model.words(output.point_features))
    cell = int(output.cells.point_cell[7])
    mine = output.cells.point_cell == cell
    torch.testing.assert_close(output.cell_logits[cell], output.point_logits[mine].mean(dim=0))
    assert output.cell_features.shape[1] == model.cell_feature_dim


def test_a_class_without_pictures_is_never_the_answer():
    rows, nothing = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32), np.zeros((1, 2), np.float32)
    words = TextEmbeddings(rows, np.arange(3), ("a", "b", "c"), nothing)
    feature = torch.tensor([[-0.6, -0.8]])
    assert Words().read(words)(feature).argmax(dim=1).tolist() == [0]
    assert not Words().read(words).is_rejected(feature).any()
