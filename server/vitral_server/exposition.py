"""The metrics page, on a port of its own."""

from __future__ import annotations

from prometheus_client import start_http_server
from prometheus_client.registry import CollectorRegistry

from vitral_server.port import bracketed, refusal


def expose(registry: CollectorRegistry, *, host: str, port: int) -> str:
    """Answers scrapes in threads of its own until the process ends, so also while it drains.

    Args:
        registry: what is shown.
        host: address to listen on.
        port: 0 for a free one.

    Returns:
        Its `host:port`.

    Raises:
        UnavailableError: the port is taken or not allowed.
    """
    try:
        server, _ = start_http_server(port, addr=host.strip("[]"), registry=registry)
    except OSError:
        raise refusal(host, port) from None
    return f"{bracketed(host)}:{server.server_port}"
