"""The network as ONNX, what comes before and after it as ``chain.json``, and a reader that needs no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from medseg.export.chain import chain_of
from medseg.export.graph import write_onnx
from medseg.export.handover import Handover
from medseg.files import write_json, write_text

NETWORK, CHAIN, READER = "model.onnx", "chain.json", "reader.py"
# Copied beside what is exported; it imports nothing of medseg.
SOURCE = Path(__file__).with_name(READER)
README = Path(__file__).with_name("onnx_readme.md")


def write(model: Handover, folder: Path) -> None:
    """Write the folder; see ``write_onnx`` for errors."""
    write_onnx(model, folder / NETWORK)
    write_json(folder / CHAIN, chain_of(model, NETWORK))
    shutil.copyfile(SOURCE, folder / READER)
    write_text(folder / "README.md", README.read_text().replace("NAME", model.name))
