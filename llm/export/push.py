"""Upload an export to the Hugging Face Hub: a folder and OWNER/NAME in, the address of the commit out.

    models/export  hf/*  README.md  gguf/*  onnx/*  →  OWNER/NAME  *  README.md  gguf/*  onnx/*

Only the files of an export are sent, whatever else is in the folder, and none that holds a token.
"""

import re
from pathlib import Path

from llm.core.errors import UserError
from llm.core.outputs import file_hash
from llm.export import gguf, onnx
from llm.export.convert import hf_folder
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
    if missing := [name for name in REQUIRED if name not in files]:
        raise UserError(f"{hf}: expected an export with {', '.join(REQUIRED)}, {missing[0]} is missing")
    _check_contents(files)
    return files


def _check_contents(files: dict[str, Path]) -> None:
    for path in files.values():
        if path.suffix not in WEIGHTS and _TOKEN.search(path.read_bytes()):
            raise UserError(f"{path}: expected a file without secrets, it holds what looks like a token of the Hub")
    text = files[CARD].read_text(encoding="utf-8", errors="replace") if CARD in files else ""
    named = _CARD_HASH.search(text)  # a person's card has none
    if named and named[1] != (found := file_hash(files["model.safetensors"])):
        expected = f"expected the card of the weights with the sha256 {found}, got one of {named[1]}"
        raise UserError(f"{files[CARD]}: {expected}; dvc repro card writes the card again")


def describe_upload(files: dict[str, Path], repo: str, *, private: bool, revision: str) -> str:
    """Return the files with their sizes in bytes, and the address, as a text."""
    from huggingface_hub import constants

    sizes = {name: path.stat().st_size for name, path in files.items()}
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    lines.append(f"{sum(sizes.values()):>15,}  bytes to {constants.ENDPOINT}/{repo}, branch {revision}")
    lines.append(f"A new repository is {'private' if private else 'public'}; an existing one keeps its visibility.")
    return "\n".join(lines)


def push(files: dict[str, Path], repo: str, *, private: bool, revision: str, message: str | None) -> str:
    """Create the repository and the branch where they are missing, upload the files; return the commit's address.

    UserError for what the Hub refuses, and before anything is written to a public repository with `private`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError("expected a token that may write to the Hub, in HF_TOKEN or from `hf auth login`, found none")
    api = HfApi()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    try:
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
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


def _reason(error: Exception) -> str:
    cause = error.__cause__ if type(error) is RuntimeError else None  # the error names the file, its cause the reason
    return " ".join(f"{error} {cause or ''}".split()) or type(error).__name__
