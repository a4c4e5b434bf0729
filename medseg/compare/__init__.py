"""compare: score rows of many runs -> intervals, ranking, paired statistics.

Reads ``evaluate/{model}/*.parquet`` of every data set; writes ``scores.parquet``, ``leaderboard.csv`` and
``summary.json``. Guarantees: no mean without its count, undefined scores counted and never dropped silently,
whole subjects resampled, models compared on common cases only, and the same bytes for the same scores.
"""
