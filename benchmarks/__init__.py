"""Our models and their peers, side by side: `python -m benchmarks`."""
