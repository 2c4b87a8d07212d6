"""What the serving benchmark holds vitral against gives the engine's answers, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks.serving.peers import PEERS, loop, process, smoke
from benchmarks.serving.workload import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent
CLS = Workload(
    "cls", "a token of a small model", "vit-embedding", "encoded", (48, 64), "embeddings", "cls", "float32"
)
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", flush=True)
time.sleep(60)
"""
LEFT_BEHIND = """
import sys, time
from pathlib import Path
from benchmarks.serving.peers.process import started

log = Path(sys.argv[1])
server = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
with started(server, ready=lambda: b"ready" in log.read_bytes(), log=log) as pids:
    print(*pids, flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: tuple[int, ...], *, within: float = 10.0) -> bool:
    until = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize("workload", ["W1", "W1-half", "W2"])
def test_the_plain_server_gives_the_engines_answers(base_repo: Path, workload: str) -> None:
    material = smoke.prepare(base_repo, WORKLOADS[workload])

    result = smoke.run(PEERS["plain"], base_repo, material, callers=2, seconds=0.2)

    assert result.rel_l2 < smoke.AGREEMENT[material.workload.dtype]
    assert result.processes == 1
    assert result.images_per_s > 0


def test_the_plain_server_gives_one_token(preset_repo: Path) -> None:
    material = smoke.prepare(preset_repo, CLS)

    assert material.truth.shape == (16,)
    assert smoke.run(PEERS["plain"], preset_repo, material, callers=1, seconds=0).rel_l2 < 1e-5


@pytest.mark.parametrize("name", ["triton", "litserve"])
def test_the_other_servers_give_the_engines_answers(base_repo: Path, name: str) -> None:
    way = PEERS[name]
    if missing := way.missing():
        pytest.skip(missing)
    material = smoke.prepare(base_repo, WORKLOADS["W2"])

    with way.start(base_repo, material.workload) as running:
        with way.caller(running.address, material.workload) as call:
            material.check(name, call(material.pictures[0]))
        assert all(map(alive, running.pids))
        assert len(running.pids) > 2

    assert gone(running.pids)


@pytest.mark.parametrize("workload", ["W1", "W2"])
def test_the_torch_loop_gives_the_engines_answers(base_repo: Path, workload: str) -> None:
    material = smoke.prepare(base_repo, WORKLOADS[workload])

    rows = loop.Loop(material.workload)(material.pictures[:2])

    assert len(rows) == 2
    material.check("loop", rows[0])


def test_the_torch_loop_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8))

    code = loop.main(["--workload", "W1", "--pictures", str(tmp_path), "--seconds", "1", "--json"])
    told = json.loads(capsys.readouterr().out)

    assert code == 0
    assert told["images"] % told["batch"] == 0
    assert told["images"] > 0
    assert 0.4 < told["seconds"] < 60
    assert told["cpu_s"] > 0


def test_an_answer_that_is_not_the_engines_is_refused(preset_repo: Path) -> None:
    material = smoke.prepare(preset_repo, CLS)

    with pytest.raises(smoke.Wrong, match=r"relative L2 1\.0e-02 from the engine, at most 1e-05"):
        material.check("plain", material.truth * np.float32(1.01))
    with pytest.raises(smoke.Wrong, match=r"float16 \(16,\), not float32 \(16,\)"):
        material.check("plain", material.truth.astype(np.float16))


def test_a_failure_in_the_middle_ends_the_server(preset_repo: Path) -> None:
    pids: tuple[int, ...] = ()

    def interrupted() -> None:
        nonlocal pids
        with PEERS["plain"].start(preset_repo, CLS) as running:
            pids = running.pids
            assert all(map(alive, pids))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert pids
    assert gone(pids, within=0)


def test_a_stubborn_server_and_a_child_in_its_own_session_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PATIENCE", 0.3)
    log = tmp_path / "log"
    command = [sys.executable, "-c", STUBBORN]

    with process.started(command, ready=lambda: b"ready" in log.read_bytes(), log=log) as pids:
        assert len(pids) == 2
        assert os.getsid(pids[1]) != os.getsid(pids[0])

    assert gone(pids)


def test_what_a_crashed_server_left_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", PARENT]

    with process.started(command, ready=lambda: b"ready" in log.read_bytes(), log=log) as pids:
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGKILL)
        assert gone(pids[:1])
        assert alive(pids[1])

    assert gone(pids)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('there is no model')"]

    with (
        pytest.raises(SystemExit, match=r"the server ended with 1:\nthere is no model"),
        process.started(command, ready=lambda: False, log=tmp_path / "log"),
    ):
        pass


def test_a_server_ends_when_the_benchmark_is_killed(tmp_path: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv (util-linux) on this system")
    command = [sys.executable, "-c", LEFT_BEHIND, str(tmp_path / "log")]

    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        pids = tuple(map(int, benchmark.stdout.readline().split()))
        assert all(map(alive, pids))
        benchmark.send_signal(signal.SIGKILL)

    assert gone(pids)
