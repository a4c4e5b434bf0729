"""One file over HTTP from a server on this machine that does everything a server can do wrong."""

from __future__ import annotations

import io
import shutil
import socket
from pathlib import Path
from urllib.request import Request

import numpy as np
import pytest

from medseg.errors import DataError
from medseg.files import sha256_bytes
from medseg.transfer import PAUSES_S, _SaferRedirects, fetch, forget, sha256_error, shown, transfer
from tests.file_server import Handler, Reply, Server, hang_up, redirect, send, send_all, status

DATA = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


def get(server: Server, tmp_path: Path, *replies: Reply) -> tuple[Path, list[float]]:
    """Transfer with these replies; returns the file and the pauses between attempts."""
    server.replies = list(replies)
    pauses: list[float] = []
    part = tmp_path / "part"
    transfer(server.url, part, "test", pauses.append)
    return part, pauses


def message(server: Server, tmp_path: Path, *replies: Reply) -> str:
    with pytest.raises(DataError) as caught:
        get(server, tmp_path, *replies)
    return str(caught.value)


def refusal(server: Server, tmp_path: Path, *replies: Reply) -> str:
    told = message(server, tmp_path, *replies)
    assert server.url in told
    return told


def test_a_file_comes_whole(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    part, pauses = get(server, tmp_path, send(DATA))
    assert part.read_bytes() == DATA
    assert pauses == []
    assert "1/1 in" in capfd.readouterr().err
    # Asked again, nothing is fetched.
    get(server, tmp_path, status(500))
    assert len(server.requests) == 1


def test_a_transfer_that_breaks_off_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    part, pauses = get(server, tmp_path, send(DATA, 100_000), send(DATA, 250_000), send(DATA))
    assert part.read_bytes() == DATA
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-", "bytes=250000-"]
    assert {r["If-Range"] for r in server.requests[1:]} == {'"v1"'}
    assert pauses == [PAUSES_S[0]] * 2


def test_what_was_fetched_outlives_the_process(server: Server, tmp_path: Path) -> None:
    told = refusal(server, tmp_path, send(DATA, 100_000), hang_up)
    assert "100000 bytes are kept" in told
    part, _ = get(server, tmp_path, send(DATA))
    assert server.requests[-1]["Range"] == "bytes=100000-"
    assert part.read_bytes() == DATA


def test_a_server_without_versions_is_resumed_by_length(server: Server, tmp_path: Path) -> None:
    part, _ = get(server, tmp_path, send(DATA, 100_000, etag=""), send(DATA, etag=""))
    assert server.requests[1]["Range"] == "bytes=100000-"
    assert "If-Range" not in server.requests[1]
    assert part.read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    new = DATA[::-1] + b"more"
    part, _ = get(server, tmp_path, send(DATA, 100_000), send(new, etag='"v2"'))
    assert part.read_bytes() == new
    part.unlink()
    # Without a version only the length tells.
    part, _ = get(server, tmp_path, send(DATA, 100_000, etag=""), send(new, etag=""))
    assert part.read_bytes() == new
    part.unlink()
    part, _ = get(server, tmp_path, send(DATA, 100_000, etag=""), send(DATA[:50_000], etag=""))
    assert part.read_bytes() == DATA[:50_000]


def test_a_server_that_ignores_ranges(server: Server, tmp_path: Path) -> None:
    part, _ = get(server, tmp_path, send(DATA, 100_000), send(DATA, ranges=False))
    assert server.requests[1]["Range"] == "bytes=100000-"
    assert part.read_bytes() == DATA


def test_a_server_that_sends_another_range(server: Server, tmp_path: Path) -> None:
    def shifted(request: Handler) -> None:
        request.head(206, Content_Length="10", Content_Range=f"bytes 5-14/{len(DATA)}")
        request.wfile.write(DATA[5:15])

    part, _ = get(server, tmp_path, send(DATA, 100_000), shifted, send(DATA))
    assert part.read_bytes() == DATA


def test_a_length_that_is_a_lie(server: Server, tmp_path: Path) -> None:
    told = refusal(server, tmp_path, send(DATA, claim=len(DATA) + 1000, etag="", ranges=False))
    assert f"the connection ended after {len(DATA)} of {len(DATA) + 1000} bytes" in told
    assert f"{len(PAUSES_S) + 1} attempts" in told
    # Too small a promise cuts the file: only its checksum can tell.
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    part, _ = get(server, tmp_path, send(DATA, claim=1000))
    assert part.stat().st_size == 1000


@pytest.mark.parametrize("length", [None, "²", "-5", "1e3", "9" * 5000])
def test_no_length_or_a_senseless_one(length: str | None, server: Server, tmp_path: Path) -> None:
    part, _ = get(server, tmp_path, send_all(DATA, **({} if length is None else {"Content_Length": length})))
    assert part.read_bytes() == DATA


def test_chunks_that_end_too_early(server: Server, tmp_path: Path) -> None:
    broken = send_all(b"5\r\nabcde\r\n100\r\nabc", Transfer_Encoding="chunked")
    assert "the connection failed" in refusal(server, tmp_path, broken)


@pytest.mark.parametrize("code", [404, 403, 410, 400])
def test_a_refusal_is_final(code: int, server: Server, tmp_path: Path) -> None:
    assert f"the server answers {code}" in refusal(server, tmp_path, status(code))
    assert len(server.requests) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [500, 503, 429])
def test_trouble_of_the_server_is_waited_out(code: int, server: Server, tmp_path: Path) -> None:
    part, pauses = get(server, tmp_path, status(code), hang_up, status(code), send(DATA))
    assert part.read_bytes() == DATA
    assert pauses == list(PAUSES_S[:3])
    part.unlink()
    assert f"the server answers {code}" in refusal(server, tmp_path, status(code))


def test_redirects_within_http_only(server: Server, tmp_path: Path) -> None:
    part, _ = get(server, tmp_path, redirect("/elsewhere.zip"), send(DATA))
    assert part.read_bytes() == DATA
    (tmp_path / "secret").write_text("secret")
    part.unlink()
    for target in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/x", "data:text/plain,x"):
        assert target.split(":")[0] in refusal(server, tmp_path, redirect(target))
    assert "secret" not in "".join(p.read_text() for p in tmp_path.iterdir() if p.name != "secret")
    assert "answers 302" in refusal(server, tmp_path, redirect(server.url))


def test_https_is_not_left() -> None:
    with pytest.raises(DataError, match="from https to http://b"):
        _SaferRedirects().redirect_request(Request("https://a/x"), io.BytesIO(), 302, "", {}, "http://b/x")


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/x"
    with pytest.raises(DataError, match="the connection failed"):
        transfer(url, tmp_path / "part", "test", lambda _: None)


def test_more_than_the_disk_holds(server: Server, tmp_path: Path) -> None:
    assert "make room" in refusal(server, tmp_path, send(DATA, claim=1 << 60))


# What is known of the file


def checked(server: Server, tmp_path: Path, *replies: Reply, expected: bytes = DATA) -> Path:
    """Fetch a file that must be ``expected``."""
    server.replies = list(replies)
    part, digest = tmp_path / "part", sha256_bytes(expected)
    fetch(server.url, part, "test", lambda path: sha256_error(path, digest), lambda _: None)
    return part


def test_the_right_file_is_kept_until_it_is_forgotten(server: Server, tmp_path: Path) -> None:
    part = checked(server, tmp_path, send(DATA, 100_000), send(DATA))
    assert part.read_bytes() == DATA
    forget(part)
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        checked(server, tmp_path, send(DATA[::-1]))
    for words in (server.url, sha256_bytes(DATA[::-1]), f"expected {sha256_bytes(DATA)}", "part is not kept. Is the"):
        assert words in str(caught.value)
    assert not list(tmp_path.iterdir())
    # It was wrong from its first byte: fetching it again could not help.
    assert len(server.requests) == 1
    with pytest.raises(DataError, match="the server sent a web page"):
        checked(server, tmp_path, send(b" <!DOCTYPE html><p>Log in"))


def test_what_was_begun_earlier_is_fetched_again_once_if_it_is_wrong(server: Server, tmp_path: Path) -> None:
    """No version is named, and the new file has the old one's length: only the checksum tells."""
    for new, right in ((DATA, True), (DATA[1:] + b"x", False)):
        refusal(server, tmp_path, send(DATA[::-1], 100_000, etag=""), hang_up)
        asked = len(server.requests)
        if right:
            assert checked(server, tmp_path, send(new, etag="")).read_bytes() == DATA
        else:
            with pytest.raises(DataError, match="is not kept"):
                checked(server, tmp_path, send(new, etag=""))
        assert [r.get("Range") for r in server.requests[asked:]] == ["bytes=100000-", None]
        forget(tmp_path / "part")


# Addresses


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://a.org/b/c.zip", "https://a.org/b/c.zip"),
        ("https://me:s3cret@a.org:8080/b", "https://a.org:8080/b"),
        ("https://s3cret@a.org", "https://a.org"),
        ("http://a.org/b?token=s3cret&x=/y@z#s3cret", "http://a.org/b"),
        ("http://a.org/b#s3cret?s3cret", "http://a.org/b"),
        ("http://a.org?s3cret", "http://a.org"),
        ("//me:s3cret@a.org/b", "//a.org/b"),
        ("http://a.org/@scope//x@1", "http://a.org/@scope//x@1"),
        ("/b/c.zip?s3cret", "/b/c.zip"),
        ("http://me:s3cret@[::1]/x", "http://[::1]/x"),
        ("", ""),
    ],
)
def test_addresses_are_shown_without_what_may_be_secret(url: str, told: str) -> None:
    assert shown(url) == told


@pytest.mark.parametrize(
    "habit",
    [
        status(404),
        status(503),
        hang_up,
        send(DATA, 1000, ranges=False),
        send(DATA, claim=1 << 60),
        redirect("ftp://me:s3cret@127.0.0.1/x?s3cret"),
        redirect("s3://127.0.0.1/x?s3cret"),
        redirect("http://me:s3cret@127.0.0.1/x?s3cret"),
        redirect("http://[/x?s3cret"),
        redirect("http://127.0.0.1:x/x?s3cret"),
        redirect("/data.zip?token=s3cret"),
    ],
)
def test_secrets_are_neither_told_nor_kept(
    habit: Reply, server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.replies = [habit]
    with pytest.raises(DataError) as caught:
        fetch(f"{server.url}?token=s3cret#s3cret", tmp_path / "part", "test", lambda _: "", lambda _: None)
    assert server.asked[0] == "/data.zip?token=s3cret"
    assert server.url in str(caught.value)
    kept = "".join(path.name + path.read_bytes().decode("latin-1") for path in tmp_path.iterdir())
    assert "s3cret" not in str(caught.value) + capfd.readouterr().err + kept


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/a b?s3cret", "no valid address"),
        ("http://127.0.0.1:1/ä?s3cret", "no valid address"),
        ("http://127.0.0.1:x/y?s3cret", "no valid address"),
        ("http://[/y?s3cret", "no valid address"),
        ("http:///y?s3cret", "http:///y: "),
        ("http://me:s3cret@127.0.0.1:1/y", "names a user"),
        ("file:///etc/hostname?s3cret", "expected an http"),
        ("data:text/plain,x?s3cret", "expected an http"),
        ("/etc/hostname?s3cret", "expected an http"),
    ],
)
def test_what_is_no_address_is_refused(
    url: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError, match=words) as caught:
        transfer(url, tmp_path / "part", "test", lambda _: None)
    assert "s3cret" not in str(caught.value) + capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "part.state.json").mkdir()
    assert f"{tmp_path / 'part'}: cannot be written" in message(server, tmp_path, send(DATA))
