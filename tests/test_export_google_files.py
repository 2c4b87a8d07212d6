"""Google's checkpoints that are damaged, of another kind, or hostile: each refused with one clear line."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_checkpoints as google_files
import numpy as np
import pytest
from google_checkpoints import LAYOUTS, Arrays

from vitral.errors import InvalidArgumentError, UnsupportedError, VitralError
from vitral_export.cli import main
from vitral_export.loaded import Options
from vitral_export.sources import load

BLOCK = "Transformer/encoderblock_1"
NORM = f"{BLOCK}/LayerNorm_0/scale"


class _Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


def _without(held: Arrays, start: str) -> Arrays:
    return {key: array for key, array in held.items() if not key.startswith(start)}


def _with(held: Arrays, **more: Any) -> Arrays:
    return {**held, **{key.replace("__", "/"): array for key, array in more.items()}}


def _spoilt(array: Any) -> Any:
    array = array.copy()
    array.flat[1] = np.nan
    return array


CHANGED: dict[str, tuple[str, Callable[[Arrays], Arrays], str]] = {
    "missing": ("augreg", lambda held: _without(held, NORM), f"lacks {NORM}$"),
    "a block missing": (
        "augreg",
        lambda held: _without(held, "Transformer/encoderblock_0/Mul"),
        r"lacks Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel$",
    ),
    "many missing": (
        "augreg",
        lambda held: _without(held, BLOCK + "/Mul"),
        rf"lacks {BLOCK}/MultiHeadDotProductAttention_1/\S+(, \S+){{4}} and 3 more$",
    ),
    "one more": (
        "augreg",
        lambda held: _with(held, Transformer__extra=held["cls"]),
        "has unknown Transformer/extra$",
    ),
    "a head that no output comes from": (
        "augreg",
        lambda held: _with(held, MAPHead_0__probe=held["cls"]),
        "has unknown MAPHead_0/probe$",
    ),
    "a representation layer without a CLS token": (
        "gap",
        lambda held: _with(held, pre_logits__kernel=np.ones((24, 24)), pre_logits__bias=np.ones(24)),
        r"has unknown pre_logits/bias, pre_logits/kernel$",
    ),
    "another shape": (
        "augreg",
        lambda held: held | {NORM: np.ones(23, np.float32)},
        rf"has another shape for {NORM} \(\(23,\) for \(24,\)\)$",
    ),
    "a block less in one array": (
        "siglip",
        lambda held: (
            held
            | {
                "params/img/Transformer/encoderblock/LayerNorm_1/bias": held[
                    "params/img/Transformer/encoderblock/LayerNorm_1/bias"
                ][:1]
            }
        ),
        r"has another shape for Transformer/encoderblock/LayerNorm_1/bias \(\(1, 24\) for \(2, 24\)\)$",
    ),
    "NaN": (
        "augreg",
        lambda held: held | {NORM: _spoilt(held[NORM])},
        f"{NORM} holds NaN or Inf in 1 of 24 elements$",
    ),
    "whole numbers": (
        "augreg",
        lambda held: held | {NORM: np.ones(24, np.int32)},
        f"{NORM} is int32, float32, float16 or bfloat16 is expected$",
    ),
    "float64": (
        "augreg",
        lambda held: held | {NORM: np.ones(24)},
        f"{NORM} is float64, float32, float16 or bfloat16 is expected$",
    ),
    "pickled": (
        "augreg",
        lambda held: held | {NORM: np.array([_Bomb()] * 24, dtype=object)},
        f"{NORM} cannot be loaded: Object arrays cannot be loaded when allow_pickle=False$",
    ),
    "no square grid": (
        "augreg",
        lambda held: held | {"Transformer/posembed_input/pos_embedding": np.ones((1, 8, 24), np.float32)},
        "has 8 positions, which are no square grid$",
    ),
    "heads of another width": (
        "augreg",
        lambda held: (
            held
            | {
                "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": np.ones(
                    (24, 3, 7), np.float32
                )
            }
        ),
        "query/kernel is 24 x 3 x 7: its heads are not of 24 in all$",
    ),
    "a patch that is a row": (
        "augreg",
        lambda held: held | {"embedding/kernel": held["embedding/kernel"].reshape(-1, 24)},
        r"embedding/kernel is \(48, 24\), 4 axes are expected$",
    ),
    "a patch that is no square": (
        "augreg",
        lambda held: held | {"embedding/kernel": np.ones((4, 8, 3, 24), np.float32)},
        "has patches of 4 x 8: they have to be square$",
    ),
    "another model": (
        "augreg",
        lambda held: {"stem/kernel": held["embedding/kernel"]},
        "has no embedding/kernel: it is no Vision Transformer; it holds stem/kernel",
    ),
    "nothing": ("augreg", lambda _: {}, "has no embedding/kernel: it is no Vision Transformer$"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_other_arrays_are_refused_by_name(tmp_path: Path, what: str) -> None:
    layout, change, message = CHANGED[what]
    file = google_files.save(tmp_path / "file.npz", change(google_files.arrays(LAYOUTS[layout])))
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        load(f"npz:{file}", Options())
    assert str(caught.value).startswith("npz:")
    assert "\n" not in str(caught.value)


def test_a_hybrid_is_refused_by_name(tmp_path: Path) -> None:
    held = google_files.arrays(LAYOUTS["augreg"]) | {"conv_root/kernel": np.ones((7, 7, 3, 64), np.float32)}
    file = google_files.save(tmp_path / "hybrid.npz", held)
    with pytest.raises(UnsupportedError, match=r"is a hybrid: a ResNet \(conv_root/kernel\) makes its"):
        load(f"npz:{file}", Options())


def _bytes(held: Arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **held)
    return stream.getvalue()


def _damaged(held: Arrays) -> bytes:
    """One byte of the values of an array is another."""
    whole = _bytes(held)
    at = whole.index(held[NORM].tobytes())
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda held: _bytes(held)[:-100], "cannot be loaded: File is not a zip file"),
        (lambda held: _bytes(held)[: len(_bytes(held)) // 2], "cannot be loaded: File is not a zip file"),
        (lambda _: b"", "cannot be loaded: File is not a zip file"),
        (lambda _: pickle.dumps(_Bomb()), "cannot be loaded: File is not a zip file"),
        (_damaged, f"{NORM} cannot be loaded: Bad CRC-32 for file '{NORM}.npy'"),
    ],
    ids=["end cut off", "half", "empty", "pickle", "damaged"],
)
def test_damaged_files_are_refused_in_one_line(
    refusal: Callable[..., str], tmp_path: Path, make: Callable[[Arrays], bytes], message: str
) -> None:
    file = tmp_path / "file.npz"
    file.write_bytes(make(google_files.arrays(LAYOUTS["augreg"])))
    assert message in refusal(f"npz:{file}")


@pytest.mark.parametrize("name", ["npz:", "npz:/no/such/file.npz"])
def test_a_file_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name}: there is no such file"):
        load(name, Options())


@pytest.mark.parametrize(
    "options", [Options(img_size=8), Options(patch_size=4), Options(weights="x"), Options(revision="main")]
)
def test_what_the_file_says_itself_cannot_be_said(tmp_path: Path, options: Options) -> None:
    file = google_files.save(tmp_path / "file.npz", google_files.arrays(LAYOUTS["augreg"]))
    with pytest.raises(InvalidArgumentError, match="takes no --"):
        load(f"npz:{file}", options)


@pytest.mark.parametrize("source", ["patch-embedding", "vit-tiny", "hf:somewhere", "timm:vit", "python:a:b"])
def test_only_these_files_are_exact(source: str) -> None:
    with pytest.raises(VitralError, match="takes no --jax-exact"):
        load(source, Options(jax_exact=True))


def test_the_command_says_which_arithmetic_is_whose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "as it was trained, with LayerNorm eps 1e-6 and tanh GELU" in said
