"""NeRF self-supervision: camera rays through the voxels of unlabelled scans, and image segments that label them."""

import copy
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ray_lidarseg.datasets.ray_bundles import NO_MASKS, RayRequest
from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.mixing import mix_pairs
from ray_lidarseg.geometry.rays import LIDAR
from ray_lidarseg.geometry.rendering import Rendered, render_packed
from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.losses.softmax import class_probabilities
from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.methods.objective import agreement, ramp_up, segmentation_terms
from ray_lidarseg.methods.pseudo_label import PseudoLabeller
from ray_lidarseg.methods.segment_labels import SegmentLabels, segment_labels, summary
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.inference import evaluating
from ray_lidarseg.models.radiance import RadianceHead
from ray_lidarseg.models.segmentor import Output, Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, RayBatch, SensorSpec
from ray_lidarseg.types import IGNORE, POINT_SEGMENT, RAY_CAMERA, RAY_SEGMENT, RAY_TRUTH

LONGEST_STEP_M = 0.2
"""Between samples along a ray: RenderOcc's and OccNeRF's, half of their voxels."""

_SCAN_SHIFT = 40  # a scan's number stands above the 24 bits of ``segment_id``
_RAYS_AT_ONCE = 2048  # of pictures: half a million places in space, about 0.3 GiB
_PER_RAY = ("semantics", "depth_m", "opacity")


class NeRF(Method):
    """``L = L_vox + λ_n L_nerf + λ_d L_depth + λ_u(t) L_2D``.

    - ``L_vox``: cells of the labelled scans, as in ``supervised``.
    - ``L_nerf``: cross entropy of the scores rendered along LiDAR beams and along camera rays to labelled points.
    - ``L_depth``: mean ``|depth - range|`` in metres over the LiDAR's beams, of labelled and unlabelled scans alike.
      Rays that end outside the cells, as above the grid, have no part in either.
    - ``L_2D``: unlabelled scans are rendered into the pixels of image segments. A segment whose mean probabilities have
      an entropy below H_th labels all its pixels (``segment_labels``), and the rendered scores learn that label.

    The head that says density and scores in space is for training; what is evaluated, exported and deployed is the
    LiDAR-only student. Images are not read: a ray needs calibration and the index map of ``prepare --masks``.

    ``target: projected`` is the baseline the paper argues against: the points' own probabilities, grouped by the
    segment their projection falls on, label the segment, and its points learn that label; nothing is rendered for it.
    ``masks: none`` makes every pixel its own segment (there are no pairs then, so no camera rays on labelled scans).
    ``teacher: ema`` lets an average of past weights, head included, make the pseudo-labels. ``mixing`` adds
    LaserMix's two terms; no camera saw its mixed scans, so the un-mixed ones are rendered.

    Source: arXiv 2411.02969 (Timoneda et al., IROS 2024): two heads on the voxel features of Cylinder3D, camera rays
    over unlabelled voxel features, SAM masks, a confidence sampler by entropy, both heads trained on labels. Its body
    and code are not public. All numbers, the form of L_nerf, L_depth, the opacity gate, the stopped gradient into the
    density, warm-up and ramp are ours, from sibling methods' published code where ``recipe.schema`` says so.

    Args:
        student: The model to train; its cells must lie in space.
        recipe: Weights, thresholds, rays.
        sensor: The LiDAR, for LaserMix's bands.

    Raises:
        RecipeError: The model sees scans as images.
    """

    def __init__(self, student: Segmentor, recipe: schema.NeRF, sensor: SensorSpec) -> None:
        super().__init__()
        if not student.is_spatial:
            raise RecipeError(
                "method nerf looks through cells in space, and this model's cells are pixels of a range image: set "
                "model.name to cylinder3d, minkunet or spvcnn"
            )
        self.student, self.recipe, self.sensor = student, recipe, sensor
        sizes = (recipe.reduced_dim, recipe.hidden_dims, recipe.density_bias)
        self.head = RadianceHead(student.cell_feature_dim, student.num_classes, *sizes) if self._renders else None
        ema = recipe.mixing or recipe
        has_teacher = recipe.teacher == "ema" or recipe.mixing is not None
        rules = (ema.ema_decay, ema.ema_buffers, ema.ema_warm_up)
        self.teacher = EMATeacher(student, *rules) if has_teacher else None
        self.labeller = PseudoLabeller(student.num_classes, recipe.mixing) if recipe.mixing else None
        self.teacher_head: RadianceHead | None = None
        if recipe.teacher == "ema" and self.head is not None:
            self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``; both batches with the rays ``rays`` asks for."""
        recipe, rays_l, rays_u = self.recipe, _rays_of(labelled), _rays_of(unlabelled)
        # L_vox: student on the labelled scans (x_l, y_l); its view of the unlabelled ones x_u
        student_l = self.student(labelled)
        terms = segmentation_terms(student_l, recipe)
        student_u = self.student(unlabelled)
        looked_u, seen_u = rays_u, None
        if self.head is not None:
            rays_l, rays_u = _ending_in_cells(rays_l, student_l), _ending_in_cells(rays_u, student_u)
            # pixels that only say how good labels are (log_truth) are not looked through, and change no draw
            only_beams = recipe.target == "projected" and recipe.log_truth
            looked_u = rays_u.select(_is_beam(rays_u)) if only_beams else rays_u
            # volume rendering along all rays r of both: L_r, depth_r, A_r
            seen_l = _render(self.head, student_l, rays_l, recipe, generator)
            seen_u = _render(self.head, student_u, looked_u, recipe, generator, recipe.stop_density)
            # L_nerf: rendered scores against the class at the end of the ray
            terms["rendered"] = recipe.rendered_weight * cross_entropy(seen_l.semantics, rays_l.labels)
            # L_depth: rendered depth against what the LiDAR measured, on all scans
            terms["depth"] = recipe.depth_weight * _depth_error_m([(seen_l, rays_l), (seen_u, looked_u)])
        # Ĉ_s, kept where H(C_s) < H_th: the judge is the student itself, or its average over time
        teacher_u = self.teacher(unlabelled, student_u.cells) if self.teacher is not None else student_u
        judge_u = teacher_u if recipe.teacher == "ema" else student_u
        with torch.no_grad():
            segments = self._judged(judge_u, seen_u, unlabelled, rays_u)
        # L_2D: all pixels of a kept segment, its uncertain border included, learn its label
        scores = student_u.point_logits if recipe.target == "projected" or seen_u is None else seen_u.semantics
        terms["segments"] = self._segment_weight(progress) * cross_entropy(scores, segments.of_members)
        if recipe.mixing is not None:
            seen_by = (student_l, student_u, teacher_u)
            terms |= self._lasermix(recipe.mixing, labelled, unlabelled, *seen_by, progress, generator)
        return Losses(terms, {**self._stats(segments, rays_u), **self._opacity(seen_u, looked_u)})

    def _judged(
        self, judge_u: Output, seen_u: Rendered | None, unlabelled: PointBatch, rays_u: RayBatch
    ) -> SegmentLabels:
        if self.recipe.target == "projected" or seen_u is None:
            return self._of_points(judge_u, unlabelled)
        if self.teacher_head is not None:
            seen_u = _render(self.teacher_head, judge_u, rays_u, self.recipe, None)
        return self._of_pixels(seen_u, rays_u)

    def _of_pixels(self, judge: Rendered, rays: RayBatch) -> SegmentLabels:
        recipe = self.recipe
        is_valid = ~_is_beam(rays) & (judge.opacity >= recipe.min_opacity)
        if recipe.masks == NO_MASKS:
            groups, fewest = 1 + torch.arange(len(rays), device=is_valid.device), 1
        else:
            groups, fewest = _groups(rays.extras[RAY_SEGMENT], rays.scan_idx), recipe.min_pixels
        thresholds = (recipe.entropy_threshold, recipe.pixel_entropy_threshold)
        return segment_labels(class_probabilities(judge.semantics), groups, is_valid, *thresholds, fewest)

    def _of_points(self, judge: Output, scans: PointBatch) -> SegmentLabels:
        recipe = self.recipe
        groups = _groups(scans.extras[POINT_SEGMENT], scans.scan_idx)
        thresholds = (recipe.entropy_threshold, recipe.pixel_entropy_threshold)
        probability = class_probabilities(judge.point_logits)
        return segment_labels(probability, groups, groups > 0, *thresholds, recipe.min_points)

    def _segment_weight(self, progress: float) -> float:
        """λ_u(t): nothing until density has learned something, then a ramp over the steps that are left."""
        recipe = self.recipe
        if progress < recipe.warm_up_ratio:
            return 0.0
        since = (progress - recipe.warm_up_ratio) / max(1e-9, 1 - recipe.warm_up_ratio)
        return recipe.segment_weight * ramp_up(since, recipe.segment_ramp_ratio)

    def _stats(self, segments: SegmentLabels, rays: RayBatch) -> dict[str, Float[Tensor, ""]]:
        is_pixel = ~_is_beam(rays)
        truth = label = None
        if self.recipe.log_truth:
            # the same pixels for both targets: the label of the segment each lies in
            groups = _groups(rays.extras[RAY_SEGMENT], rays.scan_idx)
            by_segment = self.recipe.target == "projected"
            label = (segments.of(groups) if by_segment else segments.of_members)[is_pixel]
            truth = rays.extras[RAY_TRUTH][is_pixel]
        return summary(segments, self.student.num_classes, truth, label)

    def _opacity(self, seen: Rendered | None, rays: RayBatch) -> dict[str, Float[Tensor, ""]]:
        """Mean opacity of the rays of each kind that are looked along."""
        if seen is None:
            return {}
        is_beam = _is_beam(rays)
        kinds = {"pixel": (~is_beam, self.recipe.target == "rendered"), "beam": (is_beam, self.recipe.beams > 0)}
        return {
            f"{name}_opacity_ratio": (seen.opacity.detach() * chosen).sum() / chosen.sum().clamp_min(1)
            for name, (chosen, is_asked) in kinds.items()
            if is_asked
        }

    def _lasermix(
        self,
        recipe: schema.LaserMix,
        labelled: PointBatch,
        unlabelled: PointBatch,
        student_l: Output,
        student_u: Output,
        teacher_u: Output,
        progress: float,
        generator: torch.Generator,
    ) -> dict[str, Float[Tensor, ""]]:
        """LaserMix's terms (CVPR 2023), as in ``methods/lasermix.py``: mixed scans, and agreement with the teacher."""
        terms: dict[str, Float[Tensor, ""]] = {}
        assert self.labeller is not None
        weight = ramp_up(progress, recipe.ramp_up_ratio)
        pseudo_u = self.labeller(teacher_u.point_logits, labelled.labels, progress)
        if recipe.mix_weight:
            x_l, x_u = (replace(scans, extras={}) for scans in (labelled, unlabelled.with_labels(pseudo_u)))
            mixed = mix_pairs(x_l, x_u, self.sensor, recipe.num_areas, generator)
            terms |= segmentation_terms(self.student(mixed), recipe, "mix_", weight * recipe.mix_weight)
        if recipe.consistency_weight and self.teacher is not None:
            teacher_l = self.teacher(labelled, student_l.cells)
            both = agreement([student_l, student_u], [teacher_l, teacher_u])
            terms["consistency"] = weight * recipe.consistency_weight * both
        return terms

    @torch.no_grad()
    def look(self, scans: PointBatch) -> tuple[Rendered, Int[Tensor, "R"]]:
        """What all rays of scans see, and the pseudo-label each would be taught, IGNORE where none; for pictures.

        The judge of pseudo-labels looks, with samples in the middle of their steps.

        Args:
            scans: With the rays of whole images, and ``POINT_SEGMENT`` where ``rays`` asks for it.

        Raises:
            RecipeError: Nothing was trained to render: target projected without any weight on rendered terms.
        """
        recipe, rays = self.recipe, _rays_of(scans)
        model, head = self.student, self.head
        if recipe.teacher == "ema" and self.teacher is not None:
            model, head = self.teacher.model, self.teacher_head
        if head is None:
            raise RecipeError(
                "this run has no head that renders: train it with method.target=rendered, or with a weight in "
                "method.rendered_weight or method.depth_weight"
            )
        with evaluating(self):
            output = model(scans)
            field = head.field(output)
            places = torch.arange(len(rays), device=scans.device).split(_RAYS_AT_ONCE)
            step_m = _step_m(recipe, output)
            parts = [render_packed(rays.select(place), field, step_m) for place in places]
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in _PER_RAY}
        seen = Rendered(**columns, num_samples=sum(part.num_samples for part in parts))
        if recipe.target == "rendered":
            return seen, self._of_pixels(seen, rays).of_members
        return seen, self._of_points(output, scans).of(_groups(rays.extras[RAY_SEGMENT], rays.scan_idx))

    def after_step(self, progress: float) -> None:
        """Moves the teacher, where there is one, and its head towards the student's."""
        decay = self.teacher.update(self.student) if self.teacher is not None else 0.0
        if self.labeller is not None:
            self.labeller.after_step()
        if self.teacher_head is not None and self.head is not None:
            mine: list[Tensor] = list(self.teacher_head.parameters())
            theirs: list[Tensor] = list(self.head.parameters())
            with torch.no_grad():
                torch._foreach_lerp_(mine, theirs, 1 - decay)

    def segmentors(self) -> dict[str, Segmentor]:
        """The student, without the head; after it, where there is one, the teacher, which is then deployed."""
        if self.teacher is None:
            return {"student": self.student}
        return {"student": self.student, "teacher": self.teacher.model}

    @property
    def _renders(self) -> bool:
        return self.recipe.target == "rendered" or bool(self.recipe.rendered_weight or self.recipe.depth_weight)

    @property
    def rays(self) -> RayRequest:
        """Beams of both streams, rays to labelled points, and pixels of the unlabelled scans."""
        recipe, renders = self.recipe, self._renders
        return RayRequest(
            masks=recipe.masks,
            cameras=recipe.cameras,
            beams=recipe.beams if renders else 0,
            per_image=recipe.pixels_per_image if recipe.target == "rendered" or recipe.log_truth else 0,
            per_segment=recipe.pixels_per_segment,
            min_per_segment=recipe.min_pixels,
            to_points=recipe.points_per_image if renders else 0,
            reach_m=(recipe.near_m, recipe.far_m),
            point_segments=recipe.target == "projected",
            truth=recipe.log_truth,
        )


def _rays_of(scans: PointBatch) -> RayBatch:
    if scans.rays is None:
        raise RecipeError("method nerf needs rays with its scans: read them with TrainSteps(…, rays=method.rays)")
    return scans.rays


def _render(
    head: RadianceHead,
    output: Output,
    rays: RayBatch,
    recipe: schema.NeRF,
    generator: torch.Generator | None,
    stop_density: bool = False,
) -> Rendered:
    """Scores, depth and opacity of rays; a generator moves the samples of each ray by a random share of a step."""
    offset = None if generator is None else torch.rand(len(rays), generator=generator)
    return render_packed(rays, head.field(output), _step_m(recipe, output), offset, stop_density)


def _step_m(recipe: schema.NeRF, output: Output) -> float:
    """At most two edges of a cell, which is as far as it reaches: a longer step would pass a lone one by."""
    return recipe.step_m or min(LONGEST_STEP_M, 2 * output.cells.in_space.grid.edge_m)


def _is_beam(rays: RayBatch) -> Bool[Tensor, "R"]:
    return rays.extras[RAY_CAMERA] == LIDAR


def _ending_in_cells(rays: RayBatch, output: Output) -> RayBatch:
    """Without class and depth of the rays that end where no cell is read, as above the grid.

    They could only be blamed on cells they cross. Rays without a measured end stay as they are.
    """
    end = rays.origins + rays.depth_m.nan_to_num()[:, None] * rays.directions
    is_held = rays.depth_m.isnan() | output.cells.in_space.holds(end)
    labels, depth_m = torch.where(is_held, rays.labels, IGNORE), torch.where(is_held, rays.depth_m, torch.nan)
    return replace(rays, labels=labels, depth_m=depth_m)


def _depth_error_m(seen: list[tuple[Rendered, RayBatch]]) -> Float[Tensor, ""]:
    """Mean ``|depth - range|`` over all LiDAR beams that returned; 0 with a graph where there is none."""
    rendered_m = torch.cat([found.depth_m for found, _ in seen])
    range_m = torch.cat([rays.depth_m for _, rays in seen])
    is_beam = torch.cat([_is_beam(rays) for _, rays in seen]) & range_m.isfinite()
    error_m = (rendered_m - range_m.nan_to_num()).abs() * is_beam
    return error_m.sum() / is_beam.sum().clamp_min(1)


def _groups(segment: Int[Tensor, "N"], scan_idx: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
    """A number for each segment of each scan, 0 where there is none."""
    return torch.where(segment > 0, scan_idx << _SCAN_SHIFT | segment, 0)
