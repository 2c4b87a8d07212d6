"""What a bug inside the server looks like from outside, and how the flags are read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from vitral.errors import InvalidArgumentError
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from vitral_server.admission import Admission
from vitral_server.config import ServerConfig, parse
from vitral_server.regions import Regions
from vitral_server.registry import Registry
from vitral_server.service import EmbeddingService


class Faulty:
    """An embedder with a bug."""

    async def embed(self, call: Any, *, permit: Any, seconds: float, line: Any) -> Any:
        raise RuntimeError("secret of the house")


async def test_a_bug_is_internal_with_an_id_that_only_the_log_explains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    admission = Admission(max_images=4, max_bytes=1 << 20)
    config = ServerConfig(repo=Path("models"))
    service = EmbeddingService(Registry([], named=()), Faulty(), admission, config, Regions())  # type: ignore[arg-type]
    server = aio.server()
    server.add_generic_rpc_handlers((service.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with caplog.at_level(logging.INFO), pytest.raises(aio.AioRpcError) as caught:
                await EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(items=[pb.Item(encoded=b"x")]))
    finally:
        await server.stop(None)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    said = caught.value.details() or ""
    assert "secret" not in said
    (record,) = [record for record in caplog.records if record.message == "internal error"]
    assert vars(record)["error_id"] in said
    assert "secret of the house" in (record.exc_text or str(record.exc_info))
    (line,) = [record for record in caplog.records if record.message == "embed"]
    assert vars(line)["code"] == "INTERNAL"
    assert admission.calls == 0
    assert admission.images == 0


def test_flags_win_over_the_environment() -> None:
    environ = {"VITRAL_PORT": "7", "VITRAL_MODEL": "a,b", "VITRAL_GRACE": "2.5", "VITRAL_REPO": "there"}
    config = parse([], environ)
    assert (config.port, config.models, config.grace, config.repo) == (7, ("a", "b"), 2.5, Path("there"))
    config = parse(["--port", "8", "--model", "c", "--model", "d", "--repo", "here"], environ)
    assert (config.port, config.models, config.repo) == (8, ("c", "d"), Path("here"))


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"VITRAL_PORT": "many"}, "VITRAL_PORT='many' is not of type int"),
        ({"VITRAL_PORT": "70000"}, "port is 70000; it must be from 0 to 65535"),
        ({"VITRAL_GRACE": "-1"}, "grace is -1.0; it must be from 0 to"),
        ({"VITRAL_TIMEOUT": "nan"}, "timeout is nan; it must be from"),
        ({"VITRAL_RUN_TIMEOUT": "1e12"}, "run_timeout is 1000000000000.0; it must be from"),
        ({"VITRAL_MAX_ITEMS": "0"}, "max_items is 0; it must be from 1 to"),
    ],
)
def test_wrong_settings_name_the_numbers(environ: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse([], environ)


def test_environment_choices_are_checked_too() -> None:
    with pytest.raises(InvalidArgumentError, match="log_level"):
        parse([], {"VITRAL_LOG_LEVEL": "loud"})
