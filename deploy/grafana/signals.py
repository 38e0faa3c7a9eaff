"""Evaluations of the strategies: scores, layers, gates, verdicts, signals, and the detail of one score."""

from __future__ import annotations

from deploy.grafana.build import (
    BIN,
    BLUE,
    CHOOSE_INSTRUMENT,
    CHOOSE_STRATEGY,
    COUNT,
    GREEN,
    GREY,
    IN_RANGE,
    INSTRUMENT,
    NONE,
    OF_HUNDRED,
    ORANGE,
    RED,
    SHARE,
    STEP,
    Json,
    bars,
    by_name,
    colour,
    limits,
    lines,
    matching,
    page,
    panel,
    rows,
    series,
    stat,
    table,
    words,
)

STRATEGY = "strategy_id IN (${strategy:sqlstring})"
CHOSEN = f"{IN_RANGE} AND {INSTRUMENT} AND {STRATEGY}"
GRID = "15s"
# Each has one colour on every page, whichever comes first.
REGIMES = {"crash": RED, "high_vol": ORANGE, "trend": BLUE, "range": GREEN, "unknown": GREY}
NOT_WARM = "No warm evaluation in the range: the windows of the strategies need a longer history."

# The score that was typed or followed; without one the newest of the choice.
SCORE = f"""WITH chosen AS (SELECT * FROM scores WHERE score_id = CASE WHEN ${{score:sqlstring}} <> '' THEN ${{score:sqlstring}}
  ELSE (SELECT score_id FROM scores WHERE {CHOSEN} ORDER BY event_time DESC LIMIT 1) END
  AND event_time BETWEEN timestamptz $__timeFrom() - interval '30 days' AND timestamptz $__timeTo() + interval '1 day' LIMIT 1)"""

TO_SCORE = {"title": "Why", "url": "/d/perpflow-signals?var-score=${__value.raw:percentencode}&${__url_time_range}"}

LAYERS = f"""{SCORE} SELECT layer->>'name' AS layer, part.key AS part, part.value::float8 AS "raw points", (layer->>'raw_max')::float8 AS "raw at most",
  (layer->>'score')::float8 AS "layer points", (layer->>'max')::float8 AS "layer at most"
FROM chosen, jsonb_array_elements(layers) layer, jsonb_each_text(layer->'parts') part"""

GATES = f"""{SCORE} SELECT gate->>'name' AS gate, CASE WHEN NOT (gate->>'enabled')::boolean THEN 'off' WHEN (gate->>'skipped')::boolean THEN 'skipped'
  WHEN (gate->>'passed')::boolean THEN 'passed' ELSE 'blocked' END AS result, (gate->>'value')::float8 AS value, (gate->>'limit')::float8 AS "limit",
  gate->>'reason' AS reason
FROM chosen, jsonb_array_elements(gates) gate"""

INPUTS = f"""{SCORE} SELECT input, value, state FROM (
  SELECT i.key AS input, i.value::float8 AS value, 'used' AS state FROM chosen, jsonb_each_text(inputs) i WHERE i.value IS NOT NULL
  UNION ALL SELECT m, NULL, 'missing' FROM chosen, unnest(missing_inputs) m WHERE m <> ALL (stale_inputs)
  UNION ALL SELECT unnest(stale_inputs), NULL, 'stale' FROM chosen) t ORDER BY state, input"""

# Where the divergence changed to something; what stays is one event.
EVENTS = f"""SELECT event_time, kind, CASE WHEN value > 0 THEN 'price low, CVD not' ELSE 'price high, CVD not' END AS what, value FROM (
  SELECT event_time, cvd_divergence_1m AS now_1m, lag(cvd_divergence_1m) OVER w AS was_1m, cvd_divergence_15m AS now_15m,
    lag(cvd_divergence_15m) OVER w AS was_15m, cvd_divergence_1h AS now_1h, lag(cvd_divergence_1h) OVER w AS was_1h
  FROM features WHERE {IN_RANGE} AND {INSTRUMENT} WINDOW w AS (ORDER BY event_time)) t
CROSS JOIN LATERAL (VALUES ('CVD divergence 1m', now_1m, was_1m), ('CVD divergence 15m', now_15m, was_15m), ('CVD divergence 1h', now_1h, was_1h))
  changes (kind, value, before)
WHERE value <> 0 AND value IS DISTINCT FROM before ORDER BY event_time DESC LIMIT 200"""

TIMELINE = f"""SELECT event_time, instrument, strategy_name AS strategy, direction, tier, score,
  CASE WHEN entry AND flip THEN 'enter or flip' WHEN entry THEN 'enter' ELSE 'flip' END AS action,
  regime, price, risk_distance AS "1R in price", strategy_version AS model, config_revision AS revision, signal_id AS why
FROM signals WHERE {IN_RANGE} AND {STRATEGY} ORDER BY event_time DESC LIMIT 200"""

# One look into the index for each step and strategy of the instrument.
LAYER_POINTS = f"""SELECT steps.at AS "time", layer->>'name' AS metric, avg((layer->>'score')::float8) AS points
FROM generate_series(date_bin({STEP}, timestamptz $__timeFrom(), timestamptz 'epoch'), timestamptz $__timeTo(), {STEP}) steps (at)
CROSS JOIN (SELECT strategy_id AS id FROM strategy_instruments WHERE {INSTRUMENT} AND {STRATEGY}) s
CROSS JOIN LATERAL (SELECT layers FROM scores WHERE {INSTRUMENT} AND strategy_id = s.id AND warm
  AND event_time >= steps.at AND event_time < steps.at + {STEP} AND {IN_RANGE} ORDER BY event_time DESC LIMIT 1) newest
CROSS JOIN jsonb_array_elements(newest.layers) layer GROUP BY 1, 2 ORDER BY 1"""

ENTERS = f"""SELECT steps.at AS "time", s.name || ' enters' AS metric, newest.entry_score AS "enters from"
FROM generate_series(date_bin({STEP}, timestamptz $__timeFrom(), timestamptz 'epoch'), timestamptz $__timeTo(), {STEP}) steps (at)
CROSS JOIN (SELECT strategy_id AS id, display_name AS name FROM strategy_instruments WHERE {INSTRUMENT} AND {STRATEGY}) s
CROSS JOIN LATERAL (SELECT entry_score FROM scores WHERE {INSTRUMENT} AND strategy_id = s.id AND entry_score IS NOT NULL
  AND event_time >= steps.at AND event_time < steps.at + {STEP} AND {IN_RANGE} ORDER BY event_time DESC LIMIT 1) newest ORDER BY 1"""

BLOCKS = f"""SELECT split_part(gate_block, '(', 1) AS gate, count(*) AS blocked FROM scores
WHERE {CHOSEN} AND gate_block IS NOT NULL GROUP BY 1 ORDER BY 2 DESC"""

ABSENT = f"""SELECT input, count(*) FILTER (WHERE state = 'missing') AS missing, count(*) FILTER (WHERE state = 'stale') AS stale FROM (
  SELECT unnest(missing_inputs) AS input, 'missing' AS state FROM features WHERE {IN_RANGE} AND {INSTRUMENT}
  UNION ALL SELECT unnest(stale_inputs), 'stale' FROM features WHERE {IN_RANGE} AND {INSTRUMENT}) t GROUP BY 1 ORDER BY 2 DESC, 3 DESC"""

DISTRIBUTION = f"""SELECT lpad((least(floor(ungated_score / 10), 9) * 10)::int::text, 2, '0') || ' to ' || ((least(floor(ungated_score / 10), 9) + 1) * 10)::int
  AS score, count(*) AS evaluations FROM scores WHERE {CHOSEN} AND warm GROUP BY 1 ORDER BY 1"""

# Wilson's 95 % interval of a share: sure enough even where labels are few. Neighbouring labels overlap by an hour, so it is too narrow.
HITS = f"""SELECT score, evaluations, hits, hits::float8 / evaluations AS "hit rate",
  (share + 1.9208 / evaluations - 1.96 * sqrt((share * (1 - share) + 0.9604 / evaluations) / evaluations)) / (1 + 3.8416 / evaluations) AS "from",
  (share + 1.9208 / evaluations + 1.96 * sqrt((share * (1 - share) + 0.9604 / evaluations) / evaluations)) / (1 + 3.8416 / evaluations) AS "to",
  "mean return", mfe, mae
FROM (SELECT lpad((least(floor(ungated_score / 10), 9) * 10)::int::text, 2, '0') || ' to ' || ((least(floor(ungated_score / 10), 9) + 1) * 10)::int AS score,
    count(*) AS evaluations, sum(y_binary_60m) AS hits, avg(y_binary_60m)::float8 AS share, avg(y_return_60m) AS "mean return",
    avg(mfe_r_60m) AS mfe, avg(mae_r_60m) AS mae
  FROM score_labels WHERE {CHOSEN} AND warm AND y_binary_60m IS NOT NULL GROUP BY 1) t ORDER BY 1"""

EDITS = """SELECT event_time, strategy_id, revision, action, accepted, edited_by AS "by", changed::text AS changed, coalesce(note, reason) AS note
FROM strategy_audit WHERE strategy_id IN (${strategy:sqlstring}) ORDER BY event_time DESC LIMIT 100"""


def board() -> Json:
    """Return the dashboard."""
    verdict_colours = [colour("entry", GREEN), colour("blocked", RED), colour("not_warm", GREY)]
    panels = [
        lines(
            "Score",
            "Highest score of each step, after the gates; strategies enter from their entry score on.",
            OF_HUNDRED,
            series(
                f'SELECT {BIN} AS "time", strategy_name AS metric, max(score) AS score FROM scores WHERE {CHOSEN} GROUP BY 1, 2 ORDER BY 1'
            ),
            series(ENTERS),
            width=24,
            interval=GRID,
            defaults={"min": 0, "max": 100},
        ),
        lines(
            "Score by layer",
            "Points of each layer at the newest evaluation of each step, before the gates; the mean of the chosen strategies.",
            OF_HUNDRED,
            series(LAYER_POINTS),
            stack=True,
            interval=GRID,
        ),
        lines(
            "Verdicts",
            "Result of each evaluation: entry, flip, below the entry score, cooldown, blocked by a gate, not warm, ...",
            COUNT,
            series(
                f'SELECT {BIN} AS "time", verdict AS metric, count(*) AS evaluations FROM scores WHERE {CHOSEN} GROUP BY 1, 2 ORDER BY 1'
            ),
            style="bars",
            stack=True,
            overrides=verdict_colours,
            interval="1m",
        ),
        stat(
            "Signals",
            "Signals of the chosen strategies in the range, all instruments.",
            COUNT,
            rows(f"SELECT count(*) FROM signals WHERE {IN_RANGE} AND {STRATEGY}"),
        ),
        stat(
            "Evaluations",
            "Evaluations of the instrument by the chosen strategies.",
            COUNT,
            rows(f"SELECT count(*) FROM scores WHERE {CHOSEN}"),
        ),
        stat(
            "Gates passed",
            "Share of the warm evaluations that no gate blocked.",
            SHARE,
            rows(f"SELECT avg(gate_passed::int) FROM scores WHERE {CHOSEN} AND warm"),
        ),
        stat(
            "Complete inputs",
            "Share of the evaluations without a missing or stale input.",
            SHARE,
            rows(f"SELECT avg((cardinality(missing_inputs) + cardinality(stale_inputs) = 0)::int) FROM scores WHERE {CHOSEN}"),
            ((None, RED), (0.5, "orange"), (0.9, GREEN)),
        ),
        stat(
            "Late trades",
            "Trades of the instrument that arrived after their evaluation instant, up to the end of the range.",
            COUNT,
            rows(f"SELECT max(late_trades) FROM features WHERE {IN_RANGE} AND {INSTRUMENT}"),
        ),
        stat(
            "Not warm",
            "Share of the evaluations whose history was too short.",
            SHARE,
            rows(f"SELECT avg((NOT warm)::int) FROM scores WHERE {CHOSEN}"),
        ),
        bars("Blocked by", "Evaluations that a gate blocked, by the first gate that did.", COUNT, rows(BLOCKS), "gate", width=8),
        bars(
            "Distribution of scores",
            "Warm evaluations by the sum of their layers, before the gates.",
            COUNT,
            rows(DISTRIBUTION),
            "score",
            width=8,
        ),
        bars(
            "Inputs not there",
            "Evaluation instants at which an input was missing or older than its limit.",
            COUNT,
            rows(ABSENT),
            "input",
            stack=True,
            width=8,
        ),
        panel(
            "state-timeline",
            "Regime",
            "Market regime by strategy: crash, high_vol, trend, range or unknown.",
            NONE,
            series(
                f'SELECT DISTINCT ON (1, strategy_name) {BIN} AS "time", strategy_name AS metric, regime'
                f" FROM scores WHERE {CHOSEN} ORDER BY 1, strategy_name, event_time DESC"
            ),
            width=24,
            height=6,
            interval="1m",
            defaults={"mappings": [{"type": "value", "options": {name: {"color": shade} for name, shade in REGIMES.items()}}]},
            options={"showValue": "auto", "mergeValues": True, "legend": {"displayMode": "list", "placement": "bottom"}},
        ),
        table(
            "Labels by score",
            "What the mark price did in the hour after warm evaluations, by the score before the gates. A hit reached the target before the"
            " stop. The 95 % interval counts every evaluation as independent; their hours overlap, so it is too narrow.",
            NONE,
            rows(HITS),
            {"hit rate": SHARE, "from": SHARE, "to": SHARE, "mean return": SHARE},
            width=24,
            height=8,
        ),
        table(
            "Signal timeline",
            "The newest 200 signals of the chosen strategies on all instruments. Click an id to see its details below.",
            NONE,
            rows(TIMELINE),
            {"score": OF_HUNDRED},
            width=24,
            height=10,
            overrides=[by_name("why", "links", [TO_SCORE])],
        ),
        table(
            "Selected score",
            "The score that was clicked or typed, or the newest one. The last column has the shell command for it.",
            NONE,
            rows(
                f"{SCORE} SELECT event_time, instrument, strategy_name AS strategy, lean, direction, ungated_score AS layers, score, verdict, gate_block,"
                " regime, price, atr, config_revision AS revision, 'perpflow explain ''' || score_id || '''' AS command FROM chosen"
            ),
            {"layers": OF_HUNDRED, "score": OF_HUNDRED},
            width=24,
            height=4,
        ),
        table(
            "Layers of the score",
            "Points by part: raw as the rule gives them, and of the layer after its weight.",
            NONE,
            rows(LAYERS),
            width=10,
            height=10,
        ),
        table(
            "Gates of the score",
            "Every gate in order, with the value it saw and its limit.",
            NONE,
            rows(GATES),
            width=8,
            height=10,
            overrides=[
                by_name(
                    "result",
                    "mappings",
                    [{"type": "value", "options": {"blocked": {"color": RED}, "passed": {"color": GREEN}}}],
                    "custom.cellOptions",
                    {"type": "color-text"},
                )
            ],
        ),
        table(
            "Inputs of the score",
            "Input values at the instant. Missing and stale inputs have no value.",
            NONE,
            rows(INPUTS),
            width=6,
            height=10,
        ),
        table(
            "Strategies",
            "The revision in force of every strategy: thresholds, cooldown, status.",
            NONE,
            rows(
                "SELECT r.strategy_id, r.display_name AS name, r.instrument, r.status, r.model, r.revision, s.entry_score AS enters, s.flip_threshold AS flips,"
                " s.cooldown_minutes AS cooldown, r.updated_at FROM strategy_registry r LEFT JOIN strategies_current s USING (strategy_id) ORDER BY 1"
            ),
            {"enters": OF_HUNDRED, "flips": OF_HUNDRED, "cooldown": "m"},
            width=24,
            height=6,
        ),
        table(
            "Divergences",
            "Start of a divergence of price and CVD (1: price at a low, CVD not; -1: price at a high, CVD not).",
            NONE,
            rows(EVENTS),
            width=9,
        ),
        table("Edits of strategies", "The newest 100 entries of the audit trail, rejected records included.", NONE, rows(EDITS), width=15),
    ]
    panels[0]["fieldConfig"]["overrides"].append(matching("enters", "custom.lineStyle", {"fill": "dash", "dash": [6, 6]}))
    panels[0]["fieldConfig"]["defaults"]["thresholds"] = limits([(None, GREEN)])
    return page(
        "signals",
        "Signals",
        "Evaluations of the strategies, and their reasons.",
        panels,
        [CHOOSE_INSTRUMENT, CHOOSE_STRATEGY, words("score", "Score id")],
        empty="No evaluation of this instrument by the chosen strategies in the range.",
        empties={
            **dict.fromkeys(
                ("Score by layer", "Gates passed", "Distribution of scores", "Layers of the score", "Gates of the score"), NOT_WARM
            ),
            "Blocked by": "No gate blocked an evaluation in the range.",
            "Signal timeline": "No signal of the chosen strategies in the range.",
            "Labels by score": "No warm evaluation in the range has a label yet: a label needs an hour of mark prices after it.",
            "Inputs not there": "No input was missing or stale in the range.",
            "Divergences": "No divergence of price and CVD began in the range.",
            "Strategies": "No strategy is registered.",
            "Edits of strategies": "The audit trail of the chosen strategies is empty.",
        },
    )
