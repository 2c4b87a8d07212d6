"""Several processes behind one port: who answers, who is killed, who is refused, and that nobody is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import photographs
import pytest
from load import Load, truth
from serving import Running, command, running

from vitral.errors import UnavailableError
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from vitral_server.config import ServerConfig
from vitral_server.port import held
from vitral_server.share import packed, share, unpacked

FILES = [path.read_bytes() for path in photographs.JPEGS]
OWN = [("grpc.use_local_subchannel_pool", 1)]
"""A connection of its own: channels of one process share theirs otherwise."""


def _pids(server: Running) -> dict[int, int]:
    """Worker number to the process that served last under it."""
    return {line["worker"]: line["pid"] for line in server.lines("worker serves")}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def _until(true: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.02)


def _listen(one: socket.socket, port: int) -> None:
    one.bind(("127.0.0.1", port))
    one.listen()


def _ends(*args: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    line, environ = command("--device", "cpu", *args), {**os.environ, **(environ or {})}
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()[-1]


def test_two_workers_answer_rightly_and_leave_nothing(small_repo: Path, tmp_path: Path) -> None:
    expected = truth(small_repo, ("tiny",), FILES)
    with running(small_repo, "--workers", "2", log=tmp_path / "log") as server:
        told = server.told
        assert (told["workers"], told["decode"], told["models"]) == (2, "exact", {"tiny": True})
        pids = _pids(server)
        assert sorted(pids) == [1, 2]
        answered: set[int] = set()
        for turn in range(100):
            with grpc.insecure_channel(server.address, options=OWN) as channel:
                stub = EmbeddingServiceStub(channel)
                index = turn % len(FILES)
                reply = stub.Embed(pb.EmbedRequest(items=[pb.Item(encoded=FILES[index])]), timeout=10)
                info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
            found = np.frombuffer(reply.payloads[0], np.float32).reshape(16, 16)
            np.testing.assert_allclose(found, expected["tiny", index], rtol=0, atol=1e-6)
            assert (info.workers, info.limits.max_queue_images) == (2, 256)
            answered = {line["worker"] for line in server.lines("embed")}
            if len(answered) == 2:
                break
        assert answered == {1, 2}
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "onnxruntime" not in maps, "who only watches stays light"
        assert server.stop() == 0
        assert not any(map(_lives, pids.values()))
        assert len(server.lines("stopped")) == 3
        assert "Traceback" not in server.log.read_text()


async def test_killed_workers_come_back_and_no_call_fails(small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, "--workers", "2", log=tmp_path / "log") as server:
        load = Load(server.address, FILES, truth(small_repo, ("tiny",), FILES))
        calling = asyncio.create_task(load.run())
        first = _pids(server)
        for number in (1, 2):  # one of them has the callers' connection
            await asyncio.sleep(1)
            os.kill(first[number], signal.SIGKILL)
            await asyncio.to_thread(_until, lambda n=number: _pids(server)[n] != first[n])
        await asyncio.sleep(1)
        load.stopping = True
        await asyncio.wait_for(calling, 60)
        ended = [(line["worker"], line["pid"], line["reason"]) for line in server.lines("worker ended")]
        assert ended == [(number, first[number], "killed by SIGKILL") for number in (1, 2)]
        assert server.stop() == 0
        assert not any(map(_lives, _pids(server).values()))
    assert load.wrong == []
    assert min(load.right, load.mixed, load.left, load.refused) > 10, load


def test_workers_do_not_outlive_the_one_that_watches(small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, "--workers", "2", log=tmp_path / "log") as server:
        pids = _pids(server)
        assert all(map(_lives, pids.values()))
        server.process.kill()
        _until(lambda: not any(map(_lives, pids.values())))
        assert len(server.lines("the supervisor is gone")) == len(server.lines("stopped")) == 2
        host, _, port = server.address.rpartition(":")
        with held(host, int(port)):
            pass


def test_a_taken_port_is_said(small_repo: Path, tmp_path: Path) -> None:
    repo = ("--repo", str(small_repo), "--port")
    with running(small_repo, "--workers", "2", log=tmp_path / "log") as server:
        taken = server.address.rpartition(":")[2]
        for workers in "123":
            code, said = _ends(*repo, taken, "--workers", workers)
            assert code == 1
            assert f"cannot listen on 127.0.0.1:{taken}" in said
    with running(small_repo, log=tmp_path / "log") as server:
        taken = server.address.rpartition(":")[2]
        assert _ends(*repo, taken, "--workers", "2")[0] == 1


def test_a_port_is_held_before_anybody_listens() -> None:
    with held("127.0.0.1", 0) as port:
        with pytest.raises(UnavailableError, match=str(port)), held("127.0.0.1", port):
            pass
        for reuse in (0, 1):
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                with pytest.raises(OSError, match="in use"):
                    _listen(other, port)
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _listen(worker, port)
            for _ in range(20):  # all of them are the worker's
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                worker.accept()[0].close()


@pytest.mark.parametrize("reuse_port", [0, 1])
def test_connections_of_an_earlier_server_do_not_hold_the_port(reuse_port: int) -> None:
    with socket.socket() as earlier:
        earlier.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        earlier.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        _listen(earlier, 0)
        port = earlier.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as caller:
            earlier.accept()[0].close()
            assert caller.recv(1) == b""  # it was closed from there first, and waits there for its time
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with held("127.0.0.1", port) as again:
        assert again == port


@pytest.mark.parametrize("model", ["absent", "tiny"])
def test_what_one_process_refuses_several_refuse(small_repo: Path, tmp_path: Path, model: str) -> None:
    repo = small_repo if model == "absent" else tmp_path
    args = ("--repo", str(repo), "--port", "0", "--model", model, "--log-level", "error")
    assert _ends(*args) == _ends(*args, "--workers", "2")
    assert _ends(*args)[0] == 1


def test_a_worker_that_never_serves_ends_the_server(small_repo: Path, tmp_path: Path) -> None:
    crash = "import os, sys\nif 'vitral_server.worker' in sys.orig_argv: os._exit(3)\n"
    (tmp_path / "sitecustomize.py").write_text(crash)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    repo = ("--repo", str(small_repo), "--port", "0")
    code, said = _ends(*repo, "--workers", "2", environ={"PYTHONPATH": path})
    assert code == 1
    assert "ended 3 times in a row before it served, the last time: exit code 3" in said


@pytest.mark.parametrize(
    ("workers", "cores", "expected"),
    [
        (1, 8, (8, 8, 512, 1024)),
        (2, 8, (4, 4, 256, 512)),
        (4, 2, (1, 1, 256, 256)),
        (64, 4, (1, 1, 256, 128)),
    ],
)
def test_a_worker_gets_its_share(workers: int, cores: int, expected: tuple[int, ...]) -> None:
    part = share(ServerConfig(Path("there"), workers=workers, models=("a", "b")), port=7, cores=cores)
    found = (part.threads, part.decode_threads, part.max_queue_images, part.max_queue_mib)
    assert (found, part.port, part.workers) == (expected, 7, workers)
    assert unpacked(packed(part)) == part


def test_what_was_named_holds_for_each_worker() -> None:
    config = ServerConfig(Path("there"), workers=4, threads=3, decode_threads=2, max_queue_images=9)
    part = share(config, port=7, cores=8)
    assert (part.threads, part.decode_threads, part.max_queue_images) == (3, 2, 9)
