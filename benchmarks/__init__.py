"""What is measured, and the faults that the verifier is held to."""
