"""Whether vitral works on this machine, how fast, and what to change. Runs with whatever is installed."""
