"""testset: trained models + the cases that were kept apart -> scores of a test set, and the record that it was opened.

Reads ``ingest/test.tsv`` and the model folders; writes predictions, scores and their comparison under ``test/``, and
``test/opened.json`` before any of them. Guarantees: no other stage reads the test set; every opening is recorded,
also one that was killed; models that have seen a subject of the test set are refused.
"""
