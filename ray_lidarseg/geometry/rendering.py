"""Volume rendering of a field of densities and class scores along rays: semantics, depth, opacity.

Along a ray ``x(t) = o + t d`` a sample is taken every ``step_m`` metres:

    α_i = 1 - exp(-σ_i δ)        T_i = exp(-Σ_{j<i} σ_j δ)        w_i = T_i α_i        A = Σ w_i
    L = Σ w_i l_i                depth = Σ w_i t_i + (1 - A) far

``L`` are class scores, not probabilities, so a ray that hits nothing has L = 0, a uniform softmax, and rejects itself
by its entropy; a ray that ends nowhere is as deep as one looks.

Two renderers with one signature: ``render_packed`` asks the field only where it may not be empty, ``render_dense``
everywhere. They agree because density is zero where the field has no cell, by definition of a ``Field``; a sample that
is skipped leaves the optical depth behind it as it was, since δ is the step, not the distance to the next sample.

Source: weights and sums as in NeRF (Mildenhall et al., ECCV 2020); rendered logits as in Semantic-NeRF, RenderOcc and
OccNeRF; the packed layout is nerfacc's idea. The depth of what is transparent is ours: no division by A.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import segment_sum
from ray_lidarseg.sample import RayBatch


@runtime_checkable
class Field(Protocol):
    """What space holds, scan by scan."""

    def touches(self, points: Float[Tensor, "S 3"], scan_idx: Int[Tensor, "S"]) -> Bool[Tensor, "S"]:
        """Where density may be above 0; a no must be right."""

    def __call__(
        self, points: Float[Tensor, "S 3"], scan_idx: Int[Tensor, "S"]
    ) -> tuple[Float[Tensor, "S"], Float[Tensor, "S C"]]:
        """Density, 1/m, 0 in empty space, and class scores; there may be no points."""


@dataclass(frozen=True)
class Rendered:
    """What each ray sees.

    Attributes:
        semantics: [R, C] class scores L; 0 where a ray meets nothing.
        depth_m: [R] expected distance along the ray.
        opacity: [R] A in [0, 1]: how sure it is that the ray ends before it leaves.
        num_samples: Positions the field was asked at.
    """

    semantics: Float[Tensor, "R C"]
    depth_m: Float[Tensor, "R"]
    opacity: Float[Tensor, "R"]
    num_samples: int

    @property
    def entropy(self) -> Float[Tensor, "R"]:
        """``-Σ y ln y / ln C`` of y = softmax(L), in [0, 1]: 0 is certain, 1 is no idea; float32, with gradient."""
        log_y = self.semantics.log_softmax(dim=1)
        return -(log_y.exp() * log_y).sum(1) / math.log(max(2, self.semantics.shape[1]))


def render_packed(
    rays: RayBatch,
    field: Field,
    step_m: float,
    offset: Float[Tensor, "R"] | None = None,
    stop_density: bool = False,
) -> Rendered:
    """Renders rays, asking the field only where it may hold something.

    No loop over rays. The host waits for the device twice: for the longest ray, and for the number of samples.

    Args:
        rays: R rays.
        field: Its densities and scores may be in half precision, compositing is in float32 at least.
        step_m: Distance δ between samples.
        offset: [R] place of the first sample in its step, in [0, 1): random in training (one draw a ray moves all its
            samples alike); None: 0.5, the middle.
        stop_density: The semantics have no gradient to the densities; depth and opacity keep theirs.
    """
    distance_m, is_inside = _steps(rays, step_m, offset)
    places = _places(rays, distance_m)
    scans = rays.scan_idx[:, None].expand_as(distance_m).reshape(-1)
    chosen = (field.touches(places, scans) & is_inside.reshape(-1)).nonzero().squeeze(1)
    ray = chosen // max(1, distance_m.shape[1])
    density, scores = field(places[chosen], scans[chosen])
    along_m = distance_m.reshape(-1)[chosen]
    with torch.autocast(density.device.type, enabled=False):
        optical = _wide(density) * step_m
        # one running sum over all rays in float64: float32 would lose 0.006 by the time it reaches 1e5
        running = optical.double().cumsum(0)
        starts = torch.searchsorted(ray, torch.arange(len(rays) + 1, device=ray.device))
        before = torch.cat([running.new_zeros(1), running])
        passed = (before[:-1] - before[starts[:-1]][ray]).to(optical.dtype)
        weights = torch.exp(-passed) * -torch.expm1(-optical)
        seen = weights.detach() if stop_density else weights
        columns = torch.cat([seen[:, None] * _wide(scores), (weights * along_m)[:, None], weights[:, None]], 1)
        return _rendered(_per_ray(columns, starts), rays, len(chosen))


def render_dense(
    rays: RayBatch,
    field: Field,
    step_m: float,
    offset: Float[Tensor, "R"] | None = None,
    stop_density: bool = False,
) -> Rendered:
    """The plain twin of ``render_packed``: asks the field at every step of every ray."""
    distance_m, is_inside = _steps(rays, step_m, offset)
    places = _places(rays, distance_m)
    scans = rays.scan_idx[:, None].expand_as(distance_m).reshape(-1)
    density, scores = field(places, scans)
    with torch.autocast(density.device.type, enabled=False):
        optical = _wide(density).view_as(distance_m) * is_inside * step_m
        passed = optical.cumsum(1) - optical
        weights = torch.exp(-passed) * -torch.expm1(-optical)
        seen = weights.detach() if stop_density else weights
        semantics = (seen[..., None] * _wide(scores).view(*distance_m.shape, scores.shape[1])).sum(1)
        sums = torch.cat([semantics, (weights * distance_m).sum(1)[:, None], weights.sum(1)[:, None]], 1)
        return _rendered(sums, rays, len(places))


def _steps(
    rays: RayBatch, step_m: float, offset: Float[Tensor, "R"] | None
) -> tuple[Float[Tensor, "R K"], Bool[Tensor, "R K"]]:
    """[R, K] distances of the samples along each ray, and whether they lie before its far end."""
    longest_m = float((rays.far_m - rays.near_m).max()) if len(rays) else 0.0
    count = torch.arange(max(0, -int(-longest_m // step_m)), device=rays.near_m.device, dtype=rays.near_m.dtype)
    first = torch.full_like(rays.near_m, 0.5) if offset is None else offset.to(rays.near_m)
    distance_m = rays.near_m[:, None] + (first[:, None] + count) * step_m
    return distance_m, distance_m < rays.far_m[:, None]


def _places(rays: RayBatch, distance_m: Float[Tensor, "R K"]) -> Float[Tensor, "S 3"]:
    return (rays.origins[:, None] + distance_m[..., None] * rays.directions[:, None]).reshape(-1, 3)


def _wide(values: Tensor) -> Tensor:
    """In float32, or in float64 where they are: what is summed along a ray must not be rounded to half precision."""
    return values if values.dtype == torch.float64 else values.float()


def _per_ray(columns: Float[Tensor, "S N"], starts: Int[Tensor, "E"]) -> Float[Tensor, "R N"]:
    if not len(columns):  # every ray missed: zeros, yet with a (zero) gradient for whatever made the field
        return columns.sum() + columns.new_zeros(len(starts) - 1, columns.shape[1])
    return segment_sum(columns, torch.arange(len(columns), device=columns.device), starts)


def _rendered(sums: Float[Tensor, "R N"], rays: RayBatch, num_samples: int) -> Rendered:
    semantics, depth_m, opacity = sums[:, :-2], sums[:, -2], sums[:, -1]
    return Rendered(semantics, depth_m + (1 - opacity) * rays.far_m, opacity, num_samples)
