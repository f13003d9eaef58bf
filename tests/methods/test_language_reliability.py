import pytest
import torch

from ray_lidarseg.methods.language_reliability import LanguageReliability
from ray_lidarseg.recipe import schema
from ray_lidarseg.types import IGNORE

RECIPE = schema.LaserMixPP(language_reliable=True, language_min_recall=0.5, language_memory=0.5)


def words(*named: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(named), 3).float()


def test_by_hand():
    reliability = LanguageReliability(3, RECIPE)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, IGNORE, 0])
    named = torch.tensor([0, 0, 1, 1, 0, 1, 2, 2])
    is_paired = torch.tensor([True] * 7 + [False])
    reliability.note(named, labels, is_paired, 0.0)
    reliability.after_step()
    # word 0: two of three are class 0; word 1: one of three is class 1; word 2: was never counted
    assert reliability.weight(words(0, 1, 2)).tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    # class 0 is named in two of three, class 1 in one of two, class 2 never
    assert reliability.known.tolist() == [True, True, False]


def test_counts_follow_the_steps_and_a_skipped_one_leaves_nothing():
    reliability, everything = LanguageReliability(3, RECIPE), torch.ones(2, dtype=torch.bool)
    reliability.note(torch.tensor([0, 0]), torch.tensor([0, 1]), everything, 0.0)
    reliability.after_step()
    reliability.note(torch.tensor([1, 1]), torch.tensor([1, 1]), everything, 0.1)  # skipped
    reliability.note(torch.tensor([0, 0]), torch.tensor([0, 0]), everything, 0.2)
    reliability.after_step()
    assert reliability.counts[:2, 0].tolist() == [0.5 * 0.5 * 1 + 0.5 * 2, 0.5 * 0.5 * 1]
    assert reliability.counts[:, 1:].sum() == 0
    before = reliability.counts.clone()
    reliability.after_step()  # a step that noted nothing
    assert torch.equal(reliability.counts, before)


def test_before_the_first_step_no_word_counts_and_every_class_is_known():
    reliability = LanguageReliability(3, RECIPE)
    assert reliability.weight(words(0, 1)).tolist() == [0.0, 0.0]
    assert reliability.known.all()
