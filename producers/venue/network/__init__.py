"""Websocket connections and the REST client."""
