"""Splits of time into training and test without leakage (pure).

Walk-forward: S1 10.5. Purged K-fold with embargo: Lopez de Prado, Advances in Financial Machine Learning (2018), chapter 7. Intervals are
[begin, end), times ms UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

DAY_MS = 86_400_000


class Interval(NamedTuple):
    """[begin, end), ms UTC."""

    begin: int
    end: int


class Split(NamedTuple):
    """A training stretch and the test after it."""

    train: Interval
    test: Interval


class Fold(NamedTuple):
    """Training in one or several stretches, and a test."""

    train: tuple[Interval, ...]
    test: Interval


def walk_forward(
    since: int,
    until: int,
    train_ms: int = 30 * DAY_MS,
    step_ms: int = 7 * DAY_MS,
    test_ms: int | None = None,
    embargo_ms: int = 0,
    anchored: bool = False,
) -> list[Split]:
    """Return the steps of a walk-forward over [since, until). A last test that would be shorter is omitted.

    Args:
        since, until: Bounds of the data.
        train_ms, step_ms: Length of the training, and of a step.
        test_ms: Length of a test. The default is a step, so that tests neither overlap nor leave gaps.
        embargo_ms: Time between training and test: the reach of the labels of the last training samples.
        anchored: Every training begins at ``since`` and grows.

    Raises:
        ValueError: a length that is not above zero, tests that overlap, or an embargo below zero.
    """
    length = step_ms if test_ms is None else test_ms
    for name, value in (("train_ms", train_ms), ("step_ms", step_ms), ("test_ms", length)):
        if value <= 0:
            raise ValueError(f"{name}: must be above zero, got {value}")
    if length > step_ms:
        raise ValueError(f"test_ms: {length} is longer than a step of {step_ms}: tests would overlap")
    if embargo_ms < 0:
        raise ValueError(f"embargo_ms: must not be negative, got {embargo_ms}")
    splits = []
    begin = since
    while begin + train_ms + embargo_ms + length <= until:
        end = begin + train_ms
        splits.append(Split(Interval(since if anchored else begin, end), Interval(end + embargo_ms, end + embargo_ms + length)))
        begin += step_ms
    return splits


def purged_k_fold(spans: Sequence[tuple[int, int]], folds: int, embargo_ms: int = 0) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (training samples, test samples) of each fold, as positions in ``spans``.

    Folds are consecutive in order of begin, and differ by at most one sample. A training sample is purged if its span overlaps the time of
    the test's spans. It is embargoed if it begins within ``embargo_ms`` after their end.

    Args:
        spans: For each sample its instant and the time at which its label is known, both included, ms UTC, in any order.
        folds: From 2 to the number of samples.
        embargo_ms: Reach of serial correlation beyond a label.

    Raises:
        ValueError: an impossible number of folds or embargo, or a span that runs backwards.
    """
    if not 2 <= folds <= len(spans):
        raise ValueError(f"folds: must be from 2 to the number of samples ({len(spans)}), got {folds}")
    if embargo_ms < 0:
        raise ValueError(f"embargo_ms: must not be negative, got {embargo_ms}")
    for begin, end in spans:
        if end < begin:
            raise ValueError(f"spans: {begin} to {end} runs backwards")
    order = sorted(range(len(spans)), key=lambda sample: (*spans[sample], sample))
    at = 0
    for fold in range(folds):
        size = len(order) // folds + (fold < len(order) % folds)
        test = order[at : at + size]
        at += size
        first = min(spans[sample][0] for sample in test)
        last = max(spans[sample][1] for sample in test)
        chosen = set(test)
        train = [
            sample for sample in order if sample not in chosen and not (spans[sample][0] <= last + embargo_ms and spans[sample][1] >= first)
        ]
        yield sorted(train), sorted(test)


def purged_folds(since: int, until: int, folds: int, purge_ms: int = 0, embargo_ms: int = 0) -> list[Fold]:
    """Return [since, until) in equal test stretches, each with the rest of the time as its training.

    Training ends ``purge_ms`` before a test and begins again ``purge_ms`` + ``embargo_ms`` after it. So trades and look-back windows that
    reach from one into the other are in neither.

    Raises:
        ValueError: fewer than two folds, a negative length, or no time left for training.
    """
    if folds < 2:
        raise ValueError(f"folds: must be at least 2, got {folds}")
    for name, value in (("purge_ms", purge_ms), ("embargo_ms", embargo_ms)):
        if value < 0:
            raise ValueError(f"{name}: must not be negative, got {value}")
    edges = [since + (until - since) * place // folds for place in range(folds + 1)]
    made = []
    for begin, end in pairwise(edges):
        around = (Interval(since, begin - purge_ms), Interval(end + purge_ms + embargo_ms, until))
        train = tuple(one for one in around if one.end > one.begin)
        if not train or begin >= end:
            raise ValueError(f"folds: {folds} folds of {until - since} ms leave nothing to train on beside {purge_ms} + {embargo_ms} ms")
        made.append(Fold(train, Interval(begin, end)))
    return made
