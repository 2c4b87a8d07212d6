"""Flags of `vitral-server`; each is an environment variable too, `VITRAL_PORT` for `--port`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vitral.decode import EXACT, MODES
from vitral.errors import InvalidArgumentError
from vitral.limits import MAX_ITEMS
from vitral_engine.image import MAX_PIXELS
from vitral_engine.staging import CHOICES

LOG_LEVELS = ("debug", "info", "warning", "error")
"""What is logged at the least."""

_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "batch_buckets": CHOICES,
        "cuda_graphs": ("on", "off"),
        "decode": MODES,
        "log_level": LOG_LEVELS,
    }
)

_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "port": (0, 65_535),
        "metrics_port": (-1, 65_535),
        "workers": (1, 256),
        "threads": (0, 1_024),
        "decode_threads": (0, 1_024),
        "instances": (0, 64),
        "max_batch_size": (0, 65_536),
        "queue_delay_ms": (0, 60_000),
        "max_items": (1, 65_536),
        "max_queue_images": (1, 1_000_000),
        "max_queue_mib": (1, 1_000_000),
        "max_image_pixels": (1, 2 * MAX_PIXELS),
        "timeout": (0.001, 1_000_000),
        "run_timeout": (0.001, 1_000_000),
        "drain_delay": (0, 1_000_000),
        "grace": (0, 1_000_000),
    }
)


@dataclass(frozen=True)
class ServerConfig:
    """Everything an operator decides. Times in seconds unless the name says milliseconds.

    Raises:
        InvalidArgumentError: a value is out of its range.
    """

    repo: Path
    host: str = "127.0.0.1"
    port: int = 50051
    unix_socket: str = ""
    workers: int = 1
    device: str = "auto"
    models: tuple[str, ...] = ()
    require_proven: bool = False
    trust: tuple[str, ...] = ()
    threads: int = 0
    decode: str = EXACT
    decode_threads: int = 0
    instances: int = 0
    max_batch_size: int = 0
    batch_buckets: str = "auto"
    cuda_graphs: str = "off"
    tensorrt_cache: str = ""
    queue_delay_ms: float = 0.0
    max_items: int = MAX_ITEMS
    max_queue_images: int = 512
    max_queue_mib: int = 1024
    max_image_pixels: int = MAX_PIXELS
    timeout: float = 30.0
    run_timeout: float = 60.0
    drain_delay: float = 1.0
    grace: float = 30.0
    metrics_port: int = -1
    metrics_host: str = "127.0.0.1"
    trace_endpoint: str = ""
    log_level: str = "info"

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is in no range
                raise InvalidArgumentError(f"{name} is {value}; it must be from {low} to {high}")
        if self.unix_socket and self.workers > 1:
            raise InvalidArgumentError(
                f"unix_socket with {self.workers} workers: only one process can listen there"
            )
        for name in ("host", "metrics_host"):
            if not getattr(self, name):
                raise InvalidArgumentError(f"{name} is empty; 0.0.0.0 listens on every address")
        if self.trace_endpoint and not self.trace_endpoint.startswith(("http://", "https://")):
            told = f"trace_endpoint is {self.trace_endpoint!r}"
            raise InvalidArgumentError(f"{told}; it must be a URL such as http://127.0.0.1:4317")
        for name, known in _WORDS.items():
            if (word := getattr(self, name)) not in known:
                raise InvalidArgumentError(f"{name} is {word!r}; known are {', '.join(known)}")


_HELP = {
    "repo": "model repository: a folder of NAME/VERSION folders",
    "host": "address to listen on",
    "port": "TCP port; 0 picks a free one",
    "unix_socket": "listen on this path too, for callers on the same machine; not with several workers",
    "workers": "server processes behind the port; each answers whole connections (above 1: Linux only)",
    "device": "auto, cpu, cuda[:N] or tensorrt[:N]",
    "models": "serve this model, and fail to start without it; may be repeated (default: all there are)",
    "require_proven": "refuse models that were never proven against a reference",
    "trust": "public key (PEM, Ed25519) that has to have signed a model; may be repeated (default: none has)",
    "threads": "intra-op threads of a run; 0: all cores for a lone run, fewer for each of several",
    "decode": "exact, or fast: large JPEGs at a fraction of their sides, with slightly other pixels",
    "decode_threads": "threads that decode and resize; 0 for one a core",
    "instances": "concurrent runs; on a GPU each has its own session; 0: what config.pbtxt says, or as fits",
    "max_batch_size": "largest batch; 0 for what config.pbtxt says, on a CPU at most 8",
    "batch_buckets": "auto, on or off: pad batches to 1, 2, 4, 8 and so on (auto: on a GPU)",
    "cuda_graphs": "on or off: one captured CUDA graph for each bucket; needs device cuda",
    "tensorrt_cache": "folder of TensorRT's engines; empty for vitral/tensorrt in the user's cache",
    "queue_delay_ms": "wait this long for a batch to fill; 0 runs what is there at once",
    "max_items": "most images of one request",
    "max_queue_images": "most images accepted and not yet answered, by all workers",
    "max_queue_mib": "most MiB held for them, by all workers",
    "max_image_pixels": "most pixels of one image; decoding takes up to 20 bytes for each",
    "timeout": "seconds granted to a call that brings no deadline",
    "run_timeout": "seconds after which a run counts as stuck",
    "drain_delay": "seconds between NOT_SERVING and refusing calls",
    "grace": "seconds accepted calls have to finish after that",
    "metrics_port": "TCP port of the metrics page for Prometheus; 0 picks a free one, -1: there is none",
    "metrics_host": "address that page listens on",
    "trace_endpoint": "URL of an OTLP collector, gRPC; empty: what OTEL_EXPORTER_OTLP_* say",
    "log_level": "debug, info, warning or error",
}
_FLAGS = {"models": "--model"}
_LISTS = {"models": "NAME", "trust": "PUBLIC.pem"}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def parse(argv: Sequence[str] | None, environ: Mapping[str, str] | None = None) -> ServerConfig:
    """The configuration from flags, then environment variables, then defaults.

    Raises:
        InvalidArgumentError: an environment variable or a value is not valid.
        SystemExit: with 2, a flag is not valid; argparse has said why.
    """
    values = os.environ if environ is None else environ
    parser = argparse.ArgumentParser(
        prog="vitral-server", description="Serves proven embedding models over gRPC."
    )
    for item in fields(ServerConfig):
        _add(parser, item.name, item.default, values)
    given = vars(parser.parse_args(argv))
    lists = {name: _listed(given[name], values.get(_variable(_flag(name)), "")) for name in _LISTS}
    return ServerConfig(**{**given, **lists})


def _listed(given: Sequence[str] | None, text: str) -> tuple[str, ...]:
    """What was given by flags, or else joined by commas; each once."""
    return tuple(dict.fromkeys(name.strip() for name in given or text.split(",") if name.strip()))


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _variable(flag: str) -> str:
    return f"VITRAL_{flag.removeprefix('--').replace('-', '_').upper()}"


def _add(parser: argparse.ArgumentParser, name: str, default: Any, environ: Mapping[str, str]) -> None:
    flag = _flag(name)
    variable = _variable(flag)
    text = environ.get(variable)
    told = f"{_HELP[name]} (env {variable})"
    if name in _LISTS:
        parser.add_argument(flag, dest=name, action="append", metavar=_LISTS[name], help=told)
        return
    if isinstance(default, bool):
        said = (text or "").strip().lower()
        if said not in _TRUE + _FALSE:
            raise InvalidArgumentError(f"{variable}={text!r} is not one of {', '.join(_TRUE + _FALSE[1:])}")
        parser.add_argument(flag, dest=name, action="store_true", default=said in _TRUE, help=told)
        return
    kind: Callable[[str], Any] = Path if name == "repo" else type(default)
    if name == "repo":
        default = Path(text) if text else Path("models")
    elif text is not None:
        try:
            default = kind(text)
        except ValueError:
            raise InvalidArgumentError(f"{variable}={text!r} is not of type {kind.__name__}") from None
    choices = _WORDS.get(name)
    parser.add_argument(flag, dest=name, type=kind, default=default, choices=choices, help=told)
