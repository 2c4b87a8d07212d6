from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional

from vitral.errors import InvalidArgumentError
from vitral_export.modules import PatchEmbedding


def test_the_tutorials_shapes() -> None:
    module = PatchEmbedding()
    assert module.num_patches == 196
    assert module.projection.weight.shape == (768, 3, 16, 16)
    assert list(module.state_dict()) == ["projection.weight", "projection.bias"]
    with torch.inference_mode():
        assert module(torch.zeros(2, 3, 224, 224)).shape == (2, 196, 768)


def test_patches_come_in_row_major_order_bit_for_bit() -> None:
    module = PatchEmbedding(img_size=32, patch_size=8, embed_dim=16)
    integers = torch.randint(-512, 512, module.projection.weight.shape).float()
    with torch.inference_mode():
        module.projection.weight.copy_(integers / 1024)  # dyadic: every sum is exact in any order
        module.projection.bias.zero_()
        images = torch.randint(0, 256, (2, 3, 32, 32)).float()
        patches = functional.unfold(images, 8, stride=8).transpose(1, 2)  # B C H W -> B N (C P P)
        expected = patches @ module.projection.weight.flatten(1).T
        assert torch.equal(module(images), expected)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"img_size": 8, "patch_size": 16}, "image of 8 x 8 is smaller than one 16 x 16 patch"),
        ({"img_size": 30, "patch_size": 8}, "img_size 30 is not a multiple of patch_size 8: 6 pixels"),
        ({"embed_dim": 0}, "embed_dim must be a positive whole number, not 0"),
        ({"in_channels": -3}, "in_channels must be a positive whole number, not -3"),
        ({"patch_size": 8.0}, "patch_size must be a positive whole number, not 8.0"),
        ({"img_size": 10**17, "patch_size": 1}, "img_size is 100000000000000000, the largest is 2147483647"),
        ({"embed_dim": 2**31}, "embed_dim is 2147483648, the largest is 2147483647"),
        ({"embed_dim": 2**20}, "weight of 1048576 x 3 x 16 x 16 would have 805306368 values, the most is"),
        ({"img_size": 2**15}, "image of 3 x 32768 x 32768 would have 3221225472 values, the most is"),
        ({"img_size": 8192, "patch_size": 1}, "tokens of 67108864 x 768 would have 51539607552 values"),
        ({"img_size": True}, "img_size must be a positive whole number, not True"),
    ],
)
def test_bad_arguments_are_named(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        PatchEmbedding(**sizes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 32, 32), "pixel_values has 3 axes, 4 are expected"),
        ((2, 1, 32, 32), "pixel_values has 1 channels, the module takes 3"),
        ((2, 3, 32, 40), "pixel_values is 32 x 40, the module takes images of 32 x 32"),
        ((2, 32, 32, 3), "pixel_values has 32 channels, the module takes 3"),
    ],
)
def test_bad_input_is_named(shape: tuple[int, ...], message: str) -> None:
    module = PatchEmbedding(img_size=32, patch_size=8, embed_dim=16)
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        module(torch.zeros(shape))
