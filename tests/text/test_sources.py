"""Where documents come from: a standard library, files under one folder and nowhere else, a download, a dataset."""

import gzip
import hashlib
import subprocess
import sysconfig
from pathlib import Path

import pytest

from llm.errors import UserError
from llm.text import sources
from llm.text.params import FilesSource, HuggingFaceSource, PythonSource, Source, UrlSource
from llm.text.raw import RawDocument, Unreadable
from llm.text.sources import library_hash, list_units, read_unit, untracked_files

RAW = Path("data/raw")


def python(*include: str) -> PythonSource:
    return PythonSource(name="python", kind="python", include=list(include))


def files(*globs: str) -> FilesSource:
    return FilesSource(name="books", kind="files", globs=list(globs))


def read(source: Source, raw: Path = RAW) -> tuple[list[RawDocument], list[Unreadable]]:
    found = [one for unit in list_units(source, raw) for one in read_unit(unit, 1_000_000)]
    return [one for one in found if isinstance(one, RawDocument)], [one for one in found if isinstance(one, Unreadable)]


def paths(source: Source) -> list[str]:
    return [document.path for document in read(source)[0]]


def refusal(source: FilesSource) -> str:
    with pytest.raises(UserError) as error:
        read(source)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library in place of the interpreter's."""
    contents = {
        "zip.py": b"z = 1\n",
        "json/__init__.py": b"import json\n",
        "json/decoder.py": "# é\n".encode(),
        "latin.py": b"# coding: latin-1\n# \xe9\n",
        "broken.py": b"# \xe9\n",
        "test/test_zip.py": b"",
        "json/tests/test_decoder.py": b"",
        "site-packages/other.py": b"",
        "__pycache__/cached.py": b"",
        "_sysconfigdata__linux.py": b"",
        "notes.txt": b"no module",
    }
    for name, content in contents.items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "library"))
    return tmp_path / "library"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with texts under data/raw."""
    for name in ("b.txt", "a.txt", "deep/c.md", "deep/er/d.txt"):
        path = tmp_path / RAW / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("library")
def test_the_modules_of_the_library_come_in_their_order_without_tests_and_what_the_machine_added() -> None:
    assert [path for path in paths(python("*")) if not path.startswith("topics/")] == [
        "json/__init__.py",
        "json/decoder.py",
        "latin.py",
        "zip.py",
    ]


@pytest.mark.usefixtures("library")
def test_a_pattern_chooses_modules() -> None:
    assert paths(python("json/*")) == ["json/__init__.py", "json/decoder.py"]
    assert paths(python("z*", "*/decoder.py")) == ["json/decoder.py", "zip.py"]


@pytest.mark.usefixtures("library")
def test_a_module_is_read_in_the_encoding_that_it_names_and_skipped_where_it_breaks_it() -> None:
    documents, unreadable = read(python("latin.py", "broken.py", "json/decoder.py"))
    assert [document.text for document in documents] == ["# é\n", "# coding: latin-1\n# é\n"]
    assert [(one.path, one.reason, one.n_bytes) for one in unreadable] == [("broken.py", "not_decodable", 4)]


def test_the_language_reference_comes_as_topics() -> None:
    (document,), unreadable = read(python("topics/assert"))
    assert document.path == "topics/assert" and "assert" in document.text
    assert not unreadable


@pytest.mark.usefixtures("library")
def test_patterns_that_match_no_module_are_refused() -> None:
    with pytest.raises(UserError, match="source python: no module of the standard library matches"):
        read(python("jsno/*"))


def test_the_hash_of_the_library_changes_with_a_module_and_with_no_test(library: Path) -> None:
    before = library_hash()
    (library / "test" / "test_zip.py").write_text("assert True\n")
    assert library_hash() == before
    (library / "zip.py").write_text("z = 2\n")
    changed = library_hash()
    (library / "zip.py").rename(library / "zap.py")
    assert len({before, changed, library_hash()}) == 3


@pytest.mark.usefixtures("project")
def test_files_come_once_each_and_in_their_order() -> None:
    documents, unreadable = read(files("data/raw/b.txt", "data/raw/*.txt", "data/raw/deep/**/*"))
    assert [(document.path, document.text) for document in documents] == [
        ("a.txt", "text of a.txt"),
        ("b.txt", "text of b.txt"),
        ("deep/c.md", "text of deep/c.md"),
        ("deep/er/d.txt", "text of deep/er/d.txt"),
    ]
    assert {document.source for document in documents} == {"books"}
    assert not unreadable


@pytest.mark.parametrize(
    "glob", ["*.txt", "/etc/*", "data/*.txt", "data/rawer/*.txt", "data/raw/../*.txt", "./data/raw/*.txt"]
)
@pytest.mark.usefixtures("project")
def test_a_glob_outside_the_folder_is_refused(glob: str) -> None:
    assert refusal(files("data/raw/*.txt", glob)) == f"source books: wanted globs under data/raw/, given {glob}"


@pytest.mark.parametrize(
    "glob", ["data/raw/*.rst", "data/raw/missing.txt", "data/raw/", "data/raw/.", "data/raw//etc/*", "data/raw/**x"]
)
@pytest.mark.usefixtures("project")
def test_a_glob_that_matches_no_file_is_refused(glob: str) -> None:
    assert refusal(files(glob)) == f"source books: wanted a glob that matches a file, given {glob}"


def test_any_text_whatever_its_name_is_read(project: Path) -> None:
    (project / RAW / "notes.rst").write_text("rst")
    (project / RAW / "Makefile").write_text("all:")
    assert paths(files("data/raw/*")) == ["Makefile", "a.txt", "b.txt", "notes.rst"]


def test_what_git_and_dvc_keep_beside_the_texts_is_no_text_of_the_user(project: Path) -> None:
    for name in (".gitignore", ".gitkeep", "a.txt.dvc"):
        (project / RAW / name).write_text("a.txt\n")
    assert paths(files("data/raw/*")) == ["a.txt", "b.txt"]


def test_a_file_that_is_no_text_is_named(project: Path) -> None:
    (project / RAW / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xd8\xe7")
    documents, unreadable = read(files("data/raw/*"))
    assert [document.path for document in documents] == ["a.txt", "b.txt"]
    assert [(one.path, one.reason) for one in unreadable] == [("picture.png", "not_text")]


def test_a_unit_says_how_many_bytes_to_expect_where_it_can(project: Path) -> None:
    (project / RAW / "c.txt.gz").write_bytes(gzip.compress(b"text"))
    sizes = {unit.path: unit.n_bytes() for unit in list_units(files("data/raw/*"), RAW)}
    assert sizes == {"a.txt": 13, "b.txt": 13, "c.txt.gz": None}


@pytest.mark.parametrize("name", ["loop", "deep/loop"])
def test_a_loop_of_linked_folders_ends(name: str, project: Path) -> None:
    (project / RAW / name).symlink_to(project / RAW, target_is_directory=True)
    assert paths(files("data/raw/**/*.txt")) == ["a.txt", "b.txt", "deep/er/d.txt"]


def test_a_download_is_read_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'{"text": "one"}\n{"text": "two"}\n'
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path))
    kept = tmp_path / "downloads" / sha256 / "rows.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content)  # In the cache already: nothing is asked of the network.
    source = UrlSource(name="web", kind="url", url="http://127.0.0.1:9/rows.jsonl", sha256=sha256)
    documents, _ = read(source)
    assert documents == [RawDocument("web", "rows.jsonl:1", "one"), RawDocument("web", "rows.jsonl:2", "two")]


def test_a_dataset_is_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    source = HuggingFaceSource(name="hub", kind="huggingface", dataset="some/where")
    row = RawDocument("hub", "train:1", "a row")
    monkeypatch.setattr(sources, "read_dataset", lambda given, limit: iter([row] if given == source else []))
    assert read(source) == ([row], [])


def test_a_link_out_of_the_folder_is_refused(project: Path) -> None:
    (project / "secret.txt").write_text("secret")
    (project / RAW / "link.txt").symlink_to(project / "secret.txt")
    assert "data/raw/link.txt is a link out of it" in refusal(files("data/raw/*.txt"))


def test_a_linked_folder_is_no_way_out_either(project: Path) -> None:
    (project / "elsewhere").mkdir()
    (project / "elsewhere" / "secret.txt").write_text("secret")
    (project / RAW / "linked").symlink_to(project / "elsewhere")
    assert "is a link out of it" in refusal(files("data/raw/linked/*.txt"))


def test_a_link_within_the_folder_is_read(project: Path) -> None:
    (project / RAW / "again.txt").symlink_to(project / RAW / "a.txt")
    assert paths(files("data/raw/again.txt")) == ["again.txt"]


def test_a_file_is_untracked_until_git_or_dvc_knows_it_or_its_folder(project: Path) -> None:
    units = list_units(files("data/raw/**/*"), RAW)
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    names = ["a.txt", "b.txt", "deep/c.md", "deep/er/d.txt"]
    assert untracked_files(units, RAW) == [RAW / name for name in names]
    subprocess.run(["git", "add", "data/raw/a.txt"], cwd=project, check=True)
    (project / RAW / "b.txt.dvc").touch()
    assert untracked_files(units, RAW) == [RAW / name for name in names[2:]]
    (project / RAW / "deep.dvc").touch()
    assert untracked_files(units, RAW) == []


@pytest.mark.usefixtures("project")
def test_where_there_is_no_git_nothing_is_untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "nowhere")
    assert untracked_files(list_units(files("data/raw/*.txt"), RAW), RAW) == []
