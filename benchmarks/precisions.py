"""Size, loss and images a second of a ViT-S/16 in every precision, and with attention as one operator.

    python -m benchmarks.precisions [--layers 12] [--rounds 9]

Random weights, with biases and norms that are not zeros and ones, on real photographs: the graph that takes
uint8 pixels, last hidden state. Loss is the worst photograph's against the module in float64. Each round
runs all variants in turn, so that whatever else the machine does hits all of them; the median counts. CPU
milliseconds are those of all threads together, which other work on the machine hardly moves.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.lossy import rewrite
from benchmarks.machine import machine
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine.device import place
from vitral_engine.measure import errors
from vitral_engine.preprocess import Preprocessor
from vitral_engine.session import GraphSession, SessionOptions
from vitral_export import artifact, preprocessing
from vitral_export.build import with_preprocessing
from vitral_export.cases import cases
from vitral_export.loaded import Loaded, Options
from vitral_export.precision.kinds import FLOAT16, FLOAT32, INT8, STORAGE
from vitral_export.sources import load
from vitral_export.wrap import Inference

VARIANTS = ((FLOAT32, 20), (FLOAT32, 23), (STORAGE, 20), (FLOAT16, 20), (INT8, 20), (INT8, 23))
BATCHES = (1, 8)
OUTPUT = "last_hidden_state"
_PHOTOGRAPHS = slice(0, 6)


@dataclass
class Variant:
    """One precision and operator set: its graph open, its figures so far."""

    precision: str
    opset: int
    megabytes: float
    rel_l2: float
    cosine_gap: float
    fused: str
    session: GraphSession
    seconds: dict[int, list[float]]
    cpu: dict[int, list[float]]


def source(folder: Path, layers: int) -> Loaded:
    """A ViT-S/16 as transformers saves it."""
    import transformers
    from transformers.utils import logging

    config = transformers.ViTConfig(
        hidden_size=384, num_hidden_layers=layers, num_attention_heads=6, intermediate_size=1536
    )
    torch.manual_seed(0)
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    loaded = load(f"hf:{folder}", Options(outputs=(OUTPUT,)))
    return with_preprocessing(loaded, preprocessing.default(224))


def variants(loaded: Loaded, folder: Path) -> Iterator[Variant]:
    """Every variant, its graph written and open."""
    wrapped = Inference(loaded)
    written: dict[int, pb.ModelSpec] = {}
    for opset in dict.fromkeys(opset for _, opset in VARIANTS):
        (folder / str(opset)).mkdir()
        written[opset] = artifact.write_graphs(folder / str(opset), wrapped, loaded, name="m", opset=opset)
    first = next(iter(written.values()))
    pixels = cases(first.graphs[0], first.preprocessing).rows[_PHOTOGRAPHS]
    truth = _truth(wrapped, first, pixels)
    for precision, opset in VARIANTS:
        place_of = folder / f"{precision}-{opset}"
        spec = rewrite(folder / str(opset), written[opset], precision, place_of)
        graph = spec.graphs[0]
        file = place_of / graph.file
        session = GraphSession(file, graph, spec, placement=place("cpu"), options=SessionOptions())
        found = errors(session.run(pixels)[OUTPUT], truth)
        size = sum(path.stat().st_size for path in (file, place_of / "weights.bin")) / 1e6
        fused = sum(graph.fused.values())
        yield Variant(precision, opset, size, found.rel_l2, found.cosine_gap, str(fused), session, {}, {})


def _truth(wrapped: Inference, spec: pb.ModelSpec, pixels: Array) -> NDArray[np.float64]:
    rows = Preprocessor(spec.preprocessing).normalise(pixels)
    wide = copy.deepcopy(wrapped).double()
    with torch.inference_mode():
        found: NDArray[np.float64] = wide(torch.from_numpy(rows).double())[0].numpy()
    return found


def run(found: Sequence[Variant], rounds: int) -> None:
    """Times every variant in turn, round by round."""
    random = np.random.default_rng(0)
    for batch in BATCHES:
        rows = random.integers(0, 256, (batch, 224, 224, 3), np.uint8)
        for number in range(rounds + 1):
            for variant in found:
                start, cpu = time.perf_counter(), time.process_time()
                variant.session.run(rows)
                if number:  # the first round warms
                    variant.seconds.setdefault(batch, []).append(time.perf_counter() - start)
                    variant.cpu.setdefault(batch, []).append(time.process_time() - cpu)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12, help="blocks of the encoder (default: 12)")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: 9)")
    arguments = parser.parse_args()
    speeds = [f"batch {batch}, {unit}" for batch in BATCHES for unit in ("images/s", "CPU ms an image")]
    table = Table("precision", "opset", "MB", "relative L2", "1 - cosine", "fused", *speeds)
    with tempfile.TemporaryDirectory() as scratch:
        found = list(variants(source(Path(scratch) / "checkpoint", arguments.layers), Path(scratch)))
        run(found, arguments.rounds)
        for item in found:
            rates = [
                rate
                for batch in BATCHES
                for rate in (
                    f"{batch / statistics.median(item.seconds[batch]):.1f}",
                    f"{statistics.median(item.cpu[batch]) / batch * 1e3:.1f}",
                )
            ]
            figures = (f"{item.megabytes:.1f}", f"{item.rel_l2:.1e}", f"{item.cosine_gap:.1e}", item.fused)
            table.add_row(item.precision, str(item.opset), *figures, *rates)
    console = Console(width=120)
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
