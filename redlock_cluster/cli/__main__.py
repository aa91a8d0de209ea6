"""`python -m redlock_cluster.cli` is the `redlock-cluster` command."""

from redlock_cluster.cli.main import main

if __name__ == "__main__":
    main()
