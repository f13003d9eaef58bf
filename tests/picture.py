"""The README's picture: a scan no run has seen, as a camera and as a bird see it, labelled by a trained run.

`python -m tests.picture RUN FILE.png [--frame N]`
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.models.inference import label_frames
from ray_lidarseg.report import pictures
from ray_lidarseg.training.run_folder import load_method

_SIDE_PX, _GAP_PX = 300, 8


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("run")
    flags.add_argument("file", type=Path)
    flags.add_argument("--frame", type=int, default=0, help="of the validation frames")
    args = flags.parse_args()
    method, recipe, _ = load_method(args.run)
    spec = dataset_of(recipe.data)
    filesystem, folder = storage.resolve(recipe.data.prepared)
    catalog = read_catalog(filesystem, folder).of_split("val")
    frame = PreparedFrames(filesystem, folder, catalog)[args.frame]
    (said,) = label_frames(method.deployed_model, [frame], spec.sensor, recipe.data.use_intensity, "cpu")
    camera = pictures.best_camera(frame.cameras)
    assert camera is not None
    image = camera.image or storage.read_bytes(camera.uri)
    colours = pictures.class_colours(said.labels, spec.taxonomy)
    overlay = pictures.camera_overlay(camera, image, frame.points, colours, width_px=round(_SIDE_PX * 16 / 9))
    panels = [
        ("LiDAR labels on a camera it never reads", overlay),
        ("labels", pictures.birds_eye(frame.points, colours, frame.dataset, size_px=_SIDE_PX)),
        ("errors", _errors(frame, said.labels)),
    ]
    _row(panels).save(args.file, optimize=True)


def _errors(frame, said: np.ndarray) -> np.ndarray:
    return pictures.birds_eye(frame.points, pictures.error_colours(frame.labels, said), frame.dataset, size_px=_SIDE_PX)


def _row(panels: list[tuple[str, np.ndarray]]) -> Image.Image:
    width = sum(panel.shape[1] for _, panel in panels) + _GAP_PX * (len(panels) - 1)
    canvas = Image.new("RGB", (width, _SIDE_PX + 18), (255, 255, 255))
    left = 0
    for title, panel in panels:
        canvas.paste(Image.fromarray(panel).resize((panel.shape[1], _SIDE_PX)), (left, 18))
        ImageDraw.Draw(canvas).text((left + 2, 3), title, fill=(55, 65, 81))
        left += panel.shape[1] + _GAP_PX
    return canvas.quantize(256, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
