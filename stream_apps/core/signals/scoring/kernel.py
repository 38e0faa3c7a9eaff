"""The compiled scorer: strategies and rows of features in, encoded scores out.

``batch`` makes the tables that it reads. ``decision.evaluate`` is the readable form; the tests compare both byte for byte. Sums have the
same order of additions, and rounding is Python's.

Only a gate's reason that contains a number is not written here. The kernel reports its position, and the caller inserts it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from schemas.codec.varints import write_long
from stream_apps.core.signals.scoring.model import Judged

# Inputs by their index in ``model.INPUT_ORDER``; ``batch`` asserts it.
FAST, SLOW, SLOPE, ACCELERATION, ATR, P99, PRICE, VWAP, MINUTE, DAY = range(10)
BUYS, SELLS, OBI, SPOT_PERP, FUNDING, FUNDING_MAX = 12, 13, 14, 15, 16, 17
N_INPUTS = 24
# The state of the quantiles and the value that means missing; ``batch`` asserts both.
P99_STATE, MISSING = 7, 1

# Columns of the tables.
(S_MODEL, S_PREFIX, S_NAME, S_WHO, S_THRESHOLDS, S_SLOPE, S_ACCELERATION, S_FAST, S_SLOW, S_VOLUME, S_GATES, S_INPUTS, S_DIRECTION, S_COOLDOWN,
 S_MOSTS, S_TIMEOUT, S_PAIRS, S_N_PAIRS, N_S) = range(19)  # fmt: skip
ENTRY, FLIP_AT, TIERS, N_SF = 0, 1, 2, 5
(M_LAYERS, M_N_LAYERS, M_GATES, M_N_GATES, M_N_INPUTS, M_STRETCH, M_TWO_AN_HOUR, M_TIERS, M_N_TIERS, M_INDEPENDENT,
 M_FLIP_CLOSES_ONLY, N_M) = range(12)  # fmt: skip
L_NAME, L_PARTS, L_N_PARTS, L_N_SUMMED, N_L = range(5)
P_NAME, P_FUNDING, P_ROWS, P_N_ROWS, P_INPUTS, P_N_INPUTS, N_P = range(7)
OTHERWISE, MISSING_POINTS, MOST = range(3)
R_SIDE, R_CONDITIONS, R_N_CONDITIONS, N_R = range(4)
C_OPERATOR, C_INPUT, C_OF, N_C = range(4)
ABOVE, AT_LEAST, BELOW, AT_MOST = range(4)
G_NAME, G_JUDGED, G_NEEDS_DIRECTION, G_ENTRY_ONLY, N_G = range(5)
A_ON, A_MISSING_BLOCKS, A_BTC, A_ABSENT, A_ABSENT_STRETCHED, A_ADVERSE, N_A = range(
    7
)  # of a strategy's gate: settings, and the spans of its texts
I_INPUT, I_READ, I_NAME, I_NAME_STRETCHED, I_STATE, I_STATE_STRETCHED, N_I = range(7)
(END, BLOCK_AT, REASON_AT, WORDS, DIRECTION, TIER, IS_ENTRY, IS_FLIP, REGIME, N_RESULT) = range(10)
NO_TIME = np.iinfo(np.int64).min
# Texts at the begin of the spans.
(T_HEADER, T_SHORT, T_NONE, T_LONG, T_REGIME, T_VERDICT, T_NO_CONSENSUS, T_NO_DIRECTION, T_NO_RISK) = (0, 1, 2, 3, 4, 9, 19, 20, 21)
UNKNOWN, CRASH, HIGH_VOL, TREND, RANGE = range(5)
REGIMES = ("unknown", "crash", "high_vol", "trend", "range")
(V_ENTRY, V_ENTRY_FLIP, V_FLIP, V_BELOW, V_COOLDOWN, V_HOURLY, V_NO_ENTRY, V_LIMIT, V_BLOCKED, V_COLD) = range(10)
VERDICTS = (
    "entry", "entry+flip", "flip", "below_entry", "cooldown", "hourly_limit", "no_entry", "direction_limit", "blocked", "not_warm",
)  # fmt: skip

# Numba takes plain integers as constants, not members of an enumeration.
_VOLATILITY, _RESONANCE, _INDEPENDENT, _WHALE = (
    int(Judged.VOLATILITY),
    int(Judged.RESONANCE),
    int(Judged.RESONANCE_OR_INDEPENDENT),
    int(Judged.WHALE),
)
_OBI, _SPOT_PERP, _AGREEMENT = int(Judged.OBI), int(Judged.SPOT_PERP), int(Judged.AGREEMENT)
_FAST_SIGN, _SLOPE_SIGN, _SLOW_SIGN, _VWAP_SIGN = (
    int(Judged.FAST_SIGN),
    int(Judged.SLOPE_SIGN),
    int(Judged.SLOW_SIGN),
    int(Judged.VWAP_SIGN),
)
_SAME_BET = int(Judged.SAME_BET)
_MINUTE_MS, _HOUR_MS = 60_000, 3_600_000
# Signals of this instant that end a bet; 1 and -1 begin one.
_ENDED = 2


@njit(cache=True, nogil=True)
def tenths(value: float) -> Any:
    """Return ``round(value, 1)`` for 0 <= value < 1e6. The exact value decides; a tie goes to the even digit."""
    scaled = value * 10.0
    # The error of that product, after Dekker: both factors are split into halves that multiply exactly.
    big = value * 134217729.0
    high = big - (big - value)
    low = value - high
    error = (high * 10.0 - scaled) + low * 10.0
    whole = np.floor(scaled)
    beyond = (scaled - whole - 0.5) + error
    if beyond > 0.0 or (beyond == 0.0 and whole % 2.0 == 1.0):
        whole += 1.0
    return whole / 10.0


@njit(cache=True, nogil=True)
def _text(out: Any, at: int, blob: Any, spans: Any, span: int) -> Any:
    for i in range(spans[span, 0], spans[span, 1]):
        out[at] = blob[i]
        at += 1
    return at


@njit(cache=True, nogil=True)
def _double(out: Any, at: int, value: float, scratch: Any, as_bytes: Any) -> Any:
    scratch[0] = value
    for b in range(8):
        out[at + b] = as_bytes[b]
    return at + 8


@njit(cache=True, nogil=True)
def _maybe(out: Any, at: int, value: float, scratch: Any, as_bytes: Any) -> Any:
    if np.isnan(value):
        out[at] = 0
        return at + 1
    out[at] = 2
    return _double(out, at + 1, value, scratch, as_bytes)


@njit(cache=True, nogil=True)
def _points(
    part: int, x: Any, lean: int, parts: Any, part_values: Any, part_inputs: Any, rows: Any, row_points: Any, conditions: Any, limits: Any
) -> Any:
    """Return the points of a sub-score (``points.Steps.points``, ``points.AgainstFunding.points``)."""
    if parts[part, P_FUNDING]:
        rate, largest = x[FUNDING], x[FUNDING_MAX]
        if np.isnan(rate) or np.isnan(largest) or largest <= 0.0 or rate * lean >= 0.0:
            return 0.0
        return min(abs(rate) / largest * part_values[part, MOST], part_values[part, MOST])
    first = parts[part, P_INPUTS]
    for i in range(first, first + parts[part, P_N_INPUTS]):
        if np.isnan(x[part_inputs[i]]):
            return part_values[part, MISSING_POINTS]
    first = parts[part, P_ROWS]
    for r in range(first, first + parts[part, P_N_ROWS]):
        side = rows[r, R_SIDE]
        if side != 0 and side != lean:
            continue
        holds = True
        for c in range(rows[r, R_CONDITIONS], rows[r, R_CONDITIONS] + rows[r, R_N_CONDITIONS]):
            value, limit, how = x[conditions[c, C_INPUT]], limits[c], conditions[c, C_OPERATOR]
            if conditions[c, C_OF] >= 0:
                limit = limit * x[conditions[c, C_OF]]
            if how == ABOVE:
                holds = value > limit
            elif how == AT_LEAST:
                holds = value >= limit
            elif how == BELOW:
                holds = value < limit
            else:
                holds = value <= limit
            if not holds:
                break
        if holds:
            return row_points[r]
    return part_values[part, OTHERWISE]


@njit(cache=True, nogil=True)
def _same_bet(s: int, lean: int, instant: int, strategies: Any, pairs: Any, together: Any, memory: Any, signalled: Any) -> Any:
    """Return the largest known correlation with a bet on that side, NaN without one, and whether one is not known (``v50._same_bet``)."""
    largest, unknown = np.nan, False
    for k in range(strategies[s, S_N_PAIRS]):
        other = pairs[strategies[s, S_PAIRS] + k]
        side = signalled[other]
        if side == 0 and memory[other, 0] != NO_TIME and memory[other, 3] == NO_TIME:
            side = memory[other, 4] if instant - memory[other, 0] < strategies[s, S_TIMEOUT] * _MINUTE_MS else 0
        if side == lean:
            if np.isnan(together[k]):
                unknown = True
            elif not together[k] <= largest:  # true while it is NaN
                largest = together[k]
    return largest, unknown


@njit(cache=True, nogil=True)
def score(
    asked: Any, features: Any, states: Any, counts: Any, prints: Any, flows: Any, together: Any, instant: int, decided_at: int, columns: Any, stale: int,
    limits_of_regime: Any, strategies: Any, strategy_values: Any, memory: Any, models: Any, layers: Any, layer_most: Any, maxima: Any, parts: Any,
    part_values: Any, part_inputs: Any, rows: Any, row_points: Any, conditions: Any, limits: Any, gates: Any, of_gates: Any, gate_limits: Any,
    pairs: Any, inputs: Any, spans: Any, blob: Any, out: Any, results: Any, values: Any,
) -> None:  # fmt: skip
    """Score strategies.

    Args:
        asked: (strategy, row) of each evaluation.
        features, states, counts, prints: Rows: columns ``state.FEATURES``, states of ``state.INPUTS``, trades of the pane and late ones,
            large buys and sells.
        flows: Flow of big trades of each evaluation; NaN without such trades.
        together: Correlations of each evaluation's instrument with those of its strategy's pairs; NaN where not known.
        instant, decided_at: ms UTC.
        columns: Columns of the features, by input. -1: of the strategy's windows, or none. Behind them those of cvd_1h and slope_1h.
        stale: The state value that means stale.
        limits_of_regime: crash, high_vol, trend.
        strategies ... blob: The tables (``batch``).
        out: Receives the scores, one after the other.
        results: Of each evaluation, the columns from END on. WORDS: index of the gate whose reason must be inserted at BLOCK_AT and
            REASON_AT, else -1.
        values: Of each evaluation, its score, and the number in the reason that must be inserted.
    """
    scratch = np.empty(1, dtype=np.float64)
    as_bytes = scratch.view(np.uint8)
    x = np.empty(N_INPUTS)
    signalled = np.zeros(len(strategies) if len(pairs) else 0, dtype=np.int64)
    at = 0
    for e in range(len(asked)):
        s, r = asked[e, 0], asked[e, 1]
        m = strategies[s, S_MODEL]
        # --- the view ---------------------------------------------------------------------------------------------------
        for i in range(N_INPUTS):
            x[i] = features[r, columns[i]] if columns[i] >= 0 else np.nan
        if states[r, P99_STATE] == MISSING:  # a quantile of a short history has a value but counts as missing (D11)
            x[P99] = np.nan
        x[BUYS], x[SELLS] = prints[r, 0], prints[r, 1]
        x[FAST], x[SLOW] = features[r, strategies[s, S_FAST]], features[r, strategies[s, S_SLOW]]
        if strategies[s, S_SLOPE] >= 0:  # fast windows only
            x[SLOPE], x[ACCELERATION] = features[r, strategies[s, S_SLOPE]], features[r, strategies[s, S_ACCELERATION]]
        stretched = 0
        if models[m, M_STRETCH] and x[MINUTE] > 3.0 * x[DAY] / 1440.0:  # false when one is missing
            stretched = 1
            x[FAST], x[SLOPE], x[ACCELERATION] = features[r, columns[N_INPUTS]], features[r, columns[N_INPUTS + 1]], np.nan
        fast, slow, price = x[FAST], x[SLOW], x[PRICE]
        lean = 1 if fast > 0.0 else -1 if fast < 0.0 else 0
        agree = lean != 0 and slow * lean > 0.0
        volatility = x[ATR] / price if not np.isnan(x[ATR]) and price > 0.0 else np.nan
        warm = not (np.isnan(x[ATR]) or np.isnan(slow) or np.isnan(x[P99]))
        regime = UNKNOWN
        if warm:
            volume = features[r, strategies[s, S_VOLUME]]
            if volatility >= limits_of_regime[0]:
                regime = CRASH
            elif volatility >= limits_of_regime[1]:
                regime = HIGH_VOL
            elif agree and volume > 0.0 and abs(x[ACCELERATION]) > limits_of_regime[2] * volume:
                regime = TREND
            else:
                regime = RANGE
        # --- the gates --------------------------------------------------------------------------------------------------
        n_gates = models[m, M_N_GATES] if warm else 0
        blocked, no_entry = False, False
        block_text = -1  # span of the reason of the block
        words = -1  # index of the gate whose reason contains a number
        word_value = np.nan
        reasons = np.full(max(n_gates, 1), -1, dtype=np.int64)
        gate_values = np.full(max(n_gates, 1), np.nan)
        skipped_from = n_gates
        for n in range(n_gates):
            g, a = models[m, M_GATES] + n, strategies[s, S_GATES] + n
            if of_gates[a, A_ON] and blocked:
                skipped_from = min(skipped_from, n)
            elif of_gates[a, A_ON]:
                kind, limit, value = gates[g, G_JUDGED], gate_limits[a], np.nan
                absent, numbered, text = False, False, -1
                if kind == _VOLATILITY:
                    value = volatility
                    absent = np.isnan(value)
                    numbered = value < limit
                elif kind in (_RESONANCE, _INDEPENDENT, _AGREEMENT):
                    value = fast
                    if np.isnan(value):
                        absent = True
                    elif not agree:
                        text = T_NO_CONSENSUS
                elif kind == _WHALE:
                    value = flows[e]
                    absent = np.isnan(value)
                    if of_gates[a, A_BTC]:
                        numbered = value * lean < -limit
                    elif value * lean <= -1.0:
                        text = of_gates[a, A_ADVERSE]
                elif kind in (_OBI, _SPOT_PERP):
                    value = x[OBI] if kind == _OBI else x[SPOT_PERP]
                    absent = np.isnan(value)
                    numbered = value * lean < -limit
                elif kind == _SAME_BET:
                    value, absent = _same_bet(s, lean, instant, strategies, pairs, together[e], memory, signalled)
                    if value >= limit:
                        text, absent = of_gates[a, A_ADVERSE], False
                else:
                    if kind == _FAST_SIGN:
                        value = fast
                    elif kind == _SLOPE_SIGN:
                        value = x[SLOPE]
                    elif kind == _SLOW_SIGN:
                        value = slow
                    else:
                        value = price - x[VWAP]
                    absent = np.isnan(value)
                    numbered = not absent and not value * lean > 0.0
                if absent and of_gates[a, A_MISSING_BLOCKS]:
                    text = of_gates[a, A_ABSENT_STRETCHED] if stretched else of_gates[a, A_ABSENT]
                if kind == _INDEPENDENT and text >= 0:
                    independent = _points(
                        models[m, M_INDEPENDENT], x, lean, parts, part_values, part_inputs, rows, row_points, conditions, limits
                    )
                    if independent > 0.0:
                        text = -1
                gate_values[n] = value
                if text >= 0 or numbered:
                    reasons[n] = text if text >= 0 else -2
                    if gates[g, G_ENTRY_ONLY]:
                        no_entry = True
                    else:
                        blocked = True
                        block_text = text
                        if text < 0:
                            words, word_value = n, value
            if gates[g, G_NEEDS_DIRECTION] and not blocked and lean == 0:
                blocked, block_text = True, T_NO_DIRECTION
        if warm and not blocked and (price <= 0.0 or x[ATR] == 0.0):
            blocked, block_text = True, T_NO_RISK
        # --- the layers -------------------------------------------------------------------------------------------------
        n_layers = models[m, M_N_LAYERS] if warm else 0
        first_layer = models[m, M_LAYERS]
        total = 0.0
        n_parts = 0
        for n in range(n_layers):
            n_parts += layers[first_layer + n, L_N_PARTS]
        part_points = np.empty(max(n_parts, 1))
        raws, weighted = np.empty(max(n_layers, 1)), np.empty(max(n_layers, 1))
        k = 0
        for n in range(n_layers):
            layer = first_layer + n
            raw = 0.0
            for p in range(layers[layer, L_N_PARTS]):
                worth = _points(layers[layer, L_PARTS] + p, x, lean, parts, part_values, part_inputs, rows, row_points, conditions, limits)
                part_points[k] = worth
                k += 1
                if p < layers[layer, L_N_SUMMED]:
                    raw += worth
                else:
                    raw = max(raw, worth)
            raws[n] = min(raw, layer_most[layer])
            most = maxima[strategies[s, S_MOSTS] + n]
            weighted[n] = min(raws[n] * most / layer_most[layer], most)
            total += weighted[n]
        total = tenths(min(total, 100.0))
        # --- the decision -----------------------------------------------------------------------------------------------
        direction, scored, tier, entry, flip, cooling = 0, 0.0, -1, False, False, False
        if not warm:
            verdict = V_COLD
        elif blocked:
            verdict = V_BLOCKED
        else:
            direction, scored = lean, total
            for n in range(models[m, M_N_TIERS]):
                if scored >= strategy_values[s, TIERS + n]:
                    tier = models[m, M_TIERS] + n
                    break
            mine = 1 if direction > 0 else 2 if direction < 0 else 0
            allowed = (strategies[s, S_DIRECTION] & mine) != 0
            flip = allowed and scored >= strategy_values[s, FLIP_AT] and (memory[s, 2] & (3 - mine)) != 0
            if scored < strategy_values[s, ENTRY]:
                verdict, flip = V_BELOW, False
            elif not allowed:
                verdict, flip = V_LIMIT, False
            else:
                entry = True
                since = memory[s, 0] if memory[s, 3] == NO_TIME else memory[s, 3]
                if no_entry:
                    entry, verdict = False, V_NO_ENTRY
                elif since != NO_TIME and instant - since < strategies[s, S_COOLDOWN] * _MINUTE_MS:
                    entry, verdict, cooling = False, V_COOLDOWN, True
                elif models[m, M_TWO_AN_HOUR] and memory[s, 1] != NO_TIME and instant - memory[s, 1] < _HOUR_MS:
                    entry, verdict = False, V_HOURLY
                elif models[m, M_FLIP_CLOSES_ONLY] and flip and memory[s, 0] != NO_TIME and memory[s, 3] == NO_TIME:
                    entry, verdict = False, V_FLIP
                else:
                    verdict = V_ENTRY_FLIP if flip else V_ENTRY
                if flip and not entry:
                    verdict = V_FLIP
        if len(pairs) and (entry or flip):
            signalled[s] = direction if entry else _ENDED
        # --- the record -------------------------------------------------------------------------------------------------
        at = _text(out, at, blob, spans, T_HEADER)
        digits, rest = (2 if instant < 0 else 1), abs(instant) // 10
        while rest:
            digits += 1
            rest //= 10
        at = write_long(out, at, spans[strategies[s, S_PREFIX], 1] - spans[strategies[s, S_PREFIX], 0] + digits)
        at = _text(out, at, blob, spans, strategies[s, S_PREFIX])
        rest = abs(instant)
        for d in range(digits - 1, -1, -1):
            out[at + d] = 48 + rest % 10
            rest //= 10
        if instant < 0:
            out[at] = 45
        at = _text(out, at + digits, blob, spans, strategies[s, S_NAME])
        at = write_long(out, at, instant)
        at = write_long(out, at, decided_at)
        at = _text(out, at, blob, spans, strategies[s, S_WHO])
        at = _text(out, at, blob, spans, T_NONE + direction)
        at = _double(out, at, scored, scratch, as_bytes)
        if tier < 0:
            out[at] = 0
            at += 1
        else:
            out[at] = 2
            at = _text(out, at + 1, blob, spans, tier)
        out[at] = warm and not blocked
        at += 1
        results[e, BLOCK_AT] = at
        if block_text >= 0:
            out[at] = 2
            at = _text(out, at + 1, blob, spans, block_text)
        elif words < 0:
            out[at] = 0
            at += 1
        out[at] = warm
        at = _text(out, at + 1, blob, spans, T_REGIME + regime)
        out[at] = cooling
        out[at + 1] = entry or flip
        at = _double(out, at + 2, price, scratch, as_bytes)
        at = _maybe(out, at, x[ATR], scratch, as_bytes)
        for i in (FAST, SLOW, SLOPE, ACCELERATION):
            at = _maybe(out, at, x[i], scratch, as_bytes)
        k = 0
        if n_layers:
            at = write_long(out, at, n_layers)
        for n in range(n_layers):
            layer = first_layer + n
            at = _text(out, at, blob, spans, layers[layer, L_NAME])
            at = _double(out, at, raws[n], scratch, as_bytes)
            at = _double(out, at, layer_most[layer], scratch, as_bytes)
            at = _double(out, at, weighted[n], scratch, as_bytes)
            at = _double(out, at, maxima[strategies[s, S_MOSTS] + n], scratch, as_bytes)
            at = write_long(out, at, layers[layer, L_N_PARTS])
            for p in range(layers[layer, L_N_PARTS]):
                at = _text(out, at, blob, spans, parts[layers[layer, L_PARTS] + p, P_NAME])
                at = _double(out, at, part_points[k], scratch, as_bytes)
                k += 1
            out[at] = 0
            at += 1
        out[at] = 0
        at += 1
        if n_gates:
            at = write_long(out, at, n_gates)
        results[e, REASON_AT] = at
        for n in range(n_gates):
            g, a = models[m, M_GATES] + n, strategies[s, S_GATES] + n
            at = _text(out, at, blob, spans, gates[g, G_NAME])
            on = of_gates[a, A_ON] == 1
            out[at] = on
            out[at + 1] = reasons[n] == -1
            out[at + 2] = on and n >= skipped_from
            at = _maybe(out, at + 3, gate_values[n], scratch, as_bytes)
            out[at] = 2
            at = _double(out, at + 1, gate_limits[a], scratch, as_bytes)
            if reasons[n] == -2:
                results[e, REASON_AT] = at
            elif reasons[n] == -1:
                out[at] = 0
                at += 1
            else:
                out[at] = 2
                at = _text(out, at + 1, blob, spans, reasons[n])
        out[at] = 0
        at += 1
        # Names of the absent inputs that the strategy reads, then of the stale ones among them, then the values of the present ones.
        first_input, n_inputs = strategies[s, S_INPUTS], models[m, M_N_INPUTS]
        for wanted in range(3):
            count = 0
            for i in range(first_input, first_input + n_inputs):
                state = inputs[i, I_STATE_STRETCHED if stretched else I_STATE]
                missing = np.isnan(x[inputs[i, I_INPUT]])
                if wanted == 2:
                    count += not missing
                elif missing and inputs[i, I_READ] and (wanted == 0 or (state >= 0 and states[r, state] == stale)):
                    count += 1
            if count:
                at = write_long(out, at, count)
                for i in range(first_input, first_input + n_inputs):
                    state = inputs[i, I_STATE_STRETCHED if stretched else I_STATE]
                    name = inputs[i, I_NAME_STRETCHED if stretched else I_NAME]
                    missing = np.isnan(x[inputs[i, I_INPUT]])
                    if wanted == 2:
                        if not missing:
                            at = _text(out, at, blob, spans, name)
                            at = _double(out, at, x[inputs[i, I_INPUT]], scratch, as_bytes)
                    elif missing and inputs[i, I_READ] and (wanted == 0 or (state >= 0 and states[r, state] == stale)):
                        at = _text(out, at, blob, spans, name)
            out[at] = 0
            at += 1
            if wanted == 1:
                at = write_long(out, at, counts[r, 1])
                at = _text(out, at, blob, spans, T_NONE + lean if warm else T_NONE)
                at = _double(out, at, total, scratch, as_bytes)
                at = _text(out, at, blob, spans, T_VERDICT + verdict)
                at = _text(out, at, blob, spans, strategies[s, S_THRESHOLDS])
        results[e, END], results[e, WORDS], results[e, DIRECTION], results[e, TIER] = at, words, direction, tier
        results[e, IS_ENTRY], results[e, IS_FLIP], results[e, REGIME] = entry, flip, regime
        values[e, 0], values[e, 1] = scored, word_value
