"""The notifier's configuration: one TOML file. It names secrets, but does not contain them.

Every error names the key. Unknown keys are errors, because a typing error must not silently change who receives a message.
"""

from __future__ import annotations

import re
import tomllib
from datetime import time
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sinks.notifier.rules.events import LEVELS, ROUTABLE, Level

LevelName = Literal["info", "warning", "error", "critical"]
KindName = Literal[
    "signal",
    "position_opened",
    "position_tp1",
    "trade_closed",
    "order_rejected",
    "data_quality",
    "gap",
    "dead_letter",
    "guard",
    "health_down",
    "health_up",
    "alert_fires",
    "alert_ends",
]
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_SECRET_KEYS = ("token", "webhook", "password", "bearer", "url")


class ConfigError(ValueError):
    """An invalid configuration. The message names file and key, never a value that may be secret."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Channel(_Model):
    """Settings of all channels.

    Attributes:
        name: Label of metrics and name in routes.
        rate_per_minute: Average number of messages a minute.
        burst: Messages that may be sent at once after a pause.
        timeout_s: Time-out of connecting and of each wait for an answer. A whole attempt has three times this value.
        quiet_hours: ``HH:MM-HH:MM`` in ``time_zone``; absent: the file's; empty: none.
        digest_over: If more messages below critical wait, they are sent as one digest.
    """

    secret: ClassVar[str] = ""  # the key that must be given as <key>_env or <key>_file

    name: str = Field(pattern=r"^[a-z0-9_-]{1,40}$")
    rate_per_minute: float = Field(20, gt=0)
    burst: int = Field(5, ge=1)
    timeout_s: float = Field(10, gt=0, le=120)
    quiet_hours: str | None = None
    digest_over: int = Field(20, ge=1)

    @field_validator("quiet_hours")
    @classmethod
    def _hours(cls, value: str | None) -> str | None:
        if value:
            hours(value)
        return value

    @model_validator(mode="after")
    def _one_source(self) -> _Channel:
        for key in _SECRET_KEYS:
            named = [name for name in (key, f"{key}_env", f"{key}_file") if getattr(self, name, None) is not None]
            if len(named) > 1:
                raise ValueError(f"{' and '.join(named)}: only one of them")
            if key == self.secret and not named:
                raise ValueError(f"{key}_env or {key}_file is needed")
        return self


class TelegramChannel(_Channel):
    """A Telegram bot that writes to chats.

    Attributes:
        chat_ids: Numbers or @names of chats and channels.
        api_url: Address of another Bot API server than Telegram's.
    """

    secret = "token"

    kind: Literal["telegram"]
    token_env: str | None = None
    token_file: Path | None = None
    chat_ids: list[str] = Field(min_length=1)
    api_url: str = Field("https://api.telegram.org", pattern=r"^https?://")


class DiscordChannel(_Channel):
    """A webhook of a Discord channel: ``https://discord.com/api/webhooks/ID/TOKEN``. The whole URL is a secret."""

    secret = "webhook"

    kind: Literal["discord"]
    webhook_env: str | None = None
    webhook_file: Path | None = None


class WebhookChannel(_Channel):
    """A POST of JSON. ``url`` may be written here if it grants no access; ``bearer`` becomes the Authorization header."""

    secret = "url"

    kind: Literal["webhook"]
    rate_per_minute: float = Field(600, gt=0)
    url: str | None = Field(None, pattern=r"^https?://")
    url_env: str | None = None
    url_file: Path | None = None
    bearer_env: str | None = None
    bearer_file: Path | None = None


class EmailChannel(_Channel):
    """E-mail by SMTP."""

    kind: Literal["email"]
    rate_per_minute: float = Field(10, gt=0)
    host: str = Field(min_length=1)
    port: int | None = Field(None, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password_env: str | None = None
    password_file: Path | None = None
    sender: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    to: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _login(self) -> EmailChannel:
        if (self.user is None) is not (self.password_env is None and self.password_file is None):
            raise ValueError("user and password_env or password_file: both or neither")
        return self


class AppriseChannel(_Channel):
    """Any other service, by its apprise URL (https://github.com/caronc/apprise/wiki). The whole URL is a secret."""

    secret = "url"

    kind: Literal["apprise"]
    url_env: str | None = None
    url_file: Path | None = None


ChannelConfig = TelegramChannel | DiscordChannel | WebhookChannel | EmailChannel | AppriseChannel


class Route(_Model):
    """A rule that sends events to channels.

    Attributes:
        channels: Names of channels.
        kinds: Kinds of events; absent: all.
        least: Lowest level.
        instruments: Patterns such as ``BINANCE:*``; events without an instrument pass. Absent: all.
    """

    channels: list[str] = Field(min_length=1)
    kinds: list[KindName] = list(ROUTABLE)  # type: ignore[arg-type]
    least: LevelName = "info"
    instruments: list[str] = ["*"]

    @property
    def least_level(self) -> Level:
        """``least`` as a level."""
        return LEVELS[self.least]


class HealthChecks(_Model):
    """Health checks of services.

    Attributes:
        services: Name -> URL of /health.
        every_s: Seconds between two checks.
        after: A service is down after this many failed checks in a row.
    """

    services: dict[str, str] = {}
    every_s: float = Field(10, gt=0)
    after: int = Field(3, ge=1)

    @field_validator("services")
    @classmethod
    def _urls(cls, value: dict[str, str]) -> dict[str, str]:
        for name, url in value.items():
            if not re.match(r"https?://[^/]+", url):
                raise ValueError(f"{name}: not an http URL")
        return value


class AlertChecks(_Model):
    """The Prometheus whose firing alerts are reported.

    Attributes:
        prometheus: Its URL; empty: none.
        every_s: Seconds between two queries.
    """

    prometheus: str = Field("", pattern=r"^(https?://[^/]+.*)?$")
    every_s: float = Field(10, gt=0)


class NotifierConfig(_Model):
    """The file as a whole.

    Attributes:
        channel: The channels.
        route: The routes. A channel in several matching routes receives an event once.
        repeat_window_s: The same alert within this time (wall clock) is only counted; the count is sent at the end of the window.
        give_up_s: A message that stays unsent for this time goes to dead_letters.
        top: Only this many contracts of each venue with the largest 24 h quote volume make news (spec M, R000-90); 0: all.
        top_kinds: Kinds to which ``top`` applies. It never applies to critical events.
        quiet_hours: ``HH:MM-HH:MM`` in ``time_zone``. Events below ``quiet_passes`` are counted, and the counts are sent afterwards.
        time_zone: IANA name; also used for times in messages.
        quiet_passes: Lowest level that passes quiet hours.
        templates: Folder whose ``<kind>.j2`` replace the built-in ones.
        health: Services to watch.
        alerts: Prometheus to watch.
    """

    channel: list[Annotated[ChannelConfig, Field(discriminator="kind")]] = []
    route: list[Route] = []
    repeat_window_s: float = Field(300, gt=0)
    give_up_s: float = Field(900, gt=0)
    top: int = Field(10, ge=0)
    top_kinds: list[KindName] = ["signal", "data_quality", "gap"]
    quiet_hours: str = ""
    time_zone: str = "UTC"
    quiet_passes: LevelName = "critical"
    templates: Path | None = None
    health: HealthChecks = HealthChecks()
    alerts: AlertChecks = AlertChecks()

    @field_validator("quiet_hours")
    @classmethod
    def _hours(cls, value: str) -> str:
        if value:
            hours(value)
        return value

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(f"no time zone {value!r}") from error
        return value

    @model_validator(mode="after")
    def _names(self) -> NotifierConfig:
        names = [one.name for one in self.channel]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"channel: two are named {name!r}")
        for number, route in enumerate(self.route):
            for name in route.channels:
                if name not in names:
                    raise ValueError(f"route[{number}].channels: there is no channel {name!r}")
        return self


def load(path: Path) -> NotifierConfig:
    """Read a configuration file. Relative paths are relative to its folder.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has an invalid key.
    """
    try:
        with path.open("rb") as file:
            parsed = tomllib.load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {type(error).__name__}: cannot be read") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: no TOML: {error}") from None
    _absolute(parsed, path.parent)
    try:
        return NotifierConfig.model_validate(parsed)
    except ValidationError as error:
        raise ConfigError("; ".join(f"{path}: {_words(item)}" for item in error.errors(include_input=False, include_url=False))) from None


def _absolute(parsed: dict[str, Any], folder: Path) -> None:
    channels = parsed.get("channel")
    tables = [parsed, *(one for one in channels if isinstance(one, dict))] if isinstance(channels, list) else [parsed]
    for table in tables:
        for key, value in table.items():
            if (key == "templates" or key.endswith("_file")) and isinstance(value, str):
                table[key] = folder / value


def _words(item: Any) -> str:
    """Return an error as ``channel[0].chat_ids: why``."""
    kinds = ("telegram", "discord", "webhook", "email", "apprise")
    where = ""
    for at, part in enumerate(item["loc"]):
        if isinstance(part, int):
            where += f"[{part}]"
        elif not (at == 2 and part in kinds and item["loc"][0] == "channel"):  # the union's tag is no key
            where += f".{part}" if where else str(part)
    last = str(item["loc"][-1]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        if last in _SECRET_KEYS:
            return f"{where}: a secret is not written here; name it: {last}_env or {last}_file"
        return f"{where}: no such key"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def hours(text: str) -> tuple[time, time]:
    """Return start and end of ``HH:MM-HH:MM``; raises ValueError."""
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not HH:MM-HH:MM")
    begin, end = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
    if begin == end:
        raise ValueError(f"{text!r} begins when it ends")
    return begin, end
