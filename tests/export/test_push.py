"""`push` sends the files of an export and nothing else, and what the Hub refuses is one line."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export.hf.folder import FILES, SKIPPED
from llm.export.push import check_repo, files_to_push

SECRET = "hf_" + "aB3" * 11 + "x"


class Hub:
    """The methods of HfApi that an upload calls, and a record of the calls."""

    endpoint = "https://hub.test"

    def __init__(self) -> None:
        self.token: str | None = None
        self.files: dict[str, bytes] = {}
        self.calls: list[tuple[str, dict]] = []
        self.is_private = True
        self.error: Exception | None = None  # of a commit

    def create_repo(self, repo: str, **options: object) -> None:
        self.calls.append((f"create {repo}", options))

    def repo_info(self, repo: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.is_private)

    def create_branch(self, repo: str, **options: object) -> None:
        self.calls.append((f"branch {repo}", options))

    def create_commit(self, repo: str, operations: list, **options: object) -> SimpleNamespace:
        if self.error:
            raise self.error
        self.calls.append((f"commit {repo}", options))
        self.files = {of.path_in_repo: Path(of.path_or_fileobj).read_bytes() for of in operations}
        return SimpleNamespace(commit_url=f"{self.endpoint}/{repo}/commit/abc")


@pytest.fixture
def hub(monkeypatch) -> Hub:
    """The Hub of this process, and a token for it."""
    fake = Hub()

    def connect(token: str) -> Hub:
        fake.token = token
        return fake

    monkeypatch.setattr(huggingface_hub, "HfApi", connect)
    monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_short")
    return fake


@pytest.fixture
def folder(tmp_path, exported_folder) -> Path:
    """An export with a card and files for other programs, among others that are not part of it."""
    folder = tmp_path / "export"
    shutil.copytree(exported_folder, folder / "hf")
    for name in ("README.md", "gguf/Modelfile", "gguf/model-f16.gguf", "onnx/model.onnx", "hf/chat_template.jinja"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(f"This is {name}.\r\n".encode())
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


def test_every_file_of_the_export_is_shown_and_uploaded(hub, folder):
    *lines, total, visibility, address = _push(folder, "me/model", "--yes").splitlines()
    expected = _expected(folder)
    assert (hub.files, hub.token) == (expected, "hf_short")
    sizes = {name: len(content) for name, content in expected.items()}
    assert {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines} == sizes
    assert total.split(maxsplit=1) == [f"{sum(sizes.values()):,}", f"bytes to {hub.endpoint}/me/model, branch main"]
    assert "A new repository is public" in visibility
    assert address == f"{hub.endpoint}/me/model/commit/abc"


def test_a_finetuned_model_is_pushed_with_its_conversion(hub, folder, exported_folder):
    assert "README.md" not in files_to_push(exported_folder)
    _push(exported_folder, "me/model", "--yes", "--converted", folder)
    assert hub.files == {name: content for name, content in _expected(folder).items() if "jinja" not in name}


def test_private_branch_and_message_are_used(hub, folder):
    words = ("--private", "--revision", "v1", "--message", "the first")
    assert "A new repository is private" in _push(folder, "me/model", "--yes", *words)
    assert hub.calls == [
        ("create me/model", {"private": True, "exist_ok": True}),
        ("branch me/model", {"branch": "v1", "exist_ok": True}),
        ("commit me/model", {"revision": "v1", "commit_message": "the first"}),
    ]
    hub.is_private, hub.files = False, {}
    message = _refused(folder, "me/model", "--yes", "--private")
    assert message == "--private: expected a private repository, me/model exists and is public"
    assert hub.files == {}


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
def test_a_terminal_is_asked(hub, folder, monkeypatch, answer, code):
    assert _refused(folder, "me/model").startswith("--yes: ")
    assert hub.calls == []
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    result = CliRunner().invoke(app, ["push", str(folder), "me/model"], input=answer, catch_exceptions=False)
    assert "Upload? [y/N]" in result.output
    assert result.exit_code == code
    assert hub.files == ({} if code else _expected(folder))


def _http_error(status: int, message: str) -> HfHubHTTPError:
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(message, response=response, server_message=message)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_http_error(401, "Invalid credentials"), "the token is not valid: status 401, Invalid credentials"),
        (_http_error(403, "No rights"), "the token may not write there: status 403, No rights"),
        (_http_error(400, "A bad\nfile"), "status 400, A bad file"),
        (ConnectionError("Connection refused"), "Connection refused"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, folder, error, words):
    hub.error = error
    line = _refused(folder, "me/model", "--yes")
    assert line == f"me/model: expected the Hub at {hub.endpoint} to take the files, {words}"


def test_a_missing_token_is_one_line(hub, folder, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "HF_TOKEN or from `hf auth login`" in _refused(folder, "me/model", "--yes")


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
    assert hub.calls == []


@pytest.mark.parametrize("name", ["README.md", "hf/tokenizer_config.json", "gguf/Modelfile"])
def test_a_file_with_a_token_is_not_sent(hub, folder, name):
    (folder / name).write_text(f"export HF_TOKEN={SECRET}\n")
    line = _refused(folder, "me/model", "--yes")
    assert line.startswith(f"{folder / name}: expected a file without secrets")
    assert SECRET not in line
    assert hub.calls == []
    (folder / name).write_text("hf_hub_download(repo_id), hf_" + "a" * 29 + ", shelf_" + "a" * 40)
    files_to_push(folder)


def test_a_card_of_other_weights_is_refused(folder):
    weights, card = folder / "hf/model.safetensors", folder / "README.md"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    card.write_text(f"# A model\n\nsha256 of `model.safetensors`: `{sha256}`\n")
    assert files_to_push(folder)["README.md"] == card
    weights.write_bytes(b"the weights of another run")
    with pytest.raises(UserError, match=f"README.md: expected the card of the weights .*{sha256}; dvc repro card"):
        files_to_push(folder)
    card.write_text("# A card of my own\n")
    (folder / "onnx/model.onnx_data").write_bytes(b"weights")
    assert [*files_to_push(folder)][-2:] == ["onnx/model.onnx", "onnx/model.onnx_data"]
