"""An export to the Hugging Face Hub: a folder and OWNER/NAME in, the address of the commit out.

Only the files that an export consists of are sent, whatever else lies in the folder, and none that holds a token. No
stage comes here: what leaves this machine leaves it because somebody said so.
"""

import re
from pathlib import Path

from llm.core.errors import UserError
from llm.export import gguf, onnx
from llm.export.hf.folder import FILES
from llm.report.markdown import named_weights, weights_line

NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
CARD = "README.md"
# In the order of reading: what it is, the model, and the same for other programs.
KNOWN = (
    CARD,
    *FILES,
    "chat_template.jinja",
    *(f"gguf/{name}" for name in (*gguf.FILES.values(), gguf.MODELFILE)),
    *(f"onnx/{name}" for name in (onnx.FILE, onnx.WEIGHTS)),
)
WEIGHTS = {".safetensors", ".gguf", ".onnx", ".onnx_data"}
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
_REPO = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+(?<!\.git)")


def files_to_push(folder: Path) -> list[str]:
    """The files of an export that there are, as names inside the folder.

    UserError where it is none, has a token, or has a card that names other weights.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: wanted an export with {', '.join(NEEDED)}, there is no {missing[0]}")
    names = [name for name in KNOWN if (folder / name).is_file()]
    for name in names:
        path = folder / name
        if path.suffix not in WEIGHTS and _TOKEN.search(path.read_bytes()):
            raise UserError(f"{path}: wanted a file without secrets, it holds what looks like a token of the Hub")
    _check_card(folder)
    return names


def _check_card(folder: Path) -> None:
    """UserError where the card names other weights than there are; a card of somebody's own names none."""
    card = folder / CARD
    named = named_weights(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    if named is not None and named != (found := weights_line(folder / "model.safetensors")):
        raise UserError(
            f"{card}: expected the card of the weights beside it, {found}, got one of {named.split('`')[-2]}; "
            "dvc repro card report, or of a task dvc repro finetune@NAME, writes the card again"
        )


def check_repo(repo: str) -> None:
    """UserError for a name that no repository on the Hub has."""
    if not _REPO.fullmatch(repo):
        raise UserError(f"REPO: wanted OWNER/NAME of letters, digits, single - and ., and _, given {repo!r}")


def find_token() -> str:
    """The token in HF_TOKEN, or of `hf auth login`; UserError where there is none."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UserError("wanted a token that may write to the Hub, in HF_TOKEN or from `hf auth login`, there is none")
    return token


def plan(folder: Path, names: list[str], repo: str, *, private: bool, revision: str) -> str:
    """What would be sent, with sizes in bytes, and where to."""
    from huggingface_hub import constants

    sizes = [(folder / name).stat().st_size for name in names]
    lines = [f"{size:>15,}  {name}" for size, name in zip(sizes, names, strict=True)]
    lines.append(f"{sum(sizes):>15,}  bytes to {constants.ENDPOINT}/{repo}, branch {revision}")
    lines.append(f"The repository is {'private' if private else 'public'} if it is made now; one that exists is kept.")
    return "\n".join(lines)


def push(
    folder: Path, names: list[str], repo: str, token: str, *, private: bool, revision: str, message: str | None
) -> str:
    """Make the repository and the branch where they are missing, send the files; returns the commit's address.

    UserError in one line for what the Hub refuses, and where it is out of reach. With `private`, a repository that is
    public already is not written to.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UserError(f"--private: wanted a private repository, {repo} exists and is public")
        if revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=names, revision=revision, commit_message=message
        )
    except UserError:
        raise
    except Exception as error:  # the library raises its own errors, its HTTP library's and those of the file system
        raise UserError(f"{repo}: wanted the Hub at {api.endpoint} to take the files, {_reason(error)}") from None
    return str(commit.commit_url)


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if type(error) is RuntimeError and error.__cause__ is not None:  # which file it was; the cause says why
        return f"{_one_line(error)} {_reason(error.__cause__)}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        wanted = {401: "the token is not valid: ", 403: "the token may not write there: "}.get(status, "")
        return f"{wanted}status {status}, {_one_line(error.server_message or error)}"
    return _one_line(error)


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
