"""The queue of one channel, with its rate limit and retries. Each channel has a thread, so a slow channel does not delay the others.

Critical messages are sent first. If too many others wait, they are sent as one digest. After a failure the channel pauses for 1, 2, 4 ... 60 seconds (with
jitter) or for the time that the server requests. The pause applies to the channel, not to a message. A message that stays unsent for ``give_up_s`` or that
the server rejects is returned for dead_letters.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from schemas import metrics
from sinks.notifier.delivery.offsets import SourceRecord
from sinks.notifier.delivery.templating import Message, Templates
from sinks.notifier.delivery.transport import Sender, SendResult
from sinks.notifier.rules.config import ChannelConfig
from sinks.notifier.rules.events import Event, Level
from sinks.notifier.rules.origin import together

BACKOFF_FIRST_S, BACKOFF_MOST_S = 1.0, 60.0
# Records that a channel may hold back; beyond it reading waits. After a failure of this length the oldest messages are given up instead, so that a dead
# channel cannot stop the others.
MOST_WAITING = 500
SHED_AFTER_S = 30.0
DIGEST_TITLES = 15


@dataclass(eq=False)
class QueuedMessage:
    """A queued message.

    Attributes:
        message: The message.
        tickets: Its source records; none for events of the service itself.
        accepted: Arrival, monotonic seconds.
        attempts: Number of attempts.
        done: Destinations that have received it.
        merged: Messages that a digest replaces.
        reason: Why the last attempt failed.
    """

    message: Message
    tickets: list[SourceRecord]
    accepted: float
    attempts: int = 0
    done: set[int] = field(default_factory=set)
    merged: list[Message] = field(default_factory=list)
    reason: str = ""

    @property
    def critical(self) -> bool:
        """Whether it is sent first and alone."""
        return self.message.event.level >= Level.CRITICAL

    @property
    def revoked(self) -> bool:
        """Whether another process owns its records now."""
        return bool(self.tickets) and all(ticket.partition.revoked for ticket in self.tickets)


@dataclass(frozen=True)
class DeliveryResult:
    """The final result of a message: sent, or given up for a reason."""

    channel: str
    item: QueuedMessage
    failure: str = ""


class TokenBucket:
    """A token bucket: ``burst`` messages at once, ``per_minute`` on average. Times are monotonic seconds."""

    def __init__(self, per_minute: float, burst: int, now: float) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def wait(self, now: float) -> float:
        """Return the wait before the next message, seconds."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        missing = 1 - self._tokens
        # Below the clock's resolution: such a wait would not advance it.
        return missing / self._per_second if missing > 1e-9 else 0.0

    def spend(self) -> None:
        """Use one token for a message."""
        self._tokens -= 1


class Channel(threading.Thread):
    """See the module's docstring.

    Args:
        config: The channel.
        sender: Sends its messages.
        templates: Templates of digests.
        give_up_s: See the module's docstring.
        results: Receives finished messages.
        on_attempt: Called with each failed attempt.
    """

    def __init__(
        self,
        config: ChannelConfig,
        sender: Sender,
        templates: Templates,
        give_up_s: float,
        results: SimpleQueue[DeliveryResult],
        on_attempt: Callable[[str, SendResult, float], None],
    ) -> None:
        super().__init__(name=f"channel-{config.name}", daemon=True)
        self.config = config
        self._sender = sender
        self._templates = templates
        self._give_up_s = give_up_s
        self._results = results
        self._on_attempt = on_attempt
        self._wake = threading.Condition()
        self._waiting: list[QueuedMessage] = []
        self._sending: QueuedMessage | None = None
        self._draining = False
        self._ending = False
        self._pace = TokenBucket(config.rate_per_minute, config.burst, time.monotonic())
        self._failures = 0
        self._failure = ""  # the last one, for those that were not tried
        self._pause_until = 0.0
        self._failing_since: float | None = None

    # --- called by the service ---------------------------------------------------------------------------------------------
    def offer(self, message: Message, tickets: Sequence[SourceRecord]) -> None:
        """Queue a message. If too many records wait for a dead channel, the oldest are given up."""
        with self._wake:
            self._waiting.append(QueuedMessage(message, list(tickets), time.monotonic()))
            self._shed()
            metrics.NOTIFICATIONS_QUEUED.labels(self.config.name).set(len(self._waiting))
            self._wake.notify()

    def full(self, waiting_already: bool = False) -> bool:
        """Return whether reading should wait for this channel. Once it waits, it continues when half of the queue is done."""
        with self._wake:
            limit = MOST_WAITING // 2 if waiting_already else MOST_WAITING
            return self._records() > limit and self.failing_s <= SHED_AFTER_S

    def _records(self) -> int:
        return sum(max(1, len(item.tickets)) for item in self._waiting)

    def _shed(self) -> None:
        while self.failing_s > SHED_AFTER_S and self._records() > MOST_WAITING:
            victim = min(self._waiting, key=lambda item: (item.critical, item.accepted))
            self._waiting.remove(victim)
            self._results.put(
                DeliveryResult(
                    self.config.name, victim, f"{MOST_WAITING} records wait already; {victim.reason or self._failure or 'not tried yet'}"
                )
            )

    @property
    def idle(self) -> bool:
        """Whether no message waits or is being sent."""
        with self._wake:
            return not self._waiting and self._sending is None

    @property
    def waiting(self) -> int:
        """Number of waiting messages."""
        with self._wake:
            return len(self._waiting)

    @property
    def failing_s(self) -> float:
        """Seconds since when every attempt failed; 0 while it works."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def drain(self) -> None:
        """Send the waiting messages without pauses; stop at the first failure."""
        with self._wake:
            self._draining = True
            self._wake.notify()

    def end(self) -> None:
        """Stop; waiting messages stay unsent."""
        with self._wake:
            self._ending = True
            self._wake.notify()

    # --- the thread ----------------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Send until ended."""
        while True:
            with self._wake:
                item = self._next()
                if item is None:
                    return
                self._sending = item
            self._attempt(item)
            with self._wake:
                self._sending = None

    def _next(self) -> QueuedMessage | None:
        """Wait for the next message that may be sent; None when stopped."""
        while not self._ending:
            now = time.monotonic()
            self._waiting = [item for item in self._waiting if not item.revoked]
            if self._failures:
                self._give_up(now)
            metrics.NOTIFICATIONS_QUEUED.labels(self.config.name).set(len(self._waiting))
            if not self._waiting:
                self._wake.wait()
                continue
            if self._draining and self._failures:
                return None
            wait = max(self._pause_until - now, self._pace.wait(now))
            if wait > 0:
                self._wake.wait(min(wait, 1.0) if self._failures else wait)
                continue
            return self._take()
        return None

    def _take(self) -> QueuedMessage:
        critical = [item for item in self._waiting if item.critical]
        if critical:
            self._waiting.remove(critical[0])
            return critical[0]
        # This message may have reached some destinations already, so it is not merged.
        begun = [item for item in self._waiting if item.done]
        if not begun and len(self._waiting) > self.config.digest_over:
            self._waiting = [self._digest(self._waiting)]
        chosen = begun[0] if begun else self._waiting[0]
        self._waiting.remove(chosen)
        return chosen

    def _digest(self, items: list[QueuedMessage]) -> QueuedMessage:
        """Return one digest for many messages."""
        messages = [message for item in items for message in (item.merged or [item.message])]
        counts = Counter(message.event.kind for message in messages)
        origin = together(message.origin for message in messages)
        titles = [message.title if origin != message.origin else message.bare_title for message in messages]
        newest = max(message.event.time for message in messages)
        fields = {
            "count": len(messages),
            "counts": dict(sorted(counts.items())),
            "titles": titles[:DIGEST_TITLES],
            "left_out": max(0, len(titles) - DIGEST_TITLES),
        }
        level = max(message.event.level for message in messages)
        event = Event(f"digest|{messages[0].event.event_id}|{len(messages)}", "digest", level, None, newest, "", fields)
        metrics.NOTIFICATIONS_SUPPRESSED.labels(self.config.name, "digest").inc(sum(1 for item in items if not item.merged))
        return QueuedMessage(
            self._templates.render(event, origin),
            [ticket for item in items for ticket in item.tickets],
            min(item.accepted for item in items),
            max(item.attempts for item in items),
            merged=messages,
            reason=next((item.reason for item in items if item.reason), ""),
        )

    def _attempt(self, item: QueuedMessage) -> None:
        begun = time.monotonic()
        outcome = self._sender.send(item.message, item.done)
        now = time.monotonic()
        metrics.NOTIFICATION_SECONDS.labels(self.config.name).observe(now - begun)
        item.attempts += 1
        self._pace.spend()
        name = self.config.name
        if outcome.ok:
            self._failures, self._failing_since, self._pause_until = 0, None, 0.0
            metrics.NOTIFICATIONS_SENT.labels(name, item.message.event.kind).inc()
            self._results.put(DeliveryResult(name, item))
            return
        metrics.NOTIFICATIONS_FAILED.labels(name, outcome.reason).inc()
        item.reason = self._failure = f"{outcome.reason}: {outcome.detail}"
        if outcome.final:
            # The destination works, but rejects this message.
            self._on_attempt(name, outcome, 0.0)
            self._results.put(DeliveryResult(name, item, item.reason))
            return
        self._failures += 1
        self._failing_since = self._failing_since or begun
        pause = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(self._failures - 1, 10)) * random.uniform(0.75, 1.25)
        pause = pause if outcome.wait_s is None else max(outcome.wait_s, 0.05)
        self._pause_until = now + pause
        self._on_attempt(name, outcome, pause)
        with self._wake:
            self._waiting.insert(0, item)
            self._give_up(now)

    def _give_up(self, now: float) -> None:
        """Return messages that waited too long for a failing channel."""
        for old in [one for one in self._waiting if now - one.accepted > self._give_up_s]:
            self._waiting.remove(old)
            why = f"given up after {old.attempts} attempts in {now - old.accepted:.0f} s; {old.reason or self._failure}"
            self._results.put(DeliveryResult(self.config.name, old, why))
