"""Settings of the Binance producer, from the environment or the command line."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# Our names of the venue's streams, and the topic that each feeds.
STREAM_TOPICS = {
    "aggTrade": "agg_trades",
    "depth": "depth",
    "bookTicker": "quotes",
    "markPrice": "funding",
    "forceOrder": "liquidations",
}
# Since 2026-04-23 a stream lives on one route only; on the other a subscription is accepted and stays silent.
STREAM_ROUTES = {"aggTrade": "market", "depth": "public", "bookTicker": "public", "markPrice": "market", "forceOrder": "market"}
# Seconds without data after which a stream is called silent. Liquidations are silent for hours: their connection is watched instead.
SILENCE_S: dict[str, float | None] = {"aggTrade": 60.0, "depth": 15.0, "bookTicker": 15.0, "markPrice": 10.0, "forceOrder": None}
DEFAULT_SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT,XRPUSDT"
# The venue accepts up to 1,024 streams a connection, and advises 200.
MAX_STREAMS = 200


class BinanceConfig(BaseSettings):
    """What to hear, and where. Environment variables as named by the aliases."""

    model_config = SettingsConfigDict(populate_by_name=True, extra="ignore")

    symbols: str = Field(DEFAULT_SYMBOLS, alias="PERPFLOW_SYMBOLS", description="Symbols with commas, top:N by 24 h quote volume, or all.")
    streams: str = Field(
        ",".join(STREAM_TOPICS), alias="PERPFLOW_BINANCE_STREAMS", description=f"Streams with commas: {', '.join(STREAM_TOPICS)}."
    )
    ws_url: str = Field("wss://fstream.binance.com", alias="PERPFLOW_BINANCE_WS_URL", description="Base of the /public and /market routes.")
    rest_url: str = Field("https://fapi.binance.com", alias="PERPFLOW_BINANCE_REST_URL")
    author: str = Field(
        "binance-usdm", alias="PERPFLOW_BINANCE_AUTHOR", description="Author of the progress marks; one per running producer."
    )
    depth_speed: str = Field("100ms", alias="PERPFLOW_BINANCE_DEPTH_SPEED", description="Cadence of the depth diffs: 100ms, 250ms, 500ms.")
    exit_at_end: bool = Field(True, alias="PERPFLOW_EXIT_AT_END", description="Exit when a recorded venue says that the recording is over.")
    hold_s: float = Field(10.0, alias="PERPFLOW_HOLD_S", gt=0, description="Silent seconds after which a connection holds no other up.")
    rest_hold_s: float = Field(
        5.0, alias="PERPFLOW_REST_HOLD_S", gt=0, description="Seconds a connection waits for a back-fill or snapshot."
    )
    ban_wait_s: float = Field(120.0, alias="PERPFLOW_BINANCE_BAN_WAIT_S", gt=0, description="Least wait after HTTP 418.")
    weight_limit: int = Field(2400, alias="PERPFLOW_BINANCE_WEIGHT_LIMIT", gt=0, description="REST request weight a minute.")
    refresh_s: float = Field(
        600.0, alias="PERPFLOW_BINANCE_REFRESH_S", gt=0, description="Seconds between two reads of the contract facts."
    )
    progress_s: float = Field(5.0, alias="PERPFLOW_PROGRESS_S", gt=0, description="Seconds between two progress lines.")

    @field_validator("streams")
    @classmethod
    def _known_streams(cls, value: str) -> str:
        for name in filter(None, (part.strip() for part in value.split(","))):
            if name not in STREAM_TOPICS:
                raise ValueError(f"unknown stream {name!r} (known: {', '.join(STREAM_TOPICS)})")
        return value

    @field_validator("ws_url", "rest_url")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @property
    def stream_names(self) -> list[str]:
        """The chosen streams, in the order of ``STREAM_TOPICS``."""
        chosen = {part.strip() for part in self.streams.split(",")}
        return [name for name in STREAM_TOPICS if name in chosen]

    def wire_name(self, symbol: str, stream: str) -> str:
        """Return the venue's name of a symbol's stream, e.g. ``btcusdt@depth@100ms``."""
        suffix = {"depth": f"@{self.depth_speed}", "markPrice": "@1s"}.get(stream, "")
        return f"{symbol.lower()}@{stream}{suffix}"
