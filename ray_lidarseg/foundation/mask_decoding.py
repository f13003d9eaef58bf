"""Segment-anything's mask decoder for many point prompts on one image: the same function, less arithmetic.

The published decoder projects all h·w image tokens for every prompt. A point prompt has T = 7 tokens (predicted IoU,
four masks, the point, a padding point), and an attention head never needs more than its T rows, so, exactly:

- scores of a token q over image tokens x: q·(W_k x + b_k) = (W_kᵀq)·x + const, and a constant leaves softmax as it is;
- what a token gathers: Σ_i a_i (W_v x_i + b_v) = W_v (Σ_i a_i x_i) + b_v;
- what an image token gathers from T tokens: W_o Σ_t a_t v_t = Σ_t a_t (W_o v_t).

So each image token costs heads·T products of its width instead of a projection to half its width (56 against 128 in the
published models). Before the first layer has written to them, image tokens are the same for all prompts of an image:
their projections are made once. Predicted IoU is known before the masks are: only masks that pass are upscaled, and
only for the part of the square that holds image. Results equal the published decoder's up to rounding.

Source: the formulas of segment-anything's `MaskDecoder` and `TwoWayTransformer`; the rearrangement is ours.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from segment_anything.modeling import MaskDecoder
from torch import Tensor
from torch.nn import functional

NUM_MASKS = 3
"""Masks a point prompt gives (whole, part, sub-part): segment-anything."""


@dataclass(frozen=True)
class ImageTokens:
    """What all prompts of one image share.

    Attributes:
        tokens: [h·w, F] image embedding plus the "no mask prompt" embedding.
        position: [h·w, F] positional encoding.
        grid: (h, w).
    """

    tokens: Float[Tensor, "HW F"]
    position: Float[Tensor, "HW F"]
    grid: tuple[int, int]


@dataclass(frozen=True)
class Decoded:
    """State between transformer and upscaling.

    Attributes:
        predicted_iou: [K, 3] the model's guess of each mask's quality.
        mask_tokens: [K, 3, F].
        tokens: [K, h·w, F] image tokens as the prompt changed them.
        grid: (h, w).
    """

    predicted_iou: Float[Tensor, "K 3"]
    mask_tokens: Float[Tensor, "K 3 F"]
    tokens: Float[Tensor, "K HW F"]
    grid: tuple[int, int]


def attend(decoder: MaskDecoder, image: ImageTokens, prompts: Float[Tensor, "K T F"]) -> Decoded:
    """Runs the two-way transformer and the quality head.

    Args:
        decoder: The model's mask decoder.
        image: One image.
        prompts: Sparse prompt embeddings, T of them a prompt.
    """
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    position = torch.cat([outputs.expand(len(prompts), -1, -1), prompts], dim=1)
    first, *others = decoder.transformer.layers
    queries, keys = _first_layer(first, position, image)
    for layer in others:
        queries, keys = _layer(layer, queries, keys, position, image.position)
    final = decoder.transformer.final_attn_token_to_image
    queries = queries + _gather_from_image(final, queries + position, keys + image.position, keys)
    queries = decoder.transformer.norm_final_attn(queries)
    with torch.autocast(queries.device.type, enabled=False):  # masks are ranked by it: bfloat16 has 8 bits
        predicted_iou = decoder.iou_prediction_head(queries[:, 0].float())[:, 1:]
    return Decoded(predicted_iou, queries[:, 2 : 2 + NUM_MASKS], keys, image.grid)


def upscale(
    decoder: MaskDecoder, decoded: Decoded, keep: Bool[Tensor, "K 3"], rows: int, columns: int
) -> Float[Tensor, "N h w"]:
    """Low-resolution logits of the masks that ``keep`` names, in its order; positive is inside.

    Args:
        decoder: The model's mask decoder.
        decoded: From ``attend``.
        keep: Which of the 3 masks of each prompt are wanted.
        rows: Upper rows of the token grid that hold image; the padding below is not upscaled.
        columns: Likewise from the left.
    """
    prompt = keep.any(dim=1).nonzero().squeeze(1)
    wanted = keep[prompt]
    height, width = decoded.grid
    tokens = decoded.tokens.unflatten(1, (height, width))[:, :rows, :columns][prompt]
    pixels = _upscaled_tokens(decoder.output_upscaling, tokens.flatten(1, 2))
    weights = [mlp(decoded.mask_tokens[prompt, i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps[1:])]
    logits = torch.stack(weights, dim=1) @ pixels.flatten(1, 3).transpose(1, 2)
    blocks = logits.float().view(len(prompt), NUM_MASKS, rows, columns, 2, 2, 2, 2)[wanted]
    return blocks.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(blocks), 4 * rows, 4 * columns)


def _upscaled_tokens(upscaling: Any, tokens: Float[Tensor, "K HW F"]) -> Float[Tensor, "K HW 4 4 G"]:
    """Both transposed convolutions (kernel = stride = 2) as products, pixel by pixel and channels last.

    The two axes of 4 are the (row, column) of a pixel in its 2 x 2 block, after the first and the second.
    """
    first, norm, activation, second, last_activation = upscaling
    half = _transposed_product(first, tokens)
    half = activation(functional.layer_norm(half, half.shape[-1:], norm.weight, norm.bias, norm.eps))
    return last_activation(_transposed_product(second, half))


def _transposed_product(convolution: Any, pixels: Float[Tensor, "*B F"]) -> Tensor:
    """A transposed convolution with kernel 2 and stride 2: [*B, F] → [*B, 4, G]."""
    matrix = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    out = functional.linear(pixels, matrix, convolution.bias.repeat(4))
    return out.unflatten(-1, (4, convolution.out_channels))


def _first_layer(layer: Any, position: Tensor, image: ImageTokens) -> tuple[Tensor, Tensor]:
    """The first two-way layer: its image tokens are not yet the prompt's own."""
    located = image.tokens + image.position
    queries = layer.norm1(layer.self_attn(q=position, k=position, v=position))
    to_image = layer.cross_attn_token_to_image
    gathered = _gather_from_shared(
        to_image, queries + position, to_image.k_proj(located), to_image.v_proj(image.tokens)
    )
    queries = layer.norm2(queries + gathered)
    queries = layer.norm3(queries + layer.mlp(queries))
    to_token = layer.cross_attn_image_to_token
    scores = _shared_scores(to_token, to_token.q_proj(located), queries + position)
    weights, given = _scatter(to_token, scores, queries)
    return queries, layer.norm4(image.tokens + weights @ given)


def _layer(layer: Any, queries: Tensor, keys: Tensor, position: Tensor, key_position: Tensor) -> tuple[Tensor, Tensor]:
    """Any later two-way layer."""
    placed = queries + position
    queries = layer.norm1(queries + layer.self_attn(q=placed, k=placed, v=queries))
    located = keys + key_position
    gathered = _gather_from_image(layer.cross_attn_token_to_image, queries + position, located, keys)
    queries = layer.norm2(queries + gathered)
    queries = layer.norm3(queries + layer.mlp(queries))
    to_token = layer.cross_attn_image_to_token
    weights, given = _scatter(to_token, _own_scores(to_token, located, queries + position), queries)
    return queries, layer.norm4(keys.add_(weights @ given))  # nobody else holds these keys


def _gather_from_shared(attention: Any, placed: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Tokens [K, T, F] attend to image tokens that all K share; ``k`` and ``v`` [HW, D] are their projections."""
    heads = attention.num_heads
    num_prompts, num_tokens, _ = placed.shape
    q = _heads(attention.q_proj(placed).flatten(0, 1), heads)
    out = functional.scaled_dot_product_attention(q[None], _heads(k, heads)[None], _heads(v, heads)[None])[0]
    return attention.out_proj(out.transpose(0, 1).reshape(num_prompts, num_tokens, -1))


def _gather_from_image(attention: Any, placed: Tensor, located: Tensor, keys: Tensor) -> Tensor:
    """Tokens [K, T, F] attend to image tokens [K, HW, F] without projecting those."""
    heads = attention.num_heads
    num_prompts, num_tokens, _ = placed.shape
    q = attention.q_proj(placed).view(num_prompts, num_tokens, heads, -1)
    asked = torch.einsum("kthd,hdf->khtf", q / math.sqrt(q.shape[-1]), _by_head(attention.k_proj.weight, heads))
    weights = (asked.flatten(1, 2) @ located.transpose(1, 2)).softmax(dim=-1)
    gathered = (weights @ keys).view(num_prompts, heads, num_tokens, -1)
    out = torch.einsum("khtf,hdf->kthd", gathered, _by_head(attention.v_proj.weight, heads)).flatten(2)
    return attention.out_proj(out + attention.v_proj.bias)


def _shared_scores(attention: Any, q: Tensor, placed: Tensor) -> Tensor:
    """Scores [K, heads, T, HW] of image tokens that all prompts share, by their projected queries [HW, D]."""
    heads = attention.num_heads
    k = attention.k_proj(placed).view(*placed.shape[:2], heads, -1)
    return torch.einsum("kthd,hpd->khtp", k / math.sqrt(k.shape[-1]), _heads(q, heads))


def _own_scores(attention: Any, located: Tensor, placed: Tensor) -> Tensor:
    """Scores [K, heads, T, HW] of image tokens [K, HW, F] for each of the tokens [K, T, F]."""
    heads = attention.num_heads
    k = attention.k_proj(placed).view(*placed.shape[:2], heads, -1)
    k = k / math.sqrt(k.shape[-1])
    asked = torch.einsum("kthd,hdf->khtf", k, _by_head(attention.q_proj.weight, heads))
    offset = torch.einsum("kthd,hd->kht", k, attention.q_proj.bias.view(heads, -1))
    scores = torch.baddbmm(offset.flatten(1)[..., None], asked.flatten(1, 2), located.transpose(1, 2))
    return scores.view(*asked.shape[:3], -1)


def _scatter(attention: Any, scores: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Factors [K, HW, heads·T] and [K, heads·T, F] of what image tokens gather from the tokens [K, T, F].

    The output's bias is spread over the heads: the weights of each add up to 1.

    Args:
        attention: Image tokens ask, prompt tokens answer.
        scores: [K, heads, T, HW].
        queries: [K, T, F].
    """
    heads = attention.num_heads
    v = attention.v_proj(queries).view(*queries.shape[:2], heads, -1)
    given = torch.einsum("kthd,fhd->khtf", v, attention.out_proj.weight.view(-1, heads, v.shape[-1]))
    given = given + attention.out_proj.bias / heads
    return scores.softmax(dim=2).flatten(1, 2).transpose(1, 2), given.flatten(1, 2)


def _heads(x: Float[Tensor, "L D"], heads: int) -> Float[Tensor, "heads L d"]:
    return x.view(len(x), heads, -1).transpose(0, 1)


def _by_head(weight: Float[Tensor, "D F"], heads: int) -> Float[Tensor, "heads d F"]:
    return weight.view(heads, -1, weight.shape[-1])
