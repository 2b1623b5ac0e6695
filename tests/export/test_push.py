"""`push` sends the files of an export and nothing else, to a server that speaks the Hub's protocol."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export.hf.folder import FILES, SKIPPED
from llm.export.push import check_repo, files_to_push

# huggingface_hub sends a large file by a deprecated argument of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "x" * 8  # too short to be one
SECRET = "hf_" + "aB3" * 11 + "x"


class Hub(ThreadingHTTPServer):
    """The part of the Hub that an upload uses, and a record of its requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}  # of the last commit
        self.objects: dict[str, bytes] = {}  # large files by their sha256
        self.created: list[dict] = []
        self.branches: list[str] = []
        self.commits: list[tuple[str, dict]] = []
        self.tokens: set[str | None] = set()
        self.requests: list[str] = []
        self.refusal: tuple[str, int, str] | None = None  # part of a path, status, message
        self.is_private = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _reply(self, content: object, status: int = 200, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refused(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.refusal is None or self.server.refusal[0] not in self.path:
            return False
        _, status, message = self.server.refusal
        self._reply({"error": message}, status, X_Error_Message=message)
        return True

    def do_GET(self) -> None:
        if not self._refused():
            self._reply({"id": "me/model", "private": self.server.is_private, "tags": [], "siblings": []})

    def do_PUT(self) -> None:
        body = self._body()
        if not self._refused():
            self.server.objects[self.path.rsplit("/", 1)[1]] = body
            self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self._refused():
            return
        hub = self.server
        hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self._reply({"url": f"{hub.address}/me/model"})
        elif self.path.startswith("/api/models/me/model/branch/"):
            hub.branches.append(self.path.rsplit("/", 1)[1])
            self._reply({})
        elif self.path == "/api/validate-yaml":
            self._reply({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            given = [file["path"] for file in json.loads(body)["files"]]
            large = (".safetensors", ".gguf", ".onnx")
            modes = {path: "lfs" if path.endswith(large) else "regular" for path in given}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self._reply({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                given | {"actions": {"upload": {"href": f"{hub.address}/objects/{given['oid']}"}}}
                for given in json.loads(body)["objects"]
            ]
            self._reply({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._reply({"error": f"{self.path} is not known here"}, 404)

    def _commit(self, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append((self.path.rsplit("/", 1)[1], value))
            elif line["key"] == "file":
                assert value["encoding"] == "base64"
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                self.server.files[value["path"]] = self.server.objects[value["oid"]]
        self._reply({"commitUrl": f"{self.server.address}/me/model/commit/abc", "commitOid": "abc"})


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """A server that takes uploads; this process has its address and a token for it."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, exported_folder) -> Path:
    """An export with a card and files for other programs, among others that are not part of it."""
    folder = tmp_path / "export"
    shutil.copytree(exported_folder, folder / "hf")
    for name in ("README.md", "gguf/Modelfile", "gguf/model-f16.gguf", "onnx/model.onnx", "hf/chat_template.jinja"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(f"---\nlicense: mit\n---\nThis is {name}.\r\n".encode())
    for name in (".env", "notes.txt", ".git/config", "scratch/state.pt", "gguf/model-f99.gguf", "hf/other.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"private")
    return folder


def _expected(folder: Path) -> dict[str, bytes]:
    of_hf = {name: (folder / "hf" / name).read_bytes() for name in (*FILES, "chat_template.jinja")}
    others = ("README.md", "gguf/Modelfile", "gguf/model-f16.gguf", "onnx/model.onnx")
    return of_hf | {name: (folder / name).read_bytes() for name in others}


def _push(*words: object) -> str:
    result = CliRunner().invoke(app, ["push", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _refused(*words: object) -> str:
    """The line of a push that is refused."""
    with pytest.raises(UserError) as caught:
        CliRunner().invoke(app, ["push", *map(str, words)], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_byte_of_the_export_is_uploaded_and_no_more(hub, folder, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "llm", "push", str(folder), "me/model", "--yes"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.files == _expected(folder)
    assert set(hub.objects) == {
        hashlib.sha256(content).hexdigest()
        for name, content in hub.files.items()
        if name.endswith((".safetensors", ".gguf", ".onnx"))
    }
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert [revision for revision, _ in hub.commits] == ["main"]
    assert done.stdout.endswith(f"{hub.address}/me/model/commit/abc\n")


def test_a_finetuned_model_is_pushed_with_its_conversion(hub, folder, exported_folder):
    assert "README.md" not in files_to_push(exported_folder)
    _push(exported_folder, "me/model", "--yes", "--converted", folder)
    assert hub.files == {name: content for name, content in _expected(folder).items() if "jinja" not in name}


def test_a_card_of_other_weights_is_refused(hub, folder):
    weights, card = folder / "hf/model.safetensors", folder / "README.md"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    card.write_text(f"# A model\n\nsha256 of `model.safetensors`: `{sha256}`\n")
    assert files_to_push(folder)["README.md"] == card
    weights.write_bytes(b"the weights of another run")
    message = _refused(folder, "me/model", "--yes")
    assert "README.md: expected the card of the weights with the sha256" in message
    assert message.count("dvc repro card") == 1
    assert hub.requests == []
    card.write_text("# A card of my own\n")
    assert "README.md" in files_to_push(folder)


def test_files_and_sizes_are_shown(hub, folder):
    lines = _push(folder, "me/model", "--yes").splitlines()
    expected = _expected(folder)
    shown = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines[: len(expected)]}
    assert shown == {name: len(content) for name, content in expected.items()}
    total = sum(map(len, expected.values()))
    assert lines[len(expected)].split(maxsplit=1) == [f"{total:,}", f"bytes to {hub.address}/me/model, branch main"]
    assert "A new repository is public" in lines[len(expected) + 1]


def test_private_branch_and_message_are_used(hub, folder):
    words = ("--private", "--revision", "v1", "--message", "the first")
    assert "A new repository is private" in _push(folder, "me/model", "--yes", *words)
    assert hub.created[0]["name"] == "model"
    assert hub.created[0]["organization"] == "me"
    assert hub.created[0].get("visibility") == "private" or hub.created[0].get("private") is True
    assert hub.branches == ["v1"]
    ((revision, header),) = hub.commits
    assert (revision, header["summary"]) == ("v1", "the first")


def test_a_public_repository_gets_no_private_upload(hub, folder):
    hub.is_private = False
    message = _refused(folder, "me/model", "--yes", "--private")
    assert message == "--private: expected a private repository, me/model exists and is public"
    assert hub.files == hub.objects == {}


def test_an_existing_repository_is_written_to(hub, folder, monkeypatch):
    hub.refusal = ("/api/repos/create", 409, "You already created this model repo")
    reply, found = _Handler._reply, {"error": "it exists", "url": f"{hub.address}/me/model"}

    def reply_with_url(self, content, status=200, **_):
        reply(self, found if status == 409 else content, status)

    monkeypatch.setattr(_Handler, "_reply", reply_with_url)
    _push(folder, "me/model", "--yes")
    assert hub.files == _expected(folder)


def test_without_a_yes_nothing_is_sent(hub, folder):
    assert _refused(folder, "me/model").startswith("--yes: ")
    assert hub.requests == []


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
def test_a_terminal_is_asked(hub, folder, monkeypatch, answer, code):
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    result = CliRunner().invoke(app, ["push", str(folder), "me/model"], input=answer, catch_exceptions=False)
    assert "Upload? [y/N]" in result.output
    assert result.exit_code == code
    assert hub.files == ({} if code else _expected(folder))


@pytest.mark.parametrize(
    ("path", "status", "message", "words"),
    [
        ("/api/", 401, "Invalid credentials", "the token is not valid: status 401, Invalid credentials"),
        ("/api/", 403, "No rights", "the token may not write there: status 403, No rights"),
        ("/commit/", 400, "A bad\nfile", "status 400"),
        ("/objects/batch", 413, "Too much", "Too much"),
        (None, 0, "", "onnect"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, folder, monkeypatch, path, status, message, words):
    if path is None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        hub.refusal = (path, status, " ".join(message.split()))
    line = _refused(folder, "me/model", "--yes")
    assert line.startswith(f"me/model: expected the Hub at {constants.ENDPOINT} to take the files, ")
    assert words in line
    assert hub.files == {}


def test_a_missing_token_is_one_line(hub, folder, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "HF_TOKEN or from `hf auth login`" in _refused(folder, "me/model", "--yes")
    assert hub.requests == []


@pytest.mark.parametrize(
    "repo", ["", "model", "me/", "/model", "me/my/model", "me/a b", "me/a--b", "me/a..b", "me/a.git", "../me", "me\n/a"]
)
def test_an_invalid_repository_is_one_line(repo):
    with pytest.raises(UserError, match="REPO: expected OWNER/NAME") as caught:
        check_repo(repo)
    assert "\n" not in str(caught.value)
    for valid in ("me/model", "My-Team/a_b.c-1", "me/git"):
        check_repo(valid)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_export_is_one_line(hub, folder, name):
    (folder / "hf" / name).unlink()
    assert name in _refused(folder, "me/model", "--yes")
    (folder / "hf" / SKIPPED).write_text('{"skipped": "the reason"}')
    assert "the reason" in _refused(folder, "me/model", "--yes")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["README.md", "hf/tokenizer_config.json", "gguf/Modelfile"])
def test_a_file_with_a_token_is_not_sent(hub, folder, name):
    (folder / name).write_text(f"export HF_TOKEN={SECRET}\n")
    line = _refused(folder, "me/model", "--yes")
    assert line.startswith(f"{folder / name}: expected a file without secrets")
    assert SECRET not in line
    assert hub.requests == []
    (folder / name).write_text("hf_hub_download(repo_id), hf_" + "a" * 29 + ", shelf_" + "a" * 40)
    files_to_push(folder)


def test_the_weights_of_a_large_graph_are_sent_too(folder):
    (folder / "onnx/model.onnx_data").write_bytes(b"weights")
    assert [*files_to_push(folder)][-2:] == ["onnx/model.onnx", "onnx/model.onnx_data"]
