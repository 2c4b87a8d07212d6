"""What is known about one family of Vision Transformers in transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, nn

from vitral.v1 import model_pb2 as pb
from vitral_export.loaded import PREFIXES


class Positions(Enum):
    """What a family's own forward does with images of another size than its positions are for."""

    FIXED = "refuses them, or is wrong"
    ON_REQUEST = "interpolates when it is called with interpolate_pos_encoding=True"
    BY_ITSELF = "interpolates, or computes positions, without being asked"


@dataclass(frozen=True)
class Pooled:
    """What `pooler_output` of a model is.

    Attributes:
        meaning: in one line.
        width: its length.
    """

    meaning: str
    width: int


@dataclass(frozen=True)
class Family:
    """One family: what its checkpoints are called, and where the parts of its models are found.

    Attributes:
        model_type: what config.json calls its models.
        cls: the class of transformers that is exported; of models with two towers, that of images.
        block: class of its blocks.
        pooler: what `pooler_output` of a model is; None where it has none.
        processors: the image processors that its checkpoints name.
        positions: what it does with images of other sizes.
        two_towers: model_type of checkpoints that hold a text tower too, and have `vision_config`.
        prefix: its tokens in front of the patches by the names of `PREFIXES`; `register` stands for as many
            as the config says.
        patches: path of what makes the patch tokens, (B, N, D) or (B, D, H, W).
        embeddings: path of what makes the tokens that the encoder takes.
        norm: path of the last LayerNorm, as the model has it.
        norm_is_last: whether `last_hidden_state` went through it.
        cls_token: name of the CLS token's parameter.
        position_table: name of the parameter with the positions.
        pooler_keys: how the names of the pooler's parameters begin.
        unused_keys: how the names of weights begin that no output comes from: heads, decoders, text towers.
        unused_leaves: how they end: mask tokens, indices.
        shuffles: whether its forward hides and shuffles patches unless it is told not to.
    """

    model_type: str
    cls: str
    block: str
    pooler: Callable[[Any], Pooled | None]
    processors: tuple[str, ...]
    positions: Positions
    two_towers: str = ""
    prefix: tuple[str, ...] = ("cls",)
    patches: str = "embeddings.patch_embeddings"
    embeddings: str = "embeddings"
    norm: str = "layernorm"
    norm_is_last: bool = True
    cls_token: str = "embeddings.cls_token"  # noqa: S105 - a token of an image
    position_table: str = "embeddings.position_embeddings"
    pooler_keys: tuple[str, ...] = ()
    unused_keys: tuple[str, ...] = ("classifier.", "decoder.")
    unused_leaves: tuple[str, ...] = ("mask_token", "position_ids", "relative_position_index")
    shuffles: bool = False

    @property
    def interpolates(self) -> bool:
        """Whether its own forward takes images of other sizes, with positions that fit them."""
        return self.positions is not Positions.FIXED

    def prefix_tokens(self, config: Any) -> list[pb.PrefixToken.ValueType]:
        """The tokens in front of the patches of a model with this config."""
        counts = [config.num_register_tokens if name == "register" else 1 for name in self.prefix]
        return [PREFIXES[name] for name, count in zip(self.prefix, counts, strict=True) for _ in range(count)]

    def is_unused(self, key: str) -> bool:
        """Whether no output comes from the weight of this name."""
        return key.startswith(self.unused_keys) or self.has_no_effect(key)

    def has_no_effect(self, key: str) -> bool:
        """Whether no output would come from the weight of this name, if the model has it."""
        return key.endswith(self.unused_leaves)

    def is_of_pooler(self, key: str) -> bool:
        """Whether only `pooler_output` comes from the weight of this name."""
        return key.startswith(self.pooler_keys)

    def projection(self, model: nn.Module) -> nn.Conv2d:
        """The convolution that embeds the patches."""
        place: Any = model.get_submodule(self.patches)
        found: nn.Conv2d = place if isinstance(place, nn.Conv2d) else place.projection
        return found

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """The blocks of the encoder, in order."""
        return [part for part in model.modules() if type(part).__name__ == self.block]

    def last_norm(self, model: nn.Module) -> nn.Module | None:
        """The last LayerNorm over all tokens; None where the model has none."""
        place: nn.Module = model.get_submodule(self.norm)
        return None if isinstance(place, nn.Identity) else place

    def tokens(self, patches: Tensor) -> Tensor:
        """Patch tokens (B, N, D), of what `patches` makes."""
        return patches.flatten(2).transpose(1, 2) if patches.dim() == 4 else patches  # B D H W -> B N D
