"""Names of the hub: from the local cache where the hub cannot be reached, at once and of one commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import vit_checkpoints as vits
from safetensors.torch import load_file

MAIN, OLD = "1" * 40, "2" * 40
NAME = "someone/small-vit"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vits.save(tmp_path_factory.mktemp("whole") / "whole", vits.model(vits.OTHER))


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    """The hub's cache with two commits of one name: `main`, and `v1` with other weights."""
    home = tmp_path / "home"
    held = home / "hub" / f"models--{NAME.replace('/', '--')}"
    for commit, ref in ((MAIN, "main"), (OLD, "v1")):
        vits.copy(whole, held / "snapshots" / commit)
        (held / "refs").mkdir(exist_ok=True)
        (held / "refs" / ref).write_text(commit)
    ones = {"embeddings.cls_token": torch.ones(1, 1, 32)}
    vits.change(held / "snapshots" / OLD, lambda state: state | ones)
    return home


SCRIPT = """
import json, sys, time
from vitral.errors import VitralError
from vitral_export.sources import Options, load
waited = []
real, time.sleep = time.sleep, lambda seconds: waited.append(seconds) or real(seconds)
for name, revision in json.loads(sys.argv[1]):
    try:
        loaded = load(name, Options(revision=revision))
        found = [loaded.source.reference, loaded.source.revision, float(loaded.embedding["cls_token"][0])]
    except VitralError as error:
        found = [str(error)]
    print(json.dumps(found))
assert not waited, f"it waited {waited} for a hub that is not there"
"""


def loads(home: Path, wanted: list[tuple[str, str | None]], **environ: str) -> list[Any]:
    """What comes of each load in a process of its own, where nothing else may be said."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(wanted)]
    environment = os.environ | {"HF_HOME": str(home)} | environ
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "environ", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "no hub"]
)
def test_names_come_from_the_local_cache(whole: Path, cache: Path, environ: dict[str, str]) -> None:
    own = float(load_file(whole / "model.safetensors")["embeddings.cls_token"].flatten()[0])
    wanted = [(f"hf:{NAME}", revision) for revision in (None, "v1", OLD, "v2", "3" * 40)]
    found = loads(cache, [*wanted, ("hf:someone/other", None)], **environ)
    assert found[:3] == [[NAME, MAIN, pytest.approx(own)], [NAME, OLD, 1.0], [NAME, OLD, 1.0]]
    gone = "are not in the local cache, and the hub cannot be reached"
    assert found[3] == [f"hf:{NAME} is no folder, its files of revision v2 {gone}"]
    assert found[4] == [f"hf:{NAME} is no folder, its files of revision {'3' * 40} {gone}"]
    assert found[5] == [f"hf:someone/other is no folder, its files {gone}"]
