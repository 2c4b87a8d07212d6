"""The whole path on real photographs: export, serve, embed, compare every tensor with PyTorch.

Exits 0 when all agree, else non-zero. `make demo` runs it.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import skimage
import torch
from rich.console import Console
from rich.table import Table
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from vitral import Embedding
from vitral.tensors import Array
from vitral_client import Client
from vitral_engine.measure import Budget, Errors, budget, errors
from vitral_export.modules import PatchEmbedding

NAME = "patch-embedding"
OUTPUT = "patch_embeddings"
SEED = 0
PHOTOGRAPHS = (
    "rocket.jpg",
    "retina.jpg",
    "hubble_deep_field.jpg",
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
)
HEADINGS = ("photograph", "tokens", "relative L2", "torch float32", "budget", "max abs", "budget", "agrees")
BIN = Path(sys.executable).parent
SAY = Console(width=max(110, Console().width))


@dataclass(frozen=True)
class Row:
    """How one photograph came out: vitral and PyTorch's own float32, both against PyTorch's float64."""

    photograph: str
    shape: tuple[int, ...]
    vitral: Errors
    torch: Errors

    @property
    def budget(self) -> Budget:
        """The most that counts as agreement: three times PyTorch's own error and a floor."""
        return budget(self.torch)

    @property
    def agrees(self) -> bool:
        """Whether the errors are inside the budget; NaN and Inf never are."""
        return self.budget.holds(self.vitral)


def photographs() -> list[Path]:
    """Photographs that scikit-image ships, all free of copyright restrictions."""
    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in PHOTOGRAPHS]


def export(repo: Path) -> None:
    """Exports and proves the preset; one that is already there with the same identity stays as it is."""
    command = [str(BIN / "vitral-export"), "build", NAME, "--name", NAME, "--repo", str(repo)]
    SAY.rule("export")
    code = subprocess.run([*command, "--seed", str(SEED)], check=False).returncode
    if code != 0:
        raise SystemExit(f"the export ended with exit code {code}, not 0")


@contextmanager
def serving(repo: Path) -> Iterator[str]:
    """Runs the real server and gives its address; ends it with SIGTERM and demands exit code 0."""
    command = [str(BIN / "vitral-server"), "--repo", str(repo), "--model", NAME]
    command += ["--port", "0", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            event = _ready(server)
            SAY.print(f"vitral-server listens on {event['address']} and runs on {event['provider']}")
            yield str(event["address"])
            code = _stop(server)
            if code != 0:
                raise SystemExit(f"the server ended with exit code {code}, not 0")
        finally:
            if server.poll() is None:
                server.kill()


def _ready(server: subprocess.Popen[str]) -> dict[str, Any]:
    """What the server says when every model is ready."""
    assert server.stdout is not None
    for line in server.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "serving":
            return event
    raise SystemExit(f"the server ended with exit code {server.wait()} before it was ready")


def _stop(server: subprocess.Popen[str]) -> int:
    server.send_signal(signal.SIGTERM)
    return server.wait(timeout=60)


def embed(address: str, paths: list[Path]) -> list[Embedding]:
    """Embeds the photographs through the client, all in one request."""
    with Client(address) as client:
        return client.embed(paths, model=NAME, outputs=[OUTPUT])


def module() -> PatchEmbedding:
    """The PyTorch module that was exported, built again from the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return PatchEmbedding(img_size=224, patch_size=16, in_channels=3, embed_dim=768).eval()


def pixel_values(path: Path) -> torch.Tensor:
    """What Hugging Face's own processor makes of a photograph: (1, 3, 224, 224) float32."""
    values = ViTImageProcessorPil()(load_image(str(path)), return_tensors="pt")["pixel_values"]
    assert isinstance(values, torch.Tensor)
    return values


def in_torch(net: PatchEmbedding, values: torch.Tensor) -> Array:
    """The patch embeddings (1, 196, 768) of one photograph in the precision of module and values."""
    with torch.inference_mode():
        tokens: Array = net(values).numpy()  # B C H W -> B N D
    return tokens


def compare(path: Path, got: Array) -> Row:
    """Holds one served tensor (N, D) against PyTorch in float64."""
    values = pixel_values(path)
    truth = in_torch(module().double(), values.double())
    single = in_torch(module(), values)
    if got.shape != truth.shape[1:]:
        raise SystemExit(f"{path.name}: vitral gave {got.shape}, PyTorch {truth.shape[1:]}")
    return Row(path.name, got.shape, errors(got[np.newaxis], truth), errors(single, truth))


def table(rows: list[Row]) -> Table:
    """The comparison as a person reads it."""
    shown = Table(
        title="served tensors against PyTorch float64", caption="budget: the most that counts as agreement"
    )
    for heading in HEADINGS:
        side: Literal["left", "right"] = "left" if heading in ("photograph", "agrees") else "right"
        shown.add_column(heading, no_wrap=True, justify=side)
    for row in rows:
        figures = (
            row.vitral.rel_l2,
            row.torch.rel_l2,
            row.budget.rel_l2,
            row.vitral.max_abs,
            row.budget.max_abs,
        )
        tokens = " x ".join(map(str, row.shape))
        verdict = "yes" if row.agrees else "[bold red]NO"
        shown.add_row(row.photograph, tokens, *(f"{figure:.2e}" for figure in figures), verdict)
    return shown


def verdict(rows: list[Row], *, weights: str) -> int:
    """Prints the comparison and what follows from it; 0 when all agree, else 1."""
    SAY.rule("compare")
    SAY.print(table(rows))
    SAY.print(f"[bold]{weights.upper()}[/]: the figures are real, the embeddings mean nothing")
    wrong = [row.photograph for row in rows if not row.agrees]
    if wrong:
        SAY.print(f"[bold red]DISAGREE[/]: {', '.join(wrong)}")
        return 1
    worst = max(row.vitral.rel_l2 for row in rows)
    SAY.print(f"[bold green]AGREE[/]: all {len(rows)} photographs, worst relative L2 {worst:.1e}")
    return 0


def main() -> int:
    """Runs the demo; the exit code says whether everything agreed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", type=Path, default=Path("models"), help="model repository to export into")
    repo = parser.parse_args().repo
    paths = photographs()
    export(repo)
    SAY.rule("serve and embed")
    with serving(repo) as address:
        results = embed(address, paths)
        SAY.print(f"{len(results)} photographs of scikit-image embedded in one request")
    SAY.print("the server was told to stop (SIGTERM) and ended with exit code 0")
    rows = [compare(path, result.outputs[OUTPUT]) for path, result in zip(paths, results, strict=True)]
    return verdict(rows, weights=results[0].spec.source.weights_note)


if __name__ == "__main__":
    sys.exit(main())
