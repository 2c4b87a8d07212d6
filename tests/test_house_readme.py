"""The README's marked blocks, run as they stand, in order, in a fresh folder and a fresh environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage

ROOT = Path(__file__).resolve().parent.parent
PORT = "50051"
SOURCES = (
    "protos",
    "server",
    "export",
    "clients",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
)
BLOCK = re.compile(r"^<!-- test: ([a-z-]+) -->\n```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ORDER = (
    "install",
    "export",
    "sources",
    "export-python",
    "serve",
    "embed",
    "python",
    "engine",
    "extract",
    "steps",
)


@dataclass(frozen=True)
class Reader:
    """Someone who follows the README in a folder of their own."""

    folder: Path
    blocks: dict[str, tuple[str, str]]

    def command(self, name: str) -> list[str]:
        language, text = self.blocks[name]
        return ["bash", "-euc", text] if language == "bash" else ["python", "-c", text]

    def environment(self) -> dict[str, str]:
        path = [str(self.folder / "venv" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        left_out = ("PYTHONPATH", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        return {**kept, "PATH": os.pathsep.join(path), "PIP_QUIET": "2"}

    def run(self, name: str) -> str:
        """Runs a block to its end; what it printed."""
        env = self.environment()
        command = self.command(name)
        program = shutil.which(command[0], path=env["PATH"])
        assert program is not None
        done = subprocess.run(
            [program, *command[1:]], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"block {name}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Runs the block that serves until the caller is done, then ends it as a person would."""
        text = f"exec {self.blocks['serve'][1]}"
        with subprocess.Popen(
            ["bash", "-euc", text], cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE, text=True
        ) as server:
            watchdog = threading.Timer(180, server.kill)
            watchdog.start()
            try:
                assert server.stdout is not None
                assert json.loads(server.stdout.readline())["event"] == "serving"
                yield
                server.send_signal(signal.SIGTERM)
                assert server.wait() == 0
            finally:
                watchdog.cancel()
                server.kill()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def marked_blocks() -> dict[str, tuple[str, str]]:
    """Name to language and text of each marked block, in order, on a free port."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    port = free_port()
    return {name: (language, code.replace(PORT, port)) for name, language, code in BLOCK.findall(text)}


@pytest.fixture
def reader() -> Iterator[Reader]:
    # Not tmp_path: pytest keeps the last three of those, and this one holds an environment with torch.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in SOURCES:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, folder / source)
        shutil.copy(Path(skimage.__file__).parent / "data" / "rocket.jpg", folder / "photo.jpg")
        yield Reader(folder, marked_blocks())


def test_every_marked_block_is_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert tuple(marked_blocks()) == ORDER
    assert text.count("<!-- test:") == len(ORDER)


def test_the_readme_does_what_it_says(reader: Reader) -> None:
    reader.run("install")
    reader.run("export")
    assert "B x 577 x 768" in reader.run("sources")
    reader.run("export-python")
    assert (reader.folder / "models" / "patch-embedding" / "1" / "model.onnx").is_file()
    assert (reader.folder / "models" / "patch-embedding-32" / "1" / "model.onnx").is_file()

    with reader.serving():
        listing = reader.run("embed")
        client = reader.run("python")
    engine = reader.run("engine")
    extracted = reader.run("extract")
    reader.run("steps")
    assert "1 rows and 0 errors of 1 pictures" in extracted

    assert "patch-embedding-32" in listing
    assert client.splitlines()[:2] == ["(196, 768)", "(14, 14, 768)"]
    assert engine.splitlines()[0] == "(196, 768)"
    assert (reader.folder / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert (reader.folder / "steps.gif").read_bytes().startswith(b"GIF8")
    assert np.load(reader.folder / "photo.npy").shape == (1, 196, 768)
