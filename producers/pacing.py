"""How often records leave a producer: at once while they are few, less often the more partitions they are spread over (pure).

The client library (librdkafka 2.16) sends one request for each partition of a topic that has records, and such a request costs broker and producer
about as much as a dozen records do: 25,000 records a second that left every few milliseconds were 9,000 requests a second, more than two cores can
take beside the records, and then everything waits. So each leaving is charged with the requests that it makes, and the next one waits until they
are paid for.
"""

from __future__ import annotations

# Requests a second that are paid for. Measured: 30 to 50 microseconds of the broker each, and 50 of the producer.
REQUESTS_A_SECOND = 2500.0
# Between two leavings, seconds, whatever was charged.
LEAST_S, MOST_S = 0.004, 0.016


class Pace:
    """When records may leave next; times are seconds of one clock.

    Args:
        requests_a_second: What may be spent. least_s, most_s: Bounds of the time between two leavings.
    """

    def __init__(self, requests_a_second: float = REQUESTS_A_SECOND, least_s: float = LEAST_S, most_s: float = MOST_S) -> None:
        self._cost = 1.0 / requests_a_second
        self._least_s = least_s
        self._most_s = most_s
        self._due = 0.0

    def due(self, now: float) -> bool:
        """Return True when records may leave."""
        return now >= self._due

    def spent(self, now: float, requests: int) -> None:
        """Charge for records that leave now, whether that was due or not (a mark does not wait)."""
        paid = max(self._due, now) + requests * self._cost
        self._due = min(max(paid, now + self._least_s), now + self._most_s)
