"""Metrics: two masks of one class in, a number out; ``table.py`` lists them. Undefined is NaN, never a dropped case."""
