"""Options: what can be set, how it is checked, and how it is read from a file.

model: the options, their defaults and meaning
kinds: how each kind of value is read
problems: what is wrong, with paths
build: from plain data to options
file: YAML, `${VAR}` and mappings
"""

from redlock_cluster.options.file import load_options
from redlock_cluster.options.model import DeploymentOptions, GroupOptions, Options, ServerOptions, json_schema

__all__ = ["DeploymentOptions", "GroupOptions", "Options", "ServerOptions", "json_schema", "load_options"]
