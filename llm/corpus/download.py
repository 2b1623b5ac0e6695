"""Download one file of a known hash into a cache, and resume a download that was cut off.

    url, sha256 ──► cache/<sha256>/book.txt.gz           there already: no request is made
                    cache/<sha256>/book.txt.gz.part      the bytes so far; the next try requests the rest

The hash alone decides. The length that a server states only helps to notice early that bytes are missing; mirrors often
disagree on dates and ETags, so they are not compared.
"""

import fcntl
import os
import re
import sys
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tqdm import tqdm

from llm.core.errors import UserError
from llm.core.outputs import file_hash
from llm.corpus.readers.streams import one_line

if TYPE_CHECKING:
    from requests import Response, Session

TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two pieces of the body
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 120.0
RETRIES = 5
MAX_BYTES = 1 << 40
CHUNK_BYTES = 1 << 16


class _TransientError(Exception):
    """A failure that may pass."""


def default_cache() -> Path:
    """Return the folder of downloads: under GROUNDUP_CACHE if that is set, else under the user's cache folder."""
    from platformdirs import user_cache_path

    root = os.environ.get("GROUNDUP_CACHE")
    return (Path(root) if root else user_cache_path("groundup")) / "downloads"


def fetch(url: str, sha256: str, cache: Path, *, name: str) -> Path:
    """Return the local path of the file at `url` (http or https) with this SHA-256, downloaded if it is not cached.

    `name` is the source's, for messages. Transient failures are retried, at most RETRIES times in a row without a byte
    more, after waits that double. Of several processes one downloads, the others wait. UserError if no file of that
    hash comes, or one beyond MAX_BYTES.
    """
    path = cache / sha256 / _file_name(url)
    try:
        if _has_hash(path, sha256):
            return path  # without a lock: a cache that is filled but read-only serves as well
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends
            if not _has_hash(path, sha256):  # else another process was faster
                path.unlink(missing_ok=True)
                part = path.with_name(f"{path.name}.part")
                _download(url, sha256, part)
                part.replace(path)
    except UserError as error:
        raise UserError(f"source {name}: {url}: {error}") from None
    except OSError as error:
        problem = f"expected a cache that can be written to at {path}, got {error}"
        raise UserError(f"source {name}: {url}: {problem}") from None
    return path


def _file_name(url: str) -> str:
    """Return the last part of a url's path as a plain file name of at most 100 characters with its suffixes."""
    last = unquote(url.partition("#")[0].partition("?")[0].rpartition("/")[2])
    return re.sub(r"[^\w .-]", "_", last, flags=re.ASCII)[-100:].lstrip(".") or "file"


def _has_hash(path: Path, sha256: str) -> bool:
    return path.is_file() and file_hash(path) == sha256


def _download(url: str, sha256: str, part: Path) -> None:
    """Complete `part`; UserError where its hash is another one."""
    from requests import Session

    with Session() as session:
        for _ in range(2):  # a part may be of another content: then the second time, from zero, is right
            _complete(session, url, part)
            if (got := file_hash(part)) == sha256:
                return
            part.unlink()
    raise UserError(f"expected the sha256 {sha256}, got {got}")


def _complete(session: "Session", url: str, part: Path) -> None:
    furthest, n_failures = _size(part), 0
    while True:
        try:
            return _request_rest(session, url, part)
        except _TransientError as error:
            n_failures = 1 if _size(part) > furthest else n_failures + 1
            furthest = max(furthest, _size(part))
            if n_failures > RETRIES:
                raise UserError(f"{error}, tried {n_failures} times") from None
            wait = min(FIRST_WAIT_SECONDS * 2 ** (n_failures - 1), LONGEST_WAIT_SECONDS)
            tqdm.write(f"{url}: {error}, next try in {wait:g} s", file=sys.stderr)
            sleep(wait)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _request_rest(session: "Session", url: str, part: Path) -> None:
    """Append the bytes that `part` lacks, as they come."""
    import requests

    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        # requests supports http and https alone, so a redirect to anything else is one of its errors.
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _TransientError(f"expected an answer, got {one_line(error)}") from None
    except (requests.RequestException, ValueError) as error:  # ValueError: a redirect to text that is not a url
        raise UserError(f"expected a file over http or https, got {one_line(error) or type(error).__name__}") from None
    with response:
        if response.status_code != 416 or not start:  # else no bytes follow: the hash shows whether it is complete
            start, total = _place(response, part, start)
            _append(response, part, start, total)


def _place(response: "Response", part: Path, start: int) -> tuple[int, int | None]:
    """Return where the body starts in the file, and the length of the file, if it is stated."""
    status, headers = response.status_code, response.headers
    problem = f"expected status 200, got {status} {response.reason}"
    if status == 429 or status >= 500:
        raise _TransientError(problem)
    if status == 200:  # the whole file, even if a range was requested
        length = headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    if status != 206:
        raise UserError(problem)
    stated = headers.get("Content-Range", "no Content-Range")
    if not (found := re.fullmatch(rf"bytes {start}-\d*/(\d+|\*)", stated)):
        part.unlink(missing_ok=True)
        raise _TransientError(f"expected the bytes from {start}, got {stated}")
    return start, None if found[1] == "*" else int(found[1])


def _append(response: "Response", part: Path, start: int, total: int | None) -> None:
    """Write the body behind the first `start` bytes of `part`."""
    from urllib3.exceptions import HTTPError

    problem, n_bytes = "", start
    bar = tqdm(initial=start, total=total, desc=part.stem, unit="B", unit_scale=True)
    with bar, part.open("ab") as handle:
        handle.truncate(start)
        try:
            # Raw, for the hash is of the bytes as they are sent; read1 returns the bytes that are there.
            while n_bytes <= MAX_BYTES and (piece := response.raw.read1(CHUNK_BYTES, decode_content=False)):
                handle.write(piece)
                n_bytes += len(piece)
                bar.update(len(piece))
        except HTTPError as error:
            problem = f" ({one_line(error)})"
    if n_bytes > MAX_BYTES:
        part.unlink()
        raise UserError(f"expected at most {MAX_BYTES} bytes, got more")
    if problem or (total is not None and n_bytes < total):
        raise _TransientError(f"expected {total or 'all'} bytes, got {n_bytes}{problem}")
