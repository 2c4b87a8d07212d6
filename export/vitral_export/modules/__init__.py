"""The embedding modules that vitral exports."""

from vitral_export.modules.manual_patch_embedding import ManualPatchEmbedding
from vitral_export.modules.patch_creation import visualize_patch_creation
from vitral_export.modules.patch_embedding import PatchEmbedding
from vitral_export.modules.position_embedding_2d import PatchEmbedding2DPosition, ViT2DPositionEmbedding
from vitral_export.modules.vit_embedding import ViTEmbedding

__all__ = [
    "ManualPatchEmbedding",
    "PatchEmbedding",
    "PatchEmbedding2DPosition",
    "ViT2DPositionEmbedding",
    "ViTEmbedding",
    "visualize_patch_creation",
]
