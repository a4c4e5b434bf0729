"""evaluate: prediction + reference on one grid -> score rows.

Reads ``predictions.json``, its label maps and the references; writes one tidy parquet table per training. Guarantees:
whole images on the native grid; grids must agree or it is an error; undefined is a status with a reason.
"""
