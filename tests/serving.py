"""A real `vitral-server` in a process of its own, on a free loopback port, ended by its pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slow_paths


@dataclass(frozen=True)
class Running:
    """A server that has said it serves."""

    process: subprocess.Popen[str]
    address: str
    told: dict[str, Any]
    log: Path

    def stop(self, *, within: float = 20.0) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Log lines of this event."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]


def command(*args: str) -> list[str]:
    """The command line of a server."""
    return [*slow_paths.command(), *args]


@contextmanager
def running(repo: Path, *args: str, log: Path, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Starts a server on `repo` and ends it on the way out."""
    line = command("--repo", str(repo), "--port", "0", "--device", "cpu", "--drain-delay", "0.2", *args)
    with log.open("w") as errors:
        process = subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "VITRAL_LOG_LEVEL": "debug", **(environ or {})},
        )
    assert process.stdout is not None
    try:
        told = process.stdout.readline()
        assert told, f"the server did not start: {log.read_text()}"
        data = json.loads(told)
        yield Running(process, data["address"], data, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()
