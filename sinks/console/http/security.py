"""What holds for every request and response: who may call from a browser, how big a body is, and what a browser may do with a page."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sinks.console.auth.limits import SAFE_METHODS
from sinks.console.http.cookies import has_session_cookie
from sinks.console.http.problems import Problem, response_of
from sinks.console.options import ConsoleOptions, is_loopback

# The largest request is a strategy or a backtest form, a few kB.
MOST_BODY = 1 << 20
_POLICY = (
    "default-src 'self'",
    "script-src 'self'",
    # Chart libraries set styles of elements that they make. Styles cannot run code.
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "object-src 'none'",
    "base-uri 'none'",
    "form-action 'self'",
    "frame-ancestors 'none'",
)
# A response that sets one of these itself keeps its own, e.g. a report in a sandboxed frame.
HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# A year: the browser does not try plain HTTP again.
HSTS = "max-age=31536000"


class SecurityMiddleware:
    """ASGI middleware: wrap the whole application in it.

    - An unsafe method from a browser must come from our own pages (Sec-Fetch-Site, else Origin). A session cookie without either header is refused.
      A request with an Authorization header is exempt: no other site can add one, and the cookie does not count then.
    - A console on loopback, or published there, answers to names of this machine only. So no site can point its own name at 127.0.0.1 and read (DNS rebinding).
    - A body above 1 MiB is answered with 413 before the application sees it.
    - Responses have the security headers.

    Args:
        app: The application.
        options: How the console listens.
        most_body: Largest body, bytes.
    """

    def __init__(self, app: ASGIApp, options: ConsoleOptions, most_body: int = MOST_BODY) -> None:
        self.app, self.options, self.most_body = app, options, most_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", HSTS)
            await send(message)

        try:
            self._check_host(Headers(scope=scope))
            self._check_origin(scope)
            receive = await self._limited(scope, receive)
        except Problem as problem:
            await response_of(problem)(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def _check_host(self, headers: Headers) -> None:
        if not self.options.local_names:
            return
        if not _names_this_machine(headers.get("host", "")):
            raise Problem(421, "this console answers to localhost only; to open it to others see perpflow console --help")

    def _check_origin(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if scope["method"] in SAFE_METHODS or "authorization" in headers:
            return
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            allowed = site == "same-origin"
        elif origin is not None:
            allowed = _same_origin(origin, scope, headers)
        else:
            allowed = not has_session_cookie(Request(scope), self.options.secure)
        if not allowed:
            raise Problem(403, "this request does not come from a page of the console")

    async def _limited(self, scope: Scope, receive: Receive) -> Receive:
        headers = Headers(scope=scope)
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers and scope.get("http_version", "1.1").startswith("1"):
            return receive  # no body, so a stream of events starts at once
        if length is not None and length.isdigit() and int(length) > self.most_body:
            raise self._too_large()
        # The body is complete before the application runs, so that it never sees a part of a refused one.
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self.most_body:
                raise self._too_large()
            if message["type"] != "http.request" or not message.get("more_body", False):
                break
        messages.reverse()

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is larger than {self.most_body} bytes", headers={"Connection": "close"})


def _names_this_machine(authority: str) -> bool:
    try:
        host = urlsplit(f"//{authority}").hostname or ""
        return is_loopback(host) or host.endswith(".localhost")
    except ValueError:
        return False


def _same_origin(origin: str, scope: Scope, headers: Headers) -> bool:
    try:
        parts = urlsplit(origin)
        expected = urlsplit(f"{scope.get('scheme', 'http')}://{headers.get('host', '')}")
        standard = {"http": 80, "https": 443}
        return (
            parts.scheme == expected.scheme
            and parts.hostname is not None
            and parts.hostname == expected.hostname
            and (parts.port or standard.get(parts.scheme)) == (expected.port or standard.get(expected.scheme))
        )
    except ValueError:
        return False
