"""How often records leave a producer: often while they go to few partitions, less often with many (pure).

Records that leave together are one request. It holds one batch per partition of a topic that has records.
A request or a batch costs the producer and the broker about as much as some dozens of records.
With 60 partitions, a request every few milliseconds would cost more than its records.
So each release is charged with its cost, and the next release waits until the cost is paid.
"""

from __future__ import annotations

# Seconds charged for a request and for each batch in it: about five times their cost in the producer's profile.
# So they take at most a fifth of a core. Chosen by the latency quantiles at 2,500 and 25,000 records a second,
# together with the bounds below.
REQUEST_S, BATCH_S = 0.002, 0.0003
# Bounds of the time between two releases, seconds, whatever was charged.
LEAST_S, MOST_S = 0.004, 0.014


class Pace:
    """When records may leave next; times are seconds of one clock."""

    def __init__(self) -> None:
        self._due = 0.0

    def due(self, now: float) -> bool:
        """Return True when records may leave."""
        return now >= self._due

    def spent(self, now: float, batches: int) -> None:
        """Charge for records that leave now in so many batches, whether that was due or not (a mark does not wait)."""
        paid = max(self._due, now) + REQUEST_S + batches * BATCH_S
        self._due = min(max(paid, now + LEAST_S), now + MOST_S)
