"""The benchmark: this library and its peers, side by side on the same servers. `python -m benchmarks`."""
