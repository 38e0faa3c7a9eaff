"""Fan-out to the browsers. All of it runs on the event loop.

Messages are bytes that all clients share. A client holds no queue: of state channels it holds the keys that changed since its last chunk, of event channels its
place in a ring that all clients share. So a client that does not read costs no more memory than its channels have keys.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas import metrics
from sinks.console.live import event_ids
from sinks.console.live.channels import Channel
from sinks.console.live.events import CHANNEL, Event
from sinks.console.live.messages import frame, framed
from sinks.console.live.placing import Place, Placed

# A channel is read on for so long after its last client left, so that a page that is loaded again begins with a full picture.
LINGER_S = 20.0


@dataclass(slots=True)
class Snapshot:
    """The newest message of a key of a state channel; ``over``: its subject has ended, so new clients need not see it."""

    data: bytes
    covers: tuple[str, ...]
    over: bool = False


@dataclass(slots=True)
class Batch:
    """What the reader found in one tick.

    Attributes:
        snapshots: key -> newest message.
        events: In the order of reading.
        placed: Event partitions that are read from a new place.
        loaded: All event partitions were read to the ends that they had when they were placed.
        topics: Checksums of the ids of the event topics that exist; None: unknown yet.
    """

    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    placed: dict[Place, Placed] = field(default_factory=dict)
    loaded: bool = False
    topics: Mapping[str, int] | None = None


@dataclass(slots=True, frozen=True)
class _Entry:
    sequence: int
    event: Event
    data: bytes


class Client:
    """One browser. ``take`` gives what it has to be sent."""

    def __init__(self, channels: tuple[Channel, ...], resume: str | None) -> None:
        self.channels = channels
        self.texts = frozenset(channel.text for channel in channels)
        self.event_channels = frozenset(channel.name for channel in channels if channel.kind.event)
        self.dirty: dict[str, None] = {}
        self.cursor = -1
        self.behind = False
        self.resume = resume
        self.greeted = False
        self.news = asyncio.Event()
        self.resets: dict[str, set[str]] = {}


class Hub:
    """Clients, newest messages, and the rings of events.

    Args:
        ring: Most events that are kept of each channel.
        changed: Called with all channels that somebody looks at, whenever they change.
    """

    def __init__(self, ring: int, changed: Callable[[frozenset[Channel]], None]) -> None:
        self._changed = changed
        self._clients: dict[str, set[Client]] = {}
        self._all: set[Client] = set()
        self._active: dict[Channel, int] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._rings: dict[str, deque[_Entry]] = {name: deque(maxlen=ring) for name in set(CHANNEL.values())}
        self._evicted: dict[str, int] = {}
        self._sequence = 0
        self._position: dict[Place, int] = {}
        self._floor: dict[Place, int] = {}
        self._topics: Mapping[str, int] = {}
        self._next: dict[Place, int] = {}
        self._loaded = False
        self.closed = False

    def __len__(self) -> int:
        return len(self._all)

    def has(self, text: str) -> bool:
        """Return whether a client selects a channel."""
        return text in self._clients

    # --- clients ---------------------------------------------------------------------------------------------------
    def join(self, channels: tuple[Channel, ...], resume: str | None) -> Client:
        """Add a client. With the id of its last event it gets the events after it, else those that come from now on."""
        client = Client(channels, resume)
        client.cursor = self._sequence - 1
        new = False
        for channel in channels:
            new |= channel not in self._active
            self._active[channel] = self._active.get(channel, 0) + 1
        for text in client.texts:
            self._clients.setdefault(text, set()).add(client)
        self._all.add(client)
        metrics.CONSOLE_CLIENTS.set(len(self._all))
        client.dirty = {key: None for key, one in self._snapshots.items() if not one.over and not client.texts.isdisjoint(one.covers)}
        client.news.set()
        if new:
            self._changed(frozenset(self._active))
        return client

    def leave(self, client: Client) -> None:
        """Remove a client."""
        self._all.discard(client)
        metrics.CONSOLE_CLIENTS.set(len(self._all))
        for text in client.texts:
            self._clients[text].discard(client)
            if not self._clients[text]:
                del self._clients[text]
        loop = asyncio.get_running_loop()
        for channel in client.channels:
            self._active[channel] -= 1
            if not self._active[channel]:
                loop.call_later(LINGER_S, self._drop, channel)

    def _drop(self, channel: Channel) -> None:
        if self._active.get(channel) != 0 or self.closed:
            return
        del self._active[channel]
        texts = {one.text for one in self._active}
        self._snapshots = {key: one for key, one in self._snapshots.items() if not texts.isdisjoint(one.covers)}
        self._changed(frozenset(self._active))

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        for client in self._all:
            client.news.set()

    # --- news ------------------------------------------------------------------------------------------------------
    def publish(self, batch: Batch) -> None:
        """Take what the reader found, and wake the clients that it concerns."""
        if self.closed:
            return
        if batch.topics is not None and batch.topics != self._topics:
            for topic in made_again(self._topics, batch.topics):
                self._forget(topic, f"the topic {topic} was made again")
            self._topics = batch.topics
        for place, placed in batch.placed.items():
            self._place(place, placed)
        for event in batch.events:
            self._append(event)
        if batch.loaded != self._loaded:
            self._loaded = batch.loaded
            for client in self._all:
                client.news.set()
        for key, snapshot in batch.snapshots.items():
            self.publish_one(key, snapshot)

    def publish_one(self, key: str, snapshot: Snapshot) -> None:
        """Replace the newest message of a key."""
        self._snapshots[key] = snapshot
        conflated = 0
        for text in snapshot.covers:
            for client in self._clients.get(text, ()):
                conflated += key in client.dirty
                client.dirty[key] = None
                client.news.set()
        if conflated:
            metrics.CONSOLE_CONFLATED.inc(conflated)

    def _append(self, event: Event) -> None:
        place = event.topic, event.partition
        if event.offset < self._next.get(place, 0):
            return  # read a second time
        self._next[place] = event.offset + 1
        self._position[place] = max(self._position.get(place, 0), event.offset + 1)
        ring = self._rings[event.channel]
        if ring.maxlen == len(ring):
            oldest = ring[0]
            self._evicted[event.channel] = oldest.sequence
            gone = oldest.event
            self._floor[gone.topic, gone.partition] = max(self._floor.get((gone.topic, gone.partition), 0), gone.offset + 1)
        event_id = event_ids.encode(self._position, self._topics)
        ring.append(_Entry(self._sequence, event, framed(event.channel, event.data, event_id)))
        self._sequence += 1
        for text in event.covers:
            for client in self._clients.get(text, ()):
                client.news.set()

    def _place(self, place: Place, placed: Placed) -> None:
        if placed.end < self._position.get(place, 0):
            self._forget(place[0], f"the log of {place[0]} was cut")
        self._floor[place] = placed.offset
        # The hub gives no id before all is loaded up to here.
        self._position[place] = placed.end

    def _forget(self, topic: str, reason: str) -> None:
        """Drop the events of a topic whose log is another one now."""
        name = CHANNEL[topic]
        ring = self._rings[name]
        kept = [entry for entry in ring if entry.event.topic != topic]
        ring.clear()
        ring.extend(kept)
        for offsets in (self._next, self._position, self._floor):
            for place in [one for one in offsets if one[0] == topic]:
                del offsets[place]
        for client in self._all:
            if name in client.event_channels:
                client.resets.setdefault(reason, set()).add(name)
                client.news.set()

    # --- what a client gets ----------------------------------------------------------------------------------------
    def take(self, client: Client) -> bytes:
        """Return all that a client has to be sent now, which may be nothing."""
        client.news.clear()
        parts: list[bytes] = []
        if self._loaded and not client.greeted:
            parts += self._greeting(client)
        if self._loaded and client.greeted:
            parts += self._events(client)
        events = len(parts)
        dirty, client.dirty = client.dirty, {}
        for key in dirty:
            snapshot = self._snapshots.get(key)
            if snapshot is not None:
                parts.append(snapshot.data)
        for reason, channels in client.resets.items():
            metrics.CONSOLE_RESETS.inc()
            parts.insert(0, frame("reset", {"channels": sorted(channels), "reason": reason}))
        client.resets = {}
        metrics.CONSOLE_SENT.labels("event").inc(events)
        metrics.CONSOLE_SENT.labels("state").inc(len(parts) - events)
        return b"".join(parts)

    def _greeting(self, client: Client) -> list[bytes]:
        """Return ``hello`` with the id of the present position, and the events that a client that resumes has missed."""
        client.greeted = True
        missed: list[bytes] = []
        if client.resume is not None:
            missed = self._missed(client, client.resume)
        client.cursor = self._sequence - 1
        hello = {"channels": sorted(client.texts), "resumed": client.resume is not None and not client.resets}
        # An id without data moves the browser's last event id, and is no message.
        return [frame("hello", hello), *missed, b"id: %b\n\n" % event_ids.encode(self._position, self._topics).encode()]

    def _missed(self, client: Client, resume: str) -> list[bytes]:
        try:
            position, topics = event_ids.decode(resume)
        except event_ids.EventIdError as error:
            client.resets.setdefault(f"the last event id is not one of ours: {error}", set()).update(client.event_channels)
            return []
        for topic in made_again(topics, self._topics):
            if CHANNEL[topic] in client.event_channels:
                client.resets.setdefault(f"the topic {topic} was made again", set()).add(CHANNEL[topic])
                position = {place: self._position.get(place, 0) if place[0] == topic else offset for place, offset in position.items()}
        for place, floor in self._floor.items():
            channel = CHANNEL[place[0]]
            if channel in client.event_channels and position.get(place, 0) < floor:
                client.resets.setdefault("the missed events are no longer kept here", set()).add(channel)
            elif channel in client.event_channels and position.get(place, 0) > self._position[place]:
                client.resets.setdefault(f"the log of {place[0]} was cut", set()).add(channel)
        entries = [
            one
            for name in client.event_channels
            for one in self._rings[name]
            if one.event.offset >= position.get((one.event.topic, one.event.partition), 0) and not client.texts.isdisjoint(one.event.covers)
        ]
        missed = []
        for event in (one.event for one in sorted(entries, key=lambda one: one.sequence)):
            # The ids are this client's own, because it may lose the connection again in the middle.
            position[event.topic, event.partition] = event.offset + 1
            missed.append(framed(event.channel, event.data, event_ids.encode(position, self._topics)))
        return missed

    def _events(self, client: Client) -> list[bytes]:
        found: list[_Entry] = []
        for name in client.event_channels:
            if self._evicted.get(name, -1) > client.cursor:
                client.resets.setdefault("events came faster than they were read", set()).add(name)
            for entry in reversed(self._rings[name]):
                if entry.sequence <= client.cursor:
                    break
                if not client.texts.isdisjoint(entry.event.covers):
                    found.append(entry)
        client.cursor = self._sequence - 1
        return [entry.data for entry in sorted(found, key=lambda one: one.sequence)]

    # --- health ----------------------------------------------------------------------------------------------------
    def report(self) -> Mapping[str, Any]:
        """Return counts for the health report."""
        return {"clients": len(self._all), "channels": len(self._active), "snapshots": len(self._snapshots), "loaded": self._loaded}


def made_again(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Return the topics whose checksum of Kafka's id is another one than before. A topic that is new or gone is not among them."""
    return [topic for topic, mark in now.items() if before.get(topic, mark) != mark]
