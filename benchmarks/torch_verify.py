"""The planted faults through torch's own check, `torch.onnx.export(..., verify=True)`, beside both nets.

    python -m benchmarks.torch_verify [FAULT ...]

Each fault is in the graph before torch judges it: the written file takes the place of what torch has made,
where its optimiser would run. The example, two images of noise, is the one that torch compares with.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import onnx
import onnx_ir
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.faults import FAULTS
from benchmarks.faults.models import Sound, export
from benchmarks.faults.nets import Nets
from benchmarks.faults.planting import Fault
from vitral import spec as specs
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export.onnx_graph import DEFAULT_OPSET, TRACED_BATCH
from vitral_export.trace import quiet_exporter

PASSES, WARNS, WARNS_RELATIVE, BROKEN = "passes", "warns", "warns (relative)", "says nothing"
_ACCURATE, _RUN = "Verify output accuracy... ✅", "Execute the model with ONNX Runtime... ✅"


class Pixels(nn.Module):
    """What a uint8 graph is to compute, as one would write it in torch: normalise, then the module."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, preprocessing: pb.Preprocessing) -> None:
        super().__init__()
        self.module = module
        self.rescale = preprocessing.rescale_factor
        self.register_buffer("mean", torch.tensor(list(preprocessing.mean))[:, None, None])
        self.register_buffer("std", torch.tensor(list(preprocessing.std))[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the module for uint8 pixels (B, H, W, 3)."""
        rows = pixels.permute(0, 3, 1, 2).float() * self.rescale  # B H W C -> B C H W
        outputs: tuple[Tensor, ...] = self.module((rows - self.mean) / self.std)
        return outputs


def judged(sound: Sound, file: str, folder: Path) -> str:
    """What torch says of the graph `file` in `folder`; whatever it is, the export goes on and returns.

    `PASSES`; `WARNS`, where an output is off by 5e-3 or more; `WARNS_RELATIVE`, where only the quotient of an
    error and a value, which may be next to nothing, is 0.1 or more; `BROKEN`, where onnxruntime cannot run
    the graph: that is neither raised nor logged, a cross is printed where `verbose` is on.
    """
    graph = next(item for item in sound.spec.graphs if item.file == file)
    planted = onnx_ir.from_proto(onnx.load(folder / file))

    def in_its_place(program: torch.onnx.ONNXProgram) -> None:
        program.model = planted

    module = Pixels(sound.wrapped, sound.spec.preprocessing) if graph.input.folded else sound.wrapped
    printed = io.StringIO()
    with (
        mock.patch.object(torch.onnx.ONNXProgram, "optimize", in_its_place),
        contextlib.redirect_stdout(printed),
        quiet_exporter(),
        _heard() as warnings,
    ):
        torch.onnx.export(
            module.eval(),
            (_example(graph),),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            opset_version=DEFAULT_OPSET,
            input_names=[graph.input.name],
            output_names=list(graph.outputs),
            verify=True,
            verbose=True,
        )
    if warnings:
        return WARNS if any("absolute" in warning for warning in warnings) else WARNS_RELATIVE
    if _RUN not in printed.getvalue():
        return BROKEN
    assert _ACCURATE in printed.getvalue(), printed.getvalue()
    return PASSES


def _example(graph: pb.Graph) -> Tensor:
    """Two images of noise, which is what the documentation's examples take."""
    shape = [axis.size or TRACED_BATCH for axis in graph.input.axes]
    source = torch.Generator().manual_seed(0)
    if graph.input.dtype == tensor_pb2.DATA_TYPE_UINT8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
    return torch.randn(shape, generator=source)


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """What torch's exporter warns of."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("torch.onnx._internal.exporter._core")
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def rows(faults: Sequence[Fault]) -> Iterator[tuple[str, str, str, str, str]]:
    """Fault, model, structure, numbers, torch: one row after the other, that of the sound model first."""
    with tempfile.TemporaryDirectory() as scratch:
        for model in dict.fromkeys(fault.model for fault in faults):
            sound = export(model, Path(scratch) / model / "sound")
            nets = Nets(sound)
            for fault in (None, *(item for item in faults if item.model == model)):
                folder = Path(scratch) / model / (fault.name if fault else "none")
                shutil.copytree(sound.folder, folder)
                if fault:
                    fault.plant(folder)
                file = fault.files[0] if fault else specs.whole_graph(sound.spec, sound.spec.graphs[0]).file
                caught = nets.caught(folder)
                nothing = "not seen" if fault else "nothing"
                structure, numbers = ("caught" if caught[net] else nothing for net in caught)
                what = fault.what if fault else "none"
                yield what, model, structure, numbers, judged(sound, file, folder)


def main() -> int:
    """Prints the table, as it stands in docs/verification.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"from {', '.join(FAULTS)} (default: all)")
    args = parser.parse_args()
    if unknown := [name for name in args.faults if name not in FAULTS]:
        parser.error(f"unknown fault {unknown[0]}")
    onnxruntime.set_default_logger_severity(4)  # torch asks for CUDA where onnxruntime was built for it
    print("| fault | model | structure | numbers | torch's `verify=True` |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows([FAULTS[name] for name in args.faults or FAULTS]):
        print(f"| {' | '.join(row)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
