"""medseg: segmentation studies in medical imaging, as one resumable river.

Stages, in the order data flows (each a folder, a command, a rule file and a results folder):

    ingest -> plan -> preprocess -> train -> predict -> postprocess -> evaluate -> compare -> report

Parts (``image``, ``patches``, ``augment``, ``models``, ``losses``, ``metrics``) are pure: arrays in, arrays out.
"""

import os

__version__ = "0.1.0"

# MONAI imports MLflow, which reports usage by default. Nothing leaves this machine unless the configuration says so.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
