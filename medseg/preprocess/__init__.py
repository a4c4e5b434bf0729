"""preprocess: case + plan's grid -> prepared case on disk.

Reads raw files (digests checked against the manifest); writes one folder of prepared cases and, last, ``index.json``.
Guarantees: labels stay integers; every prepared case carries the record that undoes it; cases already there for the
same inputs, grid and code are kept, damaged ones rebuilt; no damaged file is read; memory stays within the host
budget; workers and shards change nothing in the result.
"""
