"""The part of the page on runs of method nerf: what they render into camera images, beside photograph and truth."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from ray_lidarseg import storage
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import LidarSegError
from ray_lidarseg.recipe.schema import NeRF
from ray_lidarseg.report.evidence_pictures import masks_over
from ray_lidarseg.report.pictures import class_colours
from ray_lidarseg.report.run_summary import RunView
from ray_lidarseg.report.section import Picture, flat_picture, photo_picture
from ray_lidarseg.training.rendered_views import RenderedView, unpack_views
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.types import IGNORE

FILE = ("evaluation", "rendered-val.npz")


def rendered_galleries(views: Sequence[RunView], notes: list[str]) -> list[tuple[str, list[Picture]]]:
    """Title and pictures of every rendered image of the runs of method nerf; what is missing goes to the notes."""
    galleries = []
    for view in views:
        if view.recipe is None or not isinstance(view.recipe.method, NeRF):
            continue
        file = RunFolder(view.uri).path(*FILE)
        try:
            if not storage.exists(file):
                notes.append(
                    f"{view.name} has no rendered images: run `ray-lidarseg evaluate`, which says why if it fails"
                )
                continue
            rendered, step = unpack_views(storage.read_bytes(file), file)
        except LidarSegError as error:
            notes.append(f"{view.name} has no rendered images: {error}")
            continue
        far_m = view.recipe.method.far_m
        galleries += [
            (
                f"{view.name} after {step:,} steps: frame {shown.frame_id}, {shown.camera}",
                view_pictures(shown, view.taxonomy, far_m),
            )
            for shown in rendered
        ]
    return galleries


def view_pictures(view: RenderedView, taxonomy: Taxonomy, far_m: float) -> list[Picture]:
    """Photograph, true classes where they are known, rendered classes, depth and entropy, segments, pseudo-labels."""
    truth = [flat_picture(class_colours(view.truth, taxonomy), "true classes (hidden)")] if view.truth.size else []
    return [
        photo_picture(view.photo, view.camera),
        *truth,
        flat_picture(class_colours(view.classes, taxonomy), f"rendered classes: {_opaque(view)}"),
        flat_picture(_shaded(view.depth_m / far_m, "viridis_r"), f"rendered depth: yellow 0 m, violet {far_m:g} m"),
        flat_picture(
            _shaded(view.entropy, "magma"), f"entropy: black sure, white no idea; mean {view.entropy.mean():.2f}"
        ),
        photo_picture(masks_over(view.photo, view.segments), f"segments: {len(_ids(view))}"),
        flat_picture(class_colours(view.taught, taxonomy), f"pseudo-labels kept: {_taught(view)}"),
    ]


def _opaque(view: RenderedView) -> str:
    opaque = view.classes != IGNORE
    said = f"{opaque.mean():.0%} of the pixels opaque"
    known = opaque & (view.truth != IGNORE) if view.truth.size else np.zeros_like(opaque)
    return f"{said}, {np.mean(view.classes[known] == view.truth[known]):.0%} of them right" if known.any() else said


def _taught(view: RenderedView) -> str:
    """Shares of segments and pixels that are taught, and precision and recall where the truth is known."""
    labelled, ids = view.taught != IGNORE, _ids(view)
    kept = np.unique(view.segments[labelled & (view.segments > 0)])
    said = f"{len(kept)} of {len(ids)} segments, " if len(ids) else ""
    said += f"{labelled.mean():.0%} of the pixels"
    if not view.truth.size:
        return said
    known = view.truth != IGNORE
    right = (known & (view.taught == view.truth)).sum()
    precision, recall = right / max(1, (known & labelled).sum()), right / max(1, known.sum())
    return f"{said}; precision {precision:.0%}, recall {recall:.0%}"


def _ids(view: RenderedView) -> np.ndarray:
    found = np.unique(view.segments)
    return found[found > 0]


def _shaded(share: Float[np.ndarray, "H W"], colour_map: str) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of shares in [0, 1]."""
    return (255 * matplotlib.colormaps[colour_map](np.clip(share, 0, 1))[..., :3]).astype(np.uint8)
