"""Which files of a data set are there, and downloads of the others, from the first mirror that delivers them whole."""

import hashlib
import http.client
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass, urlopen

import click

from keras_examples.calls import fetching
from keras_examples.data.catalogue import DATASETS
from keras_examples.files import whole_file

LOOKUP_SECONDS = 1.5  # for the names of all mirrors together: this is how an offline machine is noticed
TIMEOUT_SECONDS = 10.0  # to connect, and for each read
CHUNK_BYTES = 1 << 16


class DownloadError(OSError):
    """No mirror delivered the file."""


class _MirrorFailed(Exception):
    """Why one mirror did not. No `OSError`, which would read as a failure to write."""


class Status(NamedTuple):
    """The files that a data set is read from; `state` is `"complete"`, `"incomplete"` or `"missing"`."""

    state: str
    files: tuple[Path, ...]
    missing: tuple[Path, ...]


def status(name: str, data_dir: str | Path = "datasets") -> Status:
    """Says from which files a data set would be read, in whichever form they are there, and which are missing."""
    files: list[Path] = []
    for published in DATASETS[name].files:
        forms = [[Path(data_dir, path) for path in form] for form in (*published.forms, (published.path,))]
        present = [sum(path.is_file() for path in form) for form in forms]
        whole = [form for form, count in zip(forms, present) if count == len(form)]
        begun = [form for form, count in zip(forms, present) if count]
        files += (whole or begun or forms[-1:])[0]
    missing = tuple(path for path in files if not path.is_file())
    state = "complete" if not missing else "incomplete" if len(missing) < len(files) else "missing"
    return Status(state, tuple(files), missing)


def fetch(name: str, data_dir: str | Path = "datasets") -> tuple[Path, ...]:
    """Downloads what is missing of a data set, into a folder that is made if need be; returns the new files.

    Raises DownloadError if no mirror delivered one of them, and OSError if the folder cannot be written to.
    """
    missing = status(name, data_dir).missing
    return tuple(
        download(published.mirrors, Path(data_dir, published.path), published.sha256, published.size)
        for published in DATASETS[name].files
        if any(Path(data_dir, path) in missing for form in ((published.path,), *published.forms) for path in form)
    )


def check_present(name: str, data_dir: str | Path = "datasets") -> None:
    """Raises FileNotFoundError if files of a data set are missing."""
    if missing := status(name, data_dir).missing:
        raise FileNotFoundError(
            f"{lacking(name, data_dir, missing)} Received: data_dir={str(data_dir)!r}. Run "
            f"`{fetching(name, data_dir)}`."
        )


def lacking(name: str, data_dir: str | Path, missing: Sequence[Path]) -> str:
    """What a data folder lacks, and what it has in its place."""
    lines = [f"{data_dir} has no {', '.join(path.name for path in missing)}."] if missing else []
    others = DATASETS[name].look_alikes.items()
    lines += [f"{path} in {data_dir} {why}." for path, why in others if Path(data_dir, path).exists()]
    return " ".join(lines)


def download(mirrors: Sequence[str], target: str | Path, sha256: str, size: int) -> Path:
    """Downloads one file of `size` bytes, trying the URLs in turn, with progress on standard error.

    Raises:
        DownloadError: Names each mirror and what failed there; after about 1.5 s if no name could be looked up.
        OSError: The file could not be written. Nothing is, unless size and hash are right.
    """
    target, deadline = Path(target), time.monotonic() + LOOKUP_SECONDS
    lookups = [_in_thread(_look_up, url) for url in mirrors]
    failures = []
    for url, lookup in zip(mirrors, lookups):
        try:
            _result(lookup, max(0.0, deadline - time.monotonic()))
            _transfer(url, target, sha256, size)
            return target
        except _MirrorFailed as failure:
            failures.append(f"{url}: {failure}")
    raise DownloadError(
        f"Cannot download {target.name}: {'; '.join(failures)}. Received: target={str(target)!r}. "
        "Check the network connection, or put the file there by other means."
    )


def _look_up(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in getproxies() or proxy_bypass(host):  # else it is the proxy that knows the names
        socket.getaddrinfo(host, None)


def _transfer(url: str, target: Path, sha256: str, size: int) -> None:
    digest, received = hashlib.sha256(), 0
    label = f"Downloading {target.name} ({size / 1e6:,.1f} MB)"
    # In a thread, because the timeout of a socket is for each of the host's addresses in turn.
    response = _result(_in_thread(urlopen, url, timeout=TIMEOUT_SECONDS), TIMEOUT_SECONDS)
    with response, whole_file(target) as partial, partial.open("wb") as file:
        with click.progressbar(length=size, label=label, width=0, file=sys.stderr) as bar:
            while received <= size:
                try:
                    chunk = response.read(CHUNK_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise _MirrorFailed(f"cut after {received:,} of {size:,} bytes ({_reason(error)})") from error
                if not chunk:
                    break
                received += len(chunk)
                digest.update(chunk)
                file.write(chunk)
                bar.update(len(chunk))
        if received != size:
            raise _MirrorFailed(
                f"more than the expected {size:,} bytes"
                if received > size
                else f"ended after {received:,} of {size:,} bytes"
            )
        if digest.hexdigest() != sha256:
            raise _MirrorFailed(f"wrong SHA-256 {digest.hexdigest()}, expected {sha256}")


def _in_thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Future:
    """Calls in a daemon thread: a name lookup cannot be cancelled, and an executor would wait for it at exit."""
    future: Future = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments, **options))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def _result(future: Future, seconds: float) -> Any:
    try:
        return future.result(seconds)
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorFailed(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return "host not found"
    return " ".join(str(error).split()) or type(error).__name__


def have(name: str, data: str, data_dir: str | Path) -> bool:
    """Fetches what is missing of a data set; says if that cannot be, or raises OSError where no other will do."""
    state, _, missing = status(name, data_dir)
    try:
        fetch(name, data_dir)
    except OSError as error:
        reasons = [lacking(name, data_dir, missing if state == "incomplete" else ())]
        if data == "real":
            raise type(error)(" ".join(filter(None, [*reasons, str(error)]))) from error
        reasons += [str(error)] * (not isinstance(error, DownloadError))
        reasons += [f"Could not download {name}; using made-up data ({DATASETS[name].stand_in.name})."]
        click.echo(f"{' '.join(filter(None, reasons))} Later: `{fetching(name, data_dir)}`", err=True)
        return False
    return True
