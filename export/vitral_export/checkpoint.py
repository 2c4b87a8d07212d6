"""State dicts from files, and how they get into a module. Safetensors only: a pickle can run anything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vitral.errors import InvalidArgumentError
from vitral_engine.artifact import sha256_file

_SHOWN = 5
_EXACT = (torch.float32, torch.float16, torch.bfloat16)  # the halves widen to float32 without rounding


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        InvalidArgumentError: there is no such file, or it is something else.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidArgumentError(f"there is no file {file}")
    if file.suffix != ".safetensors":
        raise InvalidArgumentError(
            f"{file} is not a .safetensors file: pickled weights (.pt, .pth, .bin) can run any code and are "
            "never loaded; safetensors.torch.save_file(model.state_dict(), 'model.safetensors') converts them"
        )
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, ValueError) as error:
        raise InvalidArgumentError(f"{file} cannot be read as safetensors: {error}") from None
    return tensors


def sha256(files: Iterable[Path]) -> str:
    """sha256 (hex) of the file of a checkpoint; of several, over their hashes in the order of their names."""
    found = [sha256_file(file) for file in sorted(files)]
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def fill(module: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Puts a state dict into a module, every tensor of it and no other.

    Raises:
        InvalidArgumentError: names are missing or left over, or a shape or dtype is another.
    """
    own: Mapping[str, Tensor] = module.state_dict()
    indices = {name for name, tensor in own.items() if not tensor.is_floating_point()}
    problems = {
        "has no": [name for name in own if name not in state and name not in indices],
        "has, and the module has not,": [name for name in state if name not in own],
    }
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise InvalidArgumentError(f"{where} {what} {', '.join(names[:_SHOWN])}{more}")
    for name, tensor in state.items():
        if name in indices:
            continue
        if tensor.shape != own[name].shape:
            raise InvalidArgumentError(
                f"{where}: {name} is {tuple(tensor.shape)}, the module's is {tuple(own[name].shape)}"
            )
        if tensor.dtype not in _EXACT:
            raise InvalidArgumentError(f"{where}: {name} is {tensor.dtype}, torch.float32 is expected")
    module.load_state_dict(state)
