"""Operators that are written with plainer ones: the module's own numbers, proven like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vitral_export
from vitral.v1 import model_pb2 as pb
from vitral_export import torch_operations
from vitral_export.decompositions import plainer
from vitral_export.loaded import Options
from vitral_export.sources import given
from vitral_export.wrap import Inference

SMALL = Options(img_size=16)


class Normed(nn.Module):
    """Patches of an image, each over the root of its mean square."""

    def __init__(self, *, eps: float | None = None, affine: bool = True) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, 12, 8, 8)
        self.norm = nn.RMSNorm(12, eps=eps, elementwise_affine=affine)
        if affine:
            nn.init.normal_(self.norm.weight)

    def forward(self, pixel_values: Tensor) -> Tensor:
        tokens = self.projection(pixel_values).flatten(2).transpose(1, 2)  # B D H W -> B N D
        normed: Tensor = self.norm(tokens)
        return normed.type_as(pixel_values)


def test_rms_norm_is_exported_and_proven(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = vitral_export.export(Normed(eps=1e-5), name="m", repo=tmp_path, options=SMALL).spec
    assert spec.proof.status == pb.PROOF_STATUS_PROVEN


@pytest.mark.parametrize("eps", [1e-6, 0.1])
@pytest.mark.parametrize("affine", [True, False])
def test_its_steps_have_its_epsilon(eps: float, affine: bool) -> None:
    wrapped = Inference(given(Normed(eps=eps, affine=affine), SMALL))
    weights = torch_operations.read(wrapped, (2, 3, 16, 16)).weights()
    scalars = [float(weight.array) for weight in weights if weight.array.ndim == 0]
    assert pytest.approx(eps, rel=1e-6) in scalars


@pytest.mark.parametrize("eps", [None, 1e-6])
@pytest.mark.parametrize("shape", [(12,), (4, 12)])
def test_rms_norm_has_the_operators_numbers(shape: tuple[int, ...], eps: float | None) -> None:
    torch.manual_seed(1)
    rows, weight = torch.randn(2, 4, 12, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    written = plainer()[torch.ops.aten.rms_norm.default]
    for given_weight in (weight, None):
        own = nn.functional.rms_norm(rows, shape, given_weight, eps)
        assert torch.allclose(written(rows, shape, given_weight, eps), own, rtol=1e-14, atol=0)
