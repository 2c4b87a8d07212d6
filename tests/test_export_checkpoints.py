"""Checkpoints that are not there, not whole, or not to be trusted: one line, and nothing changes or runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import vit_checkpoints as vits
from safetensors.torch import load_file

from vitral_export.cli import main


class Trap:
    """Runs a command where it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sprung),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint, and one in shards beside it."""
    folder = tmp_path_factory.mktemp("whole")
    vits.save(folder / "shards", vits.model(vits.OTHER), max_shard_size="20KB")
    return vits.save(folder / "whole", vits.model(vits.OTHER))


def without(folder: Path, file: str) -> None:
    (folder / file).unlink()


def rewritten(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)


def configured(folder: Path, **config: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


def cut(folder: Path, length: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])


def with_tensor(folder: Path, name: str, tensor: torch.Tensor) -> None:
    vits.change(folder, lambda state: state | {name: tensor})


def without_tensors(folder: Path, part: str) -> None:
    vits.change(folder, lambda state: {name: held for name, held in state.items() if part not in name})


def overflowing(folder: Path) -> None:
    vits.change(folder, lambda state: state | {"embeddings.cls_token": torch.full((1, 1, 32), 3e38)})


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda f: without(f, "config.json"), "has no config.json"),
    "config is no JSON": (lambda f: rewritten(f, "config.json", "{"), "config.json is not JSON"),
    "config is a list": (lambda f: rewritten(f, "config.json", "[]"), "config.json holds no JSON object"),
    "no weights": (lambda f: without(f, "model.safetensors"), "has no model.safetensors"),
    "half the weights": (lambda f: cut(f, 20_000), "model.safetensors cannot be loaded"),
    "empty weights": (lambda f: cut(f, 0), "model.safetensors cannot be loaded"),
    "BERT": (lambda f: configured(f, model_type="bert"), "is a bert model, which takes input_ids, no images"),
    "DINOv2": (lambda f: configured(f, model_type="dinov2"), "lacks encoder.layer.0."),
    "nobody's": (
        lambda f: configured(f, model_type="fancy"),
        "cannot be loaded: The checkpoint you are trying to load has model type `fancy`",
    ),
    "no type": (lambda f: configured(f, model_type=None), "is of no model_type; known are vit"),
    "its own code": (
        lambda f: configured(f, model_type="x", auto_map={"AutoConfig": "code.Config"}),
        "cannot be loaded: The repository",
    ),
    "quantised": (lambda f: configured(f, quantization_config={"bits": 4}), "is quantised"),
    "an adapter": (lambda f: rewritten(f, "adapter_config.json", "{}"), "has an adapter"),
    "a size of letters": (lambda f: configured(f, image_size="big"), "cannot be loaded: Validation error"),
    "no patch": (lambda f: configured(f, patch_size=0), "cannot be loaded: integer division"),
    "three sides": (lambda f: configured(f, image_size=[32, 32, 3]), "a size has height and width, not"),
    "too large": (lambda f: configured(f, image_size=8 * 10**5), "values, the most is 536870911"),
    "no such activation": (lambda f: configured(f, hidden_act="shout"), "there is no 'shout'"),
    "a weight less": (
        lambda f: without_tensors(f, "layernorm_before.weight"),
        "lacks layers.0.layernorm_before.weight",
    ),
    "a weight more": (
        lambda f: with_tensor(f, "embeddings.more", torch.ones(2)),
        "has unknown embeddings.more",
    ),
    "another shape": (
        lambda f: with_tensor(f, "embeddings.cls_token", torch.ones(1, 1, 31)),
        "has another shape for embeddings.cls_token ((1, 1, 31) for (1, 1, 32))",
    ),
    "integers": (
        lambda f: with_tensor(f, "embeddings.cls_token", torch.ones(1, 1, 32, dtype=torch.int8)),
        "embeddings.cls_token is I8, one of F32, F16, BF16 is expected",
    ),
    "doubles": (
        lambda f: with_tensor(f, "embeddings.cls_token", torch.ones(1, 1, 32, dtype=torch.float64)),
        "embeddings.cls_token is F64",
    ),
    "NaN": (
        lambda f: with_tensor(f, "embeddings.cls_token", torch.full((1, 1, 32), float("nan"))),
        "weight embeddings.cls_token holds NaN or Inf in 32 of 32 elements",
    ),
    "overflow": (overflowing, "the module itself gives NaN or Inf in last_hidden_state"),
    "no preprocessing": (
        lambda f: without(f, "preprocessor_config.json"),
        "has no preprocessor_config.json: --preprocessing FILE.json says",
    ),
    "preprocessing is no JSON": (lambda f: rewritten(f, "preprocessor_config.json", "{"), "not a valid JSON"),
    "another size": (
        lambda f: rewritten(f, "preprocessor_config.json", '{"size": {"height": 64, "width": 64}}'),
        "preprocessing gives 64 x 64, the module takes 32 x 32",
    ),
    "another's processor": (
        lambda f: rewritten(f, "preprocessor_config.json", '{"image_processor_type": "DonutImageProcessor"}'),
        "'DonutImageProcessor' is no image processor of a ViT",
    ),
    "padding": (
        lambda f: rewritten(f, "preprocessor_config.json", '{"size": 32, "do_pad": true}'),
        "do_pad is true",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_told_in_one_line(
    whole: Path, tmp_path: Path, refusal: Callable[..., str], fault: str
) -> None:
    breaking, message = BROKEN[fault]
    folder = vits.copy(whole, tmp_path / "broken")
    breaking(folder)
    assert message in refusal(f"hf:{folder}")


def trapped(name: str, whole: Path, folder: Path, pickled: bytes) -> None:
    """A checkpoint whose weights are a pickle, by every road that leads to one."""
    if name == "index":
        shutil.copytree(whole.parent / "shards", folder)
        index = folder / "model.safetensors.index.json"
        held = json.loads(index.read_text())
        index.write_text(json.dumps(held | {"weight_map": dict.fromkeys(held["weight_map"], "x.bin")}))
        (folder / "x.bin").write_bytes(pickled)
        return
    vits.copy(whole, folder, **({"transformers_weights": "adapter_model.bin"} if name == "config" else {}))
    (folder / ("adapter_model.bin" if name == "config" else "pytorch_model.bin")).write_bytes(pickled)
    if name == "renamed":
        (folder / "model.safetensors").write_bytes(pickled)
    if name in ("alone", "distributed"):
        (folder / "model.safetensors").unlink()
    if name == "distributed":
        (folder / ".metadata").write_bytes(pickled)
        shutil.copy(whole / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors")


@pytest.mark.parametrize("name", ["alone", "config", "distributed", "index", "renamed"])
def test_no_pickle_is_ever_loaded(
    whole: Path, tmp_path: Path, refusal: Callable[..., str], name: str
) -> None:
    sprung = tmp_path / "sprung"
    trapped(name, whole, tmp_path / "trap", pickle.dumps(Trap(sprung)))
    said = refusal(f"hf:{tmp_path / 'trap'}")
    assert ("is pickled, can run any code and is never loaded" in said) is (name == "alone")
    assert not sprung.exists()
    pickle.loads((next((tmp_path / "trap").glob("*.bin"))).read_bytes())  # noqa: S301
    assert sprung.exists(), "the trap does not work"


def test_a_harmless_pickle_is_not_loaded_either(
    whole: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    trapped("index", whole, tmp_path / "trap", b"")
    torch.save(load_file(whole / "model.safetensors"), tmp_path / "trap" / "x.bin")
    assert "leads to 'x.bin', no safetensors file beside it" in refusal(f"hf:{tmp_path / 'trap'}")


def test_a_lost_shard_is_named(whole: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    folder = shutil.copytree(whole.parent / "shards", tmp_path / "shards")
    lost = sorted(folder.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert f"has no {lost.name}, which its model.safetensors.index.json leads to" in refusal(f"hf:{folder}")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("hf:", [], "hf: needs a name or a folder behind it"),
        ("hf:no/such/folder", [], "there is no folder no/such/folder"),
        ("hf:./nowhere", [], "there is no folder ./nowhere"),
        ("hf:a name!", [], "hf:a name! cannot be loaded: Repo id must use"),
        ("hf:{whole}", ["--revision", "v1"], "is a folder: it has no revision v1"),
        ("hf:{whole}", ["--img-size", "32"], "takes no --img-size"),
        ("hf:{whole}", ["--weights", "x.safetensors"], "takes no --weights"),
        ("hf:{whole}", ["--prefix-tokens", "cls"], "takes no --prefix-tokens"),
        ("hf:{whole}", ["--outputs", "logits"], "there is no output 'logits'; known are last_hidden_state"),
        ("hf:{whole}", ["--allow-untrained", "logits"], "there is no output 'logits'"),
        ("patch-embedding", ["--revision", "v1"], "takes no --revision"),
    ],
)
def test_what_cannot_be_is_refused(
    whole: Path, refusal: Callable[..., str], source: str, options: list[str], message: str
) -> None:
    assert message in refusal(source.format(whole=whole), *options)


@pytest.mark.parametrize("choice", ["none", "FILE"])
def test_preprocessing_that_is_said_stands_in_for_what_is_not_there(
    whole: Path, tmp_path: Path, choice: str
) -> None:
    folder = vits.copy(whole, tmp_path / "copy")
    file = (folder / "preprocessor_config.json").rename(tmp_path / "own.json")
    said = str(file) if choice == "FILE" else choice
    line = ["build", f"hf:{folder}", "--name", "m", "--repo", str(tmp_path / "models")]
    assert main([*line, "--preprocessing", said, "--outputs", "patch_embeddings"]) == 0
    manifest = json.loads((tmp_path / "models" / "m" / "1" / "manifest.json").read_text())
    assert ("preprocessing" in manifest) is (choice == "FILE")
