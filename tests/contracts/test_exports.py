"""Exports: what another program reads back gives the labels of `medseg predict`; nothing is left half written."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.errors import ConfigError, DataError
from medseg.export import reader
from medseg.export.run import export
from medseg.export.table import EXPORTS
from medseg.files import read_json, write_json
from medseg.formats.read import read_labels
from medseg.image.labels import LabelTable
from medseg.models.zoo import build_model
from medseg.objects.decoding import Decoding
from medseg.predict.files import How, predict_files
from medseg.records import read_record
from medseg.train.checkpoint import Checkpoint, write_checkpoint
from tests import exported
from tests.exported import Exported

ROOT = Path(__file__).resolve().parents[2]
REAL = os.environ.get("MEDSEG_REALDATA", "")
FOREIGN = os.environ.get("MEDSEG_BIOIMAGEIO", "")
SOURCES = (
    "phantoms",
    pytest.param(
        "hippocampus",
        marks=[
            pytest.mark.realdata,
            pytest.mark.exhaustive,
            pytest.mark.skipif(not REAL, reason="MEDSEG_REALDATA names no folder with real data"),
        ],
    ),
)


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: pip install 'medseg[export]'")


ONNX = needs("onnx", "onnxruntime", "onnxscript")


@pytest.fixture(scope="module", params=SOURCES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    if request.param == "hippocampus":
        return exported.hippocampus(Path(REAL) / "hippocampus", folder)
    model = request.getfixturevalue("study").model("solid")
    return exported.of(model, exported.phantoms(folder, 3), 1e-4)


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """A program that finds nothing of medseg."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, cwd=cwd, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def read_back(made: Exported, folder: Path, *command: str | Path) -> list[np.ndarray]:
    """What a reader makes of all images: it gets NAME.npz and leaves NAME.npy."""
    folder.mkdir()
    for path in made.images:
        image, affine = made.array(path)
        np.savez(folder / f"{path.name}.npz", image=image, affine=affine)
    run(*command, folder)
    return [np.load(folder / f"{path.name}.npy") for path in made.images]


def test_a_folder_predicts_and_names_nobody(made: Exported, tmp_path: Path) -> None:
    out = export(made.model, "folder", tmp_path / "given", licence="CC-BY-4.0", authors=["A. Nobody"])
    how = How(allow=("shear",), mirror=None)
    maps = predict_files(list(made.images), out, tmp_path / "maps", how)
    made.require([read_labels(path)[0] for path in maps])
    seen = read_record(made.model / "model.json", "")["trained_on"]["subjects"]
    names = {row["subject"] for row in seen} | {case for row in seen for case in row["cases"]}
    text = "".join(path.read_text() for path in out.iterdir() if path.suffix in (".json", ".md"))
    assert names
    assert not [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)]
    assert str(made.model.parents[3]) not in text
    digests = {d for row in seen for cases in row["cases"].values() for d in cases}
    assert all(digest in text for digest in digests), "by these a start is still refused"
    card = read_json(out / "card.json")
    assert card["licence"] == "CC-BY-4.0"
    assert card["data"]["trained_on"]["subjects"] == len(seen)
    assert "A. Nobody" in (out / "MODEL_CARD.md").read_text()


def test_what_is_not_known_is_said(study: Any, tmp_path: Path) -> None:
    out = export(study.model("flat"), "folder", tmp_path / "given")
    card = read_json(out / "card.json")
    assert card["licence"] == card["authors"] == "not stated"
    assert not card["scores"] or card["scores"] == "not known"
    text = (out / "MODEL_CARD.md").read_text()
    assert "Licence: not stated" in text
    assert "no medical device" in text
    assert re.search(r"\| ball \| 1 \|", text)


@ONNX
@pytest.mark.parametrize("whose", ["of the test", "of the folder"])
def test_onnx_gives_our_labels_without_torch(made: Exported, whose: str, tmp_path: Path) -> None:
    out = export(made.model, "onnx", tmp_path / "given")
    if whose == "of the test":
        script = ROOT / "tests" / "readers" / "onnx_reader.py"
        found = read_back(made, tmp_path / "cases", sys.executable, "-P", script, out)
    else:
        code = (
            "import sys, numpy as np\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\nimport reader\n"
            "here = Path(sys.argv[1]); chain = reader.read_chain(here / 'chain.json')\n"
            "network = reader.onnx_network(here / 'model.onnx', chain)\n"
            "for path in sorted(Path(sys.argv[2]).glob('*.npz')):\n"
            "    case = np.load(path)\n"
            "    np.save(path.with_suffix('.npy'), reader.predict(case['image'], case['affine'], chain, network))\n"
            "assert not {'torch', 'medseg'} & set(sys.modules)\n"
        )
        found = read_back(made, tmp_path / "cases", sys.executable, "-P", "-c", code, out)
    made.require(found)


@ONNX
def test_the_readers_program_writes_a_label_map(made: Exported, tmp_path: Path) -> None:
    out = export(made.model, "onnx", tmp_path / "given")
    run(sys.executable, "-P", out / "reader.py", made.images[0], tmp_path / "labels.nii.gz")
    found = nibabel.load(tmp_path / "labels.nii.gz")
    assert (np.asarray(found.dataobj) != made.labels[0]).mean() <= made.differing
    np.testing.assert_allclose(found.affine, nibabel.load(made.images[0]).affine, atol=1e-5)


@pytest.fixture
def served(made: Exported, tmp_path: Path) -> Iterator[Callable[[Any], Any]]:
    """Asks an MLflow model server on loopback, by HTTP."""
    out = export(made.model, "pyfunc", tmp_path / "given")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(out), "-h", "127.0.0.1", "-p", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "no_proxy": "*"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--env-manager", "local", "--workers", "1"], env=env, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/ping").close()
                break
            except OSError:
                time.sleep(0.2)

        def ask(inputs: Any) -> Any:
            body = json.dumps({"inputs": inputs}).encode()
            request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                return json.loads(answer.read())["predictions"]

        yield ask
    finally:
        process.terminate()
        process.wait()


@pytest.mark.exhaustive
def test_a_model_server_answers_arrays_and_paths(made: Exported, served: Callable[[Any], Any], tmp_path: Path) -> None:
    found = []
    for path in made.images:
        image, affine = made.array(path)
        coded = base64.b64encode(np.ascontiguousarray(image[0]).tobytes()).decode()
        asked = {"array": coded, "dtype": image.dtype.str, "shape": image.shape[1:], "affine": affine.tolist()}
        answer = served({**asked, "allow": ["shear"]})
        found.append(np.frombuffer(base64.b64decode(answer["array"]), answer["dtype"]).reshape(answer["shape"]))
    made.require(found)
    image, affine = made.array(made.images[0])
    lists = {"array": image[0].tolist(), "dtype": str(image.dtype), "affine": affine.tolist(), "allow": ["shear"]}
    np.testing.assert_array_equal(served(lists), found[0])
    with pytest.raises(urllib.error.HTTPError) as refused:
        served({"array": image[0].tolist(), "spacing": [1, 1, 1]})
    assert refused.value.code == 400
    assert "no-orientation" in refused.value.read().decode()
    if made.differing == 0:  # of phantoms, shear is allowed by the configuration that the server was not given
        (label,) = served([str(made.images[0])])
        np.testing.assert_array_equal(read_labels(tmp_path / label)[0], found[0])
        assert served(str(made.images[0])) == label


@ONNX
@pytest.mark.exhaustive
@pytest.mark.skipif(not FOREIGN, reason="MEDSEG_BIOIMAGEIO names no Python that has bioimageio.core and onnxruntime")
def test_bioimageio_core_passes_a_package_and_gives_our_labels(made: Exported, tmp_path: Path) -> None:
    out = export(made.model, "bioimageio", tmp_path / "given", name="a-model", licence="CC-BY-4.0", authors=["A"])
    script = ROOT / "tests" / "readers" / "bioimage_reader.py"
    made.require(read_back(made, tmp_path / "cases", FOREIGN, "-P", script, out / "a-model.zip"))


@ONNX
@pytest.mark.exhaustive
@pytest.mark.skipif(not FOREIGN, reason="MEDSEG_BIOIMAGEIO names no Python that has bioimageio.core and onnxruntime")
@pytest.mark.parametrize("normalization", ["zscore", "percentile", "rescale", "ct", "rgb", "none", "zscore_nonzero"])
def test_bioimageio_core_normalises_pictures_as_we_do(normalization: str, tiny_plan: Any, tmp_path: Path) -> None:
    stats = {"mean": 90.0, "std": 40.0, "p00_5": 20.0, "p99_5": 180.0}
    plan = tiny_plan("unet", 2, normalization=(normalization,), statistics=(stats,))
    model = tmp_path / "model"
    table = LabelTable.create({"ball": 1, "rod": 3})
    made = Checkpoint("d", ("0 a",), table, plan, 0, 0, "f", {})
    write_checkpoint(model, made, build_model("unet", plan.network))
    images = tmp_path / "images"
    images.mkdir()
    expected = exported.of(model, exported.phantoms(images, 2)[:3], 1e-4)
    out = export(model, "bioimageio", tmp_path / "given", name="a-model")
    script = ROOT / "tests" / "readers" / "bioimage_reader.py"
    expected.require(read_back(expected, tmp_path / "cases", FOREIGN, "-P", script, out / "a-model.zip"))


@ONNX
def test_maps_of_objects_travel_and_say_that_they_are_no_labels(tiny_plan: Any, tmp_path: Path) -> None:
    plan = tiny_plan("unet", 2, head="flows", classes=2)
    table = LabelTable.create({"cell": 1}, instances=True)
    made = Checkpoint("d", ("x",), table, plan, 0, 0, "f", {}, decoding=Decoding.of_sizes([], 2))
    write_checkpoint(tmp_path / "model", made, build_model("unet", plan.network))
    out = export(tmp_path / "model", "onnx", tmp_path / "given")
    chain = reader.read_chain(out / "chain.json")
    assert chain["network"]["maps"] == ["foreground", "flow along axis 0", "flow along axis 1"]
    image = np.random.default_rng(0).integers(0, 9, (1, 40, 36))
    prepared = reader.prepare(image, np.eye(3), chain)
    logits = reader.blend(prepared.image, chain, reader.onnx_network(out / "model.onnx", chain))
    assert reader.native_maps(logits, prepared).shape == (3, 40, 36)
    with pytest.raises(ValueError, match=r"head 'flows'.*take `native_maps`"):
        reader.restore(logits, prepared, chain)


# What the specification of bundles names as mandatory; the schema's address is not reached from here.
MANDATORY = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
MANDATORY += ("copyright", "network_data_format")
TENSOR = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def")


@needs("fire")
@pytest.mark.exhaustive
def test_monai_verifies_and_runs_a_bundle(made: Exported, tmp_path: Path) -> None:
    out = export(made.model, "monai", tmp_path / "given", name="a-model")
    tensors = {"type": "object", "additionalProperties": {"type": "object", "required": list(TENSOR)}}
    formats = {
        "type": "object",
        "required": ["inputs", "outputs"],
        "properties": {"inputs": tensors, "outputs": tensors},
    }
    schema = {"type": "object", "required": list(MANDATORY), "properties": {"network_data_format": formats}}
    write_json(tmp_path / "schema.json", schema)
    images = tmp_path / "images"
    images.mkdir()
    for path in made.images:
        (images / path.name).symlink_to(path)
    meta, config = "configs/metadata.json", "configs/inference.json"
    files = ["--meta_file", meta, "--config_file", config]

    def bundle(*command: str | Path) -> str:
        return run(sys.executable, "-m", "monai.bundle", *command, cwd=out, OMP_NUM_THREADS="1")

    assert "metadata is verified" in bundle("verify_metadata", *files[:2], "--filepath", tmp_path / "schema.json")
    assert "network is verified" in bundle("verify_net_in_out", "network_def", *files, "--device", "cpu")
    folders = ("--dataset_dir", images, "--output_dir", tmp_path / "labels")
    bundle("run", *files[2:], *folders)
    made.require([np.asarray(nibabel.load(tmp_path / "labels" / path.name).dataobj) for path in made.images])


def test_monai_label_and_deploy_find_what_they_look_for(study: Any, tmp_path: Path) -> None:
    """What their sources read: MONAI Label the configuration and models/model.ts, Deploy the archive of the latter."""
    out = export(study.model("solid"), "monai", tmp_path / "given")
    inference = read_json(out / "configs" / "inference.json")
    assert {"preprocessing", "inferer", "postprocessing", "device", "network_def", "bundle_root"} <= set(inference)
    assert not (out / "models" / "model.pt").exists(), "MONAI Label would take its pickle first"
    network, facts = monai.bundle.load("given", bundle_dir=tmp_path, load_ts_module=True)[:2]
    assert isinstance(network, torch.jit.ScriptModule)
    assert facts == read_json(out / "configs" / "metadata.json")
    (outputs,) = facts["network_data_format"]["outputs"].values()
    assert outputs["channel_def"] == {"0": "background", "1": "ball", "2": "rod"}
    with zipfile.ZipFile(out / "models" / "model.ts") as archive:
        assert json.loads(archive.read("model/extra/inference.json")) == inference
        assert json.loads(archive.read("model/extra/metadata.json")) == facts


def test_a_table_of_forms_is_printed_and_each_form_is_in_the_docs() -> None:
    printed = CliRunner().invoke(app, ["export", "--list"]).output
    page = (ROOT / "docs" / "export.md").read_text()
    for form, row in EXPORTS.items():
        assert re.search(rf"^{form} ", printed, re.MULTILINE)
        assert row.about in printed
        assert f"`--to {form}`" in page
        for kind in row.cannot:
            assert f"not {kind}:" in printed


def test_nothing_is_overwritten_and_nothing_is_left_half(study: Any, tmp_path: Path, monkeypatch: Any) -> None:
    model = study.model("flat")
    out = tmp_path / "given"
    export(model, "folder", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match=r"given: holds \[.*not overwritten; name a new folder, or remove"):
        export(model, "folder", out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "empty").mkdir()
    assert export(model, "folder", tmp_path / "empty") == tmp_path / "empty"

    def fail(model: Any, folder: Path) -> None:
        (folder / "half").write_text("")
        raise DataError("no")

    monkeypatch.setattr("medseg.export.folder.write", fail)
    with pytest.raises(DataError, match="no"):
        export(model, "folder", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "given"]


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("caffe", {}, "--to caffe: no such form; there are: folder, onnx"),
        ("folder", {"name": "../x"}, "--name ../x: expected letters"),
        ("monai", {}, "cannot hold pictures: MONAI reads pictures with their axes exchanged; `--to onnx`"),
    ],
)
def test_what_cannot_be_written_is_refused(
    to: str, options: dict[str, Any], message: str, study: Any, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        export(study.model("flat"), to, tmp_path / "given", **options)
    assert not list(tmp_path.iterdir())


def test_a_missing_module_is_named_with_its_extra(study: Any, tmp_path: Path, monkeypatch: Any) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else found(name, *a))
    with pytest.raises(ConfigError, match=r"onnxscript; pip install 'medseg\[export\]'"):
        export(study.model("flat"), "onnx", tmp_path / "given")
