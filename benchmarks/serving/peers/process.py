"""Servers of the peers: each in a process group of its own on loopback, ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""Folder that holds `benchmarks`."""

_PATIENCE = 15.0
"""Seconds that a server has to end by itself."""


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    command: Sequence[str],
    *,
    ready: Callable[[], bool],
    log: Path,
    environ: Mapping[str, str] | None = None,
    within: float = 90.0,
) -> Iterator[tuple[int, ...]]:
    """Runs a server, gives the pids of all its processes when `ready` says so, and ends them on exit.

    It is ended too when the thread that started it dies, by whatever means, where the system has setpriv.

    Args:
        command: its command line, run in `ROOT`.
        ready: asks whether it answers; called again and again.
        log: file for what it prints.
        environ: what its environment has beside this process's.
        within: seconds until it has to be ready.

    Raises:
        SystemExit: it ended, or was not ready in time; with the end of its log.
    """
    with log.open("wb") as said:
        # Its own session: Ctrl-C reaches this process alone, which then ends the server's whole group.
        process = subprocess.Popen(
            [*_leash(), *command],
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        _await(process, ready, log, within)
        yield family(process.pid)
    finally:
        _end(process)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time, user and system, of processes that run, without their children's."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _leash() -> list[str]:
    """A command in front of another, which becomes that one and asks the kernel for SIGTERM when we die."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def family(pid: int) -> tuple[int, ...]:
    """A process and all below it."""
    found = [pid]
    for parent in found:  # grows on the way
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return tuple(found)


def _await(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, within: float) -> None:
    until = time.monotonic() + within
    while not ready():
        code = process.poll()
        if code is not None or time.monotonic() > until:
            state = f"was not ready after {within:.0f} s" if code is None else f"ended with {code}"
            tail = log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"the server {state}:\n{tail}")
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, and after it SIGKILL to what is left of its processes."""
    born = {pid: _born(pid) for pid in family(process.pid)[1:]}
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its group, which nobody else can have joined
        for pid, start in born.items():
            if start and _born(pid) == start:  # in a session of its own
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _born(pid: int) -> str:
    """When a process started, in ticks; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
