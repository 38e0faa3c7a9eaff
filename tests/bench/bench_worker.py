"""How many Avro trades a second one core of the worker turns into features with durable state, beside other stream processors in the same run.

Run: ``perpflow bench --only worker``. Twenty instruments in 12 partitions over 24 hours of event time (``--quick``: as many of them as make what is timed
last two seconds), a
mark every grid step, as an importer of history writes them. All read the same topic, each alone on one core, the broker on the others:

- ours: the worker process (`perpflow worker`) with everything that it does: windows, ATR, analytics, features, steps. It first works off ten minutes of
  event time, which loads the compiled code; then it is frozen, the rest is written, and it is thawed. A trade counts when the step of its instant is in
  worker_progress, which is written after its features are acknowledged.
- peers (peer_jobs.py): CVD windows of 15 s panes and Wilder's ATR of 5 m bars, a record a pane and instrument, on fewer trades of the same log, Avro by a
  library. Most lose their open pane when they are killed, and their windows with it; ours does not, nor do the Kafka Streams jobs that write all their
  state through to their stores. The bar is held against the one that reads Avro as the other peers do, by a library; two jobs with a decoder of our own
  making, one of which keeps its open pane on the heap, show how far that peer can be driven.
- bare consume loop: confluent-kafka's consume() in batches, nothing decoded.

Timed is the second half of each one's trades. Before it is timed every peer must give the right sums on a smaller log in which every kind of value occurs
(who survives a kill is killed in the middle of it), and afterwards all that ours and it wrote is held to the trades once more (truth.py): who is fast and
wrong has no figure. Rounds alternate their order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from confluent_kafka import TopicPartition

from schemas.settings import Settings
from tests.bench.contest import Contest, Size
from tests.bench.peer_jobs import ALL, Peer, Rate, consume, consumer, played
from tests.bench.peers import install
from tests.bench.rows import OURS, Figure, Row
from tests.bench.running import Run
from tests.bench.sizing import grown
from tests.bench.truth import check_hopping, check_peer, truths
from tests.bench.worker_workload import Workload, fill

BARE = "consume loop, nothing decoded"
BARS = {OURS: 250_000.0, "plain Faust": 30.0, "Quix Streams": 4.0, "Kafka Streams, hand-written panes": 3.0}


FULL = Size(5_000_000, 5760)
QUICK = Size(5_000_000, 5760, first_panes=1037)  # the first piece is longer than a window of four hours


def bare_loop(run: Run, settings: Settings, trades: int) -> Rate:
    """Measure consume() over the log, nothing decoded."""
    wire, got, half = settings.topic("agg_trades"), 0, 0
    with run.cores.ours():
        client = consumer(settings)
        client.assign([TopicPartition(wire, p, 0) for p in range(settings.partitions)])
        while got < trades:
            got += len(client.consume(min(10_000, trades - got), 1.0))  # it waits for as many as it is asked for
            if not half and got >= trades // 2:
                half, began, cpu = got, time.perf_counter(), time.process_time()
        rate = Rate(got - half, time.perf_counter() - began, time.process_time() - cpu)
        client.close()
    return rate


def checked(run: Run, peers: tuple[Peer, ...], size: Size) -> dict[str, str]:
    """Run every peer over a small log and hold its sums to the trades; return name -> why it cannot be timed, of those that cannot."""
    wrong: dict[str, str] = {}
    with run.environment() as settings, ThreadPoolExecutor(2) as pool:
        workload = Workload(size.check_trades, size.check_panes, settings)
        known = truths(workload)
        fill(workload, settings, 0, size.check_panes)

        def check(peer: Peer) -> None:
            try:
                job, _ = played(run, settings, peer, min(peer.check_trades, workload.trades), checking=True)
                hold = check_hopping if peer.windows_only else check_peer
                hold(peer.name, workload, known, job.records(), job.trades)
            except Exception as error:
                wrong[peer.name] = f"{type(error).__name__}: {error}"
            run.say(f"{peer.name}: {wrong.get(peer.name, 'its sums are those of the trades')}")

        list(pool.map(check, peers))
    return wrong


def contest(run: Run, size: Size, peers: tuple[Peer, ...] = ALL) -> Row:
    """Check the peers, measure all in turns, hold what they wrote to the trades, and return the row."""
    with ThreadPoolExecutor(1) as beside:
        return _contest(run, size, peers, beside.submit(checked, run, peers, size))


def _contest(run: Run, size: Size, peers: tuple[Peer, ...], checking: Future[dict[str, str]]) -> Row:
    workload = Workload(size.trades, size.panes, run.settings)
    known = truths(workload)
    rates: dict[str, list[Rate]] = {name: [] for name in (OURS, BARE, *(peer.name for peer in peers))}
    features, trades, hours = 0, 0, 0.0
    for number in range(run.repetitions):
        with run.environment() as settings:
            worker = Contest(run, settings, size, workload)

            def ours(worker: Contest = worker) -> Rate:
                return worker.measure()

            def bare(settings: Settings = settings, worker: Contest = worker) -> Rate:
                return bare_loop(run, settings, worker.trades)

            def peer_rate(peer: Peer, settings: Settings = settings, worker: Contest = worker) -> Rate:
                trades, most = (peer.quick_trades, peer.trades) if run.quick else (peer.trades, peer.trades)
                while True:
                    job, rate = played(run, settings, peer, min(trades, worker.trades))
                    hold = check_hopping if peer.windows_only else check_peer
                    hold(peer.name, workload, known, job.records(), job.trades)
                    wanted = grown(job.trades, rate.seconds, min(most, worker.trades))
                    if wanted == job.trades or size.first_panes is None:
                        return rate
                    trades = wanted

            try:
                worker.prepare()
                wrong = checking.result()  # while the worker was loaded; nobody is timed before
                turns = {OURS: ours, BARE: bare, **{peer.name: lambda peer=peer: peer_rate(peer) for peer in peers}}
                for name in list(turns)[:: -1 if number % 2 else 1]:
                    if name in wrong:
                        continue
                    try:
                        rates[name].append(turns[name]())
                        run.say(f"{name}: {rates[name][-1].wall:,.0f} trades/s")
                    except Exception as error:
                        wrong[name] = f"{type(error).__name__}: {error}"
                        run.say(f"{name}: {wrong[name]}")
                if OURS not in wrong:
                    features = worker.check_features()
                trades, hours = worker.trades, worker.written * workload.grid / 3.6e6
            finally:
                worker.stop()
    durable = {OURS: "outputs, then panes and heads in a changelog"} | {peer.name: peer.durable for peer in peers}
    figures = {name: _figure(of, wrong.get(name), durable.get(name, "")) for name, of in rates.items()}
    return Row(
        "worker", "trades/s", figures.pop(OURS), figures, bars={name: bar for name, bar in BARS.items() if name in rates},
        size={"trades": trades, "features": features, "instruments": len(workload.instruments), "hours": hours}, versions=install.versions(),
        note="one core each; second half of each one's trades. A peer that does not survive a kill keeps its open pane in memory only; "
        "ours does far more a trade than CVD and ATR",
    )  # fmt: skip


def _figure(rates: list[Rate], wrong: str | None, durable: str) -> Figure:
    if wrong is not None:
        return Figure.none(wrong, durable)
    return Figure.of(
        [rate.wall for rate in rates], durable, trades=rates[0].trades, trades_per_cpu_second=[round(rate.cpu) for rate in rates]
    )


def scored(run: Run, size: Size, strategies: int = 1) -> Row:
    """Measure the worker with strategies running, see that each was evaluated at each instant, and return the row."""
    rates: list[Rate] = []
    for _ in range(run.repetitions):
        with run.environment() as settings:
            worker = Contest(run, settings, size, strategies=strategies)
            try:
                worker.prepare()
                rates.append(worker.measure())
                features = worker.check_features()
                scores = sum(1 for _ in consume(settings, settings.topic("scores")))
                trades = worker.trades
            finally:
                worker.stop()
        assert scores >= features * strategies, f"{scores} scores of {features} instants and {strategies} strategies"
    return Row(
        "worker with scoring", "trades/s", _figure(rates, None, "outputs, then panes and heads in a changelog"), bars={OURS: BARS[OURS]},
        size={"trades": trades, "features": features, "scores": scores}, note=f"strategies an instrument: {strategies}, evaluated every 15 s",
    )  # fmt: skip


def rows(run: Run) -> Iterator[Row]:
    """Yield the worker beside its peers, and with scoring."""
    size = QUICK if run.quick else FULL
    # What the Kafka Streams job with hopping windows does not reach in long it does not in short: a tenth of the time.
    yield contest(run, size, tuple(peer for peer in ALL if not (run.quick and peer.windows_only)))
    yield scored(run, size)
