"""Built-in recipes had the method and the labelled share in their names; what says the same now."""

import re

_LIDAR = re.compile(r"(lasermix|lasermix_pp)-(\w+)-(nuscenes|semantickitti|scribblekitti)-(\d+)pct")
_IMAGES = re.compile(r"images-lasermix-cityscapes-1of(\d+)")
_RENAMED = {"images-lasermix-world": "image_unet-world"}


def arguments_now(name: str) -> str:
    """What follows ``train`` instead of a former name; empty where it never was one.

    ScribbleKITTI has SemanticKITTI's recipe: what differs are the labels that ``index`` reads.
    """
    if match := _LIDAR.fullmatch(name):
        method, backbone, data, percent = match.groups()
        data = "semantickitti" if data == "scribblekitti" else data
        return f"{backbone}-{data} --method {method} --labels {percent}%"
    if match := _IMAGES.fullmatch(name):
        return f"image_unet-cityscapes --method lasermix --labels 1/{match[1]}"
    return _RENAMED.get(name, "")
