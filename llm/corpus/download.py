"""One file of the network with exactly the bytes that were asked for, kept in a cache.

    url, sha256 ──► cache/<sha256>/book.txt.gz           there already: no request is made
                    cache/<sha256>/book.txt.gz.part      the bytes so far; the next try asks for the rest

The hash alone decides. What servers say of a file (its length, its date, its ETag) only helps to notice early that
bytes are missing; mirrors often disagree on it, so no part is thrown away for that.
"""

import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tqdm import tqdm

from llm.core.errors import UserError

if TYPE_CHECKING:
    from requests import Response, Session

TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two pieces of the body
LONGEST_WAIT_SECONDS = 120.0
CHUNK_BYTES = 1 << 16


class _TransientError(Exception):
    """A try that failed for a reason that may pass, and how long the server asked to be left alone."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def default_cache() -> Path:
    """Where downloads are kept: under the environment variable GROUNDUP_CACHE, else under the user's cache folder."""
    from platformdirs import user_cache_path

    root = os.environ.get("GROUNDUP_CACHE")
    return (Path(root) if root else user_cache_path("groundup")) / "downloads"


def fetch(
    url: str,
    sha256: str,
    cache: Path,
    *,
    name: str,
    retries: int = 5,
    wait_seconds: float = 1.0,
    max_bytes: int = 1 << 40,
) -> Path:
    """The local path of the file at `url` (http or https) whose SHA-256 is `sha256`, in 64 lower-case hex digits.

    `name` is the source's, for messages. A failure that may pass is tried again, `retries` times in a row at most
    without a byte more; the first wait lasts `wait_seconds`, each further one twice as long. Several processes may
    ask at once: one downloads, the others wait for it. UserError if no file of that hash comes, or one beyond
    `max_bytes`.
    """
    path = cache / sha256 / _file_name(url)
    try:
        # Looked at before the lock is taken: a cache that is filled but read-only serves as well.
        if not _holds(path, sha256):
            with _locked(path.parent):
                if not _holds(path, sha256):  # else another process was faster
                    path.unlink(missing_ok=True)
                    _download(url, sha256, path, f"source {name}: {url}", retries, wait_seconds, max_bytes)
    except OSError as error:
        raise UserError(f"source {name}: {url}: wanted to keep it at {path}, given {error}") from None
    return path


def _file_name(url: str) -> str:
    """The last part of a url's path as a plain file name; its end, suffixes included, is what is kept of a long one.

    >>> _file_name("https://example.org/books/d%C3%A9j%C3%A0 vu.txt.gz?raw=1")
    'd_j_ vu.txt.gz'
    >>> _file_name("https://example.org/..")
    'file'
    """
    last = unquote(url.partition("#")[0].partition("?")[0].rpartition("/")[2])
    return re.sub(r"[^\w .-]", "_", last, flags=re.ASCII)[-100:].lstrip(".") or "file"


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock of one that was killed is free again."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(url: str, sha256: str, path: Path, where: str, retries: int, wait_seconds: float, max_bytes: int) -> None:
    from requests import Session

    part = path.with_name(f"{path.name}.part")
    given = ""
    with Session() as session:
        for _ in range(2):  # a part may stem from another content: then the second time, from zero, is right
            _complete(session, url, part, where, retries, wait_seconds, max_bytes)
            if (given := _sha256(part)) == sha256:
                part.replace(path)
                return
            part.unlink()
    raise UserError(f"{where}: wanted the sha256 {sha256}, given {given}")


def _complete(
    session: "Session", url: str, part: Path, where: str, retries: int, wait_seconds: float, max_bytes: int
) -> None:
    """Ask for what `part` lacks until the server has no more to send."""
    furthest, n_failures = _size(part), 0
    while True:
        try:
            return _request_rest(session, url, part, where, max_bytes)
        except _TransientError as error:
            reached = _size(part)
            n_failures = 1 if reached > furthest else n_failures + 1
            furthest = max(furthest, reached)
            if n_failures > retries:
                raise UserError(f"{where}: {error}, tried {n_failures} times") from None
            wait = min(max(wait_seconds * 2 ** (n_failures - 1), error.wait_seconds), LONGEST_WAIT_SECONDS)
            tqdm.write(f"{where}: {error}, next try in {wait:g} s", file=sys.stderr)
            sleep(wait)


def _request_rest(session: "Session", url: str, part: Path, where: str, max_bytes: int) -> None:
    """One request for the bytes that `part` lacks; they are appended as they come."""
    from requests import ConnectionError as NoConnection
    from requests import RequestException, Timeout

    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        # requests speaks http and https alone, so a redirect to anything else is one of its errors.
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
    except (NoConnection, Timeout) as error:
        raise _TransientError(f"wanted an answer, given {_one_line(error)}") from None
    except (RequestException, ValueError) as error:  # a redirect to what is no url at all is a bare ValueError
        raise UserError(f"{where}: wanted a file over http or https, given {_one_line(error)}") from None
    with response:
        status = response.status_code
        if status == 416 and start:
            return  # nothing follows what is there: it is whole or useless, as its hash will tell
        if status == 429 or status >= 500:
            raise _TransientError(f"wanted status 200, given {status} {response.reason}", _retry_after(response))
        if status not in {200, 206}:
            raise UserError(f"{where}: wanted status 200, given {status} {response.reason}")
        if status == 200:
            start = 0  # the whole file, whether a range was asked for or not
            total = _number(response.headers.get("Content-Length", ""), r"(\d+)")
        else:
            content_range = response.headers.get("Content-Range", "")
            if _number(content_range, r"bytes (\d+)-.*") != start:
                part.unlink(missing_ok=True)
                raise _TransientError(f"wanted the bytes from {start}, given Content-Range {content_range or 'no'}")
            total = _number(content_range, r"bytes .*/(\d+)")
        _receive(response, part, start, total, where, max_bytes)


def _receive(response: "Response", part: Path, start: int, total: int | None, where: str, max_bytes: int) -> None:
    """Write a body to `part` from byte `start` on; `total` is the length that the whole file is said to have."""
    from urllib3.exceptions import HTTPError

    if total is not None and total > max_bytes:
        raise UserError(f"{where}: wanted at most {max_bytes} bytes, given {total}")
    n_bytes, problem = start, ""
    bar = tqdm(initial=start, total=total, desc=part.stem, unit="B", unit_scale=True)
    with bar, part.open("ab") as handle:
        handle.truncate(start)
        try:
            # Raw, since the hash is of the bytes as they are sent; read1 gives what has come instead of waiting.
            while n_bytes <= max_bytes and (piece := response.raw.read1(CHUNK_BYTES, decode_content=False)):
                handle.write(piece)
                n_bytes += len(piece)
                bar.update(len(piece))
        except HTTPError as error:
            problem = f" ({_one_line(error)})"
    if n_bytes > max_bytes:
        part.unlink()
        raise UserError(f"{where}: wanted at most {max_bytes} bytes, given more")
    if problem or (total is not None and n_bytes < total):
        raise _TransientError(f"wanted {total or 'all'} bytes, given {n_bytes}{problem}")


def _retry_after(response: "Response") -> float:
    """The seconds that the server asks for, in either form of the header; 0 without one that makes sense."""
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0.0


def _number(header: str, pattern: str) -> int | None:
    found = re.fullmatch(pattern, header)
    return int(found[1]) if found else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
