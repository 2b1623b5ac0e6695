"""Files of the network, from a server on this machine that does what real ones do, the bad ones included."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.corpus import download
from llm.corpus.download import default_cache, fetch

CONTENT = bytes(range(256)) * 1000 + b"the end"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
FETCH = """
import sys
from pathlib import Path
from llm.corpus.download import fetch
print("ready", flush=True)
print(fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), name="mine"))
"""


class Request(BaseHTTPRequestHandler):
    """One request; the server's script says how it is answered, its last answer for every further one."""

    server: "Server"
    range: str | None

    def do_GET(self) -> None:
        server = self.server
        with server.guard:
            server.ranges.append(self.headers["Range"])
            answer = server.script[min(len(server.ranges), len(server.script)) - 1]
        answer(self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        with self.server.guard:  # counted first: the client may be done before the write returns
            self.server.n_sent += len(data)
        self.wfile.write(data)

    @property
    def start(self) -> int:
        return int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if self.headers["Range"] else 0

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Counts what it sends and keeps which ranges were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.guard = threading.Lock()
        self.script: list[Callable[[Request], None]] = [whole]
        self.ranges: list[str | None] = []
        self.n_sent = 0

    def url(self, path: str = "/books/rain.txt.gz") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the play."""


def ranged(n_bytes: int | None = None, content: bytes = CONTENT) -> Callable[[Request], None]:
    """What a good server does, but for hanging up after `n_bytes`."""

    def answer(request: Request) -> None:
        rest = content[request.start :]
        if not request.start:
            request.head(200, Content_Length=len(rest))
        elif rest:
            last, total = len(content) - 1, len(content)
            request.head(206, Content_Length=len(rest), Content_Range=f"bytes {request.start}-{last}/{total}")
        else:
            request.head(416, Content_Length=0, Content_Range=f"bytes */{len(content)}")
        request.body(rest[:n_bytes])

    return answer


def plain(content: bytes = CONTENT, n_bytes: int | None = None, length: int | None = None) -> Callable[[Request], None]:
    """What a server does that knows no ranges, but for a lie about the length or hanging up after `n_bytes`."""

    def answer(request: Request) -> None:
        request.head(200, Content_Length=len(content) if length is None else length)
        request.body(content[:n_bytes])

    return answer


def status(code: int, **headers: object) -> Callable[[Request], None]:
    return lambda request: request.head(code, Content_Length=0, **headers)


def redirect(place: str) -> Callable[[Request], None]:
    return status(302, Location=place)


whole = ranged()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have slept, without sleeping."""
    waits: list[float] = []
    monkeypatch.setattr(download, "sleep", waits.append)
    return waits


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def get(server: Server, tmp_path: Path, waits: list[float]) -> Callable[..., Path]:
    """Fetch the content from the server after it has been told its script."""

    def get(*script: Callable[[Request], None], **options: object) -> Path:
        server.script = list(script) or [whole]
        return fetch(server.url(), SHA256, tmp_path, **({"name": "mine"} | options))

    return get


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Where a download that was cut off has left its bytes."""
    path = tmp_path / SHA256 / "rain.txt.gz.part"
    path.parent.mkdir()
    return path


def test_a_file_comes_whole_and_lies_under_its_hash(get: Callable[..., Path], tmp_path: Path) -> None:
    path = get()
    assert path == tmp_path / SHA256 / "rain.txt.gz"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir() if not file.name.startswith(".")] == ["rain.txt.gz"]


def test_an_empty_file_is_a_file(server: Server, tmp_path: Path) -> None:
    server.script = [plain(b"")]
    assert fetch(server.url(), hashlib.sha256().hexdigest(), tmp_path, name="mine").read_bytes() == b""


def test_what_is_there_is_not_asked_for_again(get: Callable[..., Path], server: Server) -> None:
    path = get()
    assert get() == path
    assert len(server.ranges) == 1


def test_a_filled_cache_serves_without_being_written_to(get: Callable[..., Path]) -> None:
    path = get()
    (path.parent / ".lock").unlink()
    assert get() == path
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"?", b""])
def test_a_damaged_copy_is_fetched_anew(damaged: bytes, get: Callable[..., Path], server: Server) -> None:
    get().write_bytes(damaged)
    assert get().read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_damaged_copy_is_gone_even_if_no_other_comes(get: Callable[..., Path]) -> None:
    path = get()
    path.write_bytes(b"damaged")
    with pytest.raises(UserError):
        get(status(404))
    assert not path.exists()


def test_a_dropped_download_goes_on_where_it_stood(get: Callable[..., Path], server: Server) -> None:
    piece = 50_000
    assert get(*[ranged(piece)] * 4, whole).read_bytes() == CONTENT
    assert server.ranges == [None, *(f"bytes={piece * n}-" for n in (1, 2, 3, 4))]
    assert server.n_sent == len(CONTENT)


def test_drops_that_leave_more_each_time_do_not_use_up_the_tries(get: Callable[..., Path], waits: list[float]) -> None:
    assert get(*[ranged(20_000)] * 9, whole, retries=1).read_bytes() == CONTENT
    assert waits == [1.0] * 9


def test_drops_that_leave_nothing_do(get: Callable[..., Path], server: Server, waits: list[float]) -> None:
    with pytest.raises(UserError) as caught:
        get(ranged(1000), ranged(0), retries=3)
    assert str(caught.value).startswith(f"source mine: {server.url()}: expected {len(CONTENT)} bytes, got 1000 ")
    assert server.ranges == [None, *["bytes=1000-"] * 3]
    assert waits == [1.0, 2.0, 4.0]


def test_a_server_without_ranges_starts_from_zero(get: Callable[..., Path], server: Server) -> None:
    assert get(plain(n_bytes=HALF), plain()).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_server_that_always_drops_at_the_same_place_is_given_up(get: Callable[..., Path], server: Server) -> None:
    with pytest.raises(UserError, match=f"expected {len(CONTENT)} bytes, got {HALF} "):
        get(plain(n_bytes=HALF), retries=2)
    assert len(server.ranges) == 3


def test_a_chunked_body_that_breaks_off_is_asked_for_again(get: Callable[..., Path], server: Server) -> None:
    def chunked(request: Request) -> None:
        request.protocol_version = "HTTP/1.1"
        request.head(200, Transfer_Encoding="chunked", Connection="close")
        request.wfile.write(b"%x\r\n%s\r\n" % (HALF, CONTENT[:HALF]))

    assert get(chunked, whole).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_part_of_the_range_is_followed_by_the_next(get: Callable[..., Path], server: Server, part: Path) -> None:
    part.write_bytes(CONTENT[:1000])

    def some(request: Request) -> None:
        content_range = f"bytes 1000-{HALF - 1}/{len(CONTENT)}"
        request.head(206, Content_Length=HALF - 1000, Content_Range=content_range)
        request.body(CONTENT[1000:HALF])

    assert get(some, whole).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", f"bytes={HALF}-"]


def test_a_length_that_is_too_large_costs_a_request_and_no_more(get: Callable[..., Path], server: Server) -> None:
    assert get(plain(length=len(CONTENT) + 9), whole).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT)}-"]
    assert server.n_sent == len(CONTENT)


def test_a_length_that_is_too_small_cuts_the_file_and_so_its_hash(get: Callable[..., Path], part: Path) -> None:
    with pytest.raises(UserError, match=f"expected the sha256 {SHA256}, got {hashlib.sha256(CONTENT[:9]).hexdigest()}"):
        get(plain(length=9))
    assert not part.exists()


def test_without_a_length_the_hash_decides(get: Callable[..., Path], server: Server) -> None:
    def unannounced(n_bytes: int) -> Callable[[Request], None]:
        def answer(request: Request) -> None:
            request.head(200)
            request.body(CONTENT[:n_bytes])

        return answer

    assert get(unannounced(HALF), unannounced(len(CONTENT))).read_bytes() == CONTENT
    assert server.ranges == [None, None]


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429])
def test_a_server_in_trouble_is_asked_again(code: int, get: Callable[..., Path], waits: list[float]) -> None:
    assert get(status(code), status(code), whole, wait_seconds=0.5).read_bytes() == CONTENT
    assert waits == [0.5, 1.0]


def test_trouble_that_stays_is_said(get: Callable[..., Path], server: Server, waits: list[float]) -> None:
    with pytest.raises(UserError) as caught:
        get(status(503), retries=2)
    expected = f"source mine: {server.url()}: expected status 200, got 503 Service Unavailable, tried 3 times"
    assert str(caught.value) == expected
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(
    ("header", "wait"),
    [("7", 7.0), ("0", 1.0), ("999999", 120.0), ("soon", 1.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 1.0)],
)
def test_the_server_may_say_how_long_to_wait(
    header: str, wait: float, get: Callable[..., Path], waits: list[float]
) -> None:
    get(status(429, Retry_After=header), whole)
    assert waits == [wait]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 416])
def test_a_refusal_is_final(code: int, get: Callable[..., Path], server: Server, waits: list[float]) -> None:
    with pytest.raises(UserError, match=f"^source mine: {server.url()}: expected status 200, got {code} "):
        get(status(code))
    assert (len(server.ranges), waits) == (1, [])


def test_nobody_there_is_tried_again_and_said(tmp_path: Path, waits: list[float]) -> None:
    with Server() as gone:
        url = gone.url()
    with pytest.raises(UserError, match=rf"^source mine: {url}: expected an answer, got .*, tried 3 times$") as caught:
        fetch(url, SHA256, tmp_path, name="mine", retries=2)
    assert "\n" not in str(caught.value)
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("sent", [0, HALF])
def test_a_server_that_falls_silent_is_asked_again(
    sent: int, get: Callable[..., Path], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", (5.0, 0.2))
    over = threading.Event()

    def silent(request: Request) -> None:
        ranged(sent)(request) if sent else None
        request.wfile.flush()
        over.wait(10)

    try:
        assert get(silent, whole).read_bytes() == CONTENT
    finally:
        over.set()
    assert server.ranges == [None, f"bytes={sent}-" if sent else None]


def test_a_redirect_is_followed(get: Callable[..., Path], server: Server) -> None:
    path = get(redirect("/elsewhere/other-name.bin"), whole)
    assert (path.name, path.read_bytes()) == ("rain.txt.gz", CONTENT)


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/rain.txt", "data:,rain", "http://["])
def test_a_redirect_leads_nowhere_but_to_http(place: str, get: Callable[..., Path], server: Server) -> None:
    with pytest.raises(UserError, match=f"^source mine: {server.url()}: expected a file over http or https, got .+"):
        get(redirect(place))
    assert len(server.ranges) == 1


def test_a_redirect_to_itself_ends(get: Callable[..., Path], server: Server) -> None:
    with pytest.raises(UserError, match="redirects"):
        get(redirect(server.url()))


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/rain.txt", "http://[/rain.txt", "rain.txt"])
def test_no_url_but_one_of_http_is_taken(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^source mine: {re.escape(url)}: expected a file over http or https, got .+"):
        fetch(url, SHA256, tmp_path, name="mine")


def test_a_wrong_content_is_asked_for_twice_and_said(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    wrong = b"another file"
    with pytest.raises(UserError) as caught:
        get(plain(wrong))
    given = hashlib.sha256(wrong).hexdigest()
    assert str(caught.value) == f"source mine: {server.url()}: expected the sha256 {SHA256}, got {given}"
    assert server.ranges == [None, None]
    assert [file.name for file in (tmp_path / SHA256).iterdir()] == [".lock"]


def test_a_content_that_is_wrong_once_is_forgotten(get: Callable[..., Path]) -> None:
    assert get(plain(b"another file"), whole).read_bytes() == CONTENT


@pytest.mark.parametrize("n_bytes", [10, len(CONTENT), len(CONTENT) + 10])
def test_a_part_of_another_content_is_thrown_away(
    n_bytes: int, get: Callable[..., Path], server: Server, part: Path
) -> None:
    part.write_bytes(b"?" * n_bytes)
    assert get().read_bytes() == CONTENT
    assert server.ranges == [f"bytes={n_bytes}-", None]


def test_a_part_that_lacks_only_its_name_needs_no_byte_more(
    get: Callable[..., Path], server: Server, part: Path
) -> None:
    part.write_bytes(CONTENT)
    assert get().read_bytes() == CONTENT
    assert (server.ranges, server.n_sent) == ([f"bytes={len(CONTENT)}-"], 0)


@pytest.mark.parametrize("headers", [{"Content_Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}, {}])
def test_a_range_that_starts_elsewhere_is_not_taken(
    headers: dict[str, str], get: Callable[..., Path], server: Server, part: Path
) -> None:
    part.write_bytes(CONTENT[:1000])

    def elsewhere(request: Request) -> None:
        request.head(206, Content_Length=len(CONTENT), **headers)
        request.body(CONTENT)

    assert get(elsewhere, whole).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_an_endless_body_ends(get: Callable[..., Path], server: Server, part: Path) -> None:
    def endless(request: Request) -> None:
        request.head(200)
        while True:  # until the client hangs up
            request.body(b"?" * 10_000)

    with pytest.raises(UserError) as caught:
        get(endless, max_bytes=300_000)
    assert str(caught.value) == f"source mine: {server.url()}: expected at most 300000 bytes, got more"
    assert (len(server.ranges), part.exists()) == (1, False)


@pytest.mark.parametrize(("max_bytes", "allowed"), [(len(CONTENT), True), (len(CONTENT) - 1, False)])
def test_a_body_that_says_it_is_too_long_is_not_read(
    max_bytes: int, allowed: bool, get: Callable[..., Path], part: Path
) -> None:
    if allowed:
        assert get(max_bytes=max_bytes).read_bytes() == CONTENT
    else:
        with pytest.raises(UserError, match=f"expected at most {max_bytes} bytes, got {len(CONTENT)}$"):
            get(max_bytes=max_bytes)
        assert not part.exists()


def test_the_hash_is_of_the_bytes_as_they_are_sent(get: Callable[..., Path]) -> None:
    def labelled(request: Request) -> None:
        assert request.headers["Accept-Encoding"] == "identity"
        request.head(200, Content_Length=len(CONTENT), Content_Encoding="gzip")
        request.body(CONTENT)

    assert get(labelled).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(
        UserError, match=f"^source mine: {server.url()}: expected a cache that can be written to at .*, got .*cache.*"
    ) as e:
        fetch(server.url(), SHA256, tmp_path / "cache", name="mine")
    assert "\n" not in str(e.value)


def run(server: Server, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, server.url(), SHA256, str(cache)]
    environment = os.environ | {"PYTHONPATH": str(Path(download.__file__).parents[2])}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_download_is_resumed(get: Callable[..., Path], server: Server, tmp_path: Path, part: Path) -> None:
    over = threading.Event()

    def trickle(request: Request) -> None:
        request.head(200, Content_Length=len(CONTENT))
        request.wfile.write(CONTENT[:HALF])
        over.wait(30)

    server.script = [trickle]
    with run(server, tmp_path) as process:
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    over.set()
    left = part.stat().st_size
    assert 0 < left <= HALF
    server.n_sent = 0
    assert get(trickle, whole).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={left}-"]
    assert server.n_sent == len(CONTENT) - left


def test_two_processes_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    both_are_there = threading.Event()

    def late(request: Request) -> None:
        both_are_there.wait(30)
        whole(request)

    server.script = [late]
    with run(server, tmp_path) as first, run(server, tmp_path) as second:
        assert [process.stdout.readline() for process in (first, second)] == ["ready\n"] * 2
        time.sleep(0.2)  # the second is at the lock by now; if not, the test passes all the same
        both_are_there.set()
        outputs = [process.communicate(timeout=60)[0].strip() for process in (first, second)]
    assert outputs == [str(tmp_path / SHA256 / "rain.txt.gz")] * 2
    assert (server.ranges, server.n_sent) == ([None], len(CONTENT))


def test_progress_and_waits_are_told_on_stderr(get: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    get(status(503), whole)
    out, err = capsys.readouterr()
    assert out == ""
    assert "expected status 200, got 503 Service Unavailable, next try in 1 s" in err
    assert re.search(r"rain\.txt\.gz: 100%.* 256k/256k .*B/s", err)


@given(st.lists(st.text(min_size=1, max_size=200).filter(lambda text: "/" not in text), max_size=3), st.booleans())
def test_a_file_name_is_plain_whatever_the_url(parts: list[str], query: bool) -> None:
    name = download._file_name("https://example.org/" + "/".join(parts) + ("?a=/b.c" if query else ""))
    assert re.fullmatch(r"[\w -][\w .-]{0,99}", name, flags=re.ASCII)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b.jsonl.zst", "b.jsonl.zst"),
        ("/a/b.txt?download=1&x=/c.d#e", "b.txt"),
        ("/", "file"),
        ("/a/", "file"),
        ("/a/..", "file"),
        ("/a/%2e%2e%2fb.txt", "_b.txt"),
        ("/a/.hidden", "hidden"),
        (f"/{'a' * 300}.jsonl.gz", f"{'a' * 91}.jsonl.gz"),
    ],
)
def test_the_file_is_named_after_the_url(path: str, name: str, server: Server, tmp_path: Path) -> None:
    assert fetch(server.url(path), SHA256, tmp_path, name="mine") == tmp_path / SHA256 / name


def test_the_cache_is_the_users_or_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GROUNDUP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert default_cache().name == "downloads"
    assert "groundup" in default_cache().parts
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "set"))
    assert default_cache() == tmp_path / "set" / "downloads"
