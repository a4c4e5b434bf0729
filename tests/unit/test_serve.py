"""A service gives the bytes of `medseg predict`, takes no more than it says, and keeps nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import nibabel
import numpy as np
import pytest
import tifffile

from medseg.errors import CheckpointError, ConfigError
from medseg.formats.read import open_image
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.predict import native
from medseg.predict.batch import How
from medseg.predict.files import predict_files
from medseg.predict.predictor import Predictor
from medseg.serve import folder as folders
from medseg.serve import service as services
from medseg.serve.job import Watch
from medseg.serve.server import is_loopback, serve
from medseg.serve.service import Limits
from tests import dicom_phantom as phantom
from tests.services import Running, serving

PATIENT = "Anna_Muster"


@pytest.fixture(scope="module")
def flat(study: Any) -> Iterator[Running]:
    with serving(study.model("flat"), Limits(upload_bytes=100_000)) as running:
        yield running
        assert running.left == []


@pytest.fixture(scope="module")
def solid(study: Any) -> Iterator[Running]:
    with serving(study.model("solid")) as running:
        yield running
        assert running.left == []


@pytest.fixture
def picture(study: Any) -> Path:
    return study.folder("flat") / "images" / "f0.png"


@pytest.fixture
def volume(study: Any) -> Path:
    return study.folder("solid") / "imagesTr" / "s0.nii.gz"


def soon(true: Callable[[], Any]) -> Any:
    """What a function gives once it is true; the test fails after a while."""
    until = time.monotonic() + 60
    while not (found := true()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


# The label map is that of the command


def test_label_maps_have_the_bytes_of_the_command(
    flat: Running, solid: Running, picture: Path, volume: Path, study: Any, tmp_path: Path
) -> None:
    tiff, series, nrrd = tmp_path / "cells.tif", tmp_path / "ct.zip", tmp_path / "mr.nrrd"
    tifffile.imwrite(tiff, open_image(picture).image()[0])
    source = open_image(volume)
    series.write_bytes(phantom.zipped(phantom.image_series(source.image()[0], phantom_grid())))
    write_labels(nrrd, source.image()[0].astype(np.int16), source.geometry)
    for running, model, files in ((flat, "flat", [picture, tiff]), (solid, "solid", [volume, nrrd, series])):
        for file in files:
            (expected,) = predict_files([file], study.model(model), tmp_path / "out")
            answer = running.send(file)
            assert answer.status == 200, answer.body
            assert answer.body == expected.read_bytes()
            assert answer.headers["Content-Disposition"].endswith(f"''{expected.name}")


def phantom_grid() -> Any:
    return Geometry.create((22, 18, 12), np.diag([-1.0, -1.0, 1.5, 1.0]))


def test_options_and_remarks_are_those_of_the_command(study: Any, volume: Path, tmp_path: Path) -> None:
    image = nibabel.load(volume)
    values = np.asanyarray(image.dataobj).astype(np.float32)
    values[1, 2, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), tmp_path / f"{PATIENT}.nii.gz")
    file = tmp_path / f"{PATIENT}.nii.gz"
    with serving(study.model("solid")) as running:
        refused = running.send(file)
        assert refused.status == 422
        assert refused.errors == (
            f"{PATIENT}.nii.gz: 1 NaN and 0 Inf voxels, first nan at (1, 2, 3) (nonfinite); replace NaN and Inf by "
            "real numbers, or say what stands for them: allow=nonfinite fill=NUMBER"
        )
        assert running.send(file, "&fill=0").errors == "allow=nonfinite and fill=NUMBER go together; give both or none"
        answer = running.send(file, "&allow=nonfinite&fill=0")
    (expected,) = predict_files([file], study.model("solid"), tmp_path / "o", How(allow=("nonfinite",), fill=0.0))
    assert answer.body == expected.read_bytes()
    assert answer.headers["Medseg-Note"].startswith("predict: allowed ")


def test_what_the_model_is(flat: Running, study: Any) -> None:
    about = flat.ask("GET", "/model").json
    assert about["labels"]["names"] == {"ball": 1, "rod": 3}
    assert (about["dims"], about["unit"], about["channels"]) == (2, "px", ["channel0"])
    assert [(one["network"], one["fold"]) for one in about["models"]] == [("unet", 0)]
    assert ".nii.gz" in about["suffixes"] and ".mhd" not in about["suffixes"] and "allow" in about["options"]
    health = flat.ask("GET", "/health").json
    assert (health["status"], set(health["jobs"].values())) == ("ok", {0})


# Jobs


def test_a_job_says_how_far_it_is(flat: Running, picture: Path, study: Any, tmp_path: Path) -> None:
    made = flat.send(picture, to="/jobs")
    assert made.status == 202 and made.headers["Location"] == f"/jobs/{made.json['id']}"
    path = made.headers["Location"]
    done = soon(lambda: (found := flat.ask("GET", path).json)["state"] == "done" and found)
    assert (done["progress"], done["errors"], done["before"]) == (1.0, [], 0)
    (expected,) = predict_files([picture], study.model("flat"), tmp_path)
    for _ in range(2):
        assert flat.ask("GET", f"{path}/labels").body == expected.read_bytes()
    # The image itself is gone as soon as it is predicted.
    (own,) = [one for one in flat.folder.iterdir() if one.is_dir()]
    assert [one.name for one in own.iterdir() if not one.name.startswith(".")] == ["labels.png"]
    assert "objects of this model have one class" in flat.ask("GET", f"{path}/classes").errors
    assert flat.ask("DELETE", path).status == 200
    assert flat.ask("GET", path).status == 404 and flat.left == []


def test_a_job_that_fails_says_why(flat: Running, picture: Path) -> None:
    cut = picture.read_bytes()[:-20]
    path = flat.ask("POST", f"/jobs?name={PATIENT}.png", cut).headers["Location"]
    failed = soon(lambda: (found := flat.ask("GET", path).json)["state"] == "failed" and found)
    (line,) = failed["errors"]
    assert line.startswith(f"{PATIENT}.png: truncated") and str(flat.folder) not in line
    labels = flat.ask("GET", f"{path}/labels")
    assert (labels.status, labels.errors) == (422, line)
    assert flat.ask("DELETE", path).json["state"] == "failed"


def test_label_maps_are_kept_for_a_while(study: Any, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "KEPT", 2)
    with serving(study.model("flat"), Limits(keep_s=1000)) as running:
        paths = [running.send(picture, to="/jobs").headers["Location"] for _ in range(4)]
        soon(
            lambda: (
                running.ask("GET", "/health").json["jobs"]["done"] <= 2
                and running.ask("GET", paths[3]).json["state"] == "done"
            )
        )
        running.ask("GET", paths[0])
        assert [running.ask("GET", path).status for path in paths] == [404, 404, 200, 200]
    with serving(study.model("flat"), Limits(keep_s=0)) as running:
        path = running.send(picture, to="/jobs").headers["Location"]
        soon(lambda: running.ask("GET", path).status == 404)
        assert running.left == []


# Clients that leave


class Held(Watch):
    """Stops in the middle of every prediction until it may go on."""

    reached, free = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def open(self, frame: Any) -> Iterator[Any]:
        with super().open(frame) as plain:

            def take(slab: Any) -> None:
                plain(slab)
                self.reached.set()
                assert self.free.wait(60)

            yield take


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Held]]:
    """Predictions in many slabs, which stop after the first until ``free`` is set."""
    Held.reached.clear()
    Held.free.clear()
    monkeypatch.setattr(services, "Watch", Held)
    monkeypatch.setattr(native, "SLAB_VALUES", 1)
    yield Held
    Held.free.set()


def states(running: Running) -> dict[str, int]:
    return {state: n for state, n in running.ask("GET", "/health").json["jobs"].items() if n}


def post(running: Running, picture: Path) -> socket.socket:
    """A client that has sent its picture and waits."""
    data = picture.read_bytes()
    client = socket.create_connection(("127.0.0.1", running.server.port))
    head = f"POST /predict?name={picture.name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + data)
    return client


def test_a_client_that_leaves_cancels_its_prediction(
    held: type[Held], study: Any, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    plain = Predictor.predict

    def noted(*arguments: Any) -> None:
        try:
            plain(*arguments)
            ended.append("done")
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    monkeypatch.setattr(Predictor, "predict", noted)
    with serving(study.model("flat")) as running:
        with post(running, picture):
            soon(held.reached.is_set)
            assert states(running) == {"running": 1}
        soon(lambda: states(running) == {})
        held.free.set()
        soon(lambda: running.left == [])
        assert ended == ["Cancelled"]
        assert running.send(picture).status == 200
        assert ended == ["Cancelled", "done"]


def test_one_is_predicted_at_a_time_and_the_queue_ends(held: type[Held], study: Any, picture: Path) -> None:
    with serving(study.model("flat"), Limits(queue=2)) as running:
        first = running.send(picture, to="/jobs").headers["Location"]
        soon(held.reached.is_set)
        others = [running.send(picture, to="/jobs").headers["Location"] for _ in range(2)]
        assert [running.ask("GET", path).json["before"] for path in (first, *others)] == [0, 1, 2]
        assert 0 < running.ask("GET", first).json["progress"] < 1
        assert running.ask("GET", f"{first}/labels").status == 409
        full = running.send(picture)
        assert full.status == 503 and int(full.headers["Retry-After"]) >= 1
        # One that waits is cancelled at once, and its place is free.
        assert running.ask("DELETE", others[0]).json["state"] == "cancelled"
        with post(running, picture):
            soon(lambda: states(running) == {"running": 1, "waiting": 2})
        soon(lambda: states(running) == {"running": 1, "waiting": 1})
        assert running.ask("DELETE", first).status == 200
        held.free.set()
        soon(lambda: running.ask("GET", others[1]).json["state"] == "done")


def test_two_clients_at_once_get_their_own(solid: Running, study: Any, tmp_path: Path) -> None:
    files = [study.folder("solid") / "imagesTr" / f"s{k}.nii.gz" for k in (0, 1)]
    expected = [path.read_bytes() for path in predict_files(files, study.model("solid"), tmp_path)]
    found: dict[int, bytes] = {}
    threads = [threading.Thread(target=lambda k=k: found.update({k: solid.send(files[k % 2]).body})) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[k] for k in range(4)] == expected * 2


# What is refused

NAMES = (
    "",
    "scan",
    "scan.docx",
    "a/b.png",
    "..\\b.png",
    "/etc/passwd.png",
    "a\x00.png",
    "a\n.png",
    ".",
    "..",
    "x" * 300 + ".png",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_none(name: str, flat: Running, picture: Path) -> None:
    answer = flat.ask("POST", f"/predict?name={quote(name, safe='')}", picture.read_bytes())
    assert answer.status in (400, 415) and "name" in answer.errors


@pytest.mark.parametrize(
    ("query", "status", "cause"),
    [
        ("", 400, r"no name of the image; put it behind the address: \?name=scan\.nii\.gz"),
        ("name=a.mhd", 415, r"\.mhd lie in several files.*convert it to"),
        ("name=a.czi", 415, r"no format has the suffix \.czi; there are \.nii, "),
        ("name=a.png&alow=shear", 400, "no option 'alow'; there are name, allow"),
        ("name=a.png&name=b.png", 400, "no name"),
        ("name=a.png&allow=sheer", 400, "allow=sheer: nothing that can be allowed of an image; did you mean 'shear'"),
        ("name=a.png&fill=nan", 400, "fill: expected a number"),
        ("name=a.png&spacing=0&spacing=1", 400, "spacing: expected micrometres"),
        ("name=a.png&axes=QQ", 400, "axes=QQ: expected letters"),
        ("name=a.png&orientation=up", 400, "orientation: expected sform or qform"),
        ("name=a.png&series=1&series=2", 400, "series: given 2 times"),
        ("name=%ff.png", 400, "not readable"),
    ],
)
def test_queries_that_mean_nothing(query: str, status: int, cause: str, flat: Running, picture: Path) -> None:
    answer = flat.ask("POST", f"/predict?{query}", picture.read_bytes())
    assert answer.status == status and re.search(cause, answer.errors), answer.errors


def test_uploads_that_are_too_large_are_refused_before_they_are_sent(flat: Running, picture: Path) -> None:
    large = flat.ask("POST", "/predict?name=a.png", b"\0" * 100_001)
    assert large.status == 413 and "0.1 MB are taken; compress it" in large.errors
    with socket.create_connection(("127.0.0.1", flat.server.port)) as client:
        head = "POST /predict?name=a.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n"
        client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    data = picture.read_bytes()
    with socket.create_connection(("127.0.0.1", flat.server.port)) as client:
        head = f"POST /predict?name=a.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(data)
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_bodies_that_cannot_be_taken(flat: Running, picture: Path) -> None:
    data = picture.read_bytes()
    for body, headers, status, cause in (
        (data, {"Content_Type": "multipart/form-data; boundary=x"}, 415, "--data-binary @FILE"),
        (iter([data]), {}, 411, "does not say its length"),
        (b"", {}, 400, "empty file"),
        (None, {"Content_Length": "-5"}, 400, "Content-Length"),
        (None, {"Content_Length": "9" * 400}, 400, "Content-Length"),
        (data[:-20], {}, 422, "truncated"),
        (b"nonsense" * 40, {}, 422, r"a\.png: "),
        (data, {"Origin": "https://example.org"}, 403, "a web page sent this"),
        (data, {"Host": "evil.example.org:8000"}, 421, "this service is for this machine"),
    ):
        answer = flat.ask("POST", "/predict?name=a.png", body, **headers)
        assert answer.status == status and cause.replace("\\", "") in answer.errors, answer.body


def test_addresses_that_nothing_has(flat: Running) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/jobs/none", 404),
        ("GET", "/jobs/../../etc/passwd", 404),
        ("GET", "/predict", 405),
        ("POST", "/health", 405),
        ("GET", "/jobs", 405),
        ("PUT", "/predict", 501),
    ):
        answer = flat.ask(method, path)
        assert answer.status == status and answer.errors
    assert flat.ask("GET", "/predict").headers["Allow"] == "POST"
    with socket.create_connection(("127.0.0.1", flat.server.port)) as client:
        client.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_broken_requests_leave_nothing_behind(flat: Running, picture: Path) -> None:
    """Cut anywhere, with lengths that are not true, bytes changed: an answer or none, and the service goes on."""
    rng = np.random.Generator(np.random.PCG64(5))
    data = picture.read_bytes()
    head = f"POST /predict?name=a.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    whole = head + data
    for trial in range(40):
        sent = bytearray(whole[: int(rng.integers(1, len(whole)))] if trial % 2 else whole)
        for place in rng.integers(0, len(sent), 3):
            sent[place] = rng.integers(256)
        with socket.create_connection(("127.0.0.1", flat.server.port)) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                answer = client.recv(200)
                assert not answer or answer.startswith((b"HTTP/1.1 ", b"<!DOCTYPE")), answer
                assert b" 500 " not in answer
    soon(lambda: states(flat) == {})
    soon(lambda: flat.left == [])
    assert flat.send(picture).status == 200


# What stays, and what is said


def test_nothing_of_an_upload_is_logged(study: Any, picture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(study.model("flat")) as running:
        capfd.readouterr()
        assert running.send(picture, name=f"{PATIENT}.png").status == 200
        assert running.ask("POST", f"/predict?name={PATIENT}.png", b"x").status == 422
        assert running.ask("GET", f"/{PATIENT}").status == 404
        assert running.send(picture, name=f"{PATIENT}.doc").status == 415
    said = "".join(capfd.readouterr())
    assert PATIENT not in said and "image.png" not in said
    lines = {" ".join(line.split()[1:-2]) for line in said.splitlines()}
    assert lines == {"POST /predict 200", "POST /predict 422", "GET 404", "POST /predict 415"}


def test_a_mistake_of_ours_is_named_by_its_place_alone(
    flat: Running, picture: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError(PATIENT)

    monkeypatch.setattr(Predictor, "predict", broken)
    answer = flat.send(picture)
    assert answer.status == 500 and PATIENT not in answer.errors
    said = capfd.readouterr().err
    assert "serve: a mistake of ours: KeyError at test_serve.py:" in said and PATIENT not in said


def test_what_killed_services_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{folders.PREFIX}old"
    left.mkdir()
    (left / folders.LOCK).touch()
    (left / "image.png").touch()
    with folders.private_folder() as first:
        assert not left.exists()
        assert first.stat().st_mode & 0o77 == 0
        with folders.private_folder():
            assert first.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_it_listens_to_this_machine_unless_that_is_said(study: Any) -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.7", "example.org")
    assert [is_loopback(host) for host in hosts] == [True, True, True, False, False, False]
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0: other machines could.*--reachable"):
        serve([study.model("flat")], How(), print, host="0.0.0.0")


def test_a_model_that_cannot_be_loaded_is_said_at_once(study: Any, tmp_path: Path) -> None:
    shutil.copytree(study.model("flat"), tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError), serving(tmp_path / "m"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_cleanly(number: int, study: Any, picture: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medseg", "serve", str(study.model("flat")), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        with urlopen(Request(f"{address}/predict?name=a.png", picture.read_bytes())) as answer:
            data = answer.read()
        (expected,) = predict_files([picture], study.model("flat"), tmp_path / "out")
        assert data == expected.read_bytes()
        process.send_signal(number)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    assert not list(tmp_path.glob(f"{folders.PREFIX}*"))


PAGE = (Path(__file__).resolve().parents[2] / "docs/serve.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_the_commands_of_the_page_are_real(solid: Running, volume: Path, study: Any, tmp_path: Path) -> None:
    (expected,) = predict_files([volume], study.model("solid"), tmp_path / "out")
    (tmp_path / "scan.nii.gz").write_bytes(volume.read_bytes())
    made, job = tmp_path / "scan_labels.nii.gz", ""
    for kind, text in re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL):
        command = text.replace("http://127.0.0.1:8000", solid.server.address)
        if kind == "python":
            subprocess.run([sys.executable, "-c", command], check=True, cwd=tmp_path)
            assert made.read_bytes() == expected.read_bytes()
            made.unlink()
            continue
        for line in command.splitlines():
            if "/labels" in line:
                soon(lambda path=f"/jobs/{job}": solid.ask("GET", path).json["state"] == "done")
            words = line.replace("/ID", f"/{job}")
            done = subprocess.run(words, shell=True, check=True, cwd=tmp_path, capture_output=True, text=True)
            job = job or (json.loads(done.stdout)["id"] if "/jobs?" in line else "")
        assert made.read_bytes() == expected.read_bytes()
        made.unlink()
