"""Graphs whose inputs and outputs are half floats: their bits go through as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import kserving
import numpy as np
import onnx
import photographs
import pytest
import tritonclient.grpc as triton
from kserving import Floats
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file
from serving import Running, running

import vitral_engine
from vitral import spec as specs
from vitral_client import Client
from vitral_engine.artifact import sha256_file
from vitral_engine.elements import bfloat16

KINDS = {"FP16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}
TYPES = {"FP16": "DATA_TYPE_FLOAT16", "BF16": "DATA_TYPE_BFLOAT16"}
TAKEN, GIVEN = "pixel_values", "patch_embeddings"
BATCH = np.random.default_rng(3).standard_normal((3, 3, 32, 32)).astype(np.float32)


def _bits(array: Any, kind: str) -> NDArray[Any]:
    """Numbers as the half floats of this kind; bfloat16 as uint16."""
    return array.astype(np.float16) if kind == "FP16" else bfloat16(array.astype(np.float32))


def _numbers(array: NDArray[Any], kind: str) -> Floats:
    if kind == "FP16":
        return array.astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32)


def _halve(version: Path, kind: str) -> None:
    """Makes the model take and give half floats: a cast in front of the graph, and one behind."""
    file = version / "model.onnx"
    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        node.input[:] = ["wide_in" if name == TAKEN else name for name in node.input]
        node.output[:] = ["wide_out" if name == GIVEN else name for name in node.output]
    model.graph.node.insert(0, helper.make_node("Cast", [TAKEN], ["wide_in"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Cast", ["wide_out"], [GIVEN], to=KINDS[kind]))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = KINDS[kind]
    file.write_bytes(model.SerializeToString())
    goldens = load_file(version / "golden.safetensors")
    rows = goldens["model.onnx/input"]
    save_file(goldens | {"model.onnx/input": _bits(rows, kind)}, version / "golden.safetensors")


def _describe(version: Path, kind: str) -> None:
    """A manifest that says so, with budgets of half floats."""
    file = version / specs.MANIFEST
    data = json.loads(file.read_text())
    for graph in data["graphs"]:
        if graph["file"] == "model.onnx":
            graph["input"]["dtype"] = TYPES[kind]
            plain = graph
    data["graphs"] = [plain]
    data["outputs"][0]["dtype"] = TYPES[kind]
    for figure in data["proof"]["figures"]:
        figure["rel_l2_budget"] = figure["max_abs_budget"] = 0.05
    data["sha256"] = {name: sha256_file(version / name) for name in data["sha256"]}
    spec = specs.json_format.ParseDict(data, specs.pb.ModelSpec())
    data["fingerprint"] = specs.identity(spec, data["sha256"])
    file.write_text(json.dumps(data))
    (version.parent / "config.pbtxt").unlink()


@pytest.fixture(scope="module")
def server(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("half")
    for kind in KINDS:
        shutil.copytree(small_repo / "tiny", folder / "models" / kind)
        file = folder / "models" / kind / "1" / specs.MANIFEST
        file.write_text(json.dumps(json.loads(file.read_text()) | {"name": kind}))
        _halve(file.parent, kind)
        _describe(file.parent, kind)
    with running(folder / "models", log=folder / "server.log") as started:
        yield started


@pytest.mark.parametrize("kind", KINDS)
def test_half_floats_in_and_out(server: Running, small_repo: Path, kind: str) -> None:
    sent = _bits(BATCH, kind)
    request = kserving.pb.ModelInferRequest(model_name=kind, raw_input_contents=[sent.tobytes()])
    request.inputs.add(name=TAKEN, datatype=kind, shape=BATCH.shape)
    with kserving.client(server.address) as client, kserving.stub(server.address) as stub:
        told = client.get_model_metadata(kind)
        assert [item.datatype for item in (*told.inputs, *told.outputs)] == [kind, kind]
        config = client.get_model_config(kind).config
        assert (config.input[0].data_type, config.output[0].data_type) == (
            triton.model_config_pb2.DataType.Value(f"TYPE_{kind}"),
        ) * 2
        reply = stub.ModelInfer(request)
    assert reply.outputs[0].datatype == kind
    got = np.frombuffer(reply.raw_output_contents[0], sent.dtype).reshape(3, 16, 16)
    want = kserving.truth(small_repo, _numbers(sent, kind), model="tiny")[GIVEN]
    assert np.array_equal(got, _bits(want, kind))


def test_image_files_to_half_floats(server: Running, small_repo: Path) -> None:
    data = photographs.ROCKET.read_bytes()
    want = vitral_engine.open(small_repo / "tiny").embed([data])[0].outputs[GIVEN]
    with kserving.stub(server.address) as stub, Client(server.address) as client:
        for kind, dtype in (("FP16", np.float16), ("BF16", np.uint16)):
            request = kserving.pb.ModelInferRequest(model_name=f"{kind}_image")
            request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(data)
            reply = stub.ModelInfer(request)
            got = np.frombuffer(reply.raw_output_contents[0], dtype).reshape(16, 16)
            assert np.allclose(_numbers(got, kind), want, atol=0.02)
            assert reply.outputs[0].datatype == kind
        assert np.allclose(client.embed([data], model="FP16")[0].outputs[GIVEN], want, atol=0.02)
        with pytest.raises(NotImplementedError, match="is bfloat16 in the graph"):
            client.embed([data], model="BF16")
        with pytest.raises(grpc.RpcError, match="FP32"):
            stub.ModelInfer(kserving.message(BATCH, model_name="FP16"))
