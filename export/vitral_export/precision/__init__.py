"""Other precisions than float32: what each does to a graph, to the steps it must have, and to PyTorch."""
