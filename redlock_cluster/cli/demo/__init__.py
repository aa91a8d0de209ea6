"""`redlock-cluster demo`: processes that contend for locks while servers fail, and a check that none overlap.

Times are seconds; they follow from the ttl of its locks.
"""

import math
from typing import Final

__all__ = ["AWAY", "BEGIN", "SHORTEST", "TTL"]

TTL: Final = 2.0
AWAY: Final = TTL + 0.5
"""How long a killed server stays away at least. It restarts empty; every lock that it granted has run out by then."""
BEGIN: Final = 0.3
"""The share of the demo that passes before servers are killed."""
SHORTEST: Final = math.ceil((AWAY + 1.5) / (1 - BEGIN))
"""The shortest demo that leaves some time after their restart."""
