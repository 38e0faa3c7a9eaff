"""Services and alerts as Prometheus sees them. Without Prometheus the answer says so; it is never an empty list that looks healthy."""

from __future__ import annotations

from typing import Any

import httpx

# A monitoring that is slow must not hold a page.
TIMEOUT_S = 2.0


async def _get(url: str, path: str, parameters: dict[str, str] | None = None) -> Any:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        response = await client.get(f"{url.rstrip('/')}/api/v1/{path}", params=parameters)
        response.raise_for_status()
        return response.json()["data"]


def _away(url: str, error: Exception | None) -> dict[str, Any]:
    reason = "PROMETHEUS_URL is not set" if not url else f"Prometheus does not answer: {type(error).__name__}"
    return {"known": False, "reason": reason}


async def services(url: str) -> dict[str, Any]:
    """Return every scraped process: job, address, whether it answers and whether it says that it is healthy."""
    if not url:
        return _away(url, None)
    try:
        up = (await _get(url, "query", {"query": "up"}))["result"]
        healthy = (await _get(url, "query", {"query": "perpflow_up"}))["result"]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return _away(url, error)
    own = {one["metric"].get("instance", ""): one["value"][1] == "1" for one in healthy}
    found = [
        {
            "job": one["metric"].get("job", ""),
            "instance": one["metric"].get("instance", ""),
            "answers": one["value"][1] == "1",
            "healthy": own.get(one["metric"].get("instance", "")),
        }
        for one in up
    ]
    return {"known": True, "services": sorted(found, key=lambda one: (one["job"], one["instance"]))}


async def alerts(url: str) -> dict[str, Any]:
    """Return pending and firing alerts: name, state, severity, since when, what it means."""
    if not url:
        return _away(url, None)
    try:
        data = (await _get(url, "alerts"))["alerts"]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return _away(url, error)
    found = [
        {
            "name": one["labels"].get("alertname", ""),
            "state": one["state"],
            "severity": one["labels"].get("severity"),
            "since": one.get("activeAt"),
            "summary": one["annotations"].get("summary", ""),
            "labels": {name: value for name, value in one["labels"].items() if name not in ("alertname", "severity")},
        }
        for one in data
    ]
    return {"known": True, "alerts": sorted(found, key=lambda one: (one["state"] != "firing", one["name"]))}
