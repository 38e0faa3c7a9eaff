"""Places that messages go to, on real sockets: an HTTP server that plays Telegram, Discord and webhooks, and an SMTP server."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from deploy.stack.processes import free_port


@dataclass
class Request:
    """A request that came."""

    path: str
    query: str
    headers: dict[str, str]
    json: Any
    at: float


@dataclass
class Answer:
    """What to answer: a status after a delay; ``trickle`` sends headers and then a byte every 0.2 s."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    delay: float = 0.0
    trickle: bool = False


class Web:
    """The HTTP server. ``script`` holds answers by the beginning of a path; when it is used up, all is well."""

    def __init__(self) -> None:
        self.port = free_port()
        self.requests: list[Request] = []
        self.script: dict[str, list[Answer]] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def to(self, path: str) -> list[Request]:
        """Return the requests whose path begins so."""
        return [one for one in list(self.requests) if one.path.startswith(path)]

    def wait(self, path: str, count: int, timeout: float = 120.0) -> list[Request]:
        """Wait until so many requests came."""
        deadline = time.monotonic() + timeout
        while len(self.to(path)) < count:
            assert time.monotonic() < deadline, f"{len(self.to(path))} of {count} requests to {path}: {[one.json for one in self.to(path)]}"
            time.sleep(0.02)
        return self.to(path)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port).start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        told = json.loads(text) if text else None
        answers = next((answers for path, answers in self.script.items() if request.path.startswith(path) and answers), None)
        answer = answers.pop(0) if answers else Answer()
        self.requests.append(Request(request.path, request.query_string, dict(request.headers), told, time.monotonic()))
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.trickle:
            stream = web.StreamResponse(headers={"Content-Length": "10000"})
            await stream.prepare(request)
            for _ in range(100):
                await stream.write(b" ")
                await asyncio.sleep(0.2)
            return stream
        body = answer.body if answer.body is not None else {"ok": answer.status == 200}
        return web.json_response(body, status=answer.status, headers=answer.headers)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


class _Box:
    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.refuse: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuse:
            return self.refuse.pop(0)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        message["X-Envelope-To"] = ",".join(envelope.rcpt_tos)
        self.messages.append(message)
        return "250 OK"


class Mail:
    """The SMTP server: it asks for user and password and keeps what it takes. ``refuse`` holds answers to refuse with."""

    user, password = "desk", "mail-password-4711"

    def __init__(self) -> None:
        self.port = free_port()
        self._box = _Box()
        self.refuse = self._box.refuse
        self.messages = self._box.messages
        self._controller = Controller(
            self._box,
            hostname="127.0.0.1",
            port=self.port,
            authenticator=self._login,
            auth_required=True,
            auth_require_tls=False,
        )
        self._controller.start()

    def _login(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        known = isinstance(data, LoginPassword) and (data.login, data.password) == (self.user.encode(), self.password.encode())
        return AuthResult(success=known, handled=False)

    def close(self) -> None:
        self._controller.stop()


@contextmanager
def serving() -> Iterator[tuple[Web, Mail]]:
    """Run both servers."""
    web_server, mail = Web(), Mail()
    try:
        yield web_server, mail
    finally:
        web_server.close()
        mail.close()


TELEGRAM_TOKEN = "123456789:AAtelegramSecretTokenForTheTests1234"
DISCORD_TOKEN = "discord-secret-token-for-the-tests-0815"
WEBHOOK_PATH = "/hook/webhook-secret-path-4242"
BEARER = "bearer-secret-of-the-tests-99"
SECRETS = (TELEGRAM_TOKEN, DISCORD_TOKEN, WEBHOOK_PATH.rpartition("/")[2], BEARER, Mail.password)


def secret_variables(web_server: Web) -> dict[str, str]:
    """Return the environment variables that ``config_text`` names."""
    return {
        "T_TELEGRAM": TELEGRAM_TOKEN,
        "T_DISCORD": f"{web_server.url}/api/webhooks/77/{DISCORD_TOKEN}",
        "T_WEBHOOK": f"{web_server.url}{WEBHOOK_PATH}",
        "T_BEARER": BEARER,
        "T_MAIL": Mail.password,
    }


TELEGRAM_PATH = f"/bot{TELEGRAM_TOKEN}/sendMessage"
DISCORD_PATH = "/api/webhooks/77/"


def channel_tables(web_server: Web, mail: Mail, more: str = "") -> dict[str, str]:
    """Return the TOML of one channel of each kind."""
    return {
        "phone": f"""
[[channel]]
name = "phone"
kind = "telegram"
token_env = "T_TELEGRAM"
chat_ids = ["4711"]
api_url = "{web_server.url}"
{more}""",
        "desk": f"""
[[channel]]
name = "desk"
kind = "discord"
webhook_env = "T_DISCORD"
{more}""",
        "robot": f"""
[[channel]]
name = "robot"
kind = "webhook"
url_env = "T_WEBHOOK"
bearer_env = "T_BEARER"
{more}""",
        "mail": f"""
[[channel]]
name = "mail"
kind = "email"
host = "127.0.0.1"
port = {mail.port}
security = "none"
user = "{mail.user}"
password_env = "T_MAIL"
sender = "perpflow@example.com"
to = ["a@example.com", "b@example.com"]
{more}""",
    }
