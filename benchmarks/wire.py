"""Bytes of a reply and milliseconds spent on making it, by the rows and the element type that were asked for.

    python -m benchmarks.wire

The tokens are those of a ViT-B/16 at 224 x 224: CLS and 14 x 14 patches of width 768. One layer stands for
its twelve, which change no byte. Counted is the gRPC message of a real reply to one picture.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks.base_model import SEED, export
from benchmarks.serving.pictures import draw, load
from benchmarks.serving.vitral_way import VitralWay
from benchmarks.serving.workload import Workload
from vitral import framing, output_request, sizes, tensors
from vitral import spec as specs
from vitral.selection import DTYPES, Rect, Selection
from vitral.v1 import embedding_service_pb2 as pb

MODEL, OUTPUT = "vit-b16-wire", "last_hidden_state"
WORKLOAD = Workload("wire", "one picture", MODEL, "encoded", (224, 224), OUTPUT, "", "float32")

ROWS = {
    "the whole tensor, 197 x 768": Selection(),
    "patches, 196 x 768": Selection(view="patches"),
    "a rectangle of 7 x 7 patches, 49 x 768": Selection(rect=Rect(4, 4, 7, 7)),
    "10 patches by index, 10 x 768": Selection(patches=tuple(range(0, 190, 19))),
    "CLS, 768": Selection(view="cls"),
    "mean of the patches, 768": Selection(view="mean"),
}


def make(repo: Path) -> None:
    """Exports the model, random weights of a fixed seed."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            ViTModel(ViTConfig(num_hidden_layers=1), add_pooling_layer=False).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
        export(repo, f"hf:{folder}", name=MODEL, outputs=OUTPUT)


def replies(address: str, picture: bytes, selection: Selection, calls: int) -> Iterator[bytes]:
    """Replies to one picture, one after the other."""
    wanted = output_request.write(OUTPUT, selection)
    request = pb.EmbedRequest(model=MODEL, items=[pb.Item(encoded=picture)], outputs=[wanted])
    with grpc.insecure_channel(address) as channel:
        embed: Callable[..., bytes] = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
        for _ in range(calls):
            yield embed(request.SerializeToString(), timeout=60)


def measured(address: str, picture: bytes, selection: Selection, *, calls: int) -> tuple[int, float]:
    """Bytes of the last reply, and the median time its rows took to be cut and cast, in ms.

    Raises:
        SystemExit: the payload is not as large as was foretold.
    """
    from vitral_client import Client

    with Client(address) as client:
        spec = client.model(MODEL).spec
    took = []
    message = b""
    for message in replies(address, picture, selection, calls):
        header, payloads = framing.split(message)
        took.append(pb.EmbedResponse.FromString(header).timings.encode_ms)
    foretold = sizes.payload_bytes(spec, [(OUTPUT, selection)])
    if foretold != (came := sum(payload.nbytes for payload in payloads)):
        raise SystemExit(f"{selection}: {foretold} payload bytes were foretold and {came} came")
    return len(message), statistics.median(took)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", type=Path, help="keep the model here; a temporary folder where absent")
    parser.add_argument("--calls", type=int, default=30, help="requests of each row")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repo = args.repo or Path(folder) / "models"
        if not (repo / MODEL / "1" / specs.MANIFEST).is_file():
            make(repo)
        picture = load(draw(Path(folder), WORKLOAD))[0]
        table = Table("rows", *(f"{name}, bytes (ms)" for name in DTYPES))
        with VitralWay().start(repo, WORKLOAD) as running:
            for title, rows in ROWS.items():
                cells = []
                for name in DTYPES:
                    chosen = replace(rows, dtype=tensors.dtype_named(name))
                    size, encode = measured(running.address, picture, chosen, calls=args.calls)
                    cells.append(f"{size:,} ({encode:.2f})")
                table.add_row(title, *cells)
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
