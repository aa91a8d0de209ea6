"""The `redlock-cluster` command. The library does not import it."""
