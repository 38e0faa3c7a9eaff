"""Send messages with apprise. Only this module uses apprise and its internals.

apprise reports only success or failure, but rate limiting needs the HTTP status and Retry-After. So a proxy replaces the name ``requests`` in a plugin's
module and records the answer of each attempt. A 429 ends the attempt there, because apprise's Discord plugin would wait and retry by itself. The version is
pinned, and tests check these assumptions.

``timeout_s`` limits connecting and each wait for bytes. A server that sends single bytes could block a thread forever. So each attempt runs in its
own thread, which is abandoned after three times ``timeout_s``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import requests
from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType

from schemas.secret import SecretError, Secrets
from sinks.notifier.delivery.templating import Message
from sinks.notifier.rules.config import (
    ChannelConfig,
    ConfigError,
    DiscordChannel,
    EmailChannel,
    NotifierConfig,
    TelegramChannel,
    WebhookChannel,
)
from sinks.notifier.rules.events import Level

# Outcomes of an attempt, the reasons of the metric.
SENT, TIMEOUT, CONNECTION, RATE_LIMITED, REFUSED, SERVER, OTHER = (
    "sent",
    "timeout",
    "connection",
    "rate_limited",
    "refused",
    "server",
    "other",
)
# The message itself is rejected, not the address or the permission: a retry cannot help.
_BAD_MESSAGE = {400, 413, 415, 422}
_TYPES = {
    Level.INFO: NotifyType.INFO,
    Level.WARNING: NotifyType.WARNING,
    Level.ERROR: NotifyType.FAILURE,
    Level.CRITICAL: NotifyType.FAILURE,
}
# Longest wait that a server may request.
_LONGEST_WAIT_S = 3600.0
_DETAIL_LIMIT = 300

# A plugin of apprise; each kind has its own attributes. And a function that creates one with this payload besides the text.
Plugin = Any
Build = Callable[[dict[str, Any]], Plugin]


@dataclass(frozen=True)
class SendResult:
    """The result of an attempt.

    Attributes:
        reason: ``sent``, or why not.
        detail: Text for people, without secrets.
        wait_s: Wait that the server requested.
        final: True if a retry cannot help.
    """

    reason: str
    detail: str = ""
    wait_s: float | None = None
    final: bool = False

    @property
    def ok(self) -> bool:
        """True if the message was sent."""
        return self.reason == SENT


@dataclass
class _Answer:
    """The recorded answer of an attempt."""

    reason: str = ""
    status: int | None = None
    wait_s: float | None = None
    lines: list[str] = field(default_factory=list)
    sent: bool = False


# A context variable instead of a thread-local, because apprise passes work to threads with the caller's context.
_answer: ContextVar[_Answer | None] = ContextVar("answer", default=None)


class _Lines(logging.Handler):
    """Collects apprise's log lines of an attempt. They are not logged, because they may contain addresses with tokens."""

    def emit(self, record: logging.LogRecord) -> None:
        answer = _answer.get()
        if answer is not None and record.levelno >= logging.WARNING:
            answer.lines.append(record.getMessage())


class _NotedRequests:
    """A proxy of ``requests`` for plugins that records answers."""

    def __init__(self, real: ModuleType) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        return _noted(value) if name in ("request", "get", "post", "put", "patch", "delete") else value


def _noted(call: Callable[..., requests.Response]) -> Callable[..., requests.Response]:
    def noting(*args: Any, **more: Any) -> requests.Response:
        answer = _answer.get() or _Answer()
        try:
            response = call(*args, **more)
        except requests.Timeout:
            answer.reason = TIMEOUT
            raise
        except requests.RequestException:
            answer.reason = CONNECTION
            raise
        answer.status, answer.reason = response.status_code, _reason(response.status_code)
        if response.status_code in (429, 503):
            answer.wait_s = _asked_wait(response)
        if response.status_code == 429:
            raise requests.RequestException("429")
        return response

    return noting


def _reason(status: int) -> str:
    if status == 429:
        return RATE_LIMITED
    return SERVER if status >= 500 else REFUSED if status >= 400 else OTHER


def _asked_wait(response: requests.Response) -> float | None:
    """Return the wait that a server requests, seconds: Retry-After (number or date), or the field of Telegram and Discord; else None."""
    text = response.headers.get("Retry-After", "")
    wait: Any = None
    try:
        wait = float(text)
    except ValueError:
        try:
            wait = parsedate_to_datetime(text).timestamp() - time()
        except (ValueError, TypeError, OverflowError):
            try:
                body = response.json()
                wait = body.get("retry_after", (body.get("parameters") or {}).get("retry_after"))
            except (ValueError, AttributeError):
                wait = None
    if not isinstance(wait, int | float) or not wait >= 0:  # also not a number
        return None
    return min(float(wait), _LONGEST_WAIT_S)


def _quieten() -> None:
    logger = logging.getLogger("apprise")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.handlers = [_Lines()]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        # Its warnings contain whole URLs.
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)


def _note_requests(plugin: Plugin) -> None:
    for base in type(plugin).__mro__:
        module: Any = sys.modules[base.__module__]
        if isinstance(getattr(module, "requests", None), ModuleType):
            module.requests = _NotedRequests(module.requests)


class Sender:
    """Sends to one channel's destinations (chats, recipients or one address). Used by one thread.

    Args:
        config: The channel.
        secrets: Reads its secrets and registers them for redaction.
        where: Key of the channel in the configuration.

    Raises:
        ConfigError: a secret is missing, or apprise rejects the address.
    """

    def __init__(self, config: ChannelConfig, secrets: Secrets, where: str) -> None:
        _quieten()
        self._config = config
        self._secrets = secrets
        self._asset = AppriseAsset(app_id="perpflow", app_desc="perpflow notifier", async_mode=False, service_timeout=0)
        try:
            self._builders = self._places(where)
        except SecretError as error:
            raise ConfigError(f"{error}") from None
        for build in self._builders:
            try:
                plugin = build({})
            except Exception:  # apprise's message contains the rejected text, which may be the secret
                plugin = None
            if plugin is None or (isinstance(config, TelegramChannel | EmailChannel) and len(plugin.targets) != 1):
                raise ConfigError(f"{where}: apprise does not accept this {config.kind} address: look at its secret and its recipients")
            _note_requests(plugin)

    @property
    def places(self) -> int:
        """Number of destinations."""
        return len(self._builders)

    def send(self, message: Message, done: set[int]) -> SendResult:
        """Send a message to the destinations that are not in ``done``, and update it. Never raises."""
        worst = SendResult(SENT)
        for place, build in enumerate(self._builders):
            if place in done:
                continue
            outcome = self._send_one(build, message)
            if outcome.ok:
                done.add(place)
            elif worst.ok or (worst.final and not outcome.final) or (outcome.wait_s or 0) > (worst.wait_s or 0):
                worst = outcome
        return worst

    def _send_one(self, build: Build, message: Message) -> SendResult:
        answer = _Answer()

        def attempt() -> None:
            _answer.set(answer)
            try:
                # A new plugin for each attempt, because plugins keep times and delivery state.
                apprise = Apprise(asset=self._asset)
                apprise.add(build(_payload(message)))
                title, body = self._text(message.title), self._text(message.body)
                answer.sent = bool(
                    apprise.notify(body=body or title, title=title, notify_type=_TYPES[message.event.level], body_format=NotifyFormat.TEXT)
                )
            except Exception as error:  # a failing plugin must not stop the channel
                answer.lines.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=attempt, name=f"send-{self._config.name}", daemon=True)
        thread.start()
        thread.join(3 * self._config.timeout_s)
        if thread.is_alive():
            return SendResult(TIMEOUT, f"no end after {3 * self._config.timeout_s:g} s")
        if answer.sent:
            return SendResult(SENT)
        detail = "; ".join(answer.lines) or "no reason given"
        if answer.reason == RATE_LIMITED:  # apprise takes it for a lost connection
            detail = "HTTP 429"
        elif answer.status is not None:
            detail = f"HTTP {answer.status}: {detail}"
        detail = self._secrets.redact(detail)[:_DETAIL_LIMIT]
        return SendResult(answer.reason or OTHER, detail, answer.wait_s, answer.status in _BAD_MESSAGE)

    def _text(self, text: str) -> str:
        # External text must not mention people: @everyone in a record is plain text.
        return text.replace("@", "@\u200b") if isinstance(self._config, DiscordChannel) else text

    # --- addresses -----------------------------------------------------------------------------------------------------
    def _places(self, where: str) -> list[Build]:
        config = self._config
        common = {"rto": config.timeout_s, "cto": config.timeout_s, "overflow": "truncate"}
        if isinstance(config, TelegramChannel):
            token = self._read(where, "token")
            return [
                self._builder(
                    {"schema": "tgram", "bot_token": token, "targets": [chat], "detect_owner": False, **common},
                    f"{config.api_url.rstrip('/')}/bot",
                )
                for chat in config.chat_ids
            ]
        if isinstance(config, DiscordChannel):
            url = self._read(where, "webhook")
            found = re.fullmatch(r"(https?://[^?#]+/webhooks)/(\w+)/([\w-]+)/?", url)
            if found is None:
                raise ConfigError(f"{where}.webhook: is no URL like https://discord.com/api/webhooks/ID/TOKEN")
            self._secrets.add(found[3])
            ours = {"schema": "discord", "webhook_id": found[2], "webhook_token": found[3], "avatar": False, **common}
            return [self._builder(ours, found[1])]
        if isinstance(config, WebhookChannel):
            return [self._webhook(where, config, common)]
        if isinstance(config, EmailChannel):
            password = self._secrets.read(f"{where}.password", config.password_env, config.password_file)
            mode = {"starttls": "starttls", "tls": "ssl", "none": "insecure"}[config.security]
            address = {
                "schema": "mailto" if config.security == "none" else "mailtos",
                "host": config.host,
                "smtp_host": config.host,
                "port": config.port or {"starttls": 587, "ssl": 465, "insecure": 25}[mode],
                "user": quote(config.user) if config.user else None,
                "password": quote(password) if password else None,
                "secure_mode": mode,
                "from_addr": config.sender,
                **common,
            }
            return [self._builder({**address, "targets": [one]}) for one in config.to]
        url = self._read(where, "url")
        for part in re.split(r"[/:@?&=]+", url):
            self._secrets.add(part)
        return [self._from_url(url)]

    def _read(self, where: str, key: str) -> str:
        config: Any = self._config
        value = self._secrets.read(f"{where}.{key}", getattr(config, f"{key}_env"), getattr(config, f"{key}_file"))
        assert value is not None  # the configuration demands one of them
        return value

    def _webhook(self, where: str, config: WebhookChannel, common: dict[str, Any]) -> Build:
        url = config.url or self._read(where, "url")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{where}.url: is no http URL")
        if config.url is None:
            for piece in (parts.path, parts.query, parts.password or "", *parts.path.split("/"), *dict(parse_qsl(parts.query)).values()):
                self._secrets.add(piece)
        bearer = self._secrets.read(f"{where}.bearer", config.bearer_env, config.bearer_file)
        address = {
            "schema": "jsons" if parts.scheme == "https" else "json",
            "host": parts.hostname,
            "port": parts.port,
            "user": parts.username,
            "password": parts.password,
            "fullpath": parts.path,
            "params": dict(parse_qsl(parts.query)),
            "headers": {"Authorization": f"Bearer {bearer}"} if bearer else {},
            **common,
        }

        def build(payload: dict[str, Any]) -> Plugin:
            plugin = self._plugin(dict(address))
            plugin.payload_extras = {**payload, "attachments": ""}
            return plugin

        return build

    def _plugin(self, address: str | dict[str, Any]) -> Plugin:
        return Apprise.instantiate(address, asset=self._asset, suppress_exceptions=False)

    def _builder(self, address: dict[str, Any], base: str | None = None) -> Build:
        def build(payload: dict[str, Any]) -> Plugin:
            plugin = self._plugin(dict(address))
            if base is not None:
                plugin.notify_url = base
            return plugin

        return build

    def _from_url(self, url: str) -> Build:
        def build(payload: dict[str, Any]) -> Plugin:
            plugin = self._plugin(url)
            plugin.socket_connect_timeout = plugin.socket_read_timeout = self._config.timeout_s
            return plugin

        return build


def _payload(message: Message) -> dict[str, Any]:
    """Return the event for a webhook, in addition to apprise's version, title, message and type."""
    event = message.event
    return {
        "event_id": event.event_id,
        "kind": event.kind,
        "level": event.level.name.lower(),
        "instrument": event.instrument,
        "event_time": event.time,
        "origin": message.origin,
        "fields": json.loads(json.dumps(dict(event.fields), default=_plain)),
    }


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def senders(config: NotifierConfig, secrets: Secrets) -> dict[str, Sender]:
    """Return a sender for each channel. Raises ConfigError naming the channel and key."""
    return {one.name: Sender(one, secrets, f"channel[{at}]") for at, one in enumerate(config.channel)}
