"""A run that is killed at any moment goes on, and its data set is byte for byte an undisturbed run's.

`VITRAL_KILLS` is how many random moments are drawn; `make test-kill` draws a hundred.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from extracting import TINY, entry, environ, finished, hashes, pictures, run, start

from vitral_extract import commit, plan, settings, shard
from vitral_extract.finish import MANIFEST
from vitral_extract.formats import WRITERS
from vitral_extract.outlook import Wanted
from vitral_extract.verify import verify

KILLS = int(os.environ.get("VITRAL_KILLS", "20"))
COUNT, BAD = 90, (7, 8, 31, 88)
AT_EVENT = """
import os, signal, sys
from vitral_client.__main__ import main

last = int(os.environ["LAST_EVENT"])
events = 0

def counted(what):
    def call(*args, **named):
        global events
        events += 1
        if events > last:
            os.kill(os.getpid(), signal.SIGKILL)
        return what(*args, **named)
    return call

for name in ("fsync", "replace", "unlink", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
code = main(sys.argv[1:])
print(events)
sys.exit(code)
"""


@dataclass(frozen=True)
class Scene:
    """A source, a model, and how the command is called."""

    path: Path
    model: Path
    source: Path

    def arguments(self, out: Path, *more: str) -> list[str | Path]:
        return [self.source, "--out", out, "--model", self.model, "--device", "cpu", *TINY, *more]


@pytest.fixture(scope="module")
def scene(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("kill")
    return Scene(entry(folder / "entry"), small_repo / "tiny", pictures(folder / "in", COUNT, bad=BAD))


def sound(out: Path) -> None:
    """What is said to be done is there whole, also between a kill and the next run."""
    for one in shard.committed(out).values():
        for name, digest in one.files.items():
            assert commit.hash_of(out / shard.DATA / name) == digest
    if (out / MANIFEST).is_file():
        assert json.loads((out / MANIFEST).read_bytes())["count"] == COUNT


def kill(scene: Scene, out: Path, moment: float, *more: str) -> bool:
    """A run that is killed so many seconds after it began to write; whether it was still there."""
    process = start(scene.path, *scene.arguments(out, *more))
    deadline = time.monotonic() + 60
    while not (out / ".lock").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(moment)
    process.kill()
    code, _, said = finished(process)
    assert code in (-signal.SIGKILL, 0), said
    return code != 0


def complete(scene: Scene, out: Path, *more: str) -> float:
    """An undisturbed run, and how long it wrote."""
    process = start(scene.path, *scene.arguments(out, *more))
    while not (out / ".lock").exists() and process.poll() is None:
        time.sleep(0.002)
    began = time.monotonic()
    code, _, said = finished(process)
    assert code == 0, said
    return time.monotonic() - began


def test_killed_at_random_moments_and_resumed(scene: Scene, tmp_path: Path) -> None:
    draw = random.Random()  # noqa: S311  # other moments each time
    seconds = {name: complete(scene, tmp_path / name, "--format", name) for name in WRITERS}
    expected = {name: hashes(tmp_path / name) for name in WRITERS}
    kills = turn = 0
    while kills < KILLS:
        name = list(WRITERS)[turn % len(WRITERS)]
        out = tmp_path / f"{turn}"
        for _ in range(4):
            kills += kill(scene, out, draw.uniform(0, seconds[name]), "--format", name)
            sound(out)
        complete(scene, out, "--format", name)
        assert hashes(out) == expected[name]
        assert verify(out, None, sample=0) == []
        shutil.rmtree(out)
        turn += 1


def test_killed_while_what_failed_is_retried(scene: Scene, tmp_path: Path) -> None:
    draw = random.Random()  # noqa: S311
    bad = range(0, COUNT, 4)
    mended = replace(scene, source=pictures(tmp_path / "in", COUNT, bad=bad))
    before = tmp_path / "before"
    complete(mended, before)
    for number in bad[:-1]:
        if number % 12:
            shutil.copy(scene.source / "00000.jpg", mended.source / f"{number:05}.jpg")
    retry = ("--retry-failed",)
    out = Path(shutil.copytree(before, tmp_path / "whole"))
    seconds = complete(mended, out, *retry)
    expected = hashes(out)
    for turn in range(max(4, KILLS // 10)):
        out = Path(shutil.copytree(before, tmp_path / f"{turn}"))
        kill(mended, out, draw.uniform(0, seconds), *retry)
        sound(out)
        complete(mended, out, *(retry if broken_off(out) else ()))
        assert hashes(out) == expected
        assert verify(out, None, sample=0) == []


def broken_off(out: Path) -> bool:
    """Whether the first round of retries has shards left; a second one would try what failed once more."""
    begun = settings.read(out)
    assert begun is not None
    return next(plan.retries(begun, shard.committed(out))).round == 1


def killed_at(scene: Scene, out: Path, event: int) -> tuple[int, str]:
    """A run that dies at the event of this number: a file synced, renamed or removed, a folder made."""
    line = [sys.executable, "-c", AT_EVENT, "extract", *map(str, scene.arguments(out))]
    where = {**environ(scene.path), "LAST_EVENT": str(event)}
    done = subprocess.run(line, env=where, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout


def test_killed_at_each_step_of_each_file(scene: Scene, tmp_path: Path) -> None:
    few = replace(scene, source=pictures(tmp_path / "in", 12, bad=(3,)))
    wanted = Wanted(sources=(str(few.source),), batch=4, shard_rows=8)
    run(tmp_path / "whole", few.model, wanted)
    expected = hashes(tmp_path / "whole")
    code, said = killed_at(few, tmp_path / "counted", 10_000)
    events = int(said)
    assert code == 0
    assert events > 25
    step = 1 if KILLS >= 100 else 6
    for event in range(random.randrange(step), events, step):  # noqa: S311
        out = tmp_path / f"{event}"
        code, _ = killed_at(few, out, event)
        assert code == -signal.SIGKILL
        run(out, few.model, wanted)
        assert hashes(out) == expected
        assert verify(out, None, sample=0) == []
