"""Row and column positions alone: the one source whose input is tokens."""

from __future__ import annotations

import numpy as np
from torch import nn

from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_export.families.embedding import named_outputs
from vitral_export.loaded import Kind, Loaded, Options, axes, float_output, sizes_of
from vitral_export.modules import ViT2DPositionEmbedding


def _make(options: Options) -> nn.Module:
    options.refuse("position-embedding-2d", ["in_channels"])
    return ViT2DPositionEmbedding(
        options.size("img_size"), options.size("patch_size"), options.size("embed_dim")
    )


def _describe(module: nn.Module, source: pb.Source) -> Loaded:
    assert isinstance(module, ViT2DPositionEmbedding)
    shape = axes(batch=0, token=module.num_patches, feature=module.embed_dim)
    tokens = pb.GraphInput(name="patch_embeddings", dtype=tensor_pb2.DATA_TYPE_FLOAT32, axes=shape)
    meaning = "the patch tokens that were given, with the embeddings of their rows and columns"
    table = np.ascontiguousarray(module.table().detach().cpu().numpy())
    image, patch = (module.img_size,) * 2, (module.patch_size,) * 2
    return Loaded(
        module=module,
        compute=named_outputs,
        input=tokens,
        outputs=(float_output("embeddings", shape, meaning=meaning),),
        architecture=sizes_of(module, image=image, patch=patch, channels=0, width=module.embed_dim),
        source=source,
        preprocessing=None,
        embedding={"position_embedding": table},
    )


POSITION_EMBEDDING_2D = Kind(
    name="position-embedding-2d",
    summary="patch tokens -> the same with row and column positions added",
    make=_make,
    describe=_describe,
    module=ViT2DPositionEmbedding,
)
