"""Connections to servers: what is sent together, whose reply is whose, how they are kept alive. Knows no locks."""
