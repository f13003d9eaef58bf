import pytest
import torch

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.sam_architecture import ARCHITECTURES, build_sam, detect_architecture


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_tell_their_architecture(name):
    with torch.device("meta"):  # ViT-H would be 2.5 GB of random numbers
        assert detect_architecture(build_sam(name).state_dict()) == name


def test_published_sizes():
    with torch.device("meta"):
        counts = {name: sum(p.numel() for p in build_sam(name).parameters()) for name in ARCHITECTURES}
    assert {name: round(count / 1e6) for name, count in counts.items() if name != "miniature"} == {
        "vit_b": 94,  # 91, 308 and 636 million in the paper's table without the decoder's 4 million
        "vit_l": 312,
        "vit_h": 641,
    }
    assert counts["miniature"] < 2e6


def test_miniature_is_built_for_evaluation_and_reads_256_pixels():
    sam = build_sam("miniature")
    assert not sam.training
    assert sam.image_encoder(torch.zeros(1, 3, 256, 256)).shape == (1, 64, 32, 32)


def test_unknown_name():
    with pytest.raises(DataError, match="'vit_x' is no SAM architecture; choose one of vit_b, vit_l, vit_h, miniature"):
        build_sam("vit_x")


def test_state_without_an_image_encoder():
    with pytest.raises(DataError, match=r"not a SAM checkpoint: expected the tensor .*found 1 entries \(model"):
        detect_architecture({"model": {}})


def test_other_width():
    state = build_sam("miniature").state_dict()
    state["image_encoder.patch_embed.proj.weight"] = torch.zeros(768, 3, 16, 16)
    depth = len(build_sam("miniature").image_encoder.blocks)
    with pytest.raises(DataError, match=f"768 wide and {depth} blocks deep is none of vit_b"):
        detect_architecture(state)
