"""evaluate: predictions and references on one grid -> score rows.

Reads ``predictions.json``, its label maps and the references; writes one tidy parquet table per training, one row per
case, class (or region) and metric. Guarantees: whole images on their own grid; grids must agree or it is an error;
the reference alone decides whether a class of a case has values; undefined, missed, failed are statuses with a reason.
"""
