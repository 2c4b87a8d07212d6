"""One photograph through PyTorch eager, the engine in process and the server, in one run.

Every row does the same work on the same JPEG bytes: decode, resize to 224 x 224, normalise, embed with a
ViT-B/16 patch embedding. `make bench` runs it; the figures that count are the ratios to the first row.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import vitral_engine
from vitral.tensors import Array
from vitral_client import Client
from vitral_engine.runtime import cpu_count
from vitral_export.modules import PatchEmbedding

NAME = "patch-embedding"
SEED = 0
AGREEMENT = 1e-5
BIN = Path(sys.executable).parent

Work = Callable[[bytes], Array]
"""JPEG bytes to patch tokens (N, D)."""


@dataclass(frozen=True)
class Row:
    """How one way of embedding did.

    Attributes:
        name: what was measured.
        callers: threads that called at the same time, each with one image a call.
        images_per_s: images of all callers by wall time.
        p50_ms: median latency of a call.
        p99_ms: 99th percentile of the latencies.
        calls: number of calls measured.
        rel_l2: distance of the answer from PyTorch's, relative L2.
    """

    name: str
    callers: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    calls: int
    rel_l2: float


def eager() -> Work:
    """PyTorch as a script would use it: Pillow, NumPy, one convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = PatchEmbedding(img_size=224, patch_size=16, in_channels=3, embed_dim=768).eval()

    def work(data: bytes) -> Array:
        picture = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        values = (np.asarray(picture, np.float32) / 255 - 0.5) / 0.5
        batch = torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()  # H W C -> 1 C H W
        with torch.inference_mode():
            tokens: Array = net(batch)[0].numpy()
        return tokens

    return work


@contextlib.contextmanager
def in_process(repo: Path, name: str) -> Iterator[Work]:
    """The engine, in this process."""
    with contextlib.closing(vitral_engine.open(repo / name)) as model:
        yield lambda data: model.embed([data])[0].patches


@contextlib.contextmanager
def served(repo: Path, name: str) -> Iterator[str]:
    """A server of its own; gives its address."""
    command = [str(BIN / "vitral-server"), "--repo", str(repo), "--model", name, "--port", "0"]
    flags = ("--drain-delay", "0")
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            lines = (json.loads(line) for line in server.stdout)
            address = next((str(line["address"]) for line in lines if line["event"] == "serving"), None)
            if address is None:
                raise SystemExit(f"the server ended with exit code {server.wait()} before it was ready")
            yield address
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
        finally:
            if server.poll() is None:
                server.kill()


def measure(name: str, work: Work, data: bytes, *, callers: int, seconds: float, truth: Array) -> Row:
    """Calls for so many seconds from so many threads, after a warm-up of a tenth of that time."""
    got = work(data)
    if got.shape != truth.shape:
        raise SystemExit(f"{name}: the tokens are {got.shape}, PyTorch's {truth.shape}: another model")
    _calls(work, data, callers, seconds / 10)
    start = time.perf_counter()
    latencies = _calls(work, data, callers, seconds)
    elapsed = time.perf_counter() - start
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    distance = float(np.linalg.norm(got - truth) / np.linalg.norm(truth))
    rate = len(latencies) / elapsed
    return Row(name, callers, rate, float(p50), float(p99), len(latencies), distance)


def _calls(work: Work, data: bytes, callers: int, seconds: float) -> list[float]:
    latencies: list[list[float]] = [[] for _ in range(callers)]
    failures: list[BaseException] = []
    until = time.perf_counter() + seconds

    def caller(mine: list[float]) -> None:
        try:
            start = time.perf_counter()
            while start < until:
                work(data)
                end = time.perf_counter()
                mine.append(end - start)
                start = end
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=caller, args=(mine,)) for mine in latencies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [latency for mine in latencies for latency in mine]


def run(repo: Path, name: str, seconds: float) -> list[Row]:
    """Every row, one after the other on the same machine."""
    data = (Path(skimage.__file__).parent / "data" / "rocket.jpg").read_bytes()
    torch_work = eager()
    truth = torch_work(data)
    rows = [measure("PyTorch eager", torch_work, data, callers=1, seconds=seconds, truth=truth)]
    with in_process(repo, name) as work:
        rows.append(measure("engine in process", work, data, callers=1, seconds=seconds, truth=truth))
    with served(repo, name) as address, Client(address) as client:
        for callers in (1, 8):
            title = f"served, {callers} caller{'s' if callers > 1 else ''}"
            row = measure(
                title,
                lambda jpeg: client.embed(jpeg, model=name).patches,
                data,
                callers=callers,
                seconds=seconds,
                truth=truth,
            )
            rows.append(row)
    return rows


def export(repo: Path) -> None:
    """Builds the model, random weights of a fixed seed."""
    command = [str(BIN / "vitral-export"), "build", NAME, "--name", NAME, "--repo", str(repo)]
    done = subprocess.run([*command, "--seed", str(SEED)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the export ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")


def machine() -> dict[str, object]:
    """What the figures hold for."""
    names = [name for name in ("onnxruntime-gpu", "onnxruntime") if _installed(name)]
    libraries = {name: version(name) for name in ("torch", *names[:1], "grpcio", "pillow", "numpy")}
    return {
        "cores": cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    } | libraries


def _installed(name: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return bool(version(name))
    return False


def show(rows: Sequence[Row], facts: dict[str, object]) -> None:
    """The table."""
    table = Table(title="ViT-B/16 patch embedding (random weights, seed 0), one 640 x 427 JPEG a call")
    for column in ("", "images/s", "p50 ms", "p99 ms", "x eager", "calls", "relative L2"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        figures = (row.images_per_s, row.p50_ms, row.p99_ms, row.images_per_s / rows[0].images_per_s)
        said = [f"{figure:.{digits}f}" for figure, digits in zip(figures, (0, 2, 2, 2), strict=True)]
        table.add_row(row.name, *said, str(row.calls), f"{row.rel_l2:.1e}")
    console = Console()
    console.width = max(100, console.width)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    console.print("client and server share the cores of this machine", highlight=False)


def main() -> int:
    """Runs the benchmark; 1 when a row's answer is not PyTorch's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="time a row is measured (default: 8)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repo", type=Path, help="repository that holds the model already")
    parser.add_argument("--model", default=NAME, help=f"its name there (default: {NAME})")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repo, name = args.repo or Path(folder) / "models", args.model if args.repo else NAME
        if args.repo is None:
            export(repo)
        rows = run(repo, name, args.seconds)
    if args.json:
        document = [asdict(row) | {"ratio": row.images_per_s / rows[0].images_per_s} for row in rows]
        print(json.dumps({"machine": machine(), "rows": document}, indent=2))
    else:
        show(rows, machine())
    wrong = [row.name for row in rows if not row.rel_l2 <= AGREEMENT]
    if wrong:
        print(f"not PyTorch's answer: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
