"""What decides: pure functions and state machines without asyncio, clocks, randomness, I/O or logging."""
