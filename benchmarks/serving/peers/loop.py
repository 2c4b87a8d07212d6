"""A plain loop over transformers and PyTorch, which serves nobody: pictures in, outputs out.

python -m benchmarks.serving.peers.loop --workload W2 --pictures FOLDER --seconds 10 --json
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from benchmarks.serving.way import Picture
from benchmarks.serving.workload import WORKLOADS, Workload
from vitral_export.modules import PatchEmbedding

BATCHES = (1, 8)
"""Pictures at a time; the better is the figure."""

_SEED = 0
"""Of the random weights, as `vitral-export` and the benchmark's checkpoints have it."""

_WARM_UP = 0.1
"""Share of the time of each, before it."""


@dataclass(frozen=True)
class Rate:
    """What so many pictures at a time came to.

    Attributes:
        images: pictures done.
        seconds: in this time.
        cpu_s: processor seconds of the process, all threads.
        batch: pictures at a time.
    """

    images: int
    seconds: float
    cpu_s: float
    batch: int


class Loop:
    """ViTImageProcessorPil and a module with the weights of the benchmark's model: random, the same seed."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            self._net, side = _net(workload)
        self._processor: Any = ViTImageProcessorPil(size={"height": side, "width": side})

    def __call__(self, pictures: Sequence[Picture]) -> NDArray[Any]:
        """Pictures to their outputs, the batch in front."""
        images = [
            Image.open(io.BytesIO(picture)).convert("RGB") if isinstance(picture, bytes) else picture
            for picture in pictures
        ]
        values = self._processor(images=images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            rows = self._net(values)
        rows = rows if isinstance(rows, torch.Tensor) else rows.last_hidden_state
        rows = rows[:, 0] if self._workload.view == "cls" else rows
        array: NDArray[Any] = rows.to(getattr(torch, self._workload.dtype)).numpy()
        return array


def _net(workload: Workload) -> tuple[torch.nn.Module, int]:
    """The module and the side of its input."""
    if workload.model == "patch-embedding":
        return PatchEmbedding(img_size=224, patch_size=16, in_channels=3, embed_dim=768).eval(), 224
    side, patch = {"vit-s16": (224, 16), "vit-s14-518": (518, 14)}[workload.model]
    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=side,
        patch_size=patch,
    )
    return ViTModel(config, add_pooling_layer=False).eval(), side


def load(folder: Path) -> list[Picture]:
    """A folder's pictures: JPEGs as bytes, or one array of uint8 (B, H, W, 3) in `.npy`."""
    arrays = [np.load(path) for path in sorted(folder.glob("*.npy"))]
    files: list[Picture] = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    return files + list(itertools.chain.from_iterable(arrays))


def rate(loop: Loop, pictures: Sequence[Picture], *, seconds: float, batch: int) -> Rate:
    """So many pictures at a time, round and round, after a warm-up."""
    turn = itertools.cycle(pictures)
    _run(loop, turn, seconds=seconds * _WARM_UP, batch=batch)
    return _run(loop, turn, seconds=seconds, batch=batch)


def _run(loop: Loop, turn: itertools.cycle[Picture], *, seconds: float, batch: int) -> Rate:
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    while (took := time.perf_counter() - start) < seconds:
        loop(list(itertools.islice(turn, batch)))
        images += batch
    return Rate(images, took, time.process_time() - cpu, batch)


def best(workload: Workload, pictures: Sequence[Picture], *, seconds: float) -> Rate:
    """The better of `BATCHES`, each with its part of the time.

    Raises:
        SystemExit: there are no pictures.
    """
    if not pictures:
        raise SystemExit("the folder has no pictures, neither .jpg nor .npy")
    loop, share = Loop(workload), seconds / len(BATCHES)
    rates = [rate(loop, pictures, seconds=share, batch=batch) for batch in BATCHES]
    return max(rates, key=lambda one: one.images / one.seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints images, seconds, processor seconds and the batch of the better one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of .jpg or .npy")
    parser.add_argument("--seconds", type=float, default=10.0, help="of all batch sizes together")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    found = best(WORKLOADS[args.workload], load(args.pictures), seconds=args.seconds)
    if args.json:
        told = {"images": found.images, "seconds": found.seconds, "cpu_s": found.cpu_s, "batch": found.batch}
        print(json.dumps(told))
    else:
        print(f"{found.images / found.seconds:.0f} images/s in batches of {found.batch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
