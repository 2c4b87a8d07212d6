"""One JSON object a line on standard error: one for each request that failed, at level debug for all."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vitral.errors import CancelledError, ServerError, VitralError

if TYPE_CHECKING:  # whoever watches workers logs too, and loads no onnxruntime for it
    from vitral_server.call import EmbedCall
    from vitral_server.registry import Served
    from vitral_server.reply import Frame
    from vitral_server.telemetry import Telemetry
    from vitral_server.tracing import Trace

log = logging.getLogger(__name__)

_REASON = 500
"""Most characters of an error in a request's line: a caller's own words may be in it."""

_PACKAGES = ("vitral", "vitral_engine", "vitral_server")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, event, worker, then the extras."""

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._always = {"worker": worker} if worker else {}

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        data: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **self._always,
        }
        data |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            data["traceback"] = self.formatException(record.exc_info)
        return json.dumps(data, ensure_ascii=False, default=str)


def _wanted(record: logging.LogRecord) -> bool:
    """All but grpc's traceback for a caller that was gone, or not reading, when its call ended."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


@dataclass
class RequestLine:
    """What is noted of one request; filled as it goes on.

    Attributes:
        fields: for its log line.
        trace: its spans; None: it is not traced.
        model, images: once its model was found.
        frame: once it was answered.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    trace: Trace | None = None
    model: str = ""
    images: int = 0
    frame: Frame | None = None

    def found(self, served: Served, *, images: int, outputs: Sequence[str]) -> None:
        """The request's model was found."""
        self.model, self.images = served.name, images
        if self.trace is not None:
            said = {"model": served.name, "version": served.version, "images": images, "outputs": outputs}
            self.trace.note(said)

    def answered(self, served: Served, call: EmbedCall, frame: Frame) -> None:
        """The request was answered."""
        self.frame = frame
        if not log.isEnabledFor(logging.DEBUG):
            return
        timings = {key: round(value, 3) for key, value in vars(frame.timings).items()}
        self.fields |= {"model": served.name, "version": served.version, "images": len(call.pictures)}
        self.fields |= {"failed": frame.failed, "bytes_in": call.request_bytes}
        self.fields |= {"bytes_out": len(frame.message), **timings}


@contextmanager
def request_line(event: str, telemetry: Telemetry, context: Any, **fields: Any) -> Iterator[RequestLine]:
    """Notes a request when it ends, however it ends: one line, that of a good one for debugging; telemetry.

    Args:
        event: name of the method.
        telemetry: metrics and traces.
        context: gRPC's, of the call.
        fields: further ones of the line.
    """
    line = RequestLine({"peer": context.peer(), **fields}, telemetry.begin(event, context))
    start, code, reason = perf_counter(), "OK", ""
    try:
        yield line
    except VitralError as error:
        code, reason = error.code.name, error.reason
        line.fields["reason"] = str(error)[:_REASON]
        raise
    except asyncio.CancelledError:
        code, reason = "CANCELLED", CancelledError.reason
        raise
    except Exception:
        code, reason = "INTERNAL", ServerError.reason
        raise
    finally:
        telemetry.ended(event, line, code=code, reason=reason)
        level = logging.DEBUG if code == "OK" else logging.INFO
        if log.isEnabledFor(level):
            took = round((perf_counter() - start) * 1e3, 3)
            log.log(level, event, extra={"code": code, "ms": took, **line.fields})


def explained(error: Exception) -> VitralError:
    """The error as callers may see it; one that is not vitral's own goes to the log."""
    if isinstance(error, VitralError):
        return error
    number = uuid4().hex[:12]
    log.error("internal error", extra={"error_id": number}, exc_info=error)
    return ServerError(f"internal error; the server's log explains it under id {number}")


def configure(level: str, *, worker: int = 0) -> None:
    """Sends records to standard error as JSON, with the worker's number where there are several.

    The level is for vitral's own records. Those of its libraries are written from info on: grpc writes its
    debugging while it holds a lock that a garbage collection, within another thread's record, waits for.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(worker))
    handler.addFilter(_wanted)
    own = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(own, logging.INFO), handlers=[handler], force=True)
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(own)


def announce(event: str, **fields: Any) -> None:
    """One JSON line on standard output, for whoever started the server."""
    print(json.dumps({"event": event, "time": round(time(), 3), **fields}), flush=True)
