"""Everything that was found, and what to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitral.decode import EXACT
from vitral_doctor.decoding import Decoding
from vitral_doctor.machine import Disk, Machine
from vitral_doctor.runtime import Runtime
from vitral_doctor.versions import Versions

if TYPE_CHECKING:
    from vitral_doctor.models import Examined


@dataclass(frozen=True)
class Asked:
    """What the doctor is asked about, as a server would be.

    Attributes:
        repo: model repository.
        models: names that must be served; none: whichever there are.
        device: auto, cpu, cuda[:N] or tensorrt[:N].
        out: folder whose disk is measured.
        seconds: of measuring; a model that is being opened is waited for.
        decode: exact or fast.
    """

    repo: Path
    models: tuple[str, ...] = ()
    device: str = "auto"
    out: Path = Path()
    seconds: float = 10.0
    decode: str = EXACT


@dataclass(frozen=True)
class Findings:
    """What was looked at.

    Attributes:
        asked: the question.
        versions: what is installed.
        runtime: onnxruntime and its providers.
        machine: cores and memory.
        disk: of the folder for data sets.
        decoding: speed of decoding; None without Pillow.
        device_fault: why the device that was asked for cannot be had.
        models: each model; none where nothing can be opened.
        repo_fault: why there is no model at all.
    """

    asked: Asked
    versions: Versions
    runtime: Runtime
    machine: Machine
    disk: Disk
    decoding: Decoding | None = None
    device_fault: str = ""
    models: tuple[Examined, ...] = ()
    repo_fault: str = ""


@dataclass(frozen=True)
class Change:
    """One thing to do.

    Attributes:
        fault: whether it keeps a server from starting, or from serving anything.
        text: a sentence with the numbers, and the command where there is one.
    """

    fault: bool
    text: str


@dataclass(frozen=True)
class Report:
    """The findings and what follows from them.

    Attributes:
        findings: what was looked at.
        changes: what to change, faults first.
        seconds: that it took.
    """

    findings: Findings
    changes: tuple[Change, ...]
    seconds: float

    @property
    def serves(self) -> bool:
        """Whether a server would start here and serve."""
        return not any(change.fault for change in self.changes)

    def document(self) -> dict[str, Any]:
        """The same, fit for JSON."""
        found = asdict(self.findings)
        changes = [asdict(change) for change in self.changes]
        return {"serves": self.serves, **found, "changes": changes, "seconds": round(self.seconds, 2)}
