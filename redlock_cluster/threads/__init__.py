"""How synchronous callers reach the event loop: one background thread for each process."""
