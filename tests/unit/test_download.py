"""Data sets that are fetched from a server on this machine, and hostile archives."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.config import Config, DownloadConfig, KnownArchive
from medseg.errors import BusyError, ConfigError, DataError
from medseg.files import writer_lock
from medseg.ingest import archives
from medseg.ingest.archives import extract
from medseg.ingest.download import ARCHIVES, RECORD, Archive, run_download
from medseg.records import write_record
from medseg.results.paths import Results
from medseg.whole import look
from tests.file_server import Server, hang_up, send

DATA = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


def zipped(**files: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return made.getvalue()


SOUND = zipped(Task__dataset_json=b"{}", Task__imagesTr__a=b"image", Task__imagesTr___hidden=b"litter")


def config(root: Path, url: str, **download: Any) -> Config:
    return Config.model_validate(
        {
            "experiment": "test",
            "data_root": str(root / "data"),
            "datasets": {"d": {"layout": "decathlon", "path": "organs/d", "download": {"url": url, **download}}},
            "models": {"unet": {"network": "unet"}},
            "budget": {"steps": 1},
        }
    )


def fetch(server: Server, root: Path, data: bytes, **download: Any) -> dict[str, Any]:
    server.replies = [send(data)]
    return run_download(config(root, server.url, **download), "d", lambda _: None)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_data_set_is_fetched_checked_and_put_in_place(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "data/organs/d"
    record = fetch(server, tmp_path, SOUND, sha256=sha256(SOUND))
    assert record == {"url": server.url, "sha256": sha256(SOUND), "bytes": len(SOUND)}
    # The one folder around everything is left away, and nothing else is left.
    assert sorted(p.name for p in folder.iterdir()) == [RECORD, "dataset_json", "imagesTr"]
    assert [p.name for p in folder.parent.iterdir()] == ["d"]
    # There it is: no further request, the same answer.
    assert fetch(server, tmp_path, b"") == record
    assert len(server.requests) == 1
    with pytest.raises(DataError, match=r"holds the archive .* remove the folder"):
        fetch(server, tmp_path, b"", sha256="0" * 64)


def test_data_put_there_by_hand_are_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data/organs/d").mkdir(parents=True)
    (tmp_path / "data/organs/d/mine").write_text("mine")
    assert fetch(server, tmp_path, SOUND) == {"url": ""}
    assert server.requests == []
    assert [p.name for p in (tmp_path / "data/organs/d").iterdir()] == ["mine"]


def test_a_folder_that_has_gone_is_noticed_by_the_next_run_and_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = config(tmp_path, server.url)
    record = Results.of(study).download("d")
    assert look(study) == {}
    write_record(record, fetch(server, tmp_path, SOUND))
    assert look(study) == {}
    shutil.rmtree(study.folder_of("d"))
    assert [path for path, damage in look(study).items() if "is missing" in damage.why] == [record]
    write_record(record, fetch(server, tmp_path, SOUND))
    assert look(study) == {}


def test_an_empty_folder_is_filled(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data/organs/d").mkdir(parents=True)
    assert fetch(server, tmp_path, SOUND)["bytes"] == len(SOUND)


def test_a_wrong_file_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"with SHA-256 {sha256(DATA)}, expected 0000") as caught:
        fetch(server, tmp_path, DATA, sha256="0" * 64)
    assert server.url in str(caught.value)
    assert not (tmp_path / "data/organs/d").exists()
    assert not list((tmp_path / "data/organs").rglob("*part*"))
    with pytest.raises(DataError, match="the server sent a web page"):
        fetch(server, tmp_path, b"<!DOCTYPE html><p>Log in", sha256="0" * 64)
    with pytest.raises(DataError, match="neither a zip nor a tar archive"):
        fetch(server, tmp_path, b"<html>no such file</html>")
    assert not (tmp_path / "data/organs/d.sha256").exists()


def test_secrets_in_an_address_are_not_repeated(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = []
    for data, query in ((b"no archive", "s3cret"), (SOUND, "s3cret"), (SOUND, "other")):
        server.replies = [send(data)]
        try:
            record = run_download(config(tmp_path, f"{server.url}?token={query}"), "d", lambda _: None)
            assert record["url"].endswith("?token=s3cret")
        except DataError as error:
            told.append(str(error))
    assert len(told) == 2
    assert all(server.url in text for text in told)
    assert "neither a zip nor a tar archive" in told[0]
    assert "with another query; remove the folder" in told[1]
    assert "s3cret" not in "".join(told) + capfd.readouterr().err


def test_a_file_in_a_bucket_is_asked_for_by_an_address_that_only_the_server_sees(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("boto3")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    address = urlsplit(server.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{address.scheme}://{address.netloc}")
    server.replies = [send(SOUND)]
    wanted = config(tmp_path, "s3://our-data/organs.zip")
    with pytest.raises(DataError, match=r"s3://our-data/organs.zip: .*credentials.*; set AWS_ACCESS_KEY_ID"):
        run_download(wanted, "d", lambda _: None)
    assert server.asked == []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKEYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    record = run_download(wanted, "d", lambda _: None)
    assert record["url"] == "s3://our-data/organs.zip"
    (asked,) = server.asked
    assert asked.startswith("/our-data/organs.zip?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    assert "s3cret" not in asked
    written = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.json"))
    assert not any(secret in written + capfd.readouterr().err for secret in ("AKEYID", "X-Amz", "s3cret"))


def test_a_part_of_an_older_file_is_not_trusted(server: Server, tmp_path: Path) -> None:
    """No version is named, and the new file has the old one's length: the checksum tells, and it starts over."""
    old = bytes(255 - byte for byte in SOUND)
    server.replies = [send(old, 50, etag=""), hang_up]
    with pytest.raises(DataError, match="50 bytes are kept"):
        run_download(config(tmp_path, server.url, sha256=sha256(SOUND)), "d", lambda _: None)
    server.replies = [send(SOUND, etag="")]
    assert run_download(config(tmp_path, server.url, sha256=sha256(SOUND)), "d")["sha256"] == sha256(SOUND)
    assert [r.get("Range") for r in server.requests[-2:]] == ["bytes=50-", None]


def test_a_checksum_that_nobody_published_is_noted_and_held_to(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "data/organs/d"
    fetch(server, tmp_path, SOUND)
    note = folder.parent / "d.sha256"
    assert note.read_text() == f"{sha256(SOUND)}  data.zip\n"
    shutil.rmtree(folder)
    other = zipped(other=b"x")
    with pytest.raises(DataError, match=r"noted in .*d\.sha256 at the first download"):
        fetch(server, tmp_path, other)
    assert fetch(server, tmp_path, SOUND)["sha256"] == sha256(SOUND)
    shutil.rmtree(folder)
    note.unlink()
    assert fetch(server, tmp_path, other)["sha256"] == sha256(other)


@pytest.mark.parametrize("text", ["", "\n", "no checksum", "A" * 64, "0" * 63])
def test_a_note_that_is_no_checksum_is_not_passed_over(text: str, server: Server, tmp_path: Path) -> None:
    note = tmp_path / "data/organs/d.sha256"
    note.parent.mkdir(parents=True)
    note.write_text(text)
    with pytest.raises(DataError, match=r"d\.sha256: no SHA-256 at its beginning.*delete it"):
        fetch(server, tmp_path, SOUND)
    note.unlink()
    assert fetch(server, tmp_path, SOUND)["sha256"] == sha256(SOUND)


def test_a_damaged_record_says_how_the_folder_can_be_used(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path, SOUND, sha256=sha256(SOUND))
    record = tmp_path / "data/organs/d" / RECORD
    record.write_text(record.read_text().replace(f'"bytes": {len(SOUND)}', '"bytes": 7'))
    again = config(tmp_path, server.url, sha256=sha256(SOUND))
    with pytest.raises(DataError, match=r"its digest differs.*delete it and run `medseg download` again"):
        run_download(again, "d")
    record.unlink()
    assert run_download(again, "d") == {"url": ""}


def test_a_named_archive_is_held_to_its_published_checksum(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = hashlib.md5(SOUND, usedforsecurity=False).hexdigest()
    named = config(tmp_path, server.url).model_copy(deep=True)
    section = named.datasets["d"].model_copy(update={"download": DownloadConfig(name="Task02_Heart")})
    named = named.model_copy(update={"datasets": {"d": section}})
    server.replies = [send(SOUND)]
    monkeypatch.setitem(ARCHIVES, "Task02_Heart", Archive(server.url, "f" * 32))
    with pytest.raises(DataError, match=f"MD5 {right}, expected ffff"):
        run_download(named, "d")
    monkeypatch.setitem(ARCHIVES, "Task02_Heart", Archive(server.url, right))
    assert run_download(named, "d")["sha256"] == sha256(SOUND)
    assert not (tmp_path / "data/organs/d.sha256").exists()


def test_known_archives_are_those_of_the_configuration() -> None:
    assert set(ARCHIVES) == set(get_args(KnownArchive))
    for archive in ARCHIVES.values():
        assert archive.url.startswith("https://")
        assert re.fullmatch(r"([0-9a-f]{32})?", archive.md5)
    assert len({a.md5 for a in ARCHIVES.values()}) == len(ARCHIVES)


@pytest.mark.parametrize(
    "download",
    [
        {},
        {"name": "Task01_BrainTumour", "url": "https://x"},
        {"url": "file:///etc/passwd"},
        {"url": "https://x", "sha256": "1"},
    ],
)
def test_a_download_names_one_source(download: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="DownloadConfig"):
        DownloadConfig.model_validate(download)


def test_nothing_is_fetched_that_the_configuration_does_not_name(tmp_path: Path) -> None:
    base = config(tmp_path, "https://x")
    bare = base.datasets["d"].model_copy(update={"download": None})
    with pytest.raises(ConfigError, match="no `download`"):
        run_download(base.model_copy(update={"datasets": {"d": bare}}), "d")


def test_two_processes_do_not_fetch_the_same(server: Server, tmp_path: Path) -> None:
    with writer_lock(tmp_path / "data/organs/.d.download"), pytest.raises(BusyError, match="already writing"):
        fetch(server, tmp_path, SOUND)


def test_killed_while_unpacking(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is absent until it is complete, and the archive need not be fetched again."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.ingest.archives._write", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, SOUND)
    assert not (tmp_path / "data/organs/d").exists()
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(server, tmp_path, SOUND)["sha256"] == sha256(SOUND)
    assert len(server.requests) == 1


def test_the_command(server: Server, tmp_path: Path) -> None:
    from medseg.cli.commands import app

    server.replies = [send(SOUND)]
    (tmp_path / "c.yaml").write_text(
        f"experiment: e\ndata_root: {tmp_path / 'data'}\nmodels: {{u: {{network: unet}}}}\nbudget: {{steps: 1}}\n"
        f"datasets: {{d: {{layout: decathlon, path: d, download: {{url: '{server.url}'}}}}}}\n"
    )
    arguments = ["download", "--config", str(tmp_path / "c.yaml"), "--dataset", "d", "--out", str(tmp_path / "o.json")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert server.url in (tmp_path / "o.json").read_text()
    assert (tmp_path / "data/d/imagesTr/a").read_bytes() == b"image"


# Hostile archives (CF-10)


def tarred(*members: tarfile.TarInfo | str, mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if isinstance(member, str):
                info.size = 4
            archive.addfile(info, io.BytesIO(b"data") if info.isreg() else None)
    return made.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_with(*names: str | zipfile.ZipInfo, data: bytes = b"data") -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as archive:
        warnings.simplefilter("ignore")  # the library warns of names that come twice
        for name in names:
            archive.writestr(name, data)
    return made.getvalue()


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def bomb() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 80_000_000)
    return made.getvalue()


def huge_tar() -> bytes:
    info = tarfile.TarInfo("huge")
    info.size = 1 << 50
    return info.tobuf() + b"\0" * 2048


def encrypted() -> bytes:
    data = bytearray(zip_with("a"))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip: parent folder": (lambda: zip_with("ok", "../evil"), "leads out"),
    "zip: parent folder inside": (lambda: zip_with("a/../../evil"), "leads out"),
    "zip: absolute": (lambda: zip_with("/tmp/evil"), "an absolute path"),
    "zip: backslash": (lambda: zip_with("..\\evil"), "of another system"),
    "zip: drive": (lambda: zip_with("C:/evil"), "of another system"),
    "zip: link": (lambda: zip_with("ok", zip_link("ln")), "a link"),
    "zip: twice": (lambda: zip_with("a", "a"), "a name twice"),
    "zip: twice in case": (lambda: zip_with("A/x", "a/X"), "a name twice"),
    "zip: file and folder": (lambda: zip_with("a", "a/b"), "a name twice"),
    "zip: folder and file": (lambda: zip_with("a/b", "a"), "a name twice"),
    "zip: line break": (lambda: zip_with("a\nb"), "cannot be printed"),
    "zip: long name": (lambda: zip_with("a" * 300), "too long"),
    "zip: bomb": (bomb, "looks like an attack"),
    "zip: encrypted": (encrypted, "encrypted"),
    "zip: nothing": (lambda: zip_with(), "holds no files"),
    "zip: cut": (lambda: zip_with("a", data=DATA)[:-100], "neither a zip nor a tar"),
    "zip: damaged": (lambda: zip_with("a", data=DATA).replace(DATA[:99], b"x" * 99), "damaged"),
    "tar: parent folder": (lambda: tarred("ok", "../evil"), "leads out"),
    "tar: absolute": (lambda: tarred("/tmp/evil"), "an absolute path"),
    "tar: symbolic link": (lambda: tarred("ok", special("ln", tarfile.SYMTYPE, "/etc")), "a link"),
    "tar: hard link": (lambda: tarred("ok", special("ln", tarfile.LNKTYPE, "ok")), "a link"),
    "tar: device": (lambda: tarred(special("dev", tarfile.CHRTYPE)), "no plain file"),
    "tar: pipe": (lambda: tarred(special("pipe", tarfile.FIFOTYPE)), "no plain file"),
    "tar: link, then through it": (lambda: tarred(special("ln", tarfile.SYMTYPE, ".."), "ln/evil"), "a link"),
    "tar: twice": (lambda: tarred("a", "a"), "a name twice"),
    "tar: huge": (huge_tar, "looks like an attack"),
    "tar.gz: parent folder": (lambda: tarred("../evil", mode="w:gz"), "leads out"),
    "tar.gz: cut": (lambda: tarred(*(f"f{k}" for k in range(200)), mode="w:gz")[:-60], "damaged"),
    "text": (lambda: b"hello" * 99, "neither a zip nor a tar"),
    "empty": (lambda: b"", "neither a zip nor a tar"),
}


@pytest.mark.parametrize(("make", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives_are_refused_before_the_first_byte(
    make: Callable[[], bytes], words: str, tmp_path: Path
) -> None:
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    (home / "archive").write_bytes(make())
    with pytest.raises(DataError, match=words) as caught:
        extract(home / "archive", home / "files")
    assert str(home / "archive") in str(caught.value)
    written = {p.name for p in tmp_path.rglob("*") if p.is_file()} - {"archive"}
    assert written <= ({"a"} if words == "damaged" and "twice" not in words else set())
    assert not Path("/tmp/evil").exists()


def test_all_unsafe_members_are_named(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(zip_with("ok", "../a", "/b", zip_link("c"), "\x1b[2J", "e:/x", "../f", "../g"))
    with pytest.raises(DataError, match="and 2 more") as caught:
        extract(tmp_path / "archive", tmp_path / "files")
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "files").exists()


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    (tmp_path / "archive").write_bytes(zip_with(*"abcd"))
    with pytest.raises(DataError, match="over 3 files"):
        extract(tmp_path / "archive", tmp_path / "files")


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_sound_archives_come_out_as_they_went_in(mode: str, tmp_path: Path) -> None:
    names = ["Task/a b.txt", "Task/ü/🙂.png", "Task/imagesTr/x.nii.gz"]
    litter = ["Task/._a b.txt", "__MACOSX/Task/x", "Task/.DS_Store"]
    everything = [*names, *litter[:2]]
    (tmp_path / "x").write_bytes(zip_with(*everything) if mode == "zip" else tarred(*everything, mode=mode))
    extract(tmp_path / "x", tmp_path / "files")
    there = {str(p.relative_to(tmp_path / "files")) for p in (tmp_path / "files").rglob("*") if p.is_file()}
    assert there == set(names)
    assert all((tmp_path / "files" / name).read_bytes() == b"data" for name in names)
    assert all((tmp_path / "files" / name).stat().st_mode & 0o111 == 0 for name in names)


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_damaged_archives_are_our_own_errors(mode: str, tmp_path: Path) -> None:
    names = [f"Task/{k}/a.png" for k in range(6)]
    sound = zip_with(*names) if mode == "zip" else tarred(*names, mode=mode)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(80):
        data = bytearray(sound)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        (tmp_path / "x").write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.2 else data)
        try:
            extract(tmp_path / "x", tmp_path / "files")
        except DataError:
            refused += 1
        shutil.rmtree(tmp_path / "files", ignore_errors=True)
    assert refused > 5
