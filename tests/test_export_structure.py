"""The structural net: no graph that computes otherwise compares equal, whatever form it is written in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from benchmarks.faults.models import MODELS, Sound, export
from benchmarks.faults.planting import FLOAT
from benchmarks.mutations import outcome
from onnx import helper
from torch import Tensor, nn

from vitral import spec as specs
from vitral.errors import ProofError
from vitral_export import onnx_operations, structure, torch_operations
from vitral_export.operations import BATCHES, Program, Times, extent_of

# Of the many mutations of an encoder one in so many; of the other families' only those of one.
EVERY = {name: 1 for name in MODELS if not name.startswith("hf-")} | {"hf-vit": 40, "hf-dinov3": 60}
CONCAT, ADD = "Concat_2", "Add"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return export("vit-embedding", tmp_path_factory.mktemp("structure") / "sound")


@pytest.fixture(scope="module")
def own(sound: Sound) -> Program:
    return structure.read(sound.wrapped, sound.spec)


@pytest.mark.parametrize("model", EVERY)
def test_what_passes_of_all_single_changes_gives_the_same_bits(model: str, tmp_path: Path) -> None:
    sound = export(model, tmp_path / "sound")
    own = structure.read(sound.wrapped, sound.spec)
    for graph in sound.spec.graphs:
        whole = graph == specs.whole_graph(sound.spec, graph)
        found = outcome(sound, own, graph, every=EVERY[model] if whole else 1)
        assert found.tried > 100
        assert 0 < len(found.passed) < found.tried / 8
        assert found.wrong == ()


def _function_of_its_own(model: onnx.ModelProto) -> None:
    inside = helper.make_node("Identity", ["x"], ["y"])
    ops = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "Transpose", ["x"], ["y"], [inside], ops))


def _node_of_another_domain(model: onnx.ModelProto) -> None:
    _node(model, ADD).domain = "com.microsoft"


def _name_made_twice(model: onnx.ModelProto) -> None:
    again = onnx.TensorProto()
    again.CopyFrom(next(item for item in model.graph.initializer if item.name == "val_8"))
    model.graph.initializer.append(again)


def _tensor_in_place_of_a_result(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 1, 16), np.float32), "expand"))


def _weight_that_a_caller_could_replace(model: onnx.ModelProto) -> None:
    shape = (1, 1, 16)
    model.graph.input.append(helper.make_tensor_value_info("cls_token", onnx.TensorProto.FLOAT, shape))


def _attribute_twice(model: onnx.ModelProto) -> None:
    _node(model, CONCAT).attribute.insert(0, helper.make_attribute("axis", 2))


def _axis_that_is_not_there(model: onnx.ModelProto) -> None:
    _node(model, CONCAT).attribute[0].i = 4  # 4 % 3 is the right one


def _operator_set_twice(model: onnx.ModelProto) -> None:
    model.opset_import.insert(0, helper.make_opsetid("", 11))


def _cls_for_every_patch(model: onnx.ModelProto) -> None:
    """As many CLS tokens as there are patches in all images: dynamic like the batch, but not the batch."""
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 16], np.int64), "flat"))
    at = list(graph.node).index(_node(model, "Concat"))
    graph.node.insert(at, helper.make_node("Shape", ["all"], ["many"], name="many", start=0, end=1))
    graph.node.insert(at, helper.make_node("Reshape", ["patch_embeddings", "flat"], ["all"], name="all"))
    _node(model, "Concat").input[0] = "many"


def _branch(model: onnx.ModelProto) -> None:
    """The last sum inside both branches of an If."""
    node = _node(model, ADD)
    inner = helper.make_node("Add", list(node.input), ["sum"], name="inner")
    told = helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph([inner], "branch", [], [told])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    new = helper.make_node(
        "If", ["yes"], list(node.output), name="If", then_branch=branch, else_branch=branch
    )
    model.graph.node.remove(node)
    model.graph.node.append(new)


def _operand_left_out(model: onnx.ModelProto) -> None:
    _node(model, ADD).input.insert(1, "")


def _words_about_its_own_tensors(model: onnx.ModelProto) -> None:
    """A wrong reshape, and a file that says it is right."""
    right = helper.make_tensor_value_info("view", onnx.TensorProto.FLOAT, ["batch", 16, 16])
    model.graph.value_info.append(right)
    shape = next(item for item in model.graph.initializer if item.name == "val_11")
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([-1, 8, 32], np.int64), "val_11"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_function_of_its_own, "the file defines 1 functions of its own"),
        (_node_of_another_domain, "Add is Add of com.microsoft"),
        (_name_made_twice, "val_8 is made more than once"),
        (_tensor_in_place_of_a_result, "expand is made more than once"),
        (_weight_that_a_caller_could_replace, "signature has 4 tensors, 3 were asked for"),
        (_attribute_twice, "Concat_2 has an attribute twice"),
        (_axis_that_is_not_there, "axis must be in"),
        (_operator_set_twice, r"operator sets are \[\('', 11\), \('', 20\)\]"),
        (_cls_for_every_patch, "Inferred=1009 Declared=16144"),
        (_branch, "If is a If with a graph inside"),
        (_operand_left_out, "Add leaves out a tensor in front of others"),
        (_words_about_its_own_tensors, "shapes cannot be told: .*Inferred=8 Declared=16"),
    ],
)
def test_a_graph_of_another_form_is_seen(
    sound: Sound,
    own: Program,
    tmp_path: Path,
    spoil: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(sound.folder, folder)
    model = onnx.load(folder / FLOAT, load_external_data=False)
    spoil(model)
    (folder / FLOAT).write_bytes(model.SerializeToString())
    problems = structure.compare(folder, sound.spec, own)
    assert any(re.match(f"{FLOAT}: .*{message}", problem) for problem in problems), problems


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def test_a_step_that_is_no_reshape_for_every_batch_is_none() -> None:
    model = _graph([helper.make_node("Reshape", ["x", "shape"], ["y"], name="r")], shape=[7, -1])
    with pytest.raises(ValueError, match=r"shapes cannot be told: .*incompatible shapes"):
        onnx_operations.read(model)
    frozen = _graph([helper.make_node("Reshape", ["x", "shape"], ["y"], name="r")], shape=[2, 12])
    with pytest.raises(ValueError, match=r"r reshapes \(None, 3, 4\) to \(2, 12\)"):
        onnx_operations.read(frozen)


def test_extents_that_grow_with_the_batch_are_told_apart() -> None:
    flat = onnx_operations.read(
        _graph([helper.make_node("Reshape", ["x", "shape"], ["y"], name="r")], shape=[-1, 4])
    )
    assert flat.steps[0].shape == (Times(3), 4)
    assert [extent_of(*pair) for pair in ((5, 5), BATCHES)] == [5, None]
    with pytest.raises(ValueError, match="no multiple of them"):
        extent_of(BATCHES[0] + 1, BATCHES[1] + 1)
    with pytest.raises(ValueError, match="no multiple of them"):
        extent_of(BATCHES[0] ** 2, BATCHES[1] ** 2)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("ReduceMean", ["x"], ["y"], name="m"), "does not say which axes"),
        (
            helper.make_node("ReduceMean", ["x", "none"], ["y"], name="m", noop_with_empty_axes=1),
            "does not say which axes",
        ),
        (helper.make_node("Slice", ["x", "zero", "two", "zero"], ["y"], name="s"), "s slices the batch"),
        (helper.make_node("Slice", ["x", "zero", "two"], ["y"], name="s"), "start, end and axis"),
        (
            helper.make_node("Slice", ["x", "zero", "two", "two", "two"], ["y"], name="s"),
            "start, end and axis",
        ),
    ],
)
def test_a_node_without_a_plain_meaning_is_refused(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        onnx_operations.read(_graph([node], shape=[1]))


def _graph(nodes: list[onnx.NodeProto], *, shape: list[int]) -> onnx.ModelProto:
    held = {"shape": shape, "zero": [0], "two": [2], "none": []}
    tensors = [onnx.numpy_helper.from_array(np.array(array, np.int64), name) for name, array in held.items()]
    taken = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, 4])
    given = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [taken], [given], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


class Halved(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x[: x.shape[0] // 2],)


class WideSoftmax(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.softmax(x, dim=-1, dtype=torch.float64),)


class WideMean(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x.mean(dim=1, dtype=torch.float64),)


class WholeMean(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x.mean(dim=[]),)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Halved(), "no rule for torch's operator <built-in function floordiv>"),
        (WholeMean(), "reduces every axis"),
        (WideSoftmax(), r"computes in torch\.float64"),
        (WideMean(), r"computes in torch\.float64"),
    ],
)
def test_a_module_that_cannot_be_compared_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ProofError, match=message):
        torch_operations.read(module, (2, 3, 4))
