"""What is measured against what, one command each; results are committed in ``benchmarks/results``."""
