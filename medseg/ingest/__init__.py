"""ingest: raw files -> checked manifest and folds.

Reads the data set's folder; writes ``dataset.json``, ``manifest.tsv``, ``splits.json``, and the test set apart.
Guarantees: every file was read whole once, every fault found is reported in one pass, and nothing is written unless all
is well.
"""
