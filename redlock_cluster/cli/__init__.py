"""The `redlock-cluster` command. Nothing of the library imports this."""
