"""torch's own `verify=True` on planted faults: for the telling ones, what docs/verification.md records."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import torch_verify
from benchmarks.faults import FAULTS
from benchmarks.torch_verify import BROKEN, PASSES, WARNS, WARNS_RELATIVE

ROOT = Path(__file__).resolve().parent.parent
SAYS = {
    "nan_weight": PASSES,
    "batch_in_the_signature": PASSES,
    "batch_of_three": BROKEN,
    "tensor": PASSES,
    "scalar": PASSES,
    "grid_turned": WARNS,
    "nan_in_the_pooler": PASSES,
    "epsilon": PASSES,
    "gelu": WARNS_RELATIVE,
}


def recorded() -> dict[tuple[str, str], str]:
    """Fault and model to the last column of the table."""
    text = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    found = re.findall(
        r"^\| ([^|]+) \| ([a-z0-9-]+) \| [a-z ]+ \| [a-z ]+ \| ([^|]+) \|$", text, re.MULTILINE
    )
    return {(what, model): says for what, model, says in found}


def test_the_document_records_what_torch_says_of_every_fault() -> None:
    table = recorded()
    assert set(table) == {(fault.what, fault.model) for fault in FAULTS.values()}
    assert set(table.values()) == {PASSES, WARNS, WARNS_RELATIVE, BROKEN}


def test_torch_says_what_is_recorded_and_both_nets_see_more() -> None:
    for row in torch_verify.rows([FAULTS[name] for name in SAYS]):
        what, model, structure, numbers, says = row
        if what == "none":
            assert (structure, numbers, says) == ("nothing", "nothing", PASSES)
            continue
        [name] = [name for name in SAYS if (FAULTS[name].what, FAULTS[name].model) == (what, model)]
        assert says == SAYS[name] == recorded()[what, model]
        assert structure == "caught"
        assert numbers == ("not seen" if name == "epsilon" else "caught")


@pytest.mark.parametrize("module", ["benchmarks.torch_verify", "benchmarks.mutations"])
def test_the_commands_refuse_names_they_do_not_know(module: str) -> None:
    command = [sys.executable, "-m", module, "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert re.search("unknown (fault|model) nothing", done.stderr)
