"""`push` sends the files of an export and nothing else, and what the Hub refuses is one line."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export.hf.folder import FILES, SKIPPED
from llm.export.push import files_to_push

SECRET = "hf_" + "aB3" * 11 + "x"


class Hub:
    """What the library's API is called with; a commit may be refused."""

    endpoint = "https://hub"

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.is_private = True
        self.refusal: Exception | None = None

    def create_repo(self, repo, *, private, exist_ok):
        self.calls += [f"create {repo} {'private' if private else 'public'}"] * exist_ok
        return SimpleNamespace(repo_id=repo)

    def repo_info(self, repo):
        return SimpleNamespace(private=self.is_private)

    def create_branch(self, repo, *, branch, exist_ok):
        self.calls += [f"branch {branch}"] * exist_ok

    def create_commit(self, repo, operations, *, commit_message, revision):
        if self.refusal:
            raise self.refusal
        self.files = {operation.path_in_repo: Path(operation.path_or_fileobj).read_bytes() for operation in operations}
        self.calls.append(f"commit {revision} {commit_message}")
        return SimpleNamespace(commit_url=f"{self.endpoint}/{repo}/commit/abc")


@pytest.fixture
def hub(monkeypatch):
    """A Hub that takes the place of the library's, and a token for it."""
    own = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: own)
    monkeypatch.setattr(constants, "ENDPOINT", own.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_short")
    return own


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
    assert (hub.files, hub.calls) == (expected, ["create me/model public", "commit main Upload a model"])
    sizes = {name: len(content) for name, content in expected.items()}
    assert {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines} == sizes
    assert total.split(maxsplit=1) == [f"{sum(sizes.values()):,}", f"bytes to {hub.endpoint}/me/model, branch main"]
    assert "A new repository is public" in visibility
    assert address == f"{hub.endpoint}/me/model/commit/abc"
    _push(folder / "hf", "me/model", "--yes", "--converted", folder, "--card", folder / "README.md")
    assert hub.files == expected  # of a finetuned model, whose conversion and card are elsewhere


def test_private_branch_and_message_are_used(hub, folder):
    words = ("--private", "--revision", "v1", "--message", "the first")
    assert "A new repository is private" in _push(folder, "me/model", "--yes", *words)
    assert hub.calls == ["create me/model private", "branch v1", "commit v1 the first"]
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


def test_what_the_hub_refuses_is_one_line(hub, folder, tmp_path, monkeypatch):
    upload = RuntimeError("Error while uploading model.onnx")
    upload.__cause__ = OSError("A bad\nfile")
    for hub.refusal, words in (upload, f"{upload} A bad file"), (ValueError("No rights"), "No rights"):
        assert _refused(folder, "me/model", "--yes").endswith(
            f"expected the Hub at https://hub to take the files, {words}"
        )
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "HF_TOKEN or from `hf auth login`" in _refused(folder, "me/model", "--yes")


@pytest.mark.parametrize("repo", ["", "/model", "me/my/model", "me/a b", "me/a--b", "me/a.git", "../me"])
def test_an_invalid_repository_is_refused_by_the_library(folder, monkeypatch, repo):
    monkeypatch.setenv("HF_TOKEN", "hf_short")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # which is not reached
    assert "epo" in _refused(folder, repo, "--yes").split("take the files, ")[1]


def test_an_incomplete_export_is_one_line(hub, folder):
    (folder / "hf/tokenizer.json").unlink()
    assert "tokenizer.json" in _refused(folder, "me/model", "--yes")
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
