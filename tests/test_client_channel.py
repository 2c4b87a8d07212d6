"""Addresses, channel options and service config."""

from __future__ import annotations

import json

import pytest

from vitral.errors import InvalidArgumentError, UnavailableError
from vitral.limits import MAX_MESSAGE_BYTES
from vitral_client.channel import Road, options, service_config, target


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("vitral.example:443", "vitral.example:443"),
        ("[::1]:50051", "[::1]:50051"),
        ("127.0.0.1:1, 127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("localhost:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("unix:/run/vitral.sock", "unix:/run/vitral.sock"),
        ("dns:///vitral:50051", "dns:///vitral:50051"),
    ],
)
def test_targets(address: str, expected: str) -> None:
    assert target(address) == expected


@pytest.mark.parametrize("address", ["", "localhost", ":50051", "host:", "host:0", "host:65536", "a:1,,b:2"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="host:port"):
        target(address)


def test_a_name_that_cannot_be_looked_up_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"host nowhere\.invalid has no IPv4 address"):
        target("127.0.0.1:1,nowhere.invalid:2")


def test_images_go_only_to_healthy_servers() -> None:
    assert json.loads(service_config(Road.CHECKED))["healthCheckConfig"] == {"serviceName": ""}
    assert "healthCheckConfig" not in json.loads(service_config(Road.PLAIN))


def test_a_call_that_lends_memory_is_sent_once_at_most() -> None:
    assert dict(options("127.0.0.1:1", Road.ONCE))["grpc.enable_retries"] == 0
    assert "methodConfig" not in json.loads(service_config(Road.ONCE))
    assert json.loads(service_config(Road.ONCE))["healthCheckConfig"] == {"serviceName": ""}
    assert "grpc.enable_retries" not in dict(options("127.0.0.1:1", Road.CHECKED))


def test_large_requests_can_be_retried() -> None:
    pairs = dict(options("127.0.0.1:1", Road.CHECKED))
    assert pairs["grpc.per_rpc_retry_buffer_size"] > MAX_MESSAGE_BYTES
    assert pairs["grpc.max_receive_message_length"] == MAX_MESSAGE_BYTES
    assert pairs["grpc.enable_http_proxy"] == 0
    assert "grpc.enable_http_proxy" not in dict(options("vitral.example:443", Road.PLAIN))
