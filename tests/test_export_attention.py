"""Attention as one operator of ONNX: written from operator set 23 on, and read as the steps that it means."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import family_checkpoints as families
import numpy as np
import onnx
import pytest
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional

from vitral.v1 import model_pb2 as pb
from vitral_export import artifact, fused, structure
from vitral_export.cli import main
from vitral_export.loaded import Options
from vitral_export.modules import PatchEmbedding
from vitral_export.operations import Program
from vitral_export.precision import programs
from vitral_export.precision.graphs import converted
from vitral_export.precision.kinds import FLOAT16
from vitral_export.sources import given
from vitral_export.wrap import Inference

FLOAT = "model.onnx"


class Attending(nn.Module):
    """Patches that look at each other in three heads of five values: the scale is no short number."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = PatchEmbedding(32, 8, 3, 15)
        self.mixed = nn.Linear(15, 45)

    def forward(self, pixel_values: Tensor) -> Tensor:
        rows = self.mixed(self.patches(pixel_values))  # B N D -> B N 3D
        query, key, value = rows.unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4).unbind(0)  # B H N D/H each
        found = functional.scaled_dot_product_attention(query, key, value)
        return found.transpose(1, 2).flatten(2)  # B H N D/H -> B N D


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pb.ModelSpec, Program]:
    loaded = given(Attending(), Options(img_size=32, patch_size=8))
    wrapped, folder = Inference(loaded), tmp_path_factory.mktemp("attention")
    spec = artifact.write_graphs(folder, wrapped, loaded, name="m", opset=23)
    return folder, spec, structure.read(wrapped, spec)


def test_attention_is_one_operator_and_the_module_s_own(written: tuple[Path, pb.ModelSpec, Program]) -> None:
    folder, spec, own = written
    for graph in spec.graphs:
        kinds = [node.op_type for node in onnx.load(folder / graph.file).graph.node]
        assert kinds.count("Attention") == 1
        assert "Softmax" not in kinds
    assert "Softmax" in [step.kind for step in own.steps]
    assert structure.compare(folder, spec, own) == []


def test_in_float16_its_scale_is_rounded_too(written: tuple[Path, pb.ModelSpec, Program]) -> None:
    folder, spec, own = written
    made = converted({FLOAT: onnx.load(folder / FLOAT)}, FLOAT16)[FLOAT]
    graph = next(graph for graph in spec.graphs if graph.file == FLOAT)
    steps = programs.expected(own, FLOAT16, uint8=False)
    assert structure.problems(made, graph, spec, steps) == []


def _scale(node: onnx.NodeProto) -> None:
    node.attribute.append(helper.make_attribute("scale", 1.001 / np.sqrt(5)))


def _causal(node: onnx.NodeProto) -> None:
    node.attribute.append(helper.make_attribute("is_causal", 1))


def _query_for_key(node: onnx.NodeProto) -> None:
    node.input[1] = node.input[0]


def _mask(node: onnx.NodeProto) -> None:
    node.input.append(node.input[0])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(_scale, "differs from"), (_causal, "no rule"), (_query_for_key, "takes|step"), (_mask, "no rule|told")],
)
def test_another_attention_is_seen(
    written: tuple[Path, pb.ModelSpec, Program],
    tmp_path: Path,
    spoil: Callable[[onnx.NodeProto], None],
    told: str,
) -> None:
    folder, spec, own = written
    shutil.copytree(folder, tmp_path / "spoiled")
    model = onnx.load(tmp_path / "spoiled" / FLOAT)
    node = next(node for node in model.graph.node if node.op_type == "Attention")
    kept = [item for item in node.attribute if item.name not in ("scale", "is_causal")]
    del node.attribute[:]
    node.attribute.extend(kept)
    spoil(node)
    onnx.save(model, tmp_path / "spoiled" / FLOAT)
    problems = structure.compare(tmp_path / "spoiled", spec, own)
    assert any(problem.startswith(f"{FLOAT}: ") for problem in problems)
    assert any(part in problem for problem in problems for part in told.split("|")), problems


def test_no_fused_operator_in_a_graph_with_attention_is_warned_of(
    written: tuple[Path, pb.ModelSpec, Program], caplog: pytest.LogCaptureFixture
) -> None:
    folder, _, _ = written
    with caplog.at_level(logging.WARNING):
        found = fused.counted(folder / FLOAT, onnx.load(folder / FLOAT))
    said = [record.getMessage() for record in caplog.records if "fuses no operators" in record.getMessage()]
    assert bool(found) != bool(said)


@pytest.mark.parametrize(
    ("family", "options"), [("beit", ("--opset", "23")), ("dinov3", ("--precision", "float16"))]
)
def test_a_mask_and_an_empty_tensor_are_no_hindrance(
    tmp_path: Path, family: str, options: tuple[str, ...]
) -> None:
    """BEiT adds positions to its scores; some steps of a DINOv3 have no values at all."""
    line = ["build", f"hf:{families.save(family, tmp_path / family)}", "--name", "m", "--quiet"]
    assert main([*line, "--repo", str(tmp_path / "models"), "--preprocessing", "none", *options]) == 0
