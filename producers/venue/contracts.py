"""The contracts that a producer follows: the user's choice, and their facts in the log."""

from __future__ import annotations

import time
from collections.abc import Callable

from producers.venue.adapter.base import Adapter, ContractInfo
from producers.venue.config import ProducerConfig
from producers.venue.network.rest import Rest
from schemas.codec.avro import Record


class ConfigurationError(ValueError):
    """The producer cannot run with these settings; the message names the setting to change."""


class ContractList:
    """Contract facts of the chosen symbols.

    Attributes:
        known: Symbol -> contract facts without times, of all symbols that this producer follows.

    Args:
        adapter: The venue.
        config: Chooses the symbols.
        rest: The venue's REST interface.
        author: Author of the records.
        partition_of: Returns the partition of a base asset.
    """

    def __init__(self, adapter: Adapter, config: ProducerConfig, rest: Rest, author: str, partition_of: Callable[[str], int]) -> None:
        self.known: dict[str, ContractInfo] = {}
        self._adapter = adapter
        self._config = config
        self._rest = rest
        self._author = author
        self._partition_of = partition_of
        self._written: dict[str, Record] = {}  # instrument -> facts in the log

    async def load(self) -> None:
        """Read the facts of the chosen symbols.

        Raises:
            ConfigurationError: the venue does not list a chosen symbol, or no symbol is chosen.
            RestError: the venue does not answer.
        """
        contracts = await self._adapter.facts(self._rest, self._author)
        for symbol in await self.chosen(contracts):
            if symbol not in contracts:
                address = self._config.rest_url or self._adapter.rest_url
                raise ConfigurationError(f"symbols: the venue at {address} has no usable {symbol!r} (PERPFLOW_SYMBOLS)")
            self.known[symbol] = contracts[symbol]
        if not self.known:
            raise ConfigurationError("symbols: none chosen (PERPFLOW_SYMBOLS)")

    def resume(self, instruments: dict[str, Record]) -> None:
        """Take over the ``instruments`` records of this author's earlier run."""
        self._written = {name: record for name, record in instruments.items() if record["author"] == self._author}

    async def chosen(self, contracts: dict[str, ContractInfo]) -> list[str]:
        """Return the chosen symbols, out of all contracts of the venue."""
        wanted = (self._config.symbols or self._adapter.default_symbols).strip()
        trading = [symbol for symbol, facts in contracts.items() if facts.record["status"] == "trading"]
        if wanted == "all":
            return sorted(trading)
        if wanted.startswith("top:"):
            if not wanted[4:].isdigit() or int(wanted[4:]) < 1:
                raise ConfigurationError(f"symbols: expected top:N, got {wanted!r} (PERPFLOW_SYMBOLS)")
            volumes = await self._adapter.volumes(self._rest)
            return sorted(trading, key=lambda symbol: (-volumes.get(symbol, 0.0), symbol))[: int(wanted[4:])]
        names = [name for name in (part.strip() for part in wanted.split(",")) if name]
        # Symbols keep the venue's spelling; lower case is accepted.
        return list(dict.fromkeys(name if name in contracts else name.upper() for name in names))

    def changes(self, event_time: int) -> list[tuple[str, int, Record]]:
        """Return (topic, partition, record) of the contracts whose facts are not in the log yet, at ``event_time`` (ms)."""
        changed = []
        for facts in (contract.record for contract in self.known.values()):
            written = self._written.get(facts["instrument"])
            if written is None or any(written.get(name) != value for name, value in facts.items()):
                record = {**facts, "event_time": event_time, "receive_time": int(time.time() * 1000)}
                self._written[facts["instrument"]] = record
                changed.append(("instruments", self._partition_of(facts["base_asset"]), record))
        return changed
