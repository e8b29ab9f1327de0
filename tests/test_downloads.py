import dataclasses
import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from keras_examples import data as datasets
from keras_examples.data import downloads
from keras_examples.data.catalogue import Published
from keras_examples.data.downloads import DownloadError, download

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        behaviour = urlsplit(self.path).path.strip("/")
        self.server.asked.append(behaviour)
        if behaviour == "missing":
            self.send_error(404)
            return
        if behaviour == "silent":
            self.server.closing.wait()
            return
        self.send_response(200)
        if behaviour not in ("unannounced", "long"):
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if behaviour == "garbled":
            self.wfile.write(CONTENT[::-1])
        elif behaviour in ("cut", "stalled", "unannounced"):
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
            if behaviour == "stalled":
                self.server.closing.wait()
        elif behaviour == "long":
            self.wfile.write(CONTENT + b"!")
        else:
            self.wfile.write(CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.closing = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def failure(target, *mirrors):
    with pytest.raises(DownloadError) as caught:
        download(mirrors, target, SHA256, len(CONTENT))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"Cannot download {target.name}: {mirrors[0]}: ")
    assert f"Received: target={str(target)!r}" in message
    assert not target.parent.exists() or not any(target.parent.iterdir())
    return message


def test_download(server, tmp_path, capsys):
    target = tmp_path / "new" / "file.bin"
    assert download([f"{server.url}/good"], target, SHA256, len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "Downloading file.bin (0.3 MB)\n")


def test_mirrors_in_turn(server, tmp_path):
    mirrors = [f"{server.url}/{behaviour}" for behaviour in ("missing", "garbled", "good", "never-asked")]
    download(mirrors, tmp_path / "file.bin", SHA256, len(CONTENT))
    assert server.asked == ["missing", "garbled", "good"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("missing", "HTTP 404 Not Found"),
        ("garbled", "wrong SHA-256 "),
        ("cut", "ended after 128,000 of 256,000 bytes"),
        ("unannounced", "ended after 128,000 of 256,000 bytes"),
        ("long", "more than the expected 256,000 bytes"),
    ],
)
def test_failures(server, tmp_path, behaviour, reason):
    assert f"/{behaviour}: {reason}" in failure(tmp_path / "new" / "file.bin", f"{server.url}/{behaviour}")


@pytest.mark.parametrize("behaviour", ["silent", "stalled"])
def test_timeouts(server, tmp_path, monkeypatch, behaviour):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.3)
    start = time.monotonic()
    assert "timed out" in failure(tmp_path / "file.bin", f"{server.url}/{behaviour}")
    assert time.monotonic() - start < 2


def test_refused_names_every_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        mirrors = [f"http://127.0.0.1:{unused.getsockname()[1]}/{name}" for name in "ab"]
        message = failure(tmp_path / "file.bin", *mirrors)
    assert all(f"{mirror}: " in message for mirror in mirrors)
    assert message.count("Connection refused") == 2


def test_connecting_has_one_limit_for_all_addresses(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(downloads, "urlopen", lambda *_, **__: time.sleep(20))
    start = time.monotonic()
    assert "timed out" in failure(tmp_path / "file.bin", f"{server.url}/good")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("seconds", [0, 20], ids=["fails", "hangs"])
def test_offline_gives_up_within_two_seconds(tmp_path, monkeypatch, seconds):
    def look_up(*_):
        time.sleep(seconds)
        raise socket.gaierror

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    start = time.monotonic()
    message = failure(tmp_path / "new" / "file.bin", "https://one.invalid/f", "https://two.invalid/f")
    assert time.monotonic() - start < 2
    assert message.count("timed out" if seconds else "host not found") == 2


def test_a_proxy_looks_up_the_names(server, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr("urllib.request._opener", None)  # made by an earlier test, without the proxy
    target = download(["http://nowhere.invalid/good"], tmp_path / "file.bin", SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_interrupt_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.click, "progressbar", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        download([f"{server.url}/good"], tmp_path / "file.bin", SHA256, len(CONTENT))
    assert not any(tmp_path.iterdir())


def test_unwritable_folder_is_no_fault_of_the_mirror(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^Cannot write file\.bin: ") as caught:
        download([f"{server.url}/good", f"{server.url}/good"], tmp_path / "file" / "file.bin", SHA256, len(CONTENT))
    assert not isinstance(caught.value, DownloadError)
    assert server.asked == ["good"]


def test_fetch_over_http(server, tmp_path, monkeypatch):
    published = Published("text.txt", len(CONTENT), SHA256, (f"{server.url}/missing", f"{server.url}/good"))
    row = dataclasses.replace(datasets.DATASETS["tinyshakespeare"], files=(published,))
    monkeypatch.setitem(datasets.DATASETS, "tinyshakespeare", row)
    assert datasets.fetch("tinyshakespeare", tmp_path / "new") == (tmp_path / "new" / "text.txt",)
    assert datasets.fetch("tinyshakespeare", tmp_path / "new") == ()
    assert server.asked == ["missing", "good"]
