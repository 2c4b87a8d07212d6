"""A large model is in memory once: views of its parameters, no more copies than precisions, files mapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from vitral_export import onnx_graph, onnx_operations, sources, weights
from vitral_export.loaded import Loaded, Options
from vitral_export.operations import Weight
from vitral_export.wrap import Inference, widened

SIZES = Options(img_size=32, patch_size=8, embed_dim=64)


@pytest.fixture
def loaded() -> Loaded:
    return sources.load("vit-embedding", SIZES)


class Keeper(nn.Module):
    """Keeps its last input, has a tied weight, and one tensor that is no float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("wide", torch.ones(2, dtype=torch.float64) / 3)
        self.register_buffer("mean", torch.ones(4) / 3)
        self.last: Tensor | None = None

    def forward(self, rows: Tensor) -> Tensor:
        self.last = rows
        found: Tensor = self.second(self.first(rows)) + self.mean
        return found


def test_what_is_exported_shares_its_values_with_the_module(loaded: Loaded) -> None:
    wrapped = Inference(loaded)
    mine, its = dict(wrapped.module.named_parameters()), dict(loaded.module.named_parameters())
    assert mine.keys() == its.keys()
    for name, parameter in mine.items():
        assert parameter.data_ptr() == its[name].data_ptr()
        assert parameter is not its[name]
        assert not parameter.requires_grad


def test_float64_is_a_copy_that_leaves_float32_as_it_is() -> None:
    module = Keeper().eval()
    before = {name: (value.data_ptr(), value.clone()) for name, value in module.state_dict().items()}
    rows = torch.rand(3, 4)
    narrow = module(rows)
    wide = widened(module)
    assert {value.dtype for value in wide.state_dict().values()} == {torch.float64}
    assert wide.second.weight is wide.first.weight
    exact = wide(rows.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), narrow, rtol=1e-5, atol=1e-6)
    for name, value in module.state_dict().items():
        pointer, values = before[name]
        assert (value.data_ptr(), value.dtype) == (pointer, values.dtype)
        assert torch.equal(value, values)
    assert module.last is rows  # what a module keeps while it runs in float64 is not kept here
    assert torch.equal(module(rows), narrow)


def test_weights_are_read_from_their_file(loaded: Loaded, tmp_path: Path) -> None:
    scratch, folder = tmp_path / "scratch", tmp_path / "version"
    scratch.mkdir()
    folder.mkdir()
    model = onnx_graph.export(Inference(loaded), loaded, opset=20, scratch=scratch)
    size = sum(parameter.numel() * 4 for parameter in loaded.module.parameters())
    assert size > 50_000 > model.ByteSize()
    onnx_graph.save(folder, {"model.onnx": model}, scratch=scratch)
    read = onnx.load(folder / "model.onnx", load_external_data=False)
    held = [item for step in onnx_operations.read(read, folder).steps for item in step.operands]
    large = [item.array for item in held if isinstance(item, Weight) and item.array.ndim > 1]
    assert large
    assert all(_mapped(array) for array in large)


def _mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


def test_a_place_of_another_length_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    model = onnx_graph.export(Inference(loaded), loaded, opset=20, scratch=tmp_path)
    item = next(item for item in model.graph.initializer if weights.is_weight(item))
    weights.array(item, tmp_path)
    item.dims[0] += 1
    with pytest.raises(ValueError, match=rf"{item.name} has \d+ bytes, its place in torch.bin \d+"):
        weights.array(item, tmp_path)


def test_tensors_of_equal_bytes_are_written_once(loaded: Loaded, tmp_path: Path) -> None:
    module = loaded.module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.5)
    scratch, folder = tmp_path / "scratch", tmp_path / "version"
    scratch.mkdir()
    folder.mkdir()
    model = onnx_graph.export(Inference(replace(loaded, module=module)), loaded, opset=20, scratch=scratch)
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    sizes = {tuple(item.dims) for item in model.graph.initializer if weights.is_weight(item)}
    onnx_graph.save(folder, {"model.onnx": model, "twin.onnx": twin}, scratch=scratch)
    lengths = {int(np.prod(dims)) * 4 for dims in sizes}
    assert (folder / "weights.bin").stat().st_size <= sum(-(-length // 4096) * 4096 for length in lengths)
    one, other = (onnx.load(folder / name, load_external_data=False) for name in ("model.onnx", "twin.onnx"))
    assert one == other
