"""The layout of ``results/{experiment}``: every path under it, spelled once.

Stages are called with explicit inputs and outputs. What their files are called (``folders``), and where the workflow,
the report, tracking and the test set look for them (``paths``), is written here and nowhere else. The rules of the
workflow take their patterns from the same methods, called with Snakemake's wildcards in place of names.

Each file has one reader:

- manifest.tsv, test.tsv, dataset.json: ``ingest.manifest.read_manifest``; test.json: ``ingest.recorded.read_test``;
  splits.json: ``ingest.splits.read_split``
- fingerprint.json: ``plan.fingerprint.read_fingerprint``; plans: ``plan.plan.read_plan``
- weights/{model}.json: ``weights.record.read_weights_record``
- index.json: ``preprocess.store.open_store``
- model.json: ``trained.read_facts``, and on it ``trained.read_trained``, ``train.checkpoint.read_description``
- ensemble.json: ``trained.read_trained``
- postprocess.json: ``postprocess.settled.read_settled``; effect.json: ``postprocess.effect.read_effect``;
  quality.json: ``predict.quality.read_quality``
- timing.json, history.jsonl: ``train.history.read_timing``, ``read_history``
- predictions.json: ``predict.record.read_predictions``
- tables of scores: ``evaluate.table.read_table``, and on it ``compare.rows.read_scores``
- leaderboard.csv, summary.json, compared scores: ``compare.run.read_leaderboard``, ``read_summary``,
  ``read_compared_scores``
- opened.json: ``testset.openings.read_openings``
- store.json: ``tracking.store.read_store``

Imports nothing but the standard library: the Snakefile uses it when it is parsed. A stage imports ``folders`` (and
``key``) alone, so that its code digest does not follow the layout of logs.
"""
