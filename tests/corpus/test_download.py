"""Files of the network, from a server on this machine that does what real ones do, the bad ones included."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.corpus import download
from llm.corpus.download import default_cache, fetch

CONTENT = bytes(range(256)) * 1000 + b"the end"
LENGTH, HALF = len(CONTENT), len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()


# An answer to a request for the bytes from a place on: status, body or its chunks, headers.
Answer = Callable[[int], tuple[int, bytes | Iterable[bytes], dict[str, object]]]


class Request(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        place, script = self.headers["Range"], self.server.script
        self.server.ranges.append(place)
        answer = script[min(len(self.server.ranges), len(script)) - 1]
        status, body, headers = answer(int(place[6:-1]) if place else 0)
        self.protocol_version = "HTTP/1.1" if "Transfer-Encoding" in headers else "HTTP/1.0"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        for chunk in [body] if isinstance(body, bytes) else body:
            self.wfile.write(chunk)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    """Answers requests by a script, the last answer for every further one, and keeps which ranges were requested."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.script: list[Answer] = [whole]
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/books/rain.txt.gz"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the play."""


def ranged(n_bytes: int | None = None, then: Iterable[bytes] = ()) -> Answer:
    """What a good server does, but for hanging up after `n_bytes`."""

    def answer(start: int) -> tuple[int, Iterable[bytes], dict[str, object]]:
        rest = CONTENT[start:]
        headers: dict[str, object] = {"Content-Length": len(rest)}
        headers |= {"Content-Range": f"bytes {start}-{LENGTH - 1}/{LENGTH}"} if start else {}
        return 416 if not rest else 206 if start else 200, chain([rest[:n_bytes]], then), headers

    return answer


def plain(content: bytes = CONTENT, n_bytes: int | None = None, length: int | None = LENGTH, **headers: str) -> Answer:
    """A server without ranges, with a false length (None: without one) or hanging up after `n_bytes`."""
    stated = {} if length is None else {"Content-Length": length}
    return lambda _: (200, content[:n_bytes], stated | headers)


def part_from(start: int, end: int, stated: str) -> Answer:
    return lambda _: (206, CONTENT[start:end], {"Content-Length": end - start, "Content-Range": stated})


def status(code: int, **headers: str) -> Answer:
    return lambda _: (code, b"", {"Content-Length": 0} | headers)


def redirect(place: str) -> Answer:
    return status(302, Location=place)


CHUNK = b"%x\r\n%s\r\n" % (HALF, CONTENT[:HALF])
whole = ranged()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have slept, without sleeping."""
    waits: list[float] = []
    monkeypatch.setattr(download, "sleep", waits.append)
    return waits


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., Path]:
    """Fetch the content from the server with a script of answers."""

    def get(*script: Answer, **options: object) -> Path:
        server.script = list(script) or [whole]
        with pytest.MonkeyPatch.context() as patch:
            for constant, value in options.items():
                patch.setattr(download, constant, value)
            return fetch(server.url, SHA256, tmp_path, name="mine")

    return get


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """The file of a download that was cut off."""
    path = tmp_path / SHA256 / "rain.txt.gz.part"
    path.parent.mkdir()
    return path


def test_a_file_is_downloaded_once(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    path = get()
    assert (path, path.read_bytes()) == (tmp_path / SHA256 / "rain.txt.gz", CONTENT)
    (path.parent / ".lock").unlink()
    assert get() == path
    assert list(path.parent.iterdir()) == [path]  # nothing is written to a cache that is filled
    assert len(server.ranges) == 1
    path.write_bytes(CONTENT[:-1] + b"?")  # a damaged copy is replaced
    assert get().read_bytes() == CONTENT
    path.write_bytes(b"")
    with pytest.raises(UserError):
        get(status(404))
    assert not path.exists()


FROM_HALF = f"bytes={HALF}-"
# The bytes of a part, the script, the ranges that are requested.
RESUMED = {
    "drops": (None, [*[ranged(50_000)] * 4, whole], [None, *(f"bytes={50_000 * n}-" for n in (1, 2, 3, 4))]),
    "no ranges": (None, [plain(n_bytes=HALF), plain()], [None, FROM_HALF]),
    "a broken chunk": (None, [lambda _: (200, CHUNK, {"Transfer-Encoding": "chunked"}), whole], [None, FROM_HALF]),
    "a part of the range": (
        CONTENT[:1000],
        [part_from(1000, HALF, f"bytes 1000-{HALF - 1}/{LENGTH}"), whole],
        ["bytes=1000-", FROM_HALF],
    ),
    "no length": (None, [plain(n_bytes=HALF, length=None), plain(length=None)], [None, None]),
    "a wrong content": (None, [plain(b"another", length=7), whole], [None, None]),
    "a wrong part": (b"?" * 10, [whole], ["bytes=10-", None]),
    "a complete part": (CONTENT, [whole], [f"bytes={LENGTH}-"]),
    "another range": (CONTENT[:9], [part_from(0, LENGTH, f"bytes 0-{LENGTH - 1}/9"), whole], ["bytes=9-", None]),
    "a stated encoding": (None, [plain(**{"Content-Encoding": "gzip"})], [None]),
    "a redirect": (None, [redirect("/elsewhere/other-name.bin"), whole], [None, None]),
}


@pytest.mark.parametrize(("given_part", "script", "ranges"), RESUMED.values(), ids=RESUMED.keys())
def test_a_download_is_resumed(given_part: bytes | None, script: list[Answer], ranges, get, server, part) -> None:
    if given_part is not None:
        part.write_bytes(given_part)
    path = get(*script)
    assert (path.name, path.read_bytes(), server.ranges) == ("rain.txt.gz", CONTENT, ranges)


# The script, the options, the message, how many requests, the waits.
FAILURES = {
    "no more bytes": ([ranged(1000), ranged(0)], {"RETRIES": 3}, f"expected {LENGTH} bytes, got 1000 ", 4, [1, 2, 4]),
    "the same place": ([plain(n_bytes=HALF)], {"RETRIES": 2}, f"expected {LENGTH} bytes, got {HALF} ", 3, [1, 2]),
    "too small a length": ([plain(length=9)], {}, f"expected the sha256 {SHA256}, got ", 2, []),
    "an endless body": (
        [lambda _: (200, repeat(b"?" * 10_000), {})],
        {"MAX_BYTES": 300_000},
        "expected at most 300000 bytes, got more",
        1,
        [],
    ),
    "too long": ([whole], {"MAX_BYTES": LENGTH - 1}, f"expected at most {LENGTH - 1} bytes, got more", 1, []),
    "a loop": ([redirect("/books/rain.txt.gz")], {}, "expected a file over http or https, got Exceeded 30", 31, []),
    **{str(code): ([status(code)], {}, f"expected status 200, got {code} ", 1, []) for code in (404, 416)},
    **{
        place: ([redirect(place)], {}, "expected a file over http or https, got ", 1, [])
        for place in ("file:///etc/hostname", "http://[")
    },
}


@pytest.mark.parametrize(
    ("script", "options", "problem", "n_requests", "waited"), FAILURES.values(), ids=FAILURES.keys()
)
def test_a_failure_is_one_line(script, options, problem, n_requests, waited, get, server, waits, part) -> None:
    with pytest.raises(UserError) as caught:
        get(*script, **options)
    assert str(caught.value).startswith(f"source mine: {server.url}: {problem}") and "\n" not in str(caught.value)
    assert (len(server.ranges), waits) == (n_requests, waited)
    assert not part.exists() or CONTENT.startswith(part.read_bytes())


@pytest.mark.parametrize("code", [500, 429])
def test_a_server_in_trouble_is_tried_again(code: int, get: Callable[..., Path], waits: list[float], capsys) -> None:
    assert get(status(code), status(code), whole, FIRST_WAIT_SECONDS=0.5).read_bytes() == CONTENT
    assert waits == [0.5, 1.0]
    out, err = capsys.readouterr()
    assert out == "" and f"expected status 200, got {code} " in err and ", next try in 0.5 s" in err
    assert re.search(r"rain\.txt\.gz: 100%.* 256k/256k .*B/s", err)


def test_no_server_is_tried_again(tmp_path: Path, waits: list[float]) -> None:
    with Server() as gone:
        url = gone.url
    with pytest.raises(UserError, match=rf"^source mine: {url}: expected an answer, got .*, tried 6 times$"):
        fetch(url, SHA256, tmp_path, name="mine")
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize("sent", [0, HALF])
def test_a_silent_server_is_tried_again(sent: int, get: Callable[..., Path], server: Server) -> None:
    over = threading.Event()

    def wait() -> Iterator[bytes]:
        over.wait(10)
        yield b""

    try:
        assert get(ranged(sent, then=wait()), whole, TIMEOUT_SECONDS=(5.0, 0.2)).read_bytes() == CONTENT
    finally:
        over.set()
    assert server.ranges == [None, f"bytes={sent}-" if sent else None]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/rain.txt", "http://[/rain.txt", "rain.txt"])
def test_only_urls_of_http_are_taken(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^source mine: {re.escape(url)}: expected a file over http or https, got .+"):
        fetch(url, SHA256, tmp_path, name="mine")


def test_a_cache_that_cannot_be_written_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=f"^source mine: {server.url}: expected a cache that can be written to at "):
        fetch(server.url, SHA256, tmp_path / "cache", name="mine")


def test_of_two_at_a_time_one_downloads(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:  # a lock belongs to an open file, so threads exclude each other as processes do
        paths = list(pool.map(lambda _: fetch(server.url, SHA256, tmp_path, name="mine"), range(3)))
    assert paths == [tmp_path / SHA256 / "rain.txt.gz"] * 3
    assert server.ranges == [None]


NAMES = [
    ("/a/b.txt?download=1&x=/c.d#e", "b.txt"),
    ("/a/", "file"),
    ("/a/%2e%2e%2fb.txt", "_b.txt"),
    ("/a/d%C3%A9j%C3%A0 vu.gz", "d_j_ vu.gz"),
    (f"/{'a' * 300}.jsonl.gz", f"{'a' * 91}.jsonl.gz"),
]


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_the_file_is_named_after_the_url(path: str, name: str) -> None:
    assert download._file_name(f"https://example.org{path}") == name


def test_the_cache_is_the_users_or_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GROUNDUP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert default_cache().name == "downloads" and "groundup" in default_cache().parts
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "set"))
    assert default_cache() == tmp_path / "set" / "downloads"
