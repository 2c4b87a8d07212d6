"""The caller's trace, taken along: OpenTelemetry's context of the span in which a call is made.

The client does not depend on OpenTelemetry. Whoever has a span under way has imported it already.
"""

from __future__ import annotations

import sys

_API = "opentelemetry.trace"


def metadata() -> tuple[tuple[str, str], ...] | None:
    """Metadata of a call, `traceparent` and what else is configured; None where nothing is being traced."""
    if _API not in sys.modules:
        return None
    from opentelemetry import propagate, trace

    if not trace.get_current_span().get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items())
