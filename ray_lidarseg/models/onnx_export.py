"""FIDNet as an ONNX graph: range images in, logits out; projection and reading back stay with the caller.

Input ``range_image`` float32 [B, 5, H, W]: range, x, y, z (metres) and intensity (0 … 1) of the nearest point of each
pixel, 0 in all five where there is none. A point lies in column ``floor((1 - atan2(y, x) / π) / 2 · W)`` and row
``floor((fov_up - asin(z / range)) / (fov_up - fov_down) · H)``, both clamped (``geometry.range_image``); points nearer
than the sensor's minimum range are left out first. Scaling of the channels is part of the graph.
Output ``logits`` float32 [B, C, H, W]: a point takes the scores of its pixel; at pixels without a point they mean
nothing. Number and order of the classes, sensor and image size lie in the file's metadata.

Models on voxels are not exported: ONNX has no operator for sparse convolution, and a file that needs somebody's plug-in
runs nowhere else.
"""

import copy
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ray_lidarseg.errors import RecipeError, ResourceError
from ray_lidarseg.models.fidnet import FIDNet, Pointwise, upsample
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.sparse.products import RowLinear

if TYPE_CHECKING:
    import onnx

INPUT_NAME, OUTPUT_NAME = "range_image", "logits"
CHANNELS = ("range_m", "x_m", "y_m", "z_m", "intensity")


class DenseFIDNet(nn.Module):
    """FIDNet as plain convolutions over the whole image: what the head says of occupied pixels, it says of all.

    Args:
        model: Its weights and statistics are copied.
    """

    channel_scale: Tensor

    def __init__(self, model: FIDNet) -> None:
        super().__init__()
        self.register_buffer("channel_scale", model.channel_scale.clone()[:, None, None])
        self.stem, self.head, self.classifier = map(_plain, (model.stem, model.head, model.classifier))
        self.stages = nn.ModuleList(map(_plain, model.stages))
        self.eval()

    def forward(self, range_image: Float[Tensor, "B 5 H W"]) -> Float[Tensor, "B C H W"]:
        """Logits of every pixel."""
        image = self.stem(range_image / self.channel_scale)
        size, maps = image.shape[2:], [image]
        for stage in self.stages:
            image = stage(image)
            maps.append(upsample(image, size))
        return self.classifier(self.head(torch.cat(maps, dim=1)))


def to_onnx(model: Segmentor, class_names: Sequence[str], use_intensity: bool = True) -> "onnx.ModelProto":
    """The graph, checked, with what one needs to use it in its metadata; any number of images at once.

    Args:
        model: The model to deploy.
        class_names: C names.
        use_intensity: As in the recipe the model was trained with; false: the channel must be 0.

    Raises:
        RecipeError: The model is not FIDNet.
        ResourceError: onnx or onnxscript is not installed.
    """
    if not isinstance(model, FIDNet):
        raise RecipeError(
            f"{type(model).__name__} is not exported: ONNX has no sparse convolution, so only range views are; train "
            "with model.name=fidnet"
        )
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ResourceError(f"export needs {error.name}: pip install 'ray-lidarseg[onnx]'") from error
    example = torch.zeros(2, len(CHANNELS), model.height_px, model.width_px)
    program = torch.onnx.export(
        DenseFIDNet(copy.deepcopy(model).cpu()),
        (example,),
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("scans")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    for name, value in _metadata(model, class_names, use_intensity).items():
        graph.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(graph)
    return graph


def largest_difference(graph: "onnx.ModelProto", model: FIDNet, num_images: int = 3) -> float:
    """The largest difference of a logit between onnxruntime and torch, over random images with empty pixels."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ResourceError("comparing needs onnxruntime: pip install 'ray-lidarseg[onnx]'") from error
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, len(CHANNELS), model.height_px, model.width_px, generator=generator)
    images *= model.channel_scale.cpu()[:, None, None] * (torch.rand(images[:, :1].shape, generator=generator) < 0.7)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (said,) = session.run([OUTPUT_NAME], {INPUT_NAME: images.numpy()})
    with torch.no_grad():
        expected = DenseFIDNet(copy.deepcopy(model).cpu())(images).numpy()
    return float(np.abs(said - expected).max())


def _metadata(model: FIDNet, class_names: Sequence[str], use_intensity: bool) -> dict[str, str]:
    sensor = model.sensor
    return {
        "class_names": json.dumps(list(class_names)),
        "channels": json.dumps(CHANNELS),
        "use_intensity": json.dumps(use_intensity),
        "fov_up_deg": f"{math.degrees(sensor.fov_up_rad):g}",
        "fov_down_deg": f"{math.degrees(sensor.fov_down_rad):g}",
        "min_range_m": f"{sensor.min_range_m:g}",
        "height_px": str(model.height_px),
        "width_px": str(model.width_px),
    }


def _plain(module: nn.Module) -> nn.Module:
    """A copy in which products tuned for training on CPUs are the convolutions they stand for."""
    if isinstance(module, RowLinear):
        made = nn.Conv2d(module.in_features, module.out_features, 1, bias=module.bias is not None)
        state = {**module.state_dict(), "weight": module.weight[:, :, None, None]}
    elif isinstance(module, Pointwise):
        made = nn.Conv2d(module.in_channels, module.out_channels, 1, module.stride[0], bias=False)
        state = module.state_dict()
    else:
        copied = copy.deepcopy(module)
        for name, child in module.named_children():
            setattr(copied, name, _plain(child))
        return copied
    made.load_state_dict(state)
    return made
