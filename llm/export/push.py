"""Upload an export to the Hugging Face Hub: a folder and OWNER/NAME in, the address of the commit out.

    models/export  hf/*  README.md  gguf/*  onnx/*  →  OWNER/NAME  *  README.md  gguf/*  onnx/*

Only the files of an export are sent, whatever else is in the folder, and none that holds a token. No stage uploads
anything: that is left to a command that a person gives.
"""

import re
from pathlib import Path

from llm.core.errors import UserError
from llm.core.outputs import file_hash
from llm.export import gguf, onnx
from llm.export.clients import hf_folder
from llm.export.hf.folder import CHAT_TEMPLATE, FILES, read_config_file

REQUIRED = ("config.json", "model.safetensors", "tokenizer.json")
CARD = "README.md"
KNOWN = (
    CARD,
    *FILES,
    CHAT_TEMPLATE,
    *(f"gguf/{name}" for name in (*gguf.FILES.values(), gguf.MODELFILE)),
    *(f"onnx/{name}" for name in (onnx.FILE, onnx.WEIGHTS)),
)
WEIGHTS = {".safetensors", ".gguf", ".onnx", ".onnx_data"}
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
_CARD_HASH = re.compile(r"^sha256 of `[^`]+`: `([0-9a-f]{64})`$", re.MULTILINE)  # the line in a card of the pipeline
_REPO = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+(?<!\.git)")


def files_to_push(folder: Path, converted: Path | None = None, card: Path | None = None) -> dict[str, Path]:
    """Return the files of an export by their names on the Hub; `converted` and `card` are those of a finetuned model.

    UserError where required files are missing, a file holds a token, or the card names other weights.
    """
    hf = hf_folder(folder)
    read_config_file(hf)
    roots = [converted or folder, folder, hf]
    files = {name: root / name for name in KNOWN for root in roots if (root / name).is_file()}
    if card is not None:
        files[CARD] = card
    for name in REQUIRED:
        if name not in files:
            raise UserError(f"{hf}: expected an export with {', '.join(REQUIRED)}, {name} is missing")
    for path in files.values():
        _check_secrets(path)
    if CARD in files:
        _check_card(files[CARD], files["model.safetensors"])
    return files


def _check_secrets(path: Path) -> None:
    if path.suffix not in WEIGHTS and _TOKEN.search(path.read_bytes()):
        raise UserError(f"{path}: expected a file without secrets, it holds what looks like a token of the Hub")


def _check_card(card: Path, weights: Path) -> None:
    named = _CARD_HASH.search(card.read_text(encoding="utf-8", errors="replace"))  # a person's card has none
    if named and named[1] != (found := file_hash(weights)):
        raise UserError(
            f"{card}: expected the card of the weights with the sha256 {found}, got one of {named[1]}; "
            "dvc repro card writes the card again"
        )


def check_repo(repo: str) -> None:
    """Raise UserError for an invalid name of a repository on the Hub."""
    if not _REPO.fullmatch(repo):
        raise UserError(f"REPO: expected OWNER/NAME of letters, digits, single - and ., and _, got {repo!r}")


def find_token() -> str:
    """Return the token in HF_TOKEN, or of `hf auth login`; UserError where none is found."""
    from huggingface_hub import get_token

    if token := get_token():
        return token
    raise UserError("expected a token that may write to the Hub, in HF_TOKEN or from `hf auth login`, found none")


def describe_upload(files: dict[str, Path], repo: str, *, private: bool, revision: str) -> str:
    """Return the files with their sizes in bytes, and the address, as a text."""
    from huggingface_hub import constants

    sizes = {name: path.stat().st_size for name, path in files.items()}
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    lines.append(f"{sum(sizes.values()):>15,}  bytes to {constants.ENDPOINT}/{repo}, branch {revision}")
    lines.append(f"A new repository is {'private' if private else 'public'}; an existing one keeps its visibility.")
    return "\n".join(lines)


def push(files: dict[str, Path], repo: str, token: str, *, private: bool, revision: str, message: str | None) -> str:
    """Create the repository and the branch where they are missing, upload the files; return the commit's address.

    UserError in one line for what the Hub refuses, and where it cannot be reached. With `private`, nothing is written
    to a repository that is public already.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UserError(f"--private: expected a private repository, {repo} exists and is public")
        if revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.create_commit(repo, operations, commit_message=message or "Upload a model", revision=revision)
    except UserError:
        raise
    except Exception as error:  # the library raises its own errors, its HTTP library's and those of the file system
        raise UserError(f"{repo}: expected the Hub at {api.endpoint} to take the files, {_reason(error)}") from None
    return str(commit.commit_url)


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    reason: object = error
    hint = ""
    if isinstance(error, HfHubHTTPError):
        status, reason = error.response.status_code, error.server_message or error
        hint = {401: "the token is not valid: ", 403: "the token may not write there: "}.get(status, "")
        hint += f"status {status}, "
    line = hint + (" ".join(str(reason).split()) or type(error).__name__)
    if type(error) is RuntimeError and error.__cause__ is not None:  # it names the file, the cause the reason
        return f"{line} {_reason(error.__cause__)}"
    return line
