"""What a training starts from besides fresh weights: a classifier's for the encoder, and another model of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medseg.errors import CheckpointError, PlanError
from medseg.files import sha256_file
from medseg.models.encoders.encoder import Encoder
from medseg.models.weights import load_encoder
from medseg.progress import say
from medseg.results.folders import ModelFolder
from medseg.train.checkpoint import network_tensors, read_weights
from medseg.weights.record import read_weights_record


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to start from; where both have a tensor, the model's counts.

    Attributes:
        encoder: file of a classifier's weights.
        model: folder of a trained model.
    """

    encoder: Path | None = None
    model: Path | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], model: Path | None, record: Path | None) -> Start:
        """What a training starts from.

        Args:
            options: of the network; their ``weights`` are the encoder's.
            model: folder of a trained model.
            record: of these weights, from the weights stage.

        Raises:
            CheckpointError: if weights have no record or are not what it says, or the plan names none and there is one.
        """
        address = options.get("weights")
        if address is None:
            if record is not None:
                raise CheckpointError(
                    f"--weights {record}: the plan has no options.weights, so that they would not be used; leave it "
                    "out, or set options.weights of the model and run `medseg plan` again"
                )
            return cls(None, model)
        if record is None:
            raise CheckpointError(
                "options.weights: training needs their record; run `medseg weights --config CONFIG --model MODEL "
                "--out FILE.json` first, and give it as --weights FILE.json"
            )
        return cls(read_weights_record(record, address, options.get("sha256")), model)

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that weights come from."""
        files = {"encoder": self.encoder, "model": self.model and ModelFolder(self.model).weights}
        return {name: sha256_file(path) for name, path in files.items() if path is not None}

    def apply(self, network: nn.Module, label: str) -> None:
        """Copy the weights into a freshly built network, and report what was copied and what was not.

        Raises:
            PlanError: if the network has no encoder for the weights, or shares no tensor with the model.
            CheckpointError: if the files are damaged or do not fit.
        """
        if self.encoder is not None:
            encoder = next((m for m in network.modules() if isinstance(m, Encoder)), None)
            if encoder is None:
                raise PlanError(f"{label}: options.weights are for an encoder, and this network has none")
            say(f"{label}: {load_encoder(encoder, self.encoder).summary()}")
        if self.model is not None:
            mine, theirs = network_tensors(network), read_weights(self.model)
            shared = [name for name in mine if name in theirs and theirs[name].shape == mine[name].shape]
            if not shared:
                raise PlanError(f"{label}: no tensor of {self.model} has the name and shape of one of this network's")
            network.load_state_dict({name: theirs[name] for name in shared}, strict=False)
            fresh = sorted(mine.keys() - set(shared))
            rest = f"; fresh: {', '.join(fresh[:6])}{', …' if len(fresh) > 6 else ''}" if fresh else ""
            say(f"{label}: starts from {self.model}, {len(shared)} of {len(mine)} tensors{rest}")
