"""Faults planted into graphs of each precision: which net sees each, and that none is missed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import vit_checkpoints as vits
from benchmarks.lossy import rewrite
from onnx import TensorProto, helper, numpy_helper

from vitral import spec as specs
from vitral.errors import VitralError
from vitral.v1 import model_pb2 as pb
from vitral_engine.device import place
from vitral_engine.measure import errors
from vitral_engine.session import GraphSession
from vitral_export import artifact, structure
from vitral_export.cases import Cases, cases
from vitral_export.loaded import Options
from vitral_export.numbers import sweep
from vitral_export.operations import Program
from vitral_export.precision.kinds import FLOAT16, INT8, STORAGE
from vitral_export.sources import load
from vitral_export.truth import Reference, reference
from vitral_export.wrap import Inference

FLOAT, UINT8 = "model.onnx", "model_uint8.onnx"
OUTPUT = "last_hidden_state"
FC1 = "layers.0.mlp.fc1.weight.transposed"


class Graph:
    """A written graph, its weights inside, that is spoiled."""

    def __init__(self, file: Path) -> None:
        self.model = onnx.load(file)
        self.nodes = self.model.graph.node
        self.held = {item.name: item for item in self.model.graph.initializer}

    def node(self, kind: str, place: int = 0) -> onnx.NodeProto:
        return [node for node in self.nodes if node.op_type == kind][place]

    def change(self, name: str, how: Callable[[np.ndarray], np.ndarray]) -> None:
        array = numpy_helper.to_array(self.held[name])
        new = np.asarray(how(array.copy()))
        self.held[name].CopyFrom(numpy_helper.from_array(new.astype(array.dtype), name))

    def put(self, name: str, array: np.ndarray) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def _next(array: np.ndarray) -> np.ndarray:
    """One value to the next that its type has."""
    at = (1,) * array.ndim
    away = array[at] + 1 if array.dtype == np.int8 else np.nextafter(array[at], array.dtype.type(9))
    array[at] = away
    return array


def _unrounded(graph: Graph) -> None:
    """The matrix as float32, as it was before it was rounded but for its last bits."""
    cast = next(node for node in graph.nodes if node.input[0] == f"{FC1}.half")
    wide = numpy_helper.to_array(graph.held[f"{FC1}.half"]).astype(np.float32)
    name = graph.put("unrounded", wide * np.float32(1 + 2.0**-13))
    for node in graph.nodes:
        node.input[:] = [name if item == cast.output[0] else item for item in node.input]
    graph.nodes.remove(cast)


def _without_cast(graph: Graph) -> None:
    """The border behind the input is left out: the first product takes float32."""
    cast = graph.node("Cast")
    for node in graph.nodes:
        node.input[:] = [cast.input[0] if item == cast.output[0] else item for item in node.input]
    graph.nodes.remove(cast)


def _through_float16(graph: Graph) -> None:
    """Two casts too many: a softmax's result is rounded to half on the way."""
    last = graph.node("Softmax")
    result = last.output[0]
    last.output[0] = f"{result}.before"
    at = list(graph.nodes).index(last) + 1
    half = helper.make_node("Cast", [f"{result}.before"], [f"{result}.16"], "planted", to=TensorProto.FLOAT16)
    wide = helper.make_node("Cast", [f"{result}.16"], [result], "planted/wide", to=TensorProto.FLOAT)
    for node in (wide, half):
        graph.nodes.insert(at, node)


def _stash(graph: Graph) -> None:
    node = graph.node("LayerNormalization")
    kept = [item for item in node.attribute if item.name != "stash_type"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("stash_type", int(TensorProto.FLOAT16))])


def _zero_point(graph: Graph) -> None:
    taker = next(node for node in graph.nodes if f"{FC1}.int8" in node.input)
    taker.input[2] = graph.put("zero", np.array(100, np.uint8))


def _no_zero_point(graph: Graph) -> None:
    del graph.node("MatMulInteger").input[2]


def _other_scale(graph: Graph) -> None:
    """The scale of what the last product takes for that of the first."""
    scales = [node.output[1] for node in graph.nodes if node.op_type == "DynamicQuantizeLinear"]
    taker = next(node for node in graph.nodes if node.op_type == "Mul" and node.input[0] == scales[-1])
    taker.input[0] = scales[0]


def _weight(name: str, how: Callable[[np.ndarray], np.ndarray]) -> Callable[[Graph], None]:
    return lambda graph: graph.change(name, how)


@dataclass(frozen=True)
class Fault:
    precision: str
    file: str
    plant: Callable[[Graph], None]
    told: str
    numbers: bool


FAULTS = {
    "one weight to the next float16": Fault(
        FLOAT16, FLOAT, _weight(f"{FC1}.half", _next), "differs from .* in 1 of", False
    ),
    "the same in the uint8 graph": Fault(
        FLOAT16, UINT8, _weight(f"{FC1}.half", _next), "differs from .* in 1 of", False
    ),
    "a tensor x 1.1": Fault(
        FLOAT16, FLOAT, _weight(f"{FC1}.half", lambda array: array * 1.1), "differs from", True
    ),
    "the cast of the input left out": Fault(FLOAT16, FLOAT, _without_cast, "step", True),
    "pixels divided by 127": Fault(
        FLOAT16, UINT8, _weight("pixels_scale", lambda array: np.array(1 / 127)), "differs from", True
    ),
    "LayerNormalization sums in float16": Fault(FLOAT16, FLOAT, _stash, "stash_type is 10", False),
    "one matrix not rounded": Fault(STORAGE, FLOAT, _unrounded, "differs from", False),
    "one stored weight to the next float16": Fault(
        STORAGE, UINT8, _weight(f"{FC1}.half", _next), "differs from .* in 1 of", False
    ),
    "a stored tensor x 1.1": Fault(
        STORAGE, FLOAT, _weight(f"{FC1}.half", lambda array: array * 1.1), "differs from", True
    ),
    "a softmax rounded to float16": Fault(STORAGE, FLOAT, _through_float16, "step", False),
    "one level of a matrix": Fault(
        INT8, FLOAT, _weight(f"{FC1}.int8", _next), "differs from .* in 1 of", False
    ),
    "a scale x 1.001": Fault(
        INT8, FLOAT, _weight(f"{FC1}.scale", lambda array: array * np.float32(1.001)), "differs from", False
    ),
    "a scale x 1.1": Fault(
        INT8, FLOAT, _weight(f"{FC1}.scale", lambda array: array * np.float32(1.1)), "differs from", True
    ),
    "a zero point of 100": Fault(INT8, FLOAT, _zero_point, "step|takes", True),
    "no zero point": Fault(INT8, UINT8, _no_zero_point, "has 2 operands, the module's has 3|step", True),
    "another product's scale": Fault(INT8, FLOAT, _other_scale, "takes #|step", True),
}


@dataclass(frozen=True)
class Sound:
    folder: Path
    spec: pb.ModelSpec
    own: Program
    reference: Reference


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sound]:
    """A ViT of two blocks in each precision, written and not yet proven."""
    folder = tmp_path_factory.mktemp("lossy")
    checkpoint = vits.save(folder / "vit", vits.model({**vits.OTHER, "num_hidden_layers": 2}))
    loaded = load(f"hf:{checkpoint}", Options(outputs=(OUTPUT,)))
    wrapped, made = Inference(loaded), {}
    (folder / "float32").mkdir()
    told = artifact.write_graphs(folder / "float32", wrapped, loaded, name="m", opset=20)
    own = structure.read(wrapped, told)
    graph = specs.float_graph(told)
    few = cases(graph, told.preprocessing)
    few = Cases(few.rows[:2], {"photographs": slice(0, 2)}, (0, 1))
    for precision in (FLOAT16, STORAGE, INT8):
        spec = rewrite(folder / "float32", told, precision, folder / precision)
        made[precision] = Sound(folder / precision, spec, own, reference(wrapped, graph, spec, few))
    return made


@pytest.mark.parametrize("precision", [FLOAT16, STORAGE, INT8])
def test_a_sound_graph_is_caught_by_no_net(exports: dict[str, Sound], precision: str) -> None:
    sound = exports[precision]
    assert structure.compare(sound.folder, sound.spec, sound.own) == []
    assert not _numbers(sound, sound.folder)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(exports: dict[str, Sound], tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    sound = exports[fault.precision]
    folder = shutil.copytree(sound.folder, tmp_path / "planted")
    spoiled = Graph(folder / fault.file)
    fault.plant(spoiled)
    onnx.save(spoiled.model, folder / fault.file)
    told = structure.compare(folder, sound.spec, sound.own)
    assert told
    assert all(problem.startswith(f"{fault.file}: ") for problem in told)
    assert any(re.search(fault.told, problem) for problem in told), told
    if fault.file == FLOAT:
        assert _numbers(sound, folder) == fault.numbers


def _numbers(sound: Sound, folder: Path) -> bool:
    """Whether the numeric net sees something of the float graph, in one of its settings."""
    known, graph = sound.reference, specs.float_graph(sound.spec)
    try:
        session = GraphSession(folder / graph.file, graph, sound.spec, placement=place("cpu"))
        got = sweep(session, known.cases.rows, batch=1)
    except VitralError:
        return True  # it does not run
    return not known.budget(OUTPUT, "photographs").holds(errors(got[OUTPUT], known.truth[OUTPUT]))


def test_the_document_lists_every_fault_with_its_nets() -> None:
    said = (Path(__file__).resolve().parent.parent / "docs" / "verification.md").read_text(encoding="utf-8")
    for name, fault in FAULTS.items():
        nets = "structure and numbers" if fault.numbers and fault.file == FLOAT else "structure"
        assert f"| {name} | `{fault.precision}` | {nets} |" in said
