"""The engine in a deterministic simulation: random histories with faults, checked after every step."""
