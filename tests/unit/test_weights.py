"""Weights of encoders: what is copied, adapted and refused, and files from a server that serves wrong ones, too."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medseg.errors import CheckpointError
from medseg.fence import VARIABLE, draw_token
from medseg.files import writer_lock
from medseg.models.encoders.build import build_encoder
from medseg.models.encoders.encoder import Encoder
from medseg.models.encoders.table import ENCODERS
from medseg.models.weights import load_encoder, read_tensors
from medseg.outputs import damaged
from medseg.train.start import Start
from medseg.weights import run as stage
from medseg.weights.fetch import fetch_weights
from medseg.weights.record import read_weights_record
from tests.file_server import Reply, Server, hang_up, redirect, send, status


def made(
    name: str = "resnet18", dims: int = 2, channels: int = 3, seed: int = 0, norm: Any = "frozen_batch"
) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(name, dims, channels, width=8, norm=norm)


def stored(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    return path


def tensors_of(encoder: Encoder) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in encoder.state_dict().items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return stored(tmp_path / "w.safetensors", tensors_of(made()))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", [n for n in ENCODERS if n not in ("resnet101", "resnet34")])
def test_weights_arrive_and_heads_are_left_out(name: str, suffix: str, tmp_path: Path) -> None:
    source, target = made(name), made(name, seed=1)
    head = {"fc.weight": torch.ones(2, 2), "classifier.1.bias": torch.ones(2), "aux1.conv.bn.bias": torch.ones(1)}
    report = load_encoder(target, stored(tmp_path / f"w{suffix}", {**tensors_of(source), **head}))
    expected = source.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in target.state_dict().items())
    assert set(report.loaded) == set(expected)
    assert set(report.left_out) == set(head)
    assert report.adapted == {}
    assert all(name in report.summary() for name in head)


def test_files_without_counters_load_and_keep_mine(tmp_path: Path) -> None:
    tensors = {n: t for n, t in tensors_of(made()).items() if not n.endswith("num_batches_tracked")}
    report = load_encoder(made(seed=1), stored(tmp_path / "w.pth", tensors))
    assert set(report.loaded) == set(tensors)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_equal_channels_give_the_responses_of_a_grey_image(channels: int, file: Path) -> None:
    target = made(channels=channels, seed=1)
    report = load_encoder(target, file)
    assert dict(report.adapted) == {"conv1.weight": f"3 to {channels} channels"}
    grey = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = made()(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(target(grey.expand(-1, channels, -1, -1)), expected, atol=1e-4, rtol=1e-4)


def test_the_first_convolution_is_found_in_every_encoder(tmp_path: Path) -> None:
    for name in ENCODERS:
        path = stored(tmp_path / f"{name}.safetensors", tensors_of(made(name)))
        assert len(load_encoder(made(name, channels=1, seed=1), path).adapted) == 1


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "googlenet"])
def test_inflated_weights_see_a_constant_volume_as_its_slice(name: str, tmp_path: Path) -> None:
    flat, solid = made(name), made(name, dims=3, channels=1, seed=1)
    report = load_encoder(solid, stored(tmp_path / "w.safetensors", tensors_of(flat)))
    assert sum("2-D to 3-D" in change for change in report.adapted.values()) == len(
        [t for t in flat.state_dict().values() if t.ndim == 4]
    )
    grey = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = flat(grey.expand(-1, 3, -1, -1))[1]
        found = solid(grey[:, :, None].expand(-1, -1, 64, -1, -1))[1]
    # Away from the ends of the volume, where zeros are padded.
    torch.testing.assert_close(found[:, :, found.shape[2] // 2], expected, atol=1e-4, rtol=1e-4)


def spoil(change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    tensors = tensors_of(made())
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(extra=torch.ones(1)), "unknown: extra;"),
        (lambda t: t.pop("layer1.0.conv1.weight"), r"missing: layer1.0.conv1.weight; .*norm: none"),
        (lambda t: t.update({"bn1.bias": torch.ones(9)}), r"unfit: bn1.bias \(9,\) for \(8,\); .*width"),
        (lambda t: t.update({"conv1.weight": torch.ones(8, 3, 5, 5)}), r"unfit: conv1.weight \(8, 3, 5, 5\)"),
        (lambda t: t.update({"layer1.0.conv1.weight": torch.ones(8, 3, 3, 3)}), "unfit: layer1.0.conv1.weight"),
        (lambda t: t["bn1.bias"].fill_(float("nan")), "unfit: bn1.bias with values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change: Any, said: str, tmp_path: Path) -> None:
    encoder = made(seed=1)
    before = tensors_of(encoder)
    with pytest.raises(CheckpointError, match=said):
        load_encoder(encoder, stored(tmp_path / "w.safetensors", spoil(change)))
    assert all(torch.equal(t, before[n]) for n, t in encoder.state_dict().items())


def test_a_mismatch_of_norms_says_which_to_choose(tmp_path: Path) -> None:
    batch = stored(tmp_path / "batch.pth", tensors_of(made()))
    with pytest.raises(CheckpointError, match="set norm: frozen_batch"):
        load_encoder(made(norm="instance"), batch)
    bare = stored(tmp_path / "bare.pth", tensors_of(made("alexnet", norm="none")))
    with pytest.raises(CheckpointError, match=r"missing: features.1.0.weight.* set norm: none"):
        load_encoder(made("alexnet", norm="instance"), bare)


def test_many_names_are_counted(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="and 92 more"):
        load_encoder(made(), stored(tmp_path / "w.pth", {}))


class Surprise:
    """Would write a file when a pickle of it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Surprise(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02]q\x00.", b"{}", b"\x00" * 100, b"\x80\x02K\x01."])
def test_damaged_files_are_refused_by_name(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"w{suffix}: "):
        read_tensors(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_cut_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = stored(tmp_path / f"w{suffix}", tensors_of(made()))
    whole = path.read_bytes()
    for share in (0.01, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_tensors(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "nested.pth")
    with pytest.raises(CheckpointError, match="something else than named tensors"):
        read_tensors(tmp_path / "nested.pth")
    with pytest.raises(CheckpointError, match=r"file of .safetensors or .pth"):
        read_tensors(tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match="no such file"):
        read_tensors(tmp_path / "none.pth")


# Addresses


@pytest.fixture
def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fetched(server: Server, digest: str, cache: Path, *replies: Reply, query: str = "") -> Path:
    """What ``fetch_weights`` gives with these replies."""
    server.replies = list(replies)
    return fetch_weights(server.address("w.safetensors") + query, digest, cache, lambda _: None)


@pytest.mark.parametrize("ways", [(), (redirect("/elsewhere.safetensors"),), (status(503), hang_up)])
def test_weights_are_fetched_once_and_load(
    ways: tuple[Reply, ...], server: Server, file: Path, digest: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    path = fetched(server, digest, cache, *ways, send(file.read_bytes()))
    assert path.parent == cache
    assert path.read_bytes() == file.read_bytes()
    assert len(load_encoder(made(seed=1), path).loaded) > 100
    asked = len(server.asked)
    assert fetched(server, digest, cache, status(500)) == path
    assert len(server.asked) == asked
    assert [p.name for p in cache.iterdir() if not p.name.startswith(".")] == [path.name]


def test_a_cached_file_that_was_damaged_is_fetched_again(
    server: Server, file: Path, digest: str, tmp_path: Path
) -> None:
    path = fetched(server, digest, tmp_path / "cache", send(file.read_bytes()))
    path.write_bytes(b"rot")
    assert fetched(server, digest, tmp_path / "cache", send(file.read_bytes())).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("habit", "said"),
    [
        (lambda data: send(data[::-1]), "SHA-256 .* expected .* is not kept"),
        (lambda data: send(data, claim=1000), "1000 bytes with SHA-256 .* is not kept"),
        (lambda data: send(b"<html>Log in"), "the server sent a web page"),
        (lambda data: status(404), "the server answers 404"),
        (lambda data: redirect("ftp://127.0.0.1/w.safetensors"), "redirects from http to ftp:.*refused"),
    ],
)
def test_a_wrong_file_is_not_kept(
    habit: Callable[[bytes], Reply], said: str, server: Server, file: Path, digest: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        fetched(server, digest, tmp_path / "cache", habit(file.read_bytes()))
    assert server.address("w.safetensors") in str(caught.value)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".writer.lock"]


def test_weights_that_break_off_are_resumed(server: Server, file: Path, digest: str, tmp_path: Path) -> None:
    data, cache = file.read_bytes(), tmp_path / "cache"
    with pytest.raises(CheckpointError, match=r"5 attempts\); 1000 bytes are kept in .*cache"):
        fetched(server, digest, cache, send(data, 1000), hang_up)
    assert not list(cache.glob("*.safetensors"))
    asked = len(server.requests)
    assert fetched(server, digest, cache, send(data)).read_bytes() == data
    assert [r.get("Range") for r in server.requests[asked:]] == ["bytes=1000-"]


def test_processes_that_need_the_same_weights_fetch_them_once(
    server: Server, file: Path, digest: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    server.replies = [send(file.read_bytes())]
    other = contextlib.ExitStack()
    other.enter_context(writer_lock(cache))
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        (cache / f"{digest}.safetensors").write_bytes(file.read_bytes())
        other.close()

    with other:
        path = fetch_weights(server.address("w.safetensors"), digest, cache, pause)
    assert path.read_bytes() == file.read_bytes()
    assert len(waited) == 1
    assert server.asked == []


def test_addresses_need_a_checksum_and_a_known_kind_and_a_server(server: Server, digest: str, tmp_path: Path) -> None:
    right = server.address("w.safetensors")
    with pytest.raises(CheckpointError, match="need their checksum"):
        fetch_weights(right, None, tmp_path)
    with pytest.raises(CheckpointError, match=r"must be a file of .safetensors or .pth"):
        fetch_weights(right.replace(".safetensors", ".bin"), digest, tmp_path)
    with pytest.raises(CheckpointError, match="a file or an http"):
        fetch_weights("ftp://127.0.0.1/w.pth", digest, tmp_path)
    with pytest.raises(CheckpointError, match="no valid address"):
        fetch_weights("http://[/w.pth?s3cret", digest, tmp_path)
    assert server.asked == []
    with pytest.raises(CheckpointError, match="the connection failed"):
        fetch_weights("http://127.0.0.1:1/w.pth", digest, tmp_path, lambda _: None)


def test_secrets_in_an_address_are_not_repeated(
    server: Server, file: Path, digest: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError) as error:
        fetched(server, digest, tmp_path / "cache", send(b"wrong"), query="?token=s3cret")
    assert server.asked == ["/w.safetensors?token=s3cret"]
    assert "s3cret" not in str(error.value) + capfd.readouterr().err


def test_files_are_taken_as_they_are_and_checked_where_a_checksum_is_given(file: Path, digest: str) -> None:
    assert fetch_weights(str(file), None, file.parent / "cache") == file
    assert fetch_weights(str(file), digest, file.parent / "cache") == file
    with pytest.raises(CheckpointError, match=f"SHA-256 is {digest}, expected"):
        fetch_weights(str(file), "0" * 64, file.parent / "cache")
    with pytest.raises(CheckpointError, match="no such file"):
        fetch_weights(str(file) + ".pth", None, file.parent / "cache")
    assert not (file.parent / "cache").exists()


def test_a_record_gives_its_file_back(file: Path, digest: str, tmp_path: Path) -> None:
    record = tmp_path / "weights" / "unet.json"
    stage.run(str(file), digest, record.parent, record)
    assert read_weights_record(record, str(file), digest) == file
    options = {"weights": str(file), "sha256": digest}
    assert Start.of(options, None, record).digests() == {"encoder": digest}
    assert Start.of({}, None, None) == Start()


def test_training_needs_the_record_of_its_weights(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"medseg weights .*--weights"):
        Start.of({"weights": str(file)}, None, None)


def test_weights_that_the_plan_does_not_name_are_no_silent_extra(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^--weights .*unet\.json: the plan has no options\.weights.*medseg plan"
    ):
        Start.of({}, None, tmp_path / "unet.json")


def test_a_record_that_does_not_hold_any_more_is_refused(file: Path, tmp_path: Path) -> None:
    record, copy = tmp_path / "unet.json", tmp_path / f"copy-{file.name}"
    copy.write_bytes(file.read_bytes())
    stage.run(str(copy), None, tmp_path, record)
    with pytest.raises(
        CheckpointError,
        match=r"unet\.json: made for another options\.weights.*`medseg plan` again, else `medseg weights`",
    ):
        read_weights_record(record, str(file), None)
    copy.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="have changed"):
        read_weights_record(record, str(copy), None)
    copy.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        read_weights_record(record, str(copy), None)
    record.write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no digest.*medseg weights"):
        read_weights_record(record, str(copy), None)


def test_a_cached_file_is_listed_and_its_loss_noticed_and_one_of_the_user_is_not(
    server: Server, file: Path, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    root = tmp_path / "results"
    draw_token(root)
    server.replies = [send(file.read_bytes()), send(file.read_bytes())]
    records = [root / "weights" / f"{name}.json" for name in ("one", "two")]
    for record in records:
        stage.run(server.address("w.safetensors"), digest, record.parent, record)
    (cached,) = record.parent.glob("*.safetensors")
    assert not damaged(root, records)
    cached.unlink()
    assert set(damaged(root, records)) == set(records)
    for record in records:
        stage.run(server.address("w.safetensors"), digest, record.parent, record)
    assert not damaged(root, records)
    stage.run(str(file), None, record.parent, record)
    file.unlink()
    assert not damaged(root, [record])
