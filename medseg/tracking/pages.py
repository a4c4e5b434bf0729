"""The report of an experiment in MLflow: in one run of its own, to which the runs of the models link.

It is there only while it is of the comparison whose scores are shown. The run has no key, so none of the tables lists
it, and no replay takes it for a run of the study.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.files import sha256_file
from medseg.results.paths import Results
from medseg.tracking import runs
from medseg.tracking.listed import search

# Tag of the run that has the report; of a run that links to it: its id.
REPORT, LINK = "medseg.report", "medseg.report_run"
PLACE = "report/index.html"
NOTE = "The report of the whole experiment, as of the last replay: see its artifacts. All runs of models link to it."


def current_page(results: Path) -> bytes | None:
    """The report in ``results/<experiment>``; None if there is none, or it is of another comparison than is there."""
    files = Results(results)
    if not (files.report.page.is_file() and files.compare.summary.is_file()):
        return None
    page = files.report.page.read_bytes()
    # Every report prints the digests of the files that its numbers are from.
    return page if sha256_file(files.compare.summary).encode() in page else None


def report_runs(client: Any, experiment: str) -> list[Any]:
    """Runs that have the report: none or one, but for processes that created some at once; the first comes first."""
    found = search(client, experiment, f"tags.`{REPORT}` = 'true'")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def report_run(client: Any, experiment: str) -> Any:
    """The run that has the report, created if there is none; others are deleted. Call with the store's lock held."""
    tags = {**runs.ANONYMOUS, REPORT: "true", "mlflow.note.content": NOTE}
    found = report_runs(client, experiment)
    if not found:
        client.create_run(experiment, start_time=runs.now_ms(), tags=tags, run_name="report")
        found = report_runs(client, experiment)
    for other in found[1:]:
        client.delete_run(other.info.run_id)
    return found[0]


def link_to(experiment: str, run: str) -> str:
    """Address of the report in the UI, relative to the UI's."""
    return f"#/experiments/{experiment}/runs/{run}/artifacts/{PLACE}"
