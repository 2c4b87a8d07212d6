"""An unproven model says so wherever it is met, and is refused where proven or signed ones are demanded."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import onnx_files
import photographs
import pytest
from extracting import pictures, wanted
from extracting import run as extract
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserving import files
from scraping import scrape, value
from serving import Running, command, running
from tritonclient.grpc import InferenceServerClient

from vitral.errors import InvalidArgumentError
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import embedding_service_pb2_grpc as services
from vitral_client import Client, cli
from vitral_export import adopt, signing
from vitral_server.config import parse
from vitral_server.share import packed, unpacked

TOLD = ("vitral-proof", "unproven")
ROCKET = photographs.ROCKET.read_bytes()


@pytest.fixture(scope="module")
def repo(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models `tiny`, proven, and `adopted`, not proven and signed."""
    folder = tmp_path_factory.mktemp("unproven")
    made = Path(shutil.copytree(small_repo, folder / "models"))
    file = onnx_files.by_hand(folder / "m.onnx")
    (folder / "preprocessor_config.json").write_text('{"size": 16}')
    signing.keygen(folder / "key.pem")
    adopt(file, name="adopted", repo=made, sign=folder / "key.pem")
    return made


@pytest.fixture(scope="module")
def server(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("log") / "log"
    with running(repo, "--metrics-port", "0", log=log) as started:
        yield started


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


def trailers(call: Any) -> list[tuple[str, str]]:
    return [(item.key, item.value) for item in call.trailing_metadata() or ()]


def test_every_reply_says_so(channel: grpc.Channel) -> None:
    stub = services.EmbeddingServiceStub(channel)
    for model, unproven in (("adopted", True), ("tiny", False)):
        request = pb.EmbedRequest(model=model, items=[pb.Item(encoded=ROCKET)])
        reply, call = stub.Embed.with_call(request, timeout=20)
        assert reply.unproven is unproven
        assert (TOLD in trailers(call)) is unproven
        config = pb.EmbedStreamRequest(config=pb.EmbedStreamConfig(model=model))
        items = [pb.EmbedStreamRequest(id=n, item=pb.Item(encoded=ROCKET)) for n in range(3)]
        stream = stub.EmbedStream(iter([config, *items]), timeout=20)
        assert [one.unproven for one in stream] == [unproven] * 3
        assert (TOLD in trailers(stream)) is unproven


def test_health_says_so_in_its_metadata(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service, unproven in {"adopted": True, "tiny": False, "": True}.items():
        reply, call = stub.Check.with_call(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        assert (TOLD in trailers(call)) is unproven


def test_the_client_and_its_command_say_so(
    server: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Client(server.address) as client:
        assert client.embed(ROCKET, model="adopted").unproven
        assert not client.embed(ROCKET, model="tiny").unproven
        assert [one.unproven for _, one in client.embed_stream([ROCKET], model="adopted")] == [True]
        note = client.model("adopted").spec.proof.note
    at = ("--server", server.address)
    assert cli.main(["models", *at]) == 0
    listed = capsys.readouterr().out
    assert listed.count("ready, UNPROVEN") == 1
    assert cli.main(["models", "--json", *at]) == 0
    told = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (told["adopted"]["unproven"], told["adopted"]["unproven_note"]) == (True, note)
    assert (told["tiny"]["unproven"], told["tiny"]["unproven_note"]) == (False, "")
    picture = str(photographs.ROCKET)
    assert cli.main(["embed", picture, "--model", "adopted", "--json", *at]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["unproven"]
    assert f"vitral: model adopted is unproven: {note}" in printed.err


def test_log_and_metrics_say_so(server: Running) -> None:
    (line,) = server.lines("model is unproven")
    assert (line["model"], line["level"]) == ("adopted", "warning")
    assert line["reason"].startswith("there was no PyTorch reference")
    found = scrape(server.told["metrics"])
    assert value(found, "vitral_model_proven", model="tiny") == 1
    assert value(found, "vitral_model_proven", model="adopted") == 0
    assert value(found, "vitral_model_ready", model="adopted") == 1


def test_triton_s_clients_can_see_it(server: Running) -> None:
    with InferenceServerClient(server.address) as client:
        for model, unproven in (("adopted", True), ("tiny", False)):
            config = client.get_model_config(model).config
            assert ("vitral_proof" in config.parameters) is unproven
            reply = client.infer(f"{model}_image", files(ROCKET)).get_response()
            assert ("vitral_unproven" in reply.parameters) is unproven


def test_a_data_set_says_so(repo: Path, tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 3)
    for model, status in (("adopted", "unproven"), ("tiny", "proven")):
        done = extract(tmp_path / model, repo / model, wanted(source))
        assert done.manifest["proof"]["status"] == status
        assert bool(done.manifest["proof"]["note"]) is (status == "unproven")


def test_what_is_unproven_or_unsigned_is_refused_where_that_is_demanded(repo: Path, tmp_path: Path) -> None:
    key = str(repo.parent / "key.pub.pem")
    with running(repo, "--require-proven", log=tmp_path / "log") as server, Client(server.address) as client:
        adopted, tiny = client.models()
        assert (adopted.name, adopted.state) == ("adopted", pb.MODEL_STATE_FAILED)
        assert adopted.reason.startswith("only proven models are served here, and model adopted is unproven")
        assert tiny.state == pb.MODEL_STATE_READY
    with running(repo, "--trust", key, log=tmp_path / "log") as server, Client(server.address) as client:
        adopted, tiny = client.models()
        assert adopted.state == pb.MODEL_STATE_READY
        assert tiny.state == pb.MODEL_STATE_FAILED
        assert "has no signature, one by key.pub.pem is demanded" in tiny.reason


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("--model", "adopted", "--require-proven"), "model adopted is unproven"),
        (("--trust", "KEY.pem"), "holds a private key; a public one is needed"),
    ],
)
def test_a_start_that_cannot_be_fails_with_the_reason(repo: Path, line: tuple[str, ...], said: str) -> None:
    given = [word.replace("KEY", str(repo.parent / "key")) for word in line]
    done = subprocess.run(
        command("--repo", str(repo), "--port", "0", "--device", "cpu", *given),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]


def test_both_demands_are_flags_and_variables_and_reach_the_workers() -> None:
    assert not parse([], {}).require_proven
    assert parse(["--require-proven"], {}).require_proven
    assert parse([], {"VITRAL_REQUIRE_PROVEN": "1"}).require_proven
    assert not parse([], {"VITRAL_REQUIRE_PROVEN": "off"}).require_proven
    with pytest.raises(InvalidArgumentError, match="VITRAL_REQUIRE_PROVEN='maybe' is not one of"):
        parse([], {"VITRAL_REQUIRE_PROVEN": "maybe"})
    assert parse([], {"VITRAL_TRUST": "a.pem, b.pem"}).trust == ("a.pem", "b.pem")
    config = parse(["--trust", "a.pem", "--trust", "b.pem", "--require-proven"], {"VITRAL_TRUST": "c.pem"})
    assert config.trust == ("a.pem", "b.pem")
    assert unpacked(packed(config)) == config
