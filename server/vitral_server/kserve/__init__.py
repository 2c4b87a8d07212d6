"""The KServe v2 protocol as Triton speaks it, beside vitral's own service and through the same engine."""
