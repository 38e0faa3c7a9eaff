"""The short form of the benchmark of the worker: ours and plain Faust run and agree with the trades. No speed is asserted: machines differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.settings import Settings
from tests.bench import bench_worker
from tests.bench.machine import Cores
from tests.bench.peer_jobs import ALL, Peer, consume
from tests.bench.running import Run
from tests.bench.truth import Truth, check_hopping, check_peer, truths
from tests.bench.worker_workload import Workload


@pytest.mark.stack
def test_ours_and_plain_faust_have_the_same_sums(environment: Settings, tmp_path: Path) -> None:
    row = bench_worker.contest(Run(True, tmp_path, Cores(), environment), bench_worker.Size(20_000, 60, 3_000, 40), ALL[:1])
    assert row.size["features"] > 20 * 50
    assert row.ours.value and all(figure.value for figure in row.peers.values()), row


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.name)
def test_a_peer_has_the_sums_of_the_trades_and_is_measured(environment: Settings, tmp_path: Path, peer: Peer) -> None:
    row = bench_worker.contest(Run(True, tmp_path, Cores(), environment), bench_worker.Size(60_000, 360), (peer,))
    assert row.peers[peer.name].value, row.peers[peer.name].reason


@pytest.mark.stack
def test_what_an_aborted_transaction_wrote_is_not_read(environment: Settings, tmp_path: Path) -> None:
    with Run(True, tmp_path, Cores(), environment).environment() as settings:
        wire = settings.topic("scores")
        producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "transactional.id": wire})
        producer.init_transactions(30)
        ends = {"lost": producer.abort_transaction, "kept": producer.commit_transaction, "lost, too": producer.abort_transaction}
        for value, end in ends.items():
            producer.begin_transaction()
            producer.produce(wire, value, "key", 1)
            producer.flush(30)
            end(30)
        assert [message.value() for message in consume(settings, wire)] == [b"kept"]


@pytest.mark.parametrize("spoil", ["cvd", "atr", "twice", "missing"])
def test_a_peer_that_is_wrong_is_found_out(spoil: str) -> None:
    workload = Workload(24_000, 340, Settings(kafka_bootstrap_servers="unused:1"))
    known = truths(workload)
    records = [(name, features(workload, truth, pane)) for name, truth in known.items() for pane in range(340) if truth.trades[pane]]
    assert check_peer("right", workload, known, records, workload.trades) == len(records)
    name, last = records[-1]
    assert last["atr"] is not None and last["1h"] is not None
    wrong = {"cvd": [(name, {**last, "1h": last["1h"] + 0.001})], "atr": [(name, {**last, "atr": last["atr"] * 1.0001})],
             "twice": [records[-1]] * 2, "missing": []}[spoil]  # fmt: skip
    records = [*records[:-1], *wrong] if spoil != "missing" else [*records[:50], *records[51:]]
    with pytest.raises(AssertionError, match=r"^spoilt: "):
        check_peer("spoilt", workload, known, records, workload.trades)


@pytest.mark.parametrize("spoil", [0.0, 0.001])
def test_hopping_windows_are_held_to_the_trades_by_their_newest_value(spoil: float) -> None:
    workload = Workload(24_000, 340, Settings(kafka_bootstrap_servers="unused:1"))
    known, records = truths(workload), []
    for name, truth in known.items():
        for pane in range(340 + 19):
            if truth.trades[max(0, pane - 19) : pane + 1].sum():
                value = truth.cvd(min(pane, 339), min(20, max(1, 359 - pane)), partial=True)
                records += [
                    (name, {"pane": pane + workload.first_pane, "5m": 0.0}),
                    (name, {"pane": pane + workload.first_pane, "5m": value}),
                ]
    records.append((name, {"pane": 100 + workload.first_pane, "5m": truth.cvd(100, 20) + spoil}))
    if spoil:
        with pytest.raises(AssertionError, match=r"^spoilt: .* pane 100: 5m"):
            check_hopping("spoilt", workload, known, records, workload.trades)
    else:
        assert check_hopping("right", workload, known, records, workload.trades) > 20 * 300


def features(workload: Workload, truth: Truth, pane: int) -> dict[str, object]:
    """Return what a peer says of a pane when it is right."""
    atr = float(truth.atr[pane])
    lengths = {"5m": 20, "15m": 60, "30m": 120, "1h": 240, "4h": 960, "24h": 5760}
    windows = {name: truth.cvd(pane, length) for name, length in lengths.items()}
    return {"pane": pane + workload.first_pane, **windows, "atr": None if atr != atr else atr}
