"""Recovery of the state table after a rebalance.

Faust's own recovery (faust-streaming 0.15.3) reads the changelog while source partitions flow. It swallows errors, keeps read offsets of an
earlier assignment, and resumes before it seeks. Here a rebalance has five steps:

- Nothing flows.
- A separate consumer reads the changelogs to their end.
- The engines are rebuilt.
- The sources seek to the positions of the recovered state.
- The flow resumes.

Faust's table still names the changelog topic, creates it, and co-partitions it with the sources.
"""

from __future__ import annotations

from typing import Any

from aiokafka.errors import IllegalStateError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from faust.types import TP
from mode import Service


class EngineRecovery(Recovery):
    """Rebuilds the engines of the assigned partitions. ``app.partitions`` does the work (see ``partitions``)."""

    app: Any

    @Service.task
    async def _restart_recovery(self) -> None:
        while not self.should_stop:
            if await self.wait_for_stopped(self.signal_recovery_start):  # type: ignore[arg-type]
                break
            self.signal_recovery_start.clear()
            try:
                await self._wait(self._recover(self._generation_id))
            except (RebalanceAgain, IllegalStateError):
                # The assignment was revoked meanwhile. The next one has signalled or will signal.
                self.log.info("Recovery of generation %s was overtaken by another rebalance", self._generation_id)
            except ServiceStopped:
                break

    @Service.task
    async def _slurp_changelogs(self) -> None:
        """Do nothing: ``_recover`` reads the changelogs."""
        await self.wait_until_stopped()

    async def _recover(self, generation: int) -> None:
        app, consumer = self.app, self.app.consumer
        self._set_recovery_started()
        partitions = {tp.partition for tp in self.active_tps}
        positions: dict[TP, int] = await app.partitions.open(partitions, consumer.assignment())
        if app.consumer_generation_id != generation or self.signal_recovery_start.is_set():
            return
        await consumer.seek_wait(positions)
        if app.consumer_generation_id != generation or self.signal_recovery_start.is_set():
            return
        await app.on_rebalance_complete.send()
        self._set_recovery_ended()
        # No await from here to resume_flow, so that no fetch can come between.
        app.flow_control.resume()
        consumer.resume_partitions(set(positions))
        consumer.resume_flow()
        app.partitions.start(generation)
        await app._fetcher.maybe_start()
        self.completed.set()
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        app.on_rebalance_end()
        self.log.info("Worker ready: partitions %s", sorted(partitions))


class EngineTables(TableManager):
    """Faust's table manager with ``EngineRecovery``."""

    @property
    def recovery(self) -> Recovery:
        """The recovery service."""
        if self._recovery is None:
            self._recovery = EngineRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
