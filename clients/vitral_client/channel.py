"""How the client connects: target, channel options and service config, the same for both clients."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Sequence
from enum import Enum
from typing import Any

from vitral.errors import InvalidArgumentError, UnavailableError
from vitral.limits import MAX_MESSAGE_BYTES
from vitral_client import argument

DEFAULT_ADDRESS = "127.0.0.1:50051"

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "passthrough:", "xds:")


_RETRIES: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    # Retries stop below half the tokens: one dead server among two must not use that up at once.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1},
}


class Road(Enum):
    """The channels of a client.

    A health-checked channel hands no call to a server that is not serving; questions about the server itself
    (which models, how is it) must still reach such a one, and take a channel of their own. A
    call that lends the server memory is sent once at most: of two, the first could still be writing when the
    second is answered.
    """

    CHECKED = "checked"
    PLAIN = "plain"
    ONCE = "once"


def target(address: str) -> str:
    """The gRPC target of `host:port`, of several joined by commas, or of a gRPC URI, which stays as it is.

    Names in a list are looked up once, here: gRPC resolves names only one at a time.

    Raises:
        InvalidArgumentError: it is no string, or a part of it is not `host:port`.
        UnavailableError: a name in a list cannot be looked up.
    """
    if argument.text("address", address).startswith(_SCHEMES):
        return address
    parts = [_split(part.strip()) for part in address.split(",")]
    if len(parts) == 1:
        return address.strip()
    return "ipv4:" + ",".join(f"{_numeric(host)}:{port}" for host, port in parts)


def options(address: str, road: Road) -> Sequence[tuple[str, Any]]:
    """Channel options for this address and road."""
    pairs: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.service_config", service_config(road)),
        ("grpc.service_config_disable_resolution", 1),
        # Requests beyond the default of 256 KiB, ordinary photographs, would silently not be retried.
        ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES + 1024 * 1024),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Also the limit of one attempt to connect: 20 s by default, too long for a caller to wait.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    if road is Road.ONCE:
        pairs.append(("grpc.enable_retries", 0))
    if _is_local(address):
        pairs.append(("grpc.enable_http_proxy", 0))
    return pairs


def service_config(road: Road) -> str:
    """GRPC's service config as JSON: balance, retry, and but for `Road.PLAIN` watch the servers' health."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if road is not Road.ONCE:
        config |= _RETRIES
    if road is not Road.PLAIN:
        config["healthCheckConfig"] = {"serviceName": ""}
    return json.dumps(config)


def is_one_local(address: str) -> bool:
    """Whether this is the address of one server, on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    return "," not in address and _is_local(address.removeprefix("ipv4:").removeprefix("ipv6:"))


def _split(part: str) -> tuple[str, int]:
    host, _, port = part.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgumentError(f"{part!r} is no address: it takes host:port, several joined by commas")
    return host, int(port)


def _numeric(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise UnavailableError(f"host {host} has no IPv4 address: {error}") from None


def _is_local(address: str) -> bool:
    return all(part.strip().startswith(("127.", "localhost:", "[::1]:")) for part in address.split(","))
