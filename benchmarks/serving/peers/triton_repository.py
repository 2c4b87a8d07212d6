"""A Triton repository for one workload, made of a vitral one: the Python backend with onnxruntime inside."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.peers.picture import newest
from benchmarks.serving.workload import Workload

MAX_BATCH = 8
_HERE = Path(__file__).parent
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}
_CONFIG = """\
backend: "python"
max_batch_size: {batch}
input [{{ name: "image" {image} }}]
output [{{ name: "output" data_type: {dtype} dims: [{dims}] }}]
instance_group [{{ count: {instances} kind: KIND_CPU }}]
parameters {{ key: "settings" value {{ string_value: {settings} }} }}
{batching}
"""


@dataclass(frozen=True)
class Arrangement:
    """What is searched for; the defaults are what the search found.

    On 2 cores, 8 callers, images/s on W1 and W2: 570 and 310 as it is, 531 and 276 with batching, 377 and 187
    with one instance, 549 on W1 with three, 328 with two threads each, 460 with `model.onnx`.

    Attributes:
        instances: stub processes.
        threads: onnxruntime's intra-op threads in each.
        batching: whether Triton gathers up to `MAX_BATCH` requests for one run.
        graph: `model_uint8.onnx` takes pixels, `model.onnx` needs them normalised in NumPy.
    """

    instances: int = 2
    threads: int = 1
    batching: bool = False
    graph: str = "model_uint8.onnx"

    def __str__(self) -> str:
        """In words."""
        batching = f"batches of up to {MAX_BATCH}" if self.batching else "no batching"
        return f"{self.instances} x {self.threads} threads, {batching}, {self.graph}"


def write(folder: Path, repo: Path, workload: Workload, arrangement: Arrangement) -> None:
    """The repository's one model, named as the workload's, in an empty folder."""
    source = newest(repo.resolve() / workload.model)
    version = folder / workload.model / "1"
    version.mkdir(parents=True)
    shutil.copyfile(_HERE / "triton_model.py", version / "model.py")
    shutil.copyfile(_HERE / "picture.py", version / "picture.py")
    config = version.parent / "config.pbtxt"
    config.write_text(_config(source, workload, arrangement), encoding="utf-8")


def _config(source: Path, workload: Workload, arrangement: Arrangement) -> str:
    settings = {
        "version": str(source),
        "graph": arrangement.graph,
        "threads": arrangement.threads,
        "output": workload.output,
        "view": workload.view,
        "dtype": workload.dtype,
    }
    height, width = workload.pictures
    pixels = f"data_type: TYPE_UINT8 dims: [{height}, {width}, 3]"
    return _CONFIG.format(
        batch=MAX_BATCH,
        image=pixels if workload.door == "pixels" else "data_type: TYPE_STRING dims: [1]",
        dtype=_TYPES[workload.dtype],
        dims="-1" if workload.view else "-1, -1",
        instances=arrangement.instances,
        settings=json.dumps(json.dumps(settings)),
        batching="dynamic_batching {}" if arrangement.batching else "",
    )
