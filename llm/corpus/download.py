"""Download one file of a known hash into a cache, and resume a download that was cut off.

    url, sha256 ──► cache/<sha256>/book.txt.gz           there already: no request is made
                    cache/<sha256>/book.txt.gz.part      the bytes so far; the next try requests the rest

The hash alone decides. The length that a server states only helps to notice early that bytes are missing; mirrors often
disagree on dates and ETags, so they are not compared.
"""

import fcntl
import hashlib
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tqdm import tqdm

from llm.core.errors import UserError
from llm.corpus.readers.streams import one_line

if TYPE_CHECKING:
    from requests import Response, Session

TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two pieces of the body
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 120.0
RETRIES = 5
MAX_BYTES = 1 << 40
CHUNK_BYTES = 1 << 16


class _TransientError(Exception):
    """A failure that may pass, and the wait that the server requests."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


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
    download = _Download(url, path.with_name(f"{path.name}.part"), f"source {name}: {url}")
    try:
        if _sha256(path) == sha256:
            return path  # without a lock: a cache that is filled but read-only serves as well
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends
            if _sha256(path) != sha256:  # else another process was faster
                path.unlink(missing_ok=True)
                download.run(sha256)
                download.part.replace(path)
    except OSError as error:
        raise UserError(f"{download.where}: expected a cache that can be written to at {path}, got {error}") from None
    return path


def _file_name(url: str) -> str:
    """Return the last part of a url's path as a plain file name of at most 100 characters with its suffixes."""
    last = unquote(url.partition("#")[0].partition("?")[0].rpartition("/")[2])
    return re.sub(r"[^\w .-]", "_", last, flags=re.ASCII)[-100:].lstrip(".") or "file"


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@dataclass(frozen=True)
class _Download:
    url: str
    part: Path  # the bytes so far
    where: str  # for messages

    def run(self, sha256: str) -> None:
        """Complete `part`; UserError where its hash is another one."""
        from requests import Session

        with Session() as session:
            for _ in range(2):  # a part may be of another content: then the second time, from zero, is right
                self._complete(session)
                if (got := _sha256(self.part)) == sha256:
                    return
                self.part.unlink()
        raise UserError(f"{self.where}: expected the sha256 {sha256}, got {got}")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _complete(self, session: "Session") -> None:
        furthest, n_failures = self._size(), 0
        while True:
            try:
                return self._request_rest(session)
            except _TransientError as error:
                n_failures = 1 if self._size() > furthest else n_failures + 1
                furthest = max(furthest, self._size())
                if n_failures > RETRIES:
                    raise UserError(f"{self.where}: {error}, tried {n_failures} times") from None
                wait = min(max(FIRST_WAIT_SECONDS * 2 ** (n_failures - 1), error.wait_seconds), LONGEST_WAIT_SECONDS)
                tqdm.write(f"{self.where}: {error}, next try in {wait:g} s", file=sys.stderr)
                sleep(wait)

    def _request_rest(self, session: "Session") -> None:
        """Append the bytes that `part` lacks, as they come."""
        import requests

        start = self._size()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            # requests supports http and https alone, so a redirect to anything else is one of its errors.
            response = session.get(self.url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _TransientError(f"expected an answer, got {one_line(error)}") from None
        except (requests.RequestException, ValueError) as error:  # ValueError: a redirect to text that is not a url
            got = one_line(error) or type(error).__name__
            raise UserError(f"{self.where}: expected a file over http or https, got {got}") from None
        with response:
            if response.status_code != 416 or not start:  # else no bytes follow: the hash shows whether it is complete
                self._receive(response, *self._check(response, start))

    def _check(self, response: "Response", start: int) -> tuple[int, int | None]:
        """Return where the body starts in the file, and the length of the file, if it is stated."""
        status, headers = response.status_code, response.headers
        problem = f"expected status 200, got {status} {response.reason}"
        if status == 429 or status >= 500:
            raise _TransientError(problem, _retry_after(headers.get("Retry-After", "0")))
        if status == 200:  # the whole file, even if a range was requested
            length = headers.get("Content-Length", "")
            return 0, int(length) if length.isdecimal() else None
        if status != 206:
            raise UserError(f"{self.where}: {problem}")
        stated = headers.get("Content-Range", "no Content-Range")
        found = re.fullmatch(r"bytes (\d+)-\d*/(?:(\d+)|\*)", stated)
        if not found or int(found[1]) != start:
            self.part.unlink(missing_ok=True)
            raise _TransientError(f"expected the bytes from {start}, got {stated}")
        return start, int(found[2]) if found[2] else None

    def _receive(self, response: "Response", start: int, total: int | None) -> None:
        problem = ""
        if total is None or total <= MAX_BYTES:
            problem = self._append_body(response, start, total)
        n_bytes = self._size()
        if max(n_bytes, total or 0) > MAX_BYTES:
            self.part.unlink(missing_ok=True)
            raise UserError(f"{self.where}: expected at most {MAX_BYTES} bytes, got {total or 'more'}")
        if problem or (total is not None and n_bytes < total):
            raise _TransientError(f"expected {total or 'all'} bytes, got {n_bytes}{problem}")

    def _append_body(self, response: "Response", start: int, total: int | None) -> str:
        """Write the body behind the first bytes of `part`; return the problem because of which it ends early."""
        from urllib3.exceptions import HTTPError

        n_bytes = start
        bar = tqdm(initial=start, total=total, desc=self.part.stem, unit="B", unit_scale=True)
        with bar, self.part.open("ab") as handle:
            handle.truncate(start)
            try:
                # Raw, for the hash is of the bytes as they are sent; read1 returns the bytes that are there.
                while n_bytes <= MAX_BYTES and (piece := response.raw.read1(CHUNK_BYTES, decode_content=False)):
                    handle.write(piece)
                    n_bytes += len(piece)
                    bar.update(len(piece))
            except HTTPError as error:
                return f" ({one_line(error)})"
        return ""


def _retry_after(header: str) -> float:
    """Return the seconds of a Retry-After header, in either of its forms; 0 where it is not valid."""
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    with suppress(InvalidHeader):
        return Retry().parse_retry_after(header)
    return 0.0
