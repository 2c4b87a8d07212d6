"""gRPC around the engine: images in, patch-embedding tensors out."""
