"""Sources: a standard library, files under one folder and nowhere else, a download, a dataset."""

import hashlib
import subprocess
import sysconfig
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.corpus import sources
from llm.corpus.document import Document
from llm.corpus.params import FilesSource, HuggingFaceSource, PythonSource, Source, UrlSource
from llm.corpus.sources import library_hash, list_units, read_unit, unpinned_datasets, untracked_files

RAW = Path("data/raw")


def python(*include: str) -> PythonSource:
    return PythonSource(name="python", kind="python", include=list(include))


def files(*globs: str, **options: object) -> FilesSource:
    return FilesSource(name="books", kind="files", globs=list(globs), **options)


def read(source: Source, raw: Path = RAW) -> tuple[list[Document], list[Document]]:
    found = [one for unit in list_units(source, raw) for one in read_unit(unit, 1_000_000)]
    return [one for one in found if not one.reason], [one for one in found if not one.readable]


def paths(source: Source) -> list[str]:
    return [document.path for document in read(source)[0]]


def refusal(source: Source) -> str:
    with pytest.raises(UserError) as error:
        read(source)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library in place of the interpreter's."""
    skipped = ["test/test_zip.py", "json/tests/test_decoder.py", "site-packages/other.py", "__pycache__/cached.py"]
    contents = dict.fromkeys([*skipped, "_sysconfigdata__linux.py", "notes.txt"], b"")
    contents |= {"zip.py": b"z = 1\n", "json/__init__.py": b"import json\n", "json/decoder.py": "# é\n".encode()}
    contents |= {"latin.py": b"# coding: latin-1\n# \xe9\n", "broken.py": b"# \xe9\n"}
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


MODULES = [
    (["*"], ["topics/*"], ["json/__init__.py", "json/decoder.py", "latin.py", "zip.py"]),
    (["z*", "*/decoder.py"], [], ["json/decoder.py", "zip.py"]),
    (["topics/assert"], [], ["topics/assert"]),
]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("include", "exclude", "expected"), MODULES)
def test_patterns_choose_modules(include: list[str], exclude: list[str], expected: list[str]) -> None:
    assert paths(python(*include).model_copy(update={"exclude": exclude})) == expected


@pytest.mark.usefixtures("library")
def test_patterns_that_leave_no_module_are_refused() -> None:
    assert refusal(python("jsno/*")) == "source python: no module of the standard library matches ['jsno/*']"
    told = refusal(python("*").model_copy(update={"exclude": ["*"]}))
    assert told.startswith("source python: exclude: expected patterns that leave a module, got")


@pytest.mark.usefixtures("library")
def test_a_module_is_read_in_its_encoding() -> None:
    documents, unreadable = read(python("latin.py", "broken.py", "json/decoder.py"))
    assert [document.text for document in documents] == ["# é\n", "# coding: latin-1\n# é\n"]
    assert [(one.path, one.reason, one.n_bytes) for one in unreadable] == [("broken.py", "not_decodable", 4)]


def test_the_hash_of_the_library_changes_with_a_module(library: Path) -> None:
    before = library_hash()
    (library / "test" / "test_zip.py").write_text("assert True\n")
    assert library_hash() == before
    (library / "zip.py").rename(library / "zap.py")
    assert library_hash() != before


EVERY = ["a.txt", "b.txt", "deep/c.md", "deep/er/d.txt"]


GLOBS = [
    ("data/raw", EVERY),
    ("./data/raw/**", EVERY),
    ("data/raw/d*/**", EVERY[2:]),
    ("{project}/data/raw/*.txt", EVERY[:2]),
    ("data/raw/a.txt", EVERY[:1]),
    ("data/raw/**/*.[mt]*", EVERY),
    ("data/raw/odd [1].txt", ["odd [1].txt"]),
    ("data/raw/odd [2]", ["odd [2]/e"]),
]


@pytest.mark.parametrize(("glob", "expected"), GLOBS)
def test_globs_find_files(glob: str, expected: list[str], project: Path) -> None:
    if "odd" in glob:
        (project / RAW / "odd [2]").mkdir()
        for name in ("odd [1].txt", "odd [2]/e"):
            (project / RAW / name).write_text("odd")
    source = files(glob.format(project=project), f"data/raw/{expected[0]}")  # once each, whatever finds them
    documents, unreadable = read(source)
    assert [document.path for document in documents] == expected
    assert ({document.source for document in documents}, unreadable) == ({"books"}, [])


OUTSIDE = "expected globs under data/raw/, got "
NONE = "expected a glob that matches a visible file, such as data/raw/**/*, got "


WRONG_GLOBS = [
    ("*.txt", f"{OUTSIDE}*.txt"),
    ("", OUTSIDE),
    ("/etc/*", f"{OUTSIDE}/etc/*"),
    ("data/raw/../*.txt", f"{OUTSIDE}data/raw/../*.txt"),
    ("data/raw/d*", f"{NONE}data/raw/d*"),
    ("data/raw/.git/*", f"{NONE}data/raw/.git/*"),
    ("data/raw/**.txt", "expected ** as the whole name of a folder, got data/raw/**.txt; write **/ before the name"),
    ("data/raw/out.txt", "expected files under data/raw/, got data/raw/out.txt, a link out of it"),
]


@pytest.mark.parametrize(("glob", "told"), WRONG_GLOBS)
def test_a_wrong_glob_is_refused(glob: str, told: str, project: Path) -> None:
    (project / RAW / ".git").mkdir()
    (project / RAW / ".git" / "config").write_text("[remote]")
    (project / "secret.txt").write_text("secret")
    (project / RAW / "out.txt").symlink_to(project / "secret.txt")
    assert refusal(files("data/raw/a*.txt", glob)) == f"source books: {told}"


HIDDEN = [".env", ".git/config", ".git/objects/ab", "CVS/Root", "deep/.svn/entries", "deep/Thumbs.db"]


def test_special_files_are_reported_or_left_out(project: Path) -> None:
    for name in [*HIDDEN, "a.txt.dvc", ".gitignore", ".gitkeep"]:
        (project / RAW / name).parent.mkdir(parents=True, exist_ok=True)
        (project / RAW / name).write_text("url = https://user:token@example.org")
    (project / RAW / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xd8\xe7")
    (project / RAW / "gone.txt").symlink_to(project / RAW / "nothing.txt")
    (project / RAW / "again.txt").symlink_to(project / RAW / "a.txt")
    documents, unreadable = read(files("data/raw/**/*"))
    assert [document.path for document in documents] == ["a.txt", "again.txt", *EVERY[1:]]
    assert [(one.path, one.reason, one.n_bytes) for one in unreadable] == [
        *((name, "hidden", 36) for name in HIDDEN),
        ("gone.txt", "unreadable", 0),
        ("picture.png", "not_text", 19),
    ]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("koi8-r", {"a.txt": "да", "b.txt": "да", "deep/c.md": "да"}),
        ({"data/raw/*": "koi8-r", "data/raw/b.txt": "cp1251", "data/raw/**": "cp866"}, {"a.txt": "да", "b.txt": "да"}),
        ({"data/raw/b.txt": "cp1251", "data/raw/**": "koi8-r"}, {"a.txt": "да", "b.txt": "ДБ", "deep/c.md": "да"}),
    ],
)
def test_the_first_glob_names_the_encoding(encoding: str | dict, expected: dict[str, str], project: Path) -> None:
    for name in ("a.txt", "b.txt", "deep/c.md"):
        (project / RAW / name).write_bytes("да".encode("koi8-r"))
    documents, _ = read(files("data/raw", encoding=encoding))
    assert expected.items() <= {document.path: document.text for document in documents}.items()
    told = refusal(files("data/raw/*.txt", encoding={"data/raw/deep/*": "koi8-r"}))
    assert told == "source books: encoding: expected a glob that matches a file of the source, got data/raw/deep/*"


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["link", "deep/link"])
@pytest.mark.parametrize("glob", ["data/raw", "data/raw/**/*.txt", "data/raw/{}/*"])
def test_a_linked_folder_is_reported(glob: str, name: str, inside: bool, project: Path) -> None:
    target = project / RAW if inside else project / "elsewhere"
    target.mkdir(exist_ok=True)
    (target / "f.txt").write_text("f")
    (project / RAW / name).symlink_to(target, target_is_directory=True)
    documents, unreadable = read(files("data/raw/a.txt", glob.format(name)))
    assert not any(name in document.path for document in documents)
    assert [(one.path, one.reason) for one in unreadable] == [(name, "linked_folder")]


def test_folders_that_are_not_entered(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".venv", "link"):
        (project / RAW / name).symlink_to(project / RAW / "deep", target_is_directory=True)
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "er")  # root may enter everything
    assert read(files("data/raw/*"))[1] == []
    assert sorted((one.path, one.reason) for one in read(files("data/raw"))[1]) == [
        (".venv", "hidden"),
        ("deep/er", "unreadable"),
        ("link", "linked_folder"),
    ]


def test_raw_may_be_a_link_itself(project: Path) -> None:
    (project / RAW).rename(project / "disk")
    (project / RAW).symlink_to(project / "disk", target_is_directory=True)
    assert paths(files("data/raw")) == paths(files("data/raw/**/*")) == EVERY


def hub(dataset: str, **options: str) -> HuggingFaceSource:
    return HuggingFaceSource(name="hub", kind="huggingface", dataset=dataset, **options)


def test_a_local_dataset_is_under_raw_without_links(project: Path) -> None:
    (project / "elsewhere").mkdir()
    expected = "source hub: dataset: expected a name on the Hub or a folder under data/raw/"
    assert refusal(hub("elsewhere")) == f"{expected}, got elsewhere; copy it there"
    assert [unit.source for unit in list_units(hub("data/raw/deep"), RAW)] == [hub("data/raw/deep")]
    (project / RAW / "deep" / "link").symlink_to(project, target_is_directory=True)
    assert refusal(hub("data/raw/deep")) == f"{expected} without links, got data/raw/deep/link; copy it there"


@pytest.mark.usefixtures("project")
def test_a_dataset_of_the_hub_needs_a_revision() -> None:
    given = [hub("some/where"), hub("some/where", revision="a" * 40), hub("data/raw/deep"), files("data/raw")]
    assert unpinned_datasets(given) == ["source hub: some/where"]


def test_downloads_and_datasets_are_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'{"text": "one"}\n{"text": "two"}\n'
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path))
    kept = tmp_path / "downloads" / sha256 / "rows.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content)  # in the cache already: no request is made
    documents, _ = read(UrlSource(name="web", kind="url", url="http://127.0.0.1:9/rows.jsonl", sha256=sha256))
    assert documents == [Document("web", "rows.jsonl:1", "one"), Document("web", "rows.jsonl:2", "two")]
    row = Document("hub", "train:1", "a row")
    monkeypatch.setattr(sources, "read_dataset", lambda given, limit: iter([row] if given == hub("a/b") else []))
    assert read(hub("a/b")) == ([row], [])


def test_a_file_is_untracked_without_git_and_dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = list_units(files("data/raw/**/*"), RAW)
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    assert untracked_files(units, RAW) == [RAW / name for name in EVERY]
    subprocess.run(["git", "add", "data/raw/a.txt"], cwd=project, check=True)
    (project / RAW / "b.txt.dvc").touch()
    assert untracked_files(units, RAW) == [RAW / name for name in EVERY[2:]]
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", "nowhere")
        assert untracked_files(units, RAW) == []
    (project / RAW / "deep.dvc").touch()
    assert untracked_files(units, RAW) == []
