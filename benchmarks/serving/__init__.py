"""The server under load, beside its limit and its peers, in one interleaved run."""
