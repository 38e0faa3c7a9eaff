"""Splits of time that keep what is tested out of what is trained on (pure).

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
    """What is trained on, and what is tested after it."""

    train: Interval
    test: Interval


class Fold(NamedTuple):
    """What may be trained on, in one or several stretches, and what is tested."""

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
    """Return the steps of a walk-forward over [since, until); a last test that would be cut short is left out.

    Args:
        since, until: The data.
        train_ms, step_ms: Lengths of the training and of a step.
        test_ms: Length of a test; default: a step, so that the tests follow each other without hole or overlap.
        embargo_ms: Between training and test: labels of the last training samples reach so far.
        anchored: Training begins at ``since`` in every step, and grows.

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

    Folds are consecutive in order of begin and differ by at most one sample. A training sample is purged when its span shares a moment with the time
    that the test's spans cover, and embargoed when it begins within ``embargo_ms`` after their end.

    Args:
        spans: Of each sample from its instant to where its label is known, both included, ms UTC, in any order.
        folds: At least 2, at most the samples.
        embargo_ms: Serial correlation reaches so far beyond a label.

    Raises:
        ValueError: folds or embargo that cannot be, or a span that runs backwards.
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

    Training ends ``purge_ms`` before a test and begins again ``purge_ms`` + ``embargo_ms`` after it: what reaches from one into the other (a trade
    that is held, a window that looks back) is in neither.

    Raises:
        ValueError: fewer than two folds, a length below zero, or nothing left to train on.
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
