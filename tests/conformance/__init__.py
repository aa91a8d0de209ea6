"""One suite over {asyncio, sync} x real servers of several versions; it knows the specification, not the code."""
