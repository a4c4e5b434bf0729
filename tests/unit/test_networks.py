"""The tables of networks, encoders and losses name their code late: a change of one row is a change of no other."""

from __future__ import annotations

import pytest

from medseg.late import resolve
from medseg.losses.table import LOSSES
from medseg.models.encoders.table import ENCODERS
from medseg.networks import NETWORKS
from medseg.provenance import import_closure

# No row of any table.
NO_ROWS = {"NETWORKS": (), "ENCODERS": (), "LOSSES": ()}
# Networks that are built from another one's parts.
BUILT_ON = {
    "resenc_unet": "unet",
    "residual_unet": "unet",
    "deeplabv2": "deeplabv1",
    "deeplabv3plus": "deeplabv3",
    "sds": "rcnn",
}
MODULES = {name: row.builder.split(":")[0] for name, row in NETWORKS.items()}


def test_building_imports_no_network_encoder_or_loss_but_the_rows_that_are_used() -> None:
    named = {*MODULES.values(), *[where.split(":")[0] for where in (*ENCODERS.values(), *sum(LOSSES.values(), ()))]}
    for module in ("medseg.models.zoo", "medseg.models.encoders.build", "medseg.losses.build"):
        assert not import_closure(module, rows=NO_ROWS) & named
    used = import_closure("medseg.models.zoo", rows={**NO_ROWS, "NETWORKS": ("segresnet",)}) & named
    assert used == {"medseg.models.monai.segresnet"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_reaches_no_other_but_what_it_is_built_on(name: str) -> None:
    reached = import_closure(MODULES[name], rows=NO_ROWS) & set(MODULES.values())
    assert reached - {MODULES[name]} == ({MODULES[BUILT_ON[name]]} if name in BUILT_ON else set())


def test_all_names_are_there() -> None:
    for where in (*[row.builder for row in NETWORKS.values()], *ENCODERS.values(), *sum(LOSSES.values(), ())):
        assert resolve(where) is not None
    with pytest.raises(AttributeError):
        resolve("medseg.late:absent")
