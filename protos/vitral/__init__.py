"""The contract of vitral: protos, errors, limits, tensors, spec and result type."""

from vitral.errors import ImageError, ImageErrors, VitralError
from vitral.results import Embedding, Timings

__version__ = "0.1.0"
__all__ = ["Embedding", "ImageError", "ImageErrors", "Timings", "VitralError", "__version__"]
