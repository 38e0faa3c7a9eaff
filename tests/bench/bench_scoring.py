"""Evaluations a second, the bytes of the score record included: all strategies of an instant at once against one by one, in the same run.

Run: ``perpflow bench --only scoring``. Three desks: the bootstrap grid of the specification, filled up to 100 strategies on 4 instruments (six window
pairs, three profiles, the coin's gates and weights); 100 strategies on 4 instruments that differ in every gate and weight, the worst case for sharing;
10 strategies on each of 600 instruments.
One by one is ``evaluate`` and the codec. Times are CPU seconds of this process, the best of three runs, the two ways taking turns.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from schemas.codec.avro import Codec
from stream_apps.core.market.snapshot import Prints, Snapshot
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring import StrategyMemory, evaluate
from stream_apps.core.signals.scoring.batch import Batch
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.core.signals.strategy_rules import validate
from tests.bench.rows import Figure, Row
from tests.bench.running import Run
from tests.bench.sizing import LEAST_CPU_S, grown
from tests.support.markets.scoring_rows import market_of

PAIRS = (("5m", "30m"), ("5m", "1h"), ("15m", "1h"), ("15m", "4h"), ("30m", "1h"), ("30m", "4h"))
PROFILES = ((0.75, 1.5), (1.0, 2.0), (1.5, 2.5))
COINS = ("BTC", "ETH", "XRP", "SOL")
CODEC = Codec()


@dataclass(frozen=True)
class Result:
    """What one desk gave.

    Attributes:
        desk: Its name.
        evaluations: How many were made by each way.
        together, one_by_one: Evaluations a CPU second.
    """

    desk: str
    evaluations: int
    together: float
    one_by_one: float

    @property
    def ratio(self) -> float:
        """How many times faster all at once is."""
        return self.together / self.one_by_one


def strategy(instrument: str, n: int, source: random.Random | None) -> StrategyConfig:
    """The n-th strategy of an instrument: of the grid, or, with a source, one like no other."""
    fast, slow = PAIRS[n % len(PAIRS)]
    tp1, tp2 = PROFILES[n // len(PAIRS) % len(PROFILES)]
    config = StrategyConfig(
        strategy_id=f"grid-{instrument.partition(':')[2].lower()}-{n}",
        instrument=instrument,
        display_name=f"CVD{fast}x{slow} {n}",
        cvd_fast_window=fast,
        cvd_slow_window=slow,
        weight_direction=38,
        weight_env=32,
        weight_aux=28,
        weight_momentum=2,
        entry_score=60.0 + n % 15,
        flip_threshold=80.0,
        tp1_ratio=tp1,
        tp2_ratio=tp2,
    )
    if source is not None:
        aux, momentum = source.randint(0, 20), source.randint(0, 20)
        env = source.randint(20, 40)
        config = replace(
            config,
            weight_direction=100 - env - aux - momentum,
            weight_env=env,
            weight_aux=aux,
            weight_momentum=momentum,
            vol_atr_pct_min=source.uniform(0.001, 0.004),
            whale_usd_threshold=float(source.randint(20_000, 200_000)),
            obi_threshold=source.uniform(0.2, 0.9),
        )
    validate(config)
    return config


def snapshot(instrument: str, instant: int, source: random.Random) -> Snapshot:
    """A market as it is met: about half of the evaluations are blocked by a gate."""

    def cvd() -> float:
        return source.gauss(20.0, 40.0)

    n = source.randint(0, 12)
    prints = Prints(
        np.array([100.0 + source.random() for _ in range(n)]),
        np.array([float(source.randint(100, 3000)) for _ in range(n)]),
        np.array([source.random() < 0.6 for _ in range(n)], dtype=np.bool_),
    )
    missing = source.random() < 0.1
    return Snapshot(
        instrument=instrument,
        time=1_750_000_000_000 + instant * 15_000,
        decided_at=1_750_000_000_250 + instant * 15_000,
        price=100.0 + source.random(),
        cvd={name: cvd() for name in WINDOWS},
        volume=dict.fromkeys(WINDOWS, 5_000.0),
        slope={name: source.gauss(0.0, 5.0) for name in FAST_WINDOWS},
        acceleration={name: source.gauss(0.0, 5.0) for name in FAST_WINDOWS},
        vwap_30m=100.0,
        atr=source.uniform(0.15, 0.8),
        atr_percentile=50.0,
        quantity_p95=500.0,
        quantity_p99=1_000.0,
        large_trades=prints,
        whale_prints=prints,
        obi=None if missing else source.uniform(-0.5, 0.5),
        spot_perp_divergence=source.gauss(0.0, 0.001),
        open_interest_change=source.gauss(0.0, 0.01),
        long_short_ratio=source.uniform(0.4, 2.5),
        top_trader_long_share=source.uniform(0.4, 0.6),
        coinbase_premium=source.gauss(0.0, 0.001),
        estimated_funding_rate=0.0001,
        funding_rate_max=0.0004,
        missing_inputs=("obi",) if missing else (),
    )


def desk(name: str) -> dict[str, list[StrategyConfig]]:
    """The strategies of a desk by instrument."""
    source = random.Random(5)
    if name == "10 strategies on 600 instruments":
        instruments, count, unlike = [f"BINANCE:C{n}USDT-PERP" for n in range(600)], 10, None
    else:
        instruments, count = [f"BINANCE:{coin}USDT-PERP" for coin in COINS], 25
        unlike = source if name == "100 strategies on 4 instruments, all unlike" else None
    return {instrument: [strategy(instrument, n, unlike) for n in range(count)] for instrument in instruments}


FULL, QUICK = 50_000, 3_000
DESKS = ("100 strategies on 4 instruments", "100 strategies on 4 instruments, all unlike", "10 strategies on 600 instruments")


def measure(name: str, evaluations: int, rounds: int = 3) -> Result:
    """Run a desk both ways over the same snapshots, so often; the records are compared, too."""
    strategies = desk(name)
    prepared = {
        instrument: [(config, config_hash(config)) for config in sorted(configs, key=lambda one: one.strategy_id)]
        for instrument, configs in strategies.items()
    }
    source = random.Random(11)
    instants = max(1, evaluations // sum(map(len, prepared.values())))
    shots = [snapshot(instrument, instant, source) for instant in range(instants) for instrument in prepared]
    markets = [market_of(shots[first : first + len(prepared)]) for first in range(0, len(shots), len(prepared))]
    encode = CODEC.encoder("scores")

    # Laid out when a strategy changes, not at an instant.
    desks = iter([Batch([one for configs in prepared.values() for one in configs], CODEC, {}) for _ in range(rounds)])

    def together() -> list[bytes]:
        batch = next(desks)
        asked = [(place, row) for row, instrument in enumerate(prepared) for place in batch.of(instrument)]
        return [scored.score for market in markets for scored in batch.evaluate(asked, market)]

    def one_by_one() -> list[bytes]:
        memories: dict[str, StrategyMemory] = {}
        values = []
        for shot in shots:
            for config, hash_ in prepared[shot.instrument]:
                score, _, memories[config.strategy_id] = evaluate(shot, config, hash_, memories.get(config.strategy_id, StrategyMemory()))
                values.append(encode(score))
        return values

    best: dict[Callable[[], list[bytes]], float] = {}
    values: dict[Callable[[], list[bytes]], list[bytes]] = {}
    for number in range(rounds):
        for way in (together, one_by_one)[:: -1 if number % 2 else 1]:
            start = time.process_time()
            values[way] = way()
            spent = time.process_time() - start
            best[way] = min(spent, best.get(way, spent))
    if values[together] != values[one_by_one]:
        raise AssertionError(f"{name}: the two ways do not agree")
    n = len(values[together])
    return Result(name, n, n / best[together], n / best[one_by_one])


def rows(run: Run) -> Iterator[Row]:
    """Yield a row a desk."""
    with run.cores.ours():
        for name in DESKS[::2] if run.quick else DESKS:
            evaluations, rounds = (QUICK, 2) if run.quick else (FULL, 3)
            found = measure(name, evaluations, rounds)
            wanted = grown(found.evaluations, found.evaluations / found.together, FULL, LEAST_CPU_S)
            if wanted > evaluations:
                found = measure(name, wanted, rounds)
            yield Row(
                f"scoring, {name}", "evaluations/s", Figure(found.together), {"one by one": Figure(found.one_by_one)},
                bars={"ours": 20_000.0}, size={"evaluations": found.evaluations}, note="CPU seconds, the best of some rounds; both ways gave the same bytes",
            )  # fmt: skip
