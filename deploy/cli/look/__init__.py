"""Commands that only read: reports, comparisons, explanations, dashboards, metrics, data quality."""
