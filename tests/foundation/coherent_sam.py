"""An untrained SAM whose masks look like masks: compact, near their prompt, with sharp borders.

Random weights make noise that fills the image. Three changes give it shape: in the decoder image tokens ask with the
same matrix the prompt tokens answer with, so those near the prompt (similar positional encodings) hear it loudest; the
upscaling treats all pixels of a token alike; and logits are large, as after training.
"""

import torch
from segment_anything.modeling import Sam

from ray_lidarseg.foundation.sam_architecture import Architecture, build_sam

_NEARNESS, _LOUDNESS, _SHARPNESS = 6.0, 2.0, 3000.0


@torch.no_grad()
def coherent_sam(name: Architecture = "miniature", seed: int = 0) -> Sam:
    torch.manual_seed(seed)
    sam = build_sam(name)
    for layer in sam.mask_decoder.transformer.layers:
        attention = layer.cross_attn_image_to_token
        attention.q_proj.weight *= _NEARNESS
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.v_proj.weight *= _LOUDNESS
    for convolution in (sam.mask_decoder.output_upscaling[0], sam.mask_decoder.output_upscaling[3]):
        convolution.weight.copy_(_LOUDNESS * convolution.weight.mean(dim=(2, 3), keepdim=True))
    for mlp in sam.mask_decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight *= _SHARPNESS
        mlp.layers[-1].bias *= _SHARPNESS
    return sam.requires_grad_(False)
