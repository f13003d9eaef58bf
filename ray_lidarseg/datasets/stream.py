"""The training stream: step k as augmented micro-batches of this worker, a pure function of (recipe, split, k)."""

from dataclasses import replace

import numpy as np
import torch

from ray_lidarseg.datasets.augment import augment
from ray_lidarseg.datasets.augment_images import augment_image
from ray_lidarseg.datasets.division import slots_of
from ray_lidarseg.datasets.evidence import EvidenceReader, check_extras
from ray_lidarseg.datasets.points import to_batch
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.ray_bundles import RayReader, RayRequest
from ray_lidarseg.datasets.sampler import LABELLED, UNLABELLED, StepSampler, class_balanced_repeats
from ray_lidarseg.datasets.splits import LabelSplit
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import ImageSensor, PointBatch, SensorSpec

MicroBatch = tuple[PointBatch, PointBatch]
_NO_SCANS = PointBatch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0)


class TrainSteps(torch.utils.data.Dataset[list[MicroBatch]]):
    """Map-style: ``steps[k]`` is the list of this worker's (labelled, unlabelled) micro-batches of step k.

    ``datasets.division`` says which slots of the global batch are whose; the i-th labelled and the i-th unlabelled scan
    stay a pair. A scan's augmentation is seeded by (seed, step, stream, slot), so it is the same on whichever worker it
    lands. Unlabelled scans come without labels. A stream that is not read is an empty batch. Extras come from the
    layers that ``recipe.data.evidence`` names, for both streams; images are not touched, masks only where rays are
    asked for.

    Args:
        frames: Prepared frames; must hold all frames of the split.
        split: Labelled and unlabelled frame ids.
        recipe: Seed, batch, augmentation and length.
        sensor: The LiDAR.
        rank: This worker.
        world_size: Number of workers.
        with_unlabelled: False leaves the unlabelled stream unread, for methods that use none.
        with_labelled: Likewise the labelled one.
        extras: Extras and segments (``Method.extras``) that both streams bring.
        rays: Rays (``Method.rays``) that both streams bring.
        same_count: Whether all workers must have equally many micro-batches.

    Raises:
        DataError: The frames are of another data set, or extras or rays are asked for that no layer gives.
    """

    def __init__(
        self,
        frames: PreparedFrames,
        split: LabelSplit,
        recipe: Recipe,
        sensor: SensorSpec,
        rank: int = 0,
        world_size: int = 1,
        with_unlabelled: bool = True,
        with_labelled: bool = True,
        extras: frozenset[str] = frozenset(),
        rays: RayRequest | None = None,
        same_count: bool = False,
    ):
        _same_dataset(frames, recipe)
        self.extras, self.evidence = extras, _evidence(frames, recipe, extras)
        place = (frames.filesystem, frames.folder, frames.catalog)
        self.rays = None if rays is None else RayReader(*place, sensor, rays)
        position = {frame_id: index for index, frame_id in enumerate(frames.catalog.frame_id)}
        self.frames, self.recipe, self.sensor = frames, recipe, sensor
        self.rows = tuple(
            np.array([position[frame_id] for frame_id in frame_ids], np.int64)
            for frame_ids in (split.labelled, split.unlabelled)
        )
        unlabelled_per_step = recipe.train.unlabelled_per_step if with_unlabelled else 0
        self.sampler = StepSampler(
            recipe.seed,
            len(split.labelled),
            len(split.unlabelled),
            recipe.train.labelled_per_step if with_labelled else 0,
            unlabelled_per_step,
            self._repeats() if recipe.train.labelled_sampling == "class_balanced" else None,
        )
        self.slots = slots_of(recipe, self.sampler.per_step, rank, world_size, same_count)

    def _repeats(self) -> list[int]:
        return class_balanced_repeats(self.frames.scan(int(row)).labels for row in self.rows[LABELLED])

    def __len__(self) -> int:
        """Number of optimiser steps."""
        return self.recipe.train.steps

    def __getitem__(self, step: int) -> list[MicroBatch]:
        """The micro-batches of one step.

        Raises:
            IndexError: The step is beyond the recipe's length.
            DataError: A frame cannot be read; it is named.
        """
        if not 0 <= step < len(self):
            raise IndexError(step)
        chosen = self.sampler.step(step)
        return [
            (
                self._packed([self._scan(LABELLED, step, slot, chosen[LABELLED][slot]) for slot in labelled]),
                self._packed(
                    [self._scan(UNLABELLED, step, slot, chosen[UNLABELLED][slot]).unlabelled() for slot in unlabelled]
                ),
            )
            for labelled, unlabelled in self.slots
        ]

    def _packed(self, scans: list[PointBatch]) -> PointBatch:
        if scans:
            return PointBatch.pack(scans)
        extras, segments = self.evidence.empty(self.extras) if self.evidence else ({}, {})
        nothing = replace(_NO_SCANS, extras=extras, segments=segments)
        return self.rays.none(nothing) if self.rays else nothing

    def _scan(self, stream: int, step: int, slot: int, index: int) -> PointBatch:
        row = int(self.rows[stream][index])
        extras, segments = self.evidence.read(row, self.extras) if self.evidence else ({}, {})
        is_image = isinstance(self.sensor, ImageSensor)
        frame = self.frames[row] if is_image else self.frames.scan(row, self.rays is not None)
        scan, is_usable = to_batch(frame, self.sensor, self.recipe.data.use_intensity, extras)
        scan = replace(scan, segments=segments)
        # the first word seeds the augmentation, whether rays are drawn or not
        words = np.random.SeedSequence([self.recipe.seed, step, stream, slot]).generate_state(2, np.uint64)
        seeds = [int(word >> np.uint64(1)) for word in words]
        generator = torch.Generator().manual_seed(seeds[0])
        if self.rays:
            scan = scan.unlabelled() if stream == UNLABELLED else scan
            scan = self.rays.with_rays(row, frame, scan, is_usable, seeds[1])
        if isinstance(self.sensor, ImageSensor):
            return augment_image(scan, self.recipe.image_augment, self.sensor, generator)
        return augment(scan, self.recipe.augment, generator)


def _same_dataset(frames: PreparedFrames, recipe: Recipe) -> None:
    found = sorted(set(frames.catalog.dataset))
    if found != [recipe.data.dataset]:
        raise DataError(
            f"data.dataset={recipe.data.dataset}, but {frames.folder} holds {', '.join(found) or 'no'} frames: "
            "set data.dataset or data.prepared"
        )


def _evidence(frames: PreparedFrames, recipe: Recipe, extras: frozenset[str]) -> EvidenceReader | None:
    if not extras:
        return None
    check_extras(extras)
    if not recipe.data.evidence:
        raise DataError(
            f"method {recipe.method.name} reads {', '.join(sorted(extras))}, but data.evidence names no layer: set "
            f"data.evidence=auto; `ray-lidarseg prepare INDEX --out {frames.folder} --masks slic --features clip` "
            "writes one"
        )
    return EvidenceReader(frames.filesystem, frames.folder, frames.catalog, recipe.data.evidence)
