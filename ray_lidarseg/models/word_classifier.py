"""A network that speaks the language of images and text, as a segmentor: the nearest word is a point's class."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.geometry.voxelize import segment_sum
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import PointBatch

_LOGIT_SCALE = 100.0
"""CLIP's own, at which its models end; without it softmax would call all cosines alike."""


_NEVER = -2.0
"""Below any cosine."""


class Words(nn.Module):
    """Embedded words of the classes as a module, so that a checkpoint holds them; none at first.

    Attributes:
        embeddings: [K, F] unit rows; a row of zeros is never the answer.
        class_idx: [K] class of each; C for words that mean none of the classes.
        num_classes: C; 0 without words.
    """

    embeddings: Tensor
    class_idx: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 0
        self.register_buffer("embeddings", torch.zeros(0, 0), persistent=False)  # of a size no recipe knows
        self.register_buffer("class_idx", torch.zeros(0, dtype=torch.int64), persistent=False)

    def read(self, words: TextEmbeddings | None) -> "Words":
        """Takes words, on the device it is on; None: none."""
        if words is not None:
            rejected = np.full(len(words.reject), words.num_classes)
            rows = np.concatenate([words.embeddings, words.reject.reshape(-1, words.embeddings.shape[1])])
            class_idx = np.concatenate([words.class_idx, rejected])
            self._take(torch.from_numpy(rows).float(), torch.from_numpy(class_idx), words.num_classes)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """See ``nn.Module``."""
        return {"embeddings": self.embeddings.cpu(), "class_idx": self.class_idx.cpu(), "classes": self.num_classes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """See ``nn.Module``."""
        self._take(state["embeddings"], state["class_idx"], state["classes"])

    def _take(self, embeddings: Tensor, class_idx: Tensor, num_classes: int) -> None:
        device = self.embeddings.device
        self.embeddings, self.class_idx, self.num_classes = embeddings.to(device), class_idx.to(device), num_classes

    def forward(self, features: Float[Tensor, "P F"]) -> Float[Tensor, "P C"]:
        """Cosine of each unit feature with each class: the highest over the class's words (OpenScene's rule)."""
        return self._cosines(features)[:, : self.num_classes]

    def is_rejected(self, features: Float[Tensor, "P F"]) -> Bool[Tensor, "P"]:
        """Whether a word that means none of the classes is nearer than all others (AFOV's reject classes)."""
        return self._cosines(features).argmax(dim=1) == self.num_classes

    def _cosines(self, features: Tensor) -> Tensor:
        found = features.new_full((len(features), self.num_classes + 1), _NEVER)
        cosines = features @ self.embeddings.T.to(features.dtype)
        # a class without pictures has a row of zeros, whose cosine of 0 would win where all others are negative
        cosines = cosines.masked_fill(~self.embeddings.any(dim=1), _NEVER)
        return found.scatter_reduce(1, self.class_idx.expand(len(features), -1), cosines, "amax")


class ZeroShot(Segmentor):
    """``argmax over classes c of max over words w of c: cos(W f, w)``: no label was ever seen.

    Args:
        segmentor: The backbone; its classifier is not asked.
        head: Projection W into the space of the words.
        words: Of the classes.
    """

    head_parts = ("projection",)

    def __init__(self, segmentor: Segmentor, head: nn.Linear, words: Words) -> None:
        super().__init__()
        self.segmentor, self.projection, self.words = segmentor, head, words
        self.num_classes, self.feature_dim = words.num_classes, head.out_features
        self.is_spatial = segmentor.is_spatial

    @property
    def cell_feature_dim(self) -> int:
        """That of the backbone."""
        return self.segmentor.cell_feature_dim

    def represent(self, batch: PointBatch) -> Cells:
        """See ``Segmentor.represent``."""
        return self.segmentor.represent(batch)

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """See ``Segmentor.forward``: point features are projected and of unit length, cells score as their points."""
        output = self.segmentor(batch, cells)
        features = functional.normalize(self.projection(output.point_features).float(), dim=1)
        logits = _LOGIT_SCALE * self.words(features)
        cell, count = output.cells.point_cell.long(), len(output.cell_logits)
        starts = functional.pad(torch.bincount(cell, minlength=count).cumsum(0), (1, 0))
        of_cells = segment_sum(logits, cell.argsort(stable=True), starts) / starts.diff().clamp(min=1)[:, None]
        return Output(logits, features, of_cells, output.cells, lambda: output.cell_features)
