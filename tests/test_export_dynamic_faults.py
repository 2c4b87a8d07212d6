"""The verifier of models of dynamic size is held to planted faults: both nets catch each of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from benchmarks.faults import sizes
from benchmarks.faults.models import Sound, export
from benchmarks.faults.nets import Nets

BOTH = {"structure", "numbers"}
FAULTS = {fault.name: fault for fault in sizes.FAULTS}
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "verification.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sound, Nets]:
    sound = export(sizes.MODEL, tmp_path_factory.mktemp("sized") / "sound")
    return sound, Nets(sound)


def test_a_sound_export_is_caught_by_no_net(model: tuple[Sound, Nets]) -> None:
    sound, nets = model
    assert nets.caught(sound.folder) == {"structure": set(), "numbers": set()}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_in_every_graph_that_has_it(
    model: tuple[Sound, Nets], tmp_path: Path, name: str
) -> None:
    sound, nets = model
    folder = tmp_path / "planted"
    shutil.copytree(sound.folder, folder)
    FAULTS[name].plant(folder)
    assert nets.caught(folder) == {net: set(FAULTS[name].files) for net in BOTH}


def test_the_document_lists_every_fault() -> None:
    said = DOCUMENT.read_text(encoding="utf-8").partition("## Dynamic height and width")[2]
    rows = re.findall(r"^\| ([^|]+) \| caught \| caught \|$", said, re.M)
    assert rows == [fault.what for fault in FAULTS.values()]
