"""The benchmark: this library and its peers, measured in turns on the same servers. `python -m benchmarks`."""
