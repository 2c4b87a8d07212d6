"""Start, health, reflection and the clean end of a real server process."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

import grpc
import photographs
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving import Running, command, running

from vitral.errors import PUSHBACK_KEY, REASON_KEY
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from vitral_client import Client
from vitral_engine.artifact import sha256_file

JPEG = photographs.ROCKET.read_bytes()
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _check(channel: grpc.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


def _fails(*args: str) -> tuple[int, str]:
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def _break(version: Path) -> None:
    """Weights of another model under hashes that fit: only the replay can tell."""
    file = version / "manifest.json"
    data = json.loads(file.read_text())
    (version / "weights.bin").write_bytes(bytes((version / "weights.bin").stat().st_size))
    data["sha256"]["weights.bin"] = sha256_file(version / "weights.bin")
    file.write_text(json.dumps(data))


@pytest.fixture
def two(small_repo: Path, tmp_path: Path) -> Path:
    """A repository with a good model and a broken one."""
    repo = tmp_path / "models"
    shutil.copytree(small_repo, repo)
    shutil.copytree(repo / "tiny", repo / "broken")
    return repo


def test_health_and_reflection(small_repo: Path, tmp_path: Path) -> None:
    with (
        running(small_repo, log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        for service in ("", "tiny", "vitral.v1.EmbeddingService"):
            assert _check(channel, service) == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            _check(channel, "other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=5)
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {"vitral.v1.EmbeddingService", "grpc.health.v1.Health"}


def test_watch_is_told_before_calls_are_refused(small_repo: Path, tmp_path: Path) -> None:
    with (
        running(small_repo, "--drain-delay", "1.5", log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="tiny"), timeout=20
        )
        assert next(watch).status == SERVING
        server.process.terminate()
        assert next(watch).status == NOT_SERVING
        reply = EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(items=[pb.Item(encoded=JPEG)]), timeout=5)
        assert reply.payloads, "calls are still answered during the drain delay"
        assert server.process.wait(20) == 0


def test_sigterm_under_load_loses_nothing_accepted(small_repo: Path, tmp_path: Path) -> None:
    codes: list[tuple[str, str]] = []
    answered = [0] * 32

    def call(number: int, server: Running) -> None:
        with grpc.insecure_channel(server.address) as channel:
            stub = EmbeddingServiceStub(channel)
            while True:
                try:
                    reply = stub.Embed(pb.EmbedRequest(items=[pb.Item(encoded=JPEG)]), timeout=15)
                    answered[number] += len(reply.payloads)
                except grpc.RpcError as error:
                    reason = dict(error.trailing_metadata() or ()).get(REASON_KEY, "")
                    codes.append((error.code().name, str(reason)))
                    return

    with running(small_repo, log=tmp_path / "log") as server:
        threads = [threading.Thread(target=call, args=(i, server)) for i in range(32)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        assert server.stop() == 0
        for thread in threads:
            thread.join(20)
        finished = [line for line in server.lines("embed") if line["code"] == "OK"]
    assert all(not thread.is_alive() for thread in threads)
    assert sum(answered) == len(finished) > 100
    assert {code for code, _ in codes} == {"UNAVAILABLE"}
    assert ("UNAVAILABLE", "unavailable") in codes


def test_an_open_watch_does_not_hold_the_end(small_repo: Path, tmp_path: Path) -> None:
    with (
        running(small_repo, log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == SERVING
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 3
        assert [reply.status for reply in watch] == [NOT_SERVING]
        assert "Traceback" not in server.log.read_text()


def test_a_model_that_fails_is_listed_with_its_reason(two: Path, tmp_path: Path) -> None:
    with running(two, log=tmp_path / "log") as server, Client(server.address) as client:
        assert server.told["models"] == {"broken": False, "tiny": True}
        states = {model.name: (model.state, model.reason) for model in client.models()}
        assert states["tiny"] == (pb.MODEL_STATE_READY, "")
        assert states["broken"][0] == pb.MODEL_STATE_FAILED
        assert "names model tiny, but its folder is broken" in states["broken"][1]
        assert client.health() == "SERVING"
        assert client.health("broken") == "NOT_SERVING"
        with pytest.raises(ConnectionError, match="broken version 1 is not ready"):
            client.embed(JPEG, model="broken")


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[" * 100_000, b"", b"{}", b'{"schema": 1}'])
def test_one_damaged_manifest_stops_nobody_else(two: Path, tmp_path: Path, damage: bytes) -> None:
    (two / "broken/1/manifest.json").write_bytes(damage)
    with running(two, log=tmp_path / "log") as server, Client(server.address) as client:
        assert server.told["models"] == {"broken": False, "tiny": True}
        (broken,) = [model for model in client.models() if model.name == "broken"]
        assert "manifest.json" in broken.reason
        assert client.embed(JPEG, model="tiny").patches.shape == (16, 16)


def test_a_broken_newest_version_leaves_the_older_one_serving(two: Path, tmp_path: Path) -> None:
    shutil.rmtree(two / "broken")
    shutil.copytree(two / "tiny/1", two / "tiny/2")
    _break(two / "tiny/2")
    with running(two, log=tmp_path / "log") as server, Client(server.address) as client:
        assert client.embed(JPEG).version == "1"
        assert [(model.version, model.state) for model in client.models()] == [
            ("1", pb.MODEL_STATE_READY),
            ("2", pb.MODEL_STATE_FAILED),
        ]


def test_a_named_model_that_fails_makes_the_start_fail(two: Path) -> None:
    code, said = _fails("--repo", str(two), "--port", "0", "--device", "cpu", "--model", "broken")
    assert code == 1
    assert "its folder is broken" in said.splitlines()[-1]
    code, said = _fails("--repo", str(two), "--port", "0", "--device", "cpu", "--model", "absent")
    assert code == 1
    assert "no model 'absent'" in said.splitlines()[-1]


def test_only_named_models_are_served(two: Path, tmp_path: Path) -> None:
    with running(two, "--model", "tiny", log=tmp_path / "log") as server:
        assert server.told["models"] == {"tiny": True}


@pytest.mark.parametrize(
    "args", [["--port", "many"], ["--port", "70000"], ["--max-items", "0"], ["--nonsense"]]
)
def test_wrong_usage_exits_with_2(args: list[str]) -> None:
    code, said = _fails(*args)
    assert code == 2
    assert "vitral-server" in said


def test_an_empty_or_missing_repository_is_said(tmp_path: Path) -> None:
    code, said = _fails("--repo", str(tmp_path), "--port", "0", "--device", "cpu")
    assert (code, "holds no model: run vitral-export build first" in said) == (1, True)
    code, said = _fails("--repo", str(tmp_path / "absent"), "--port", "0", "--device", "cpu")
    assert (code, "is not a folder" in said) == (1, True)


def test_a_taken_port_is_said(small_repo: Path, tmp_path: Path) -> None:
    with running(small_repo, log=tmp_path / "log") as server:
        port = server.address.rpartition(":")[2]
        code, said = _fails("--repo", str(small_repo), "--port", port, "--device", "cpu")
        assert code == 1
        assert f"cannot listen on 127.0.0.1:{port}" in said


def test_environment_variables_stand_for_flags(small_repo: Path, tmp_path: Path) -> None:
    environ = {"VITRAL_MAX_ITEMS": "3", "VITRAL_MODEL": "tiny", "VITRAL_LOG_LEVEL": "warning"}
    with running(small_repo, log=tmp_path / "log", environ=environ) as server:
        with grpc.insecure_channel(server.address) as channel:
            info = EmbeddingServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=5)
        assert info.limits.max_items == 3
        assert not server.lines("health")


def test_a_full_server_says_so_at_once_with_a_delay(small_repo: Path, tmp_path: Path) -> None:
    with (
        running(
            small_repo, "--max-queue-images", "4", "--queue-delay-ms", "1500", log=tmp_path / "log"
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = EmbeddingServiceStub(channel)
        held = stub.Embed.future(pb.EmbedRequest(items=[pb.Item(encoded=JPEG)] * 3), timeout=10)
        refused = {}
        for count in (2, 5):
            time.sleep(0.3)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Embed(pb.EmbedRequest(items=[pb.Item(encoded=JPEG)] * count), timeout=5)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            refused[count] = dict(caught.value.trailing_metadata())[PUSHBACK_KEY], caught.value.details()
        assert len(held.result().payloads) == 3
    assert refused[2] == ("50", "3 images are in work and 2 more came; the limit is 4")
    assert refused[5][0] == "-1", "a retry cannot cure it"
    assert "5 images" in refused[5][1]


def test_deadlines_of_callers_are_kept(small_repo: Path, tmp_path: Path) -> None:
    with (
        running(small_repo, "--queue-delay-ms", "1500", log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = EmbeddingServiceStub(channel)
        start = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Embed(pb.EmbedRequest(items=[pb.Item(encoded=JPEG)]), timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - start < 1
        assert stub.Embed(pb.EmbedRequest(items=[pb.Item(encoded=JPEG)]), timeout=10).payloads
