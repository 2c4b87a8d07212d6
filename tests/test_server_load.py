"""Many callers at once, impatient and hostile ones among them: right answers, level memory, a clean end."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from load import CALLERS, LEAVING_SENDS, Load, Truth, pictures, truth
from serving import Running, running

from vitral_export.cli import main

MODELS = ("tiny", "wide")
FILES = pictures()


@pytest.fixture(scope="module")
def repo(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of different image, patch and width."""
    repo = tmp_path_factory.mktemp("load") / "models"
    shutil.copytree(small_repo, repo)
    sizes = ("--img-size", "48", "--patch-size", "12", "--embed-dim", "24", "--seed", "1")
    assert main(["build", "patch-embedding", "--name", "wide", "--repo", str(repo), *sizes]) == 0
    return repo


@pytest.fixture(scope="module")
def expected(repo: Path) -> Truth:
    found = truth(repo, MODELS, FILES)
    for name in MODELS:  # or one picture's answer could stand for another's
        for one, other in itertools.combinations(range(len(FILES)), 2):
            far = np.linalg.norm(found[name, one] - found[name, other]) / np.linalg.norm(found[name, one])
            assert far > 1e-3, f"pictures {one} and {other} are the same to {name}"
    return found


def _resident(server: Running) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


async def _level(server: Running) -> float:
    """Median over a second: what pictures take while they are decoded comes and goes."""
    samples = []
    for _ in range(10):
        samples.append(_resident(server))
        await asyncio.sleep(0.1)
    return float(np.median(samples))


async def test_right_answers_level_memory_and_nothing_accepted_is_lost(
    repo: Path, expected: Truth, tmp_path: Path
) -> None:
    with running(repo, log=tmp_path / "log") as server:
        load = Load(server.address, FILES, expected)
        calling = asyncio.create_task(load.run())
        await asyncio.sleep(9.5)
        early = await _level(server)
        await asyncio.sleep(19)
        late = await _level(server)
        load.server_leaves = True
        assert not calling.done()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(calling, 60)  # every caller was answered or turned away: none hangs
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        lines = [line for line in server.lines("embed") if line["code"] == "OK"]
        assert "Traceback" not in server.log.read_text()
    assert load.wrong == []
    assert load.turned_away == CALLERS
    assert min(load.right, load.mixed, load.left, load.refused) > 50, load
    answered = [line for line in lines if line["images"] != LEAVING_SENDS]
    assert sum(not line["failed"] for line in answered) == load.right
    assert sum(bool(line["failed"]) for line in answered) == load.mixed
    assert {line["model"] for line in lines} == set(MODELS)
    assert late - early <= 20, f"{early:.0f} MiB at 10 s, {late:.0f} MiB at 30 s"
    print(f"{load.right} right, {load.mixed} mixed, {load.left} left; {early:.0f} MiB, then {late:.0f} MiB")


async def test_one_of_two_servers_is_killed_and_no_call_fails(
    repo: Path, expected: Truth, tmp_path: Path
) -> None:
    with running(repo, log=tmp_path / "a") as dying, running(repo, log=tmp_path / "b") as other:
        load = Load(f"{dying.address},{other.address}", FILES, expected)
        calling = asyncio.create_task(load.run())
        await asyncio.sleep(5)
        before = len(dying.lines("embed")), len(other.lines("embed"))
        dying.process.kill()
        await asyncio.sleep(5)
        load.stopping = True
        await asyncio.wait_for(calling, 60)
        assert other.stop() == 0
        assert len(other.lines("embed")) > before[1]
    assert load.wrong == []
    assert min(before) > 50
    assert min(load.right, load.mixed, load.left, load.refused) > 10, load
