"""The server on a Unix socket: answers, shared memory, and who may have the path."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import photographs
import pytest
from serving import Running, command, running

from vitral.errors import InvalidArgumentError
from vitral_client import Client
from vitral_server.config import parse

FILE = photographs.COFFEE.read_bytes()


def _started(repo: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A server that is not to come up."""
    line = command("--repo", str(repo), "--port", "0", "--device", "cpu", *args)
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def _patches(address: str, transport: str) -> np.ndarray:
    with Client(address, transport=transport) as client:
        return np.array(client.embed(FILE, model="tiny").patches)


def _answers_alike(server: Running) -> None:
    over_tcp = _patches(server.address, "grpc")
    assert over_tcp.any()
    for transport in ("grpc", "shm"):
        assert np.array_equal(_patches(server.told["unix_socket"], transport), over_tcp)


def test_it_answers_there_as_on_its_port_and_frees_the_path(small_repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "vitral.sock"
    with running(small_repo, "--unix-socket", str(path), log=tmp_path / "log") as server:
        assert server.told["unix_socket"] == f"unix:{path}"
        _answers_alike(server)
        refused = _started(small_repo, "--unix-socket", str(path))
        assert refused.returncode == 1
        assert f"cannot listen on {path}: another server does" in refused.stderr
        _answers_alike(server)
        assert server.stop() == 0
    assert not path.exists()


def test_what_a_dead_server_left_is_replaced(small_repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "vitral.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    with running(small_repo, "--unix-socket", str(path), log=tmp_path / "log") as server:
        _answers_alike(server)


def test_a_path_that_cannot_be_had_is_refused(small_repo: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("mine")
    long = tmp_path / ("x" * 107)
    for path, told in (
        (file, "a file that is no socket is there"),
        (tmp_path / "none" / "v.sock", "the folder is missing or not writable"),
        (long, f"{len(os.fsencode(long))} bytes; a Unix socket's path has at most 107"),
    ):
        refused = _started(small_repo, "--unix-socket", str(path))
        assert refused.returncode == 1
        assert told in refused.stderr
    assert file.read_text() == "mine"


def test_several_workers_cannot_share_it() -> None:
    with pytest.raises(InvalidArgumentError, match="unix_socket with 2 workers"):
        parse(["--unix-socket", "v.sock", "--workers", "2"], {})
