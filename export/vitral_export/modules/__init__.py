"""The embedding modules that vitral exports."""

from vitral_export.modules.patch_embedding import PatchEmbedding

__all__ = ["PatchEmbedding"]
