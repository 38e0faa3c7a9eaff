"""How often records leave a producer: at once while they go to few partitions, less often the more there are (pure).

What leaves together is one request with a batch for each partition of a topic that has records. Building and sending the request, and each batch, costs the
producer and the broker about as much as some dozens of records do: what leaves every few milliseconds, a record or two to each of 60 partitions, keeps
them busier than the records. So each leaving is charged with what it costs, and the next one waits until that is paid for.
"""

from __future__ import annotations

# Seconds until the next leaving for a request, and for each batch in it: about five times what they cost the producer, judged by its profile, so that a fifth
# of a core is spent on them at most. Chosen by the quantiles at 2,500 and 25,000 records a second, together with the bounds below.
REQUEST_S, BATCH_S = 0.002, 0.0003
# Between two leavings, seconds, whatever was charged.
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
