"""Version 1 of the protos, with their generated code."""
