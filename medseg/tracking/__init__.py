"""tracking: results -> MLflow, and models from MLflow back to folders.

Reads everything under ``results/<experiment>``; writes ``tracking/store.json`` and an MLflow store (a SQLite
file beside the results, or the server that the configuration names). Guarantees: results never depend on the
store; what is current there is what the configuration runs, and every parent's scores are those of its own trainings
and the leaderboard's; a repeated sync adds nothing, nothing is put into the experiment "Default", no code and no path
of this machine is written into a tag or parameter. Only this package imports MLflow, and only inside functions:
importing the package itself is cheap.
"""

from medseg.tracking.live import LiveTracking
from medseg.tracking.references import resolve_model, resolve_models
from medseg.tracking.spec import RunSpec, training_spec
from medseg.tracking.store import init_store, read_store
from medseg.tracking.sync import sync, sync_or_note
from medseg.tracking.synced import needs_sync, unsent
from medseg.tracking.ui import serve_ui, ui_command

__all__ = [
    "LiveTracking",
    "RunSpec",
    "init_store",
    "needs_sync",
    "read_store",
    "resolve_model",
    "resolve_models",
    "serve_ui",
    "sync",
    "sync_or_note",
    "training_spec",
    "ui_command",
    "unsent",
]
