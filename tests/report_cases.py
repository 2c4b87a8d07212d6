"""Specs and runs built by hand, for pages about models of every shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_engine.measure import Errors, budget, errors
from vitral_export import histogram
from vitral_export.numbers import Run, Setting

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FLOAT, UINT8 = "model.onnx", "model_uint8.onnx"
KINDS = ("photographs", "noise", "saturated")


@dataclass(frozen=True)
class Shape:
    """What a model looks like: `outputs` are names to the number of tokens in front, None for one vector."""

    outputs: dict[str, int | None]
    image: int = 32
    patch: int = 8
    dim: int = 16
    tokens: bool = False
    graphs: Sequence[str] = (UINT8, FLOAT)
    providers: Sequence[str] = (CPU,)
    scale: float = 1e-7
    origin: pb.WeightsOrigin.ValueType = pb.WEIGHTS_ORIGIN_CHECKPOINT
    note: str = "weights of a checkpoint"
    name: str = "by-hand"

    @property
    def side(self) -> int:
        return self.image // self.patch


def axes(*pairs: tuple[str, int]) -> list[pb.Axis]:
    return [pb.Axis(name=name, size=size) for name, size in (("batch", 0), *pairs)]


def spec_of(shape: Shape, runs: Sequence[Run]) -> pb.ModelSpec:
    """The spec of such a model, with the figures of these runs."""
    spec = pb.ModelSpec(
        schema=1,
        name=shape.name,
        source=pb.Source(kind="hf", reference="folder", weights=shape.origin, weights_note=shape.note),
        architecture=_architecture(shape),
        precision="float32",
        opset=18,
        graphs=[_graph(shape, file) for file in shape.graphs],
        outputs=[_output(shape, name, front) for name, front in shape.outputs.items()],
        default_outputs=list(shape.outputs)[:1],
        proof=_proof(shape, runs),
        fingerprint="0123456789abcdef" * 4,
    )
    spec.source.libraries.update({"torch": "2.13.0", "onnx": "1.22.0"})
    if not shape.tokens:
        spec.preprocessing.CopyFrom(_preprocessing(shape.image))
    return spec


def runs_of(
    shape: Shape, *, batches: Sequence[int] = (1, 2, 16), levels: Sequence[str] = ("basic", "all")
) -> list[Run]:
    """Runs of such a model with errors of about `scale` of the rms, the same at every call."""
    random = np.random.default_rng(7)
    kinds = KINDS[1:] if shape.tokens else KINDS
    runs = []
    for file in shape.graphs:
        for provider in shape.providers:
            for level in levels:
                for threads in (1, 2):
                    for batch in batches:
                        setting = Setting(provider, level, threads, batch)
                        runs += [
                            _run(shape, file, name, kind, setting, random)
                            for name in shape.outputs
                            for kind in kinds
                        ]
    return runs


def _run(shape: Shape, file: str, name: str, kind: str, setting: Setting, random: np.random.Generator) -> Run:
    front = shape.outputs[name]
    size = (2, shape.dim) if front is None else (2, shape.side**2 + front, shape.dim)
    truth = random.standard_normal(size)
    gap = random.standard_normal(size) * shape.scale
    found = errors(truth + gap, truth)
    torch = errors(truth + random.standard_normal(size) * shape.scale, truth)
    alone = Errors(0.0, 0.0, (0,) * len(size), 0.0, 0.0, found.rms)
    return Run(
        graph=file,
        output=name,
        kind=kind,
        setting=setting,
        errors=found,
        alone=alone if setting.batch < 16 else errors(truth + gap / 3, truth),
        torch=torch,
        over=0.0,
        histogram=histogram.count(gap, found.rms),
        budget=budget(torch),
    )


def _architecture(shape: Shape) -> pb.Architecture:
    return pb.Architecture(
        module="ViTModel",
        image_size=tensor_pb2.ImageSize(height=shape.image, width=shape.image),
        patch_size=tensor_pb2.ImageSize(height=shape.patch, width=shape.patch),
        in_channels=3,
        embed_dim=shape.dim,
        grid=tensor_pb2.Grid(height=shape.side, width=shape.side),
    )


def _graph(shape: Shape, file: str) -> pb.Graph:
    side = shape.image
    if shape.tokens:
        entry = pb.GraphInput(
            name="patch_embeddings",
            dtype=tensor_pb2.DATA_TYPE_FLOAT32,
            axes=axes(("token", shape.side**2), ("feature", shape.dim)),
        )
    elif file == UINT8:
        entry = pb.GraphInput(
            name="pixels",
            dtype=tensor_pb2.DATA_TYPE_UINT8,
            axes=axes(("height", side), ("width", side), ("channel", 3)),
            folded=True,
        )
    else:
        entry = pb.GraphInput(
            name="pixel_values",
            dtype=tensor_pb2.DATA_TYPE_FLOAT32,
            axes=axes(("channel", 3), ("height", side), ("width", side)),
        )
    return pb.Graph(file=file, input=entry, outputs=list(shape.outputs))


def _output(shape: Shape, name: str, front: int | None) -> pb.Output:
    if front is None:
        return pb.Output(
            name=name,
            dtype=tensor_pb2.DATA_TYPE_FLOAT32,
            axes=axes(("feature", shape.dim)),
            trained=True,
            meaning="the CLS token through a dense layer and tanh",
        )
    kinds = [pb.PREFIX_TOKEN_CLS, *[pb.PREFIX_TOKEN_REGISTER] * (front - 1)][:front]
    return pb.Output(
        name=name,
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
        axes=axes(("token", shape.side**2 + front), ("feature", shape.dim)),
        prefix_tokens=kinds,
        trained=True,
        meaning="one token for each patch",
    )


def _preprocessing(side: int) -> pb.Preprocessing:
    return pb.Preprocessing(
        contract="hf-pil",
        size=tensor_pb2.ImageSize(height=side, width=side),
        resample=pb.RESAMPLE_BILINEAR,
        rescale_factor=1 / 255,
        mean=[0.5, 0.5, 0.5],
        std=[0.5, 0.5, 0.5],
        bound="bit for bit transformers' ViTImageProcessorPil",
    )


def _proof(shape: Shape, runs: Sequence[Run]) -> pb.Proof:
    figures = [
        _figure(file, name, [run for run in runs if (run.graph, run.output) == (file, name)])
        for file in shape.graphs
        for name in shape.outputs
    ]
    worst = max(figure.torch_rel_l2 for figure in figures)
    return pb.Proof(
        status=pb.PROOF_STATUS_PROVEN,
        providers=shape.providers,
        batch_sizes=sorted({run.setting.batch for run in runs}),
        figures=figures,
        ill_conditioned=worst > 2e-6,
        torch_rel_l2=worst,
        golden_file="golden.safetensors",
        photograph=pb.GoldenPhotograph(file="photograph.jpg", credit="Photograph by nobody"),
    )


def _figure(file: str, name: str, runs: Sequence[Run]) -> pb.Figure:
    return pb.Figure(
        graph=file,
        output=name,
        rel_l2=max(run.errors.rel_l2 for run in runs),
        rel_l2_budget=max(run.budget.rel_l2 for run in runs),
        max_abs=max(run.errors.max_abs for run in runs),
        max_abs_budget=max(run.budget.max_abs for run in runs),
        torch_rel_l2=max(run.torch.rel_l2 for run in runs),
        torch_max_abs=max(run.torch.max_abs for run in runs),
    )
