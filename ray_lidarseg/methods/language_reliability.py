"""How far the words of a language model can be trusted, class by class, by the labels of the labelled scans."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ray_lidarseg.methods.step_notes import StepNotes
from ray_lidarseg.recipe import schema
from ray_lidarseg.types import IGNORE


class LanguageReliability(nn.Module):
    """Running counts of labelled class c (row) under the word for class d (column), over all ranks.

    Only points that have a label, on labelled scans, are ever counted. Before the first step nothing is known, and no
    word counts.

    Source: ours.

    Args:
        num_classes: C.
        recipe: ``language_memory`` and ``language_min_recall``.
    """

    counts: Tensor

    def __init__(self, num_classes: int, recipe: schema.LaserMixPP) -> None:
        super().__init__()
        self.recipe, self._notes = recipe, StepNotes()
        self.register_buffer("counts", torch.zeros(num_classes, num_classes))

    def note(
        self,
        word: Int[Tensor, "P"],
        labels: Int[Tensor, "P"],
        is_paired: Bool[Tensor, "P"],
        progress: float,
    ) -> None:
        """Counts the paired, labelled points of a step by class and by the class of their word.

        See ``StepNotes`` for ``progress``.
        """
        num_classes = len(self.counts)
        counted = is_paired & (labels != IGNORE)
        cell = labels[counted] * num_classes + word[counted]
        found = torch.bincount(cell, minlength=num_classes**2).view(num_classes, num_classes)
        self._notes.add(progress, found.to(self.counts.dtype))

    def after_step(self) -> None:
        """Moves the counts towards those of this step on all ranks, every one of which must call it."""
        if not self._notes:
            return
        self.counts.mul_(self.recipe.language_memory).add_(self._notes.total(), alpha=1 - self.recipe.language_memory)

    def weight(self, language_logits: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
        """Of each row the share of labelled points under the same word that are of the word's class, in [0, 1]."""
        precision = self.counts.diagonal() / self.counts.sum(dim=0).clamp(min=1e-12)
        return precision[language_logits.argmax(dim=1)]

    @property
    def known(self) -> Bool[Tensor, "C"]:
        """[C] whether enough labelled points of a class were given its word; a class never labelled counts as known."""
        seen = self.counts.sum(dim=1)
        recall = self.counts.diagonal() / seen.clamp(min=1e-12)
        return (seen == 0) | (recall >= self.recipe.language_min_recall)
