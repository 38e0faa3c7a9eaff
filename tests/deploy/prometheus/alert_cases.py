"""For every alert a story that makes it fire: series step by step in promtool's notation, when it is still quiet, when it fires, and for whom."""

from __future__ import annotations

from typing import NamedTuple

# Times that advance for ten minutes and then stand still.
STOPS = "0+60x10 600x1600"
VENUE = {"venue": "V"}


class Case(NamedTuple):
    """A story; ``quiet`` and ``fires`` are steps from its beginning. ``series`` has a second, healthy member where labels are to tell them apart.

    A step is ``step_s`` seconds long: the distance of samples and of evaluations.
    """

    alert: str
    series: dict[str, str]
    quiet: int
    fires: int
    labels: dict[str, str]
    step_s: int = 60


def stale(alert: str, topic: str, quiet: int, fires: int) -> Case:
    name = "perpflow_produced_time_seconds"
    series = {f'{name}{{venue="V",topic="{topic}"}}': STOPS, f'{name}{{venue="W",topic="{topic}"}}': "0+60x1600"}
    return Case(alert, series, quiet, fires, VENUE)


def soon_stale(alert: str, topic: str) -> Case:
    """Records until second 100; at a scrape every 10 s the alert is quiet at an age of 30 s and fires at 40 s."""
    name = "perpflow_produced_time_seconds"
    series = {f'{name}{{venue="V",topic="{topic}"}}': "0+10x10 100x30", f'{name}{{venue="W",topic="{topic}"}}': "0+10x40"}
    return Case(alert, series, 13, 14, VENUE, step_s=10)


def jumps(alert: str, series: str, to: float, labels: dict[str, str], quiet: int = 5, fires: int = 7, first: float = 0) -> Case:
    """A value that is ``first`` for six minutes, then ``to``."""
    return Case(alert, {series: f"{first}x5 {to}x90"}, quiet, fires, labels)


def down(alert: str, quiet: int, fires: int) -> Case:
    """After an hour half of a venue's streams are away."""
    name = 'perpflow_streams{venue="V",channel="trades",state="%s"}'
    series = {name % "live": "10x60 5x100", name % "connecting": "0x60 5x100", name % "syncing": "0x160"}
    return Case(alert, series, quiet, fires, {**VENUE, "slo": "websocket"})


LIQUIDATIONS = 'perpflow_streams{venue="V",channel="forceOrder",state="%s"}'
UP = 'up{job="%s",instance="a"}'

CASES = [
    jumps("ServiceUnhealthy", 'perpflow_up{service="sink"}', 0, {"service": "sink"}, 5, 8, first=1),
    Case(
        "ServiceGone",
        {UP % "sink": "1x5 0x60", **{UP % job: "1x70" for job in ("producer", "worker", "executor", "monitor")}},
        5,
        8,
        {"job": "sink", "instance": "a"},
    ),
    Case("OptionalServiceGone", {UP % "trader": "1x5 0x60", UP % "guard": "1x70"}, 5, 8, {"job": "trader"}),
    # Its address has gone with its container: no sample says so. One that comes back under another address is there.
    Case(
        "OptionalServiceGone",
        {UP % "trader": "1x5 _x60", UP % "notifier": "1x5 _x60", 'up{job="notifier",instance="b"}': "_x5 1x60"},
        5,
        13,
        {"job": "trader"},
    ),
    Case(
        "ServiceRestarts",
        {'process_start_time_seconds{job="sink",instance="a"}': "1x5 2x2 3x2 4x2 5x60"},
        14,
        15,
        {"job": "sink", "instance": "a"},
    ),
    Case(
        "ClockSkew",
        {'perpflow_wall_time_seconds{service="sink"}': "-5+60x60", 'perpflow_wall_time_seconds{service="worker"}': "0.5+60x60"},
        4,
        6,
        {"service": "sink"},
    ),
    Case(  # 80 % is quiet, above it is not; a disk that fills for a moment is
        "DiskUsageHigh",
        {
            'perpflow_disk_free_bytes{service="sink"}': "50x5 20x10 19x2 20x5 19x60",
            'perpflow_disk_size_bytes{service="sink"}': "100x90",
            'perpflow_disk_free_bytes{service="worker"}': "20x90",
            'perpflow_disk_size_bytes{service="worker"}': "100x90",
        },
        28,
        32,
        {"service": "sink"},
    ),
    Case(
        "DiskLow",
        {'perpflow_disk_free_bytes{service="sink"}': "50x5 9x60", 'perpflow_disk_size_bytes{service="sink"}': "100x65"},
        10,
        12,
        {"service": "sink"},
    ),
    Case(
        "DiskFilling",
        {
            'perpflow_disk_free_bytes{service="sink"}': "49-0.05x100",
            'perpflow_disk_size_bytes{service="sink"}': "100x100",
            'perpflow_disk_free_bytes{service="worker"}': "49-0.01x100",
            'perpflow_disk_size_bytes{service="worker"}': "100x100",
        },
        50,
        70,
        {"service": "sink"},
    ),
    soon_stale("TradesStale", "agg_trades"),
    soon_stale("BookStale", "depth"),
    soon_stale("QuotesStale", "quotes"),
    stale("FundingStale", "funding", 20, 21),
    stale("IndicatorsStale", "market_indicators", 25, 26),
    stale("LiquidationsSilent", "liquidations", 1450, 1451),
    Case("OpenInterestStale", {'perpflow_polled_time_seconds{venue="V",poll="openInterest"}': STOPS}, 25, 26, VENUE),
    Case(
        "PollsFailing",
        {
            'perpflow_polls_total{venue="V",poll="p",outcome="failed"}': "0+1x90",
            'perpflow_polls_total{venue="V",poll="p",outcome="ok"}': "0+1x10 10x80",
            'perpflow_polls_total{venue="V",poll="q",outcome="failed"}': "0+1x90",
            'perpflow_polls_total{venue="V",poll="q",outcome="ok"}': "0+1x90",
        },
        30,
        45,
        {**VENUE, "poll": "p"},
    ),
    Case(
        "LiquidationStreamDown",
        {LIQUIDATIONS % "syncing": "1x5 0x60", LIQUIDATIONS % "connecting": "0x5 1x60", LIQUIDATIONS % "live": "0x65"},
        7,
        9,
        {**VENUE, "channel": "forceOrder"},
    ),
    jumps("StreamSilent", 'perpflow_streams{venue="V",channel="c",state="stale"}', 1, {**VENUE, "channel": "c"}, 5, 8),
    Case(
        "MarksStopped", {'perpflow_mark_time_seconds{venue="V"}': STOPS, 'perpflow_mark_time_seconds{venue="W"}': "0+60x60"}, 11, 13, VENUE
    ),
    jumps("GuardHalted", 'perpflow_guard_state{account="A"}', 2, {"account": "A"}, 5, 6, first=1),
    jumps("GuardWarns", 'perpflow_guard_state{account="A"}', 1, {"account": "A"}, 5, 7),
    Case(
        "GuardSilent",
        {'perpflow_guard_published_time_seconds{account="A"}': STOPS, 'perpflow_guard_published_time_seconds{account="B"}': "0+60x60"},
        10,
        13,
        {"account": "A"},
    ),
    Case(  # its process is gone, and its series with it
        "GuardSilent",
        {'perpflow_guard_state{account="A"}': "0x10 stale", 'perpflow_guard_state{account="B"}': "0x70"},
        10,
        13,
        {"account": "A"},
    ),
    jumps("QualityLow", 'perpflow_quality_score_lowest{venue="V",stream="overall"}', 6.9, {**VENUE, "stream": "overall"}, 8, 10, first=7),
    Case("VenueClock", {'perpflow_quality_findings_total{venue="V",stream="s",kind="clock_skew"}': "0x5 0+1x60"}, 11, 13, VENUE),
    jumps("DeadLetters", 'perpflow_dead_letters_total{service="sink",source="s"}', 1, {"service": "sink", "source": "s"}),
    jumps("DeadLettersMany", 'perpflow_dead_letters_total{service="sink",source="s"}', 200, {"service": "sink", "source": "s"}),
    jumps("LateTrades", 'perpflow_late_trades_total{instance="a",job="worker"}', 200, {"instance": "a", "job": "worker"}),
    Case("WorkerBehind", {'perpflow_worker_event_time_seconds{partition="0"}': STOPS}, 12, 14, {}),
    Case(
        "WorkerPartitionStuck",
        {'perpflow_worker_event_time_seconds{partition="0"}': "0+60x60", 'perpflow_worker_event_time_seconds{partition="1"}': STOPS},
        14,
        16,
        {"partition": "1"},
    ),
    jumps("SinkBehind", 'perpflow_sink_lag_records{topic="t"}', 500_001, {}, 10, 12),
    jumps("ArchiveBehind", 'perpflow_archive_lag_records{topic="t"}', 5_000_001, {}, 35, 37),
    Case("ExecutorBehind", {'perpflow_executor_event_time_seconds{partition="0"}': STOPS}, 12, 14, {}),
    jumps("OrdersRejected", 'perpflow_orders_total{mode="live",leg="entry",status="rejected"}', 20, {"mode": "live"}),
    Case("MonitorBehind", {'perpflow_quality_event_time_seconds{partition="0"}': STOPS}, 12, 14, {}),
    jumps("Fenced", 'perpflow_fenced_total{service="sink"}', 10, {"service": "sink"}),
    jumps("BookResyncs", 'perpflow_book_resyncs_total{venue="V",reason="gap"}', 50, VENUE),
    Case("Conflating", {'perpflow_conflated_records_total{venue="V",topic="depth"}': "0x5 0+10x60"}, 11, 13, {**VENUE, "topic": "depth"}),
    jumps("RestBudget", 'perpflow_rest_budget_ratio{venue="V",window="60s"}', 0.95, {**VENUE, "window": "60s"}, 10, 12, first=0.9),
    jumps("NotificationsFailing", 'perpflow_notifications_failed_total{channel="c",reason="timeout"}', 10, {"channel": "c"}),
    down("ObjectiveBurns1h", 63, 75),
    down("ObjectiveMissed", 70, 75),
    down("ObjectiveBurns6h", 63, 80),
    down("ObjectiveBurns1d", 61, 80),
    down("ObjectiveBurns3d", 60, 80),
    Case(  # of observations 60 % take longer than the limit: 14.4 times 1 % is passed at once
        "ObjectiveBurns1h",
        {'perpflow_evaluation_seconds_bucket{le="0.5"}': "0+4x90", "perpflow_evaluation_seconds_count": "0+10x90"},
        0,
        10,
        {"slo": "evaluation"},
    ),
    Case(
        "ObjectiveBurns1h",
        {'perpflow_ack_latency_seconds_bucket{venue="V",le="0.5"}': "0+1x90", 'perpflow_ack_latency_seconds_count{venue="V"}': "0+10x90"},
        0,
        10,
        {"slo": "route", **VENUE},
    ),
    Case(
        "ObjectiveBurns1h",
        {'perpflow_copy_seconds_bucket{le="1.0"}': "0+8x90", "perpflow_copy_seconds_count": "0+10x90"},
        0,
        10,
        {"slo": "write"},
    ),
    Case(  # from the eleventh minute on the furthest partition is 19 s behind the furthest venue, a step and four seconds; another venue is dead all the time
        "ObjectiveBurns1h",
        {
            'perpflow_mark_time_seconds{venue="V"}': "-1+60x90",
            'perpflow_mark_time_seconds{venue="W"}': "-900+60x90",
            'perpflow_worker_event_time_seconds{partition="0"}': "-14+60x10 640+60x80",
            'perpflow_worker_event_time_seconds{partition="1"}': "-60+60x90",
        },
        11,
        25,
        {"slo": "lag"},
    ),
]
