"""Eleven faults on small studies: each ends, by the same plain command, as the undisturbed study did.

`make torture` plays the whole table, from every stage on. What is drawn here follows from the seeds in the test.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.torture import faults
from tests.workflow.torture.configurations import BASE
from tests.workflow.torture.damage import delete, delete_folder, flip
from tests.workflow.torture.lab import FINISHED, NOTHING, Lab
from tests.workflow.torture.scene import Scene
from tests.workflow.torture.surroundings import Tracker

pytestmark = pytest.mark.workflow


@pytest.fixture
def scene(finished: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A study to disturb, drawn from a seed; it must come out as the finished one."""
    lab = Lab(tmp_path / "lab", often=False)
    lab.adopt(finished)
    made = Scene(lab, tmp_path / "rough", random.Random(request.param))
    yield made
    made.close(keep=False)
    assert not made.problems, "\n".join([*made.problems, *made.story])


@pytest.mark.parametrize("scene", [1], indirect=True)
def test_interrupted_again_and_again_it_ends_with_the_same_bits(scene: Scene) -> None:
    scene.begin([NOTHING])
    for blow, stage in (
        (faults.kill_group, "ingest"),
        (faults.interrupt, "preprocess"),
        (faults.terminate, "train"),
        (faults.kill_snakemake, "evaluate"),
        (faults.kill_part, "compare"),
    ):
        process = scene.start()
        if scene.moment(process, [stage]):
            blow(scene, process)
    scene.end(scene.start(variables=scene.durable(at=6)))
    scene.finish()


@pytest.mark.parametrize("scene", [2], indirect=True)
def test_damaged_or_configured_otherwise_for_a_while_it_comes_back(scene: Scene) -> None:
    scene.begin([FINISHED])
    scene.configure("fewer steps")
    process = scene.start()
    if scene.moment(process, ["train"]):
        faults.kill_snakemake(scene, process)
    scene.configure(BASE)
    for damage in (delete, delete_folder, flip):
        damage(scene)
    scene.finish()
    scene.tracker = Tracker(scene.beside("tracker"))
    scene.configure(BASE)
    scene.finish()
