"""The windows over which trades are summed (D3). Each is a whole number of panes."""

from __future__ import annotations

WINDOWS: tuple[str, ...] = ("5m", "15m", "30m", "1h", "4h", "24h")
FAST_WINDOWS: tuple[str, ...] = ("5m", "15m", "30m")
WINDOW_MS: dict[str, int] = {"5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1h": 3_600_000, "4h": 14_400_000, "24h": 86_400_000}
