"""Requests of the KServe protocol, by tritonclient and by its bare messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

MODEL = "vit-embedding"
ROW = (3, 32, 32)
OUTPUTS = {"embeddings": (17, 16), "patch_embeddings": (16, 16)}

Floats = NDArray[np.float32]


def noise(rows: int, *, seed: int = 0) -> Floats:
    """Rows of the model's input."""
    return np.random.default_rng(seed).standard_normal((rows, *ROW)).astype(np.float32)


def truth(repo: Path, batch: Floats, *, model: str = MODEL) -> dict[str, Floats]:
    """Every output of the folder's float graph, by onnxruntime alone."""
    session = onnxruntime.InferenceSession(
        str(repo / model / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    [taken] = session.get_inputs()
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, {taken.name: batch}), strict=True))


def floats(batch: Floats, *, name: str = "pixel_values") -> list[Any]:
    """The model's inputs for tritonclient."""
    taken = triton.InferInput(name, batch.shape, "FP32")
    taken.set_data_from_numpy(batch)
    return [taken]


def files(*images: bytes) -> list[Any]:
    """The inputs of a model that takes image files."""
    taken = triton.InferInput("image", [len(images)], "BYTES")
    taken.set_data_from_numpy(np.array(images, np.object_))
    return [taken]


def message(batch: Floats, *, outputs: Sequence[str] = (), **fields: Any) -> Any:
    """A ModelInferRequest with raw contents."""
    request = pb.ModelInferRequest(**({"model_name": MODEL} | fields))
    request.inputs.add(name="pixel_values", datatype="FP32", shape=batch.shape)
    request.raw_input_contents.append(batch.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def arrays(reply: Any) -> dict[str, Floats]:
    """The outputs of a ModelInferResponse."""
    raws = zip(reply.outputs, reply.raw_output_contents, strict=True)
    return {item.name: np.frombuffer(raw, np.float32).reshape(item.shape) for item, raw in raws}


def same(got: Floats | None, want: Floats) -> bool:
    """Whether two outputs differ by rounding at most; NaN equals NaN."""
    return got is not None and np.allclose(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)


@contextmanager
def client(address: str) -> Iterator[Any]:
    """The client of tritonclient, closed on exit."""
    with closing(triton.InferenceServerClient(address)) as opened:
        yield opened


@contextmanager
def stub(address: str) -> Iterator[Any]:
    """The generated stub."""
    with grpc.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def refusal(call: Any, request: Any) -> tuple[str, str]:
    """Code and words with which a call is refused."""
    try:
        reply = call(request, timeout=20)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", str(reply)[:200]
