"""Binance's user data streams: by listen key, plain or below ``/private``."""

from __future__ import annotations

import orjson
from aiohttp import web

from producers.simulated.exchange.session.users import Listener, UserStreams


class ListenKeyStreams(UserStreams):
    """See ``UserStreams``."""

    def add_routes(self, app: web.Application) -> None:
        """Register the plain paths and those of 2026 below ``/private``."""
        for prefix in ("", "/private"):
            app.router.add_get(f"{prefix}/ws", self.serve)
            app.router.add_get(f"{prefix}/ws/{{key}}", self.serve)
            app.router.add_get(f"{prefix}/stream", self.serve)

    def open(self, listener: Listener) -> None:
        """Take listen keys from path and query."""
        request = listener.request
        listener.named = request.path.endswith("/stream")
        listener.only = frozenset(filter(None, request.query.get("events", "").split("/")))
        named = [request.match_info.get("key", ""), request.query.get("listenKey", ""), *request.query.get("streams", "").split("/")]
        listener.keys |= {key for key in named if key}

    def control(self, listener: Listener, text: str) -> str | None:
        """Handle SUBSCRIBE, UNSUBSCRIBE and LIST_SUBSCRIPTIONS."""
        try:
            request = orjson.loads(text)
            method, params, number = request["method"], request.get("params", []), request.get("id")
            if not isinstance(params, list) or not all(isinstance(one, str) for one in params):
                raise TypeError("params")
        except (orjson.JSONDecodeError, TypeError, KeyError):
            return '{"error":{"code":2,"msg":"Invalid request"}}'
        if method == "SUBSCRIBE":
            listener.keys |= set(params)
        elif method == "UNSUBSCRIBE":
            listener.keys -= set(params)
        elif method != "LIST_SUBSCRIPTIONS":
            return '{"error":{"code":2,"msg":"Invalid request: unknown method"}}'
        result = sorted(listener.keys) if method == "LIST_SUBSCRIPTIONS" else None
        return orjson.dumps({"result": result, "id": number}).decode()

    def frame(self, listener: Listener, account: str, kind: str, text: str) -> list[str]:
        """Return a message once for each of its listen keys."""
        if listener.only and kind not in listener.only:
            return []
        keys = [key for key in listener.keys if self.desk.account_of(key) == account]
        return [f'{{"stream":"{key}","data":{text}}}' if listener.named else text for key in keys]

    def listens(self, listener: Listener, account: str) -> bool:
        """Return whether one of its listen keys is valid and belongs to the account."""
        return any(self.desk.account_of(key) == account for key in listener.keys)

    def tell_expired(self) -> None:
        """Announce the listen keys that expired since the last call."""
        for key, _ in self.desk.expired():
            self.expire(key)

    def expire(self, key: str) -> None:
        """Announce to its connections that a listen key expired."""
        message = {"e": "listenKeyExpired", "E": self.desk.now(), "listenKey": key}
        text = orjson.dumps(message).decode()
        for listener in self.all():
            if key in listener.keys:
                listener.queue.put_nowait(f'{{"stream":"{key}","data":{text}}}' if listener.named else text)
                listener.keys.discard(key)
