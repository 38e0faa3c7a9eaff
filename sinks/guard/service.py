"""The guard's process. One guard is active for an account; others of the same account wait.

Twenty times a second the guard reads Kafka, the venue's state and the switch in the database, and evaluates the rules. It writes a ``risk_state`` record
on every change, and at least every two seconds. What happens at each failure:

- kill -9, crash: the executor's risk state expires after ten seconds, and then it opens nothing. The next guard continues from the memory in the newest
  record.
- Kafka down: risk states do not arrive, with the same effect. A forced close is also written to the switch in the database, which executors read.
- database down: the switch cannot be read. Nothing else changes; an executor without its journal opens nothing.
- venue down: the rule ``unreachable`` blocks entries after its limit.
- two guards: a lock in the database lets one publish. Sequence numbers continue, and readers use the highest.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import psycopg
from confluent_kafka import KafkaException, Producer

from schemas import metrics
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.executor.publish import QUIET
from sinks.guard import switch
from sinks.guard.inputs import GuardReader, newest_state
from sinks.guard.venue_watch import AccountWatch
from stream_apps.core.execution.account.guard import (
    HALTED,
    NORMAL,
    WARNING,
    Command,
    GuardInputs,
    GuardLimits,
    GuardMemory,
    GuardState,
    day_r,
    evaluate,
    open_r,
)

TOPIC = "risk_state"
ROUND_S = 0.05
SIGN_OF_LIFE_MS = 2_000
SWITCH_S = 0.25
RETRY_S = 0.5
# A connection attempt may delay a round for a second.
DATABASE_RETRY_S = 2.0
# A state that Kafka does not accept in this time is useless: a newer one follows.
MESSAGE_TIMEOUT_MS = 5_000
LEVELS = {NORMAL: 0, WARNING: 1, HALTED: 2}
RULES = (
    "daily_loss",
    "losing_streak",
    "unreachable",
    "balance",
    "stale_data",
    "clock",
    "hold_long",
    "hold_too_long",
    "maker_fills",
    "insufficient_balance",
    "slow_route",
    "halt",
    "block_new",
    "close_all",
)


class Guard:
    """Watches one account.

    Args:
        settings: Environment.
        service: Stop flag, log, health.
        account: Account id, VENUE-mode.
        limits: Limits of the rules.
        watch: Polls the venue; started here.
        fresh_by_arrival: See ``GuardReader``.
    """

    def __init__(
        self,
        settings: Settings,
        service: Service,
        account: str,
        limits: GuardLimits,
        watch: AccountWatch,
        *,
        fresh_by_arrival: bool = False,
    ) -> None:
        self._settings, self._service, self._log = settings, service, service.log.bind(account=account)
        self._account, self._limits, self._watch, self._by_arrival = account, limits, watch, fresh_by_arrival
        self._name = f"{account}-{uuid.uuid4().hex[:8]}"
        self._reader: GuardReader | None = None
        self._database: psycopg.Connection | None = None
        self._database_not_before = 0.0
        self._switched: list[Command] = []
        self._switch_read_at = 0.0
        self._memory = GuardMemory()
        self._sequence = 0
        self._state: GuardState | None = None
        self._published_at = 0
        self._acknowledged_at = 0.0
        self._producer = Producer(
            {
                **QUIET,
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 0,
                "message.timeout.ms": MESSAGE_TIMEOUT_MS,
            }
        )
        service.set_health(self._health)

    def run(self) -> None:
        """Work until the service is stopped."""
        self._watch.start()
        try:
            while not self._service.stopping.is_set():
                if not self._is_active() or not self._is_started():
                    self._service.stopping.wait(RETRY_S)
                    continue
                self._round()
        finally:
            self._watch.stop()
            if self._reader is not None:
                self._reader.close()
            self._producer.flush(2)
            if self._database is not None:
                self._database.close()

    # --- who speaks -------------------------------------------------------------------------------------------------------

    def _is_active(self) -> bool:
        """Return whether this guard is active: it holds the account's lock. Without a database, the guard that was active stays active."""
        if self._database is not None and not self._database.closed:
            return True
        if time.monotonic() < self._database_not_before:
            return self._reader is not None
        self._database_not_before = time.monotonic() + DATABASE_RETRY_S
        try:
            database = psycopg.connect(self._settings.role_url("executor"), autocommit=True, connect_timeout=1)
            found = database.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self._lock_name,)).fetchone()
        except psycopg.Error as error:
            self._log.warning("the database does not answer", reason=str(error).strip())
            return self._reader is not None
        if found is None or not found[0]:
            database.close()
            if self._reader is not None:
                self._log.warning("another guard is active for this account; waiting")
                self._reader.close()
                self._reader, self._state = None, None
            return False
        self._database = database
        return True

    @property
    def _lock_name(self) -> str:
        return f"{self._settings.topic_prefix}perpflow-guard-{self._account}"

    def _is_started(self) -> bool:
        if self._reader is not None:
            return True
        try:
            last = newest_state(self._settings, self._account)
            reader = GuardReader(self._settings, self._account, _now(), self._by_arrival)
        except KafkaException as error:
            self._log.warning("kafka does not answer", reason=str(error))
            return False
        self._memory, self._sequence = GuardMemory(), 0
        if last is not None:
            self._sequence = last["sequence"]
            try:
                self._memory = GuardMemory.from_json(last["memory"])
            except (ValueError, KeyError, TypeError) as error:
                # A guard without its memory must not lift a halt.
                self._log.error("the last guard's memory cannot be read: halting", reason=f"{type(error).__name__}: {error}")
                self._memory = GuardMemory(tripped={"halt": (_now(), "the last guard's memory could not be read")})
        self._reader = reader
        self._log.info("guarding", sequence=self._sequence, tripped=sorted(self._memory.tripped))
        return True

    # --- the round ----------------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        assert self._reader is not None
        self._reader.poll(ROUND_S)
        self._read_switch()
        now = _now()
        self._reader.forget(now)
        facts = self._facts(now)
        before = self._memory
        state, self._memory = evaluate(self._limits, self._memory, facts, now)
        self._reader.commands.clear()
        self._dead_letters()
        if self._state is None or _essence(state) != _essence(self._state) or self._memory.tripped != before.tripped:
            self._log_change(state)
            self._publish(state, facts, now)
        elif now - self._published_at >= SIGN_OF_LIFE_MS:
            self._publish(state, facts, now)
        self._producer.poll(0)

    def _facts(self, now: int) -> GuardInputs:
        assert self._reader is not None
        reader, seen = self._reader, self._watch.seen
        return GuardInputs(
            closed=tuple(reader.closed.values()),
            open=tuple(reader.open.values()),
            open_r=open_r(tuple(reader.open.values()), seen.unrealised, self._limits.risk_per_trade),
            reached_at=seen.reached_at,
            available=seen.available,
            skew_ms=seen.skew_ms,
            features_at=reader.features_at,
            maker_fills=reader.maker_fills,
            insufficient=reader.insufficient,
            route_p95_ms=self._watch.route_p95_ms,
            commands=(*self._switched, *reader.commands),
        )

    def _read_switch(self) -> None:
        if time.monotonic() - self._switch_read_at < SWITCH_S or self._database is None:
            return
        self._switch_read_at = time.monotonic()
        try:
            self._switched = switch.holding(self._database, self._account)
        except psycopg.Error as error:
            self._log.warning("the switch cannot be read", reason=str(error).strip())
            self._database.close()

    def _log_change(self, state: GuardState) -> None:
        held, holds = {one.rule for one in self._state.reasons} if self._state else set(), {one.rule for one in state.reasons}
        if held != holds or self._state is None:
            log = self._log.warning if state.reasons else self._log.info
            log("risk state", state=state.state, block_entries=state.block_entries, close_all=state.close_all, rules=sorted(holds))
        if state.close_all and not (self._state and self._state.close_all):
            self._switch_off(state)

    def _switch_off(self, state: GuardState) -> None:
        """Write the forced close to the switch, so that it also reaches an executor without Kafka."""
        if self._database is None or self._database.closed:
            return
        rule = next(one for one in state.reasons if one.rule in ("daily_loss", "close_all"))
        # The same trip has the same id in every guard. The memory marks it as applied, because the switch only repeats it.
        command = Command(f"{self._account}|{rule.rule}|{rule.since}", "close_all", _now(), self._name, rule.detail)
        self._memory = GuardMemory(
            self._memory.tripped,
            self._memory.counted_from,
            self._memory.streak_from,
            self._memory.since,
            (*self._memory.applied, command.command_id),
        )
        try:
            switch.put(self._database, self._account, command)
        except psycopg.Error as error:
            self._log.warning("the switch cannot be set", reason=str(error).strip())
            self._database.close()

    def _publish(self, state: GuardState, facts: GuardInputs, now: int) -> None:
        self._sequence += 1
        self._state, self._published_at = state, now
        record = record_of(self._account, self._name, self._sequence, state, self._memory, now)
        value = self._settings.codec.encode(TOPIC, record)
        try:
            self._producer.produce(
                self._settings.topic(TOPIC), value, self._account.encode(), 0, timestamp=now, on_delivery=self._acknowledged
            )
        except (BufferError, KafkaException) as error:
            self._log.warning("state not written", reason=str(error))
        metrics.GUARD_STATE.labels(self._account).set(LEVELS[state.state])
        holds = {one.rule for one in state.reasons}
        for rule in RULES:
            metrics.GUARD_RULES.labels(self._account, rule).set(rule in holds)
        metrics.GUARD_DAY_R.labels(self._account).set(day_r(self._memory, facts, now))

    def _acknowledged(self, error: Any, message: Any) -> None:
        if error is None:
            self._acknowledged_at = time.time()
            metrics.GUARD_PUBLISHED.labels(self._account).set(self._acknowledged_at)

    def _dead_letters(self) -> None:
        assert self._reader is not None
        for letter in self._reader.dead_letters:
            value = self._settings.codec.encode("dead_letters", letter)
            self._producer.produce(
                self._settings.topic("dead_letters"), value, letter["source"].encode(), 0, timestamp=letter["event_time"]
            )
        self._reader.dead_letters.clear()

    def _health(self) -> dict[str, Any]:
        state, seen = self._state, self._watch.seen
        late = time.time() - self._acknowledged_at
        return {
            "ok": state is not None and late < 2 * SIGN_OF_LIFE_MS / 1000 + 1,
            "account": self._account,
            "state": state.state if state else "waiting",
            "rules": [one.rule for one in state.reasons] if state else [],
            "written_s_ago": round(late, 1) if self._acknowledged_at else None,
            "venue": seen.error or "answers",
        }


def record_of(account: str, guard: str, sequence: int, state: GuardState, memory: GuardMemory, now: int) -> dict[str, Any]:
    """Return the ``risk_state`` record of a state."""
    return {
        "account": account,
        "event_time": now,
        "receive_time": now,
        "sequence": sequence,
        "guard": guard,
        "state": state.state,
        "block_entries": state.block_entries,
        "close_all": state.close_all,
        "close_positions": list(state.close_positions),
        "allow_maker": state.allow_maker,
        "allow_twap": state.allow_twap,
        "size_multiple": state.size_multiple,
        "reasons": [
            {
                "rule": one.rule,
                "level": one.level,
                "value": None if one.value is None else float(one.value),
                "limit": one.limit,
                "since": one.since,
                "until": one.until,
                "detail": one.detail,
            }
            for one in state.reasons
        ],
        "memory": memory.to_json(),
    }


def _essence(state: GuardState) -> tuple[Any, ...]:
    """Return the fields that readers act on, without the ages and shares in the reasons, which change all the time."""
    return (
        state.state,
        state.block_entries,
        state.close_all,
        state.close_positions,
        state.allow_maker,
        state.allow_twap,
        state.size_multiple,
        tuple(one.rule for one in state.reasons),
    )


def _now() -> int:
    return int(time.time() * 1000)
