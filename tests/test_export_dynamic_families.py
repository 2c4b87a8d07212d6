"""Families of transformers at every size: as the library computes them, at sizes that no proof has run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import family_checkpoints as families
import numpy as np
import onnxruntime as ort
import pytest
import torch
import transformers
from torch import Tensor

from vitral.errors import UnsupportedError
from vitral_export import artifact, structure, verify
from vitral_export import preprocessing as contracts
from vitral_export.dynamic_size import widened
from vitral_export.families import table
from vitral_export.loaded import Loaded, Options
from vitral_export.sources import given, load
from vitral_export.wrap import Inference

ONE_SIZE = {
    "beit": "BeitModel is static: a beit model is right at its native size only",
    "vit mae": "ViTMAEModel is static: a vit_mae model puts the patches of one size in order",
}
PROVEN = "dinov2 with registers"
"""Goes through the whole proof here: its positions are written anew for the graph."""

NEVER_RUN = ((12, 28), (28, 12), (4, 32), (48, 40))
"""Height and width; the first two have as many patches."""


def of(name: str, folder: Path) -> Loaded:
    return load(f"hf:{families.save(name, folder / 'checkpoint')}", Options())


def wide(name: str, folder: Path) -> tuple[Inference, Any]:
    """A family's model of any size with a preprocessing contract, and what was written of it."""
    loaded = replace(of(name, folder), preprocessing=contracts.default(families.SIDE), undecided="")
    sized = widened(loaded)
    wrapped = Inference(sized)
    (folder / "graphs").mkdir()
    return wrapped, artifact.write_graphs(folder / "graphs", wrapped, sized, name="m", opset=20)


def library(loaded: Loaded, rows: Tensor) -> Tensor:
    """The last hidden state, by the library's own forward in float64."""
    family = table.of_module(loaded.module)
    assert family is not None
    asked = family.positions.name == "ON_REQUEST"
    how = {"interpolate_pos_encoding": True} if asked else {}
    with torch.inference_mode():
        found: Tensor = loaded.module.double()(pixel_values=rows.double(), **how).last_hidden_state
    return found


def test_a_family_is_proven_at_every_size(tmp_path: Path) -> None:
    wrapped, spec = wide(PROVEN, tmp_path)
    folder = tmp_path / "graphs"
    proven = verify.prove(folder, spec, wrapped).proof
    assert [(size.height, size.width) for size in proven.sizes][1:3] == [(20, 52), (52, 20)]
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    own = of(PROVEN, tmp_path / "again")
    for height, width in NEVER_RUN:
        rows = torch.randn(2, 3, height, width)
        (found,) = session.run(["last_hidden_state"], {"pixel_values": rows.numpy()})
        truth = library(own, rows).numpy()
        assert found.shape == truth.shape
        assert np.linalg.norm(found - truth) <= 3e-6 * np.linalg.norm(truth)


def test_rotary_positions_are_computed_in_the_graph_as_the_module_does(tmp_path: Path) -> None:
    wrapped, spec = wide("dinov3", tmp_path)
    twin = structure.compared(spec)[1]
    own = structure.read(wrapped, spec, size=twin)
    assert [step.kind for step in own.steps].count("Cos") == 1
    assert structure.compare(tmp_path / "graphs", spec, own, size=twin) == []


@pytest.mark.parametrize("name", ONE_SIZE)
def test_a_family_of_one_size_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match=ONE_SIZE[name]):
        widened(of(name, tmp_path))


def test_a_model_that_is_not_square_is_refused_where_its_library_takes_it_for_square() -> None:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=40,
        image_size=[16, 64],
        patch_size=4,
    )
    loaded = given(transformers.ViTModel(config), Options(outputs=("last_hidden_state",)))
    message = "gives other values of last_hidden_state at its native 16 x 64 too"
    with pytest.raises(UnsupportedError, match=f"ViTModel is static: asked for any size, it {message}"):
        widened(loaded)
