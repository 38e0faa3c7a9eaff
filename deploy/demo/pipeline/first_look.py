"""Tells a person where in the console each market of the demo can be seen, as soon as it can."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from urllib.parse import quote

import httpx
from rich.console import Console

# Between two questions. The console answers in a millisecond or two.
ASK_S = 0.5
# Candles before the newest one that a picture needs.
BEFORE_MS = 3_600_000


class FirstLook(threading.Thread):
    """Asks the console for candles of each instrument, and prints the address of its page when the first ones are there.

    Args:
        url: Address of the console.
        instruments: Instrument -> what its market is.
        began: Start of the demo, monotonic seconds.
        console: Where to print.
    """

    def __init__(self, url: str, instruments: Mapping[str, str], began: float, console: Console) -> None:
        super().__init__(name="first-look", daemon=True)
        self.url = url
        self.seen: dict[str, float] = {}
        self._instruments, self._began, self._console = dict(instruments), began, console
        self._stopped = threading.Event()

    def run(self) -> None:
        """Ask until every market was seen, or until stopped."""
        with httpx.Client(base_url=f"{self.url}/api/v1", timeout=10, trust_env=False) as client:
            while len(self.seen) < len(self._instruments) and not self._stopped.wait(ASK_S):
                for instrument, market in self._instruments.items():
                    if instrument not in self.seen and self._has_candles(client, instrument):
                        after = self.seen[instrument] = round(time.monotonic() - self._began, 1)
                        page = f"{self.url}/market?instrument={quote(instrument)}"
                        self._console.print(f"  after {after:.0f} s the market of {instrument} ({market}): {page}", soft_wrap=True)

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()
        if self.is_alive():
            self.join(15)

    def _has_candles(self, client: httpx.Client, instrument: str) -> bool:
        try:
            extent = client.get("/market/extent", params={"instrument": instrument})
            if extent.status_code != 200 or (last := extent.json()["last_time_ms"]) is None:
                return False
            shown = client.get("/candles", params={"instrument": instrument, "start": last - BEFORE_MS, "end": last + 1})
        except httpx.HTTPError:
            return False  # the database has no tables yet, or the console is busy
        return shown.status_code == 200 and any(price is not None for price in shown.json()["close"])
