"""Metrics: integer label maps in, counts and ratios out; undefined is a status, never a dropped NaN."""
