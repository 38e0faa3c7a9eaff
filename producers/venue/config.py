"""Settings of a producer, from the environment or the command line."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from producers.venue.adapter.base import Adapter, Channel

TOPICS = ("agg_trades", "depth", "quotes", "funding", "liquidations", "market_indicators", "klines")


class ProducerConfig(BaseSettings):
    """The streams of a producer, and its connections. The aliases name the environment variables. None means the venue's default."""

    model_config = SettingsConfigDict(populate_by_name=True, extra="ignore")

    symbols: str | None = Field(None, alias="PERPFLOW_SYMBOLS", description="Symbols with commas, top:N by 24 h quote volume, or all.")
    streams: str = Field(",".join(TOPICS), alias="PERPFLOW_STREAMS", description=f"Topics to feed, with commas: {', '.join(TOPICS)}.")
    ws_url: str | None = Field(None, alias="PERPFLOW_WS_URL", description="Base of the websocket addresses; default: the real venue.")
    rest_url: str | None = Field(None, alias="PERPFLOW_REST_URL", description="Base of the REST interface; default: the real venue.")
    author: str | None = Field(None, alias="PERPFLOW_AUTHOR", description="Author of the progress marks; one per running producer.")
    depth_speed: str = Field(
        "100ms", alias="PERPFLOW_DEPTH_SPEED", description="Cadence of Binance's depth diffs: 100ms, 250ms, 500ms; recordings: 0ms."
    )
    exit_at_end: bool = Field(True, alias="PERPFLOW_EXIT_AT_END", description="Exit when a recorded venue ends its recording.")
    hold_s: float = Field(
        10.0, alias="PERPFLOW_HOLD_S", gt=0, description="Silent seconds after which other connections no longer wait for a connection."
    )
    rest_hold_s: float = Field(
        5.0, alias="PERPFLOW_REST_HOLD_S", gt=0, description="Seconds a connection waits for a back-fill or snapshot."
    )
    ban_wait_s: float | None = Field(
        None, alias="PERPFLOW_BAN_WAIT_S", gt=0, description="Shortest wait after the venue banned the address; default: the venue's rule."
    )
    weight_limit: int | None = Field(
        None, alias="PERPFLOW_REST_WEIGHT_LIMIT", gt=0, description="REST request weight in the venue's first window; default: the venue's."
    )
    refresh_s: float = Field(
        600.0, alias="PERPFLOW_REFRESH_S", gt=0, description="Seconds between two checks for changed, new and delisted contracts."
    )
    history_hours: float = Field(
        0.0,
        alias="PERPFLOW_HISTORY_HOURS",
        ge=0,
        description="Hours of trades, funding and indicators fetched on a cold start (0: only bars).",
    )
    rotate_after_s: float | None = Field(
        None, alias="PERPFLOW_ROTATE_AFTER_S", gt=0, description="Age at which a connection is replaced; default: the venue's rule."
    )
    overlap_s: float = Field(
        5.0, alias="PERPFLOW_OVERLAP_S", gt=0, description="Seconds for which an old connection is read beside its successor."
    )
    conflate_after_s: float = Field(
        5.0, alias="PERPFLOW_CONFLATE_AFTER_S", gt=0,
        description="Delay behind a live venue, seconds, above which depth and quotes are thinned out (never on recordings).",
    )  # fmt: skip
    poll_scale: float = Field(1.0, alias="PERPFLOW_POLL_SCALE", gt=0, description="Factor for the seconds between REST polls.")
    poll_recorded: bool = Field(
        False, alias="PERPFLOW_POLL_RECORDED", description="Poll a recorded venue too (its responses are not of the recording's time)."
    )
    progress_s: float = Field(5.0, alias="PERPFLOW_PROGRESS_S", gt=0, description="Seconds between two progress lines.")

    @field_validator("streams")
    @classmethod
    def _known_streams(cls, value: str) -> str:
        names = [name for name in (part.strip() for part in value.split(",")) if name]
        for name in names:
            if name not in TOPICS:
                raise ValueError(f"unknown stream {name!r} (known: {', '.join(TOPICS)})")
        if not names:
            raise ValueError(f"no stream (known: {', '.join(TOPICS)})")
        return value

    @field_validator("ws_url", "rest_url")
    @classmethod
    def _no_slash(cls, value: str | None) -> str | None:
        return None if value is None else value.rstrip("/")

    @property
    def topics(self) -> list[str]:
        """The chosen topics, in the order of ``TOPICS``."""
        chosen = {part.strip() for part in self.streams.split(",")}
        return [name for name in TOPICS if name in chosen]

    def channels(self, adapter: Adapter) -> list[Channel]:
        """Return the venue's channels that feed the chosen topics, in the venue's order."""
        return [channel for channel in adapter.channels if channel.topic in self.topics]
