"""Where documents come from: a standard library, files under one folder and nowhere else, a download, a dataset."""

import gzip
import hashlib
import subprocess
import sysconfig
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.corpus import sources
from llm.corpus.document import RawDocument, Unreadable
from llm.corpus.params import FilesSource, HuggingFaceSource, PythonSource, Source, UrlSource
from llm.corpus.sources import library_hash, list_units, read_unit, unpinned_datasets, untracked_files

RAW = Path("data/raw")


def python(*include: str) -> PythonSource:
    return PythonSource(name="python", kind="python", include=list(include))


def files(*globs: str, **options: object) -> FilesSource:
    return FilesSource(name="books", kind="files", globs=list(globs), **options)


def read(source: Source, raw: Path = RAW) -> tuple[list[RawDocument], list[Unreadable]]:
    found = [one for unit in list_units(source, raw) for one in read_unit(unit, 1_000_000)]
    return [one for one in found if isinstance(one, RawDocument)], [one for one in found if isinstance(one, Unreadable)]


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


@pytest.mark.usefixtures("library")
def test_modules_that_exclude_matches_are_left_out() -> None:
    source = python("*", "topics/a*")
    every, fewer = (
        [unit.path for unit in list_units(source.model_copy(update={"exclude": exclude}), Path())]
        for exclude in ([], ["topics/*", "zip*"])
    )
    assert fewer == [path for path in every if not path.startswith(("topics/", "zip"))] and len(fewer) < len(every) - 1
    with pytest.raises(UserError, match="source python: exclude: expected patterns that leave a module, got"):
        read(source.model_copy(update={"exclude": ["*"]}))


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


EVERY = ["a.txt", "b.txt", "deep/c.md", "deep/er/d.txt"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("data/raw", EVERY),
        ("data/raw/", EVERY),
        ("data/raw/.", EVERY),
        ("./data/raw/**", EVERY),
        ("data/raw/**/*", EVERY),
        ("data//raw/*", EVERY[:2]),
        ("./data/raw/*.txt", EVERY[:2]),
        ("data/raw/deep/../*.txt", EVERY[:2]),
        ("data/raw/deep", EVERY[2:]),
        ("data/raw/deep/", EVERY[2:]),
        ("data/raw/deep/er", EVERY[3:]),
        ("data/raw/d*/**", EVERY[2:]),
        ("{project}/data/raw", EVERY),
        ("{project}/data/raw/*.txt", EVERY[:2]),
        ("data/raw/a.txt", EVERY[:1]),
        ("data/raw/{{a,b}}.txt", EVERY[:2]),
        ("data/raw/**/*.{{md,txt}}", EVERY),
        ("data/raw/{{deep/{{c,x}}.*,a*}}", ["a.txt", "deep/c.md"]),
        ("data/raw/odd [1].txt", ["odd [1].txt"]),
        ("data/raw/odd [2]", ["odd [2]/e.txt"]),
    ],
)
def test_globs_as_people_type_them(glob: str, expected: list[str], project: Path) -> None:
    if "odd" in glob:
        (project / RAW / "odd [2]").mkdir()
        for name in ("odd [1].txt", "odd [2]/e.txt"):
            (project / RAW / name).write_text("odd")
    assert paths(files(glob.format(project=project))) == expected


OUTSIDE = "expected globs under data/raw/, got "
NONE = "expected a glob that matches a file, got "


@pytest.mark.parametrize(
    ("glob", "told"),
    [
        ("*.txt", f"{OUTSIDE}*.txt; write data/raw/*.txt"),
        ("deep/*", f"{OUTSIDE}deep/*; write data/raw/deep/*"),
        ("**/*", f"{OUTSIDE}**/*; write data/raw/**/*"),
        ("*.rst", f"{OUTSIDE}*.rst"),
        ("", OUTSIDE),
        ("data", f"{OUTSIDE}data"),
        ("/etc/*", f"{OUTSIDE}/etc/*"),
        ("data/*.txt", f"{OUTSIDE}data/*.txt"),
        ("data/rawer/*.txt", f"{OUTSIDE}data/rawer/*.txt"),
        ("data/raw/../*.txt", f"{OUTSIDE}data/raw/../*.txt"),
        ("data/raw/*.rst", f"{NONE}data/raw/*.rst"),
        ("data/raw/missing.txt", f"{NONE}data/raw/missing.txt"),
        ("data/raw//etc/*", f"{NONE}data/raw//etc/*"),
        ("data/raw/d*", f"{NONE}data/raw/d*, which matches folders; for the files in them write data/raw/d*/**/*"),
        ("data/raw/.git/*", f"{NONE}data/raw/.git/*, whose files are hidden"),
        (
            "data/raw/**.txt",
            "expected ** as the whole name of a folder, got data/raw/**.txt; write data/raw/**/*.txt",
        ),
    ],
)
def test_a_glob_that_cannot_be_right_is_refused_with_one_that_is(glob: str, told: str, project: Path) -> None:
    (project / RAW / ".git").mkdir()
    (project / RAW / ".git" / "config").write_text("[remote]")
    assert refusal(files("data/raw/*.txt", glob)) == f"source books: {told}"


def test_hidden_files_and_those_of_version_control_and_caches_are_left_out_and_named(project: Path) -> None:
    hidden = [
        ".env",
        ".git/config",
        ".git/objects/ab",
        "CVS/Root",
        "deep/.svn/entries",
        "deep/Thumbs.db",
        "deep/__pycache__/c.pyc",
    ]
    for name in hidden:
        (project / RAW / name).parent.mkdir(parents=True, exist_ok=True)
        (project / RAW / name).write_text("url = https://user:token@example.org")
    documents, unreadable = read(files("data/raw/**/*"))
    assert [document.path for document in documents] == EVERY
    assert [(one.path, one.reason, one.n_bytes) for one in unreadable] == [(name, "hidden", 36) for name in hidden]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("koi8-r", {"a.txt": "да", "b.txt": "да", "deep/c.md": "да"}),
        ({"data/raw/*": "koi8-r", "data/raw/b.txt": "cp1251", "data/raw/**": "cp866"}, {"a.txt": "да", "b.txt": "да"}),
        ({"data/raw/b.txt": "cp1251", "data/raw/**": "koi8-r"}, {"a.txt": "да", "b.txt": "ДБ", "deep/c.md": "да"}),
    ],
)
def test_an_encoding_is_named_for_all_files_or_by_glob_where_the_first_one_counts(
    encoding: str | dict[str, str], expected: dict[str, str], project: Path
) -> None:
    for name in ("a.txt", "b.txt", "deep/c.md"):
        (project / RAW / name).write_bytes("да".encode("koi8-r"))
    documents, _ = read(files("data/raw", encoding=encoding))
    assert expected.items() <= {document.path: document.text for document in documents}.items()


@pytest.mark.usefixtures("project")
def test_an_encoding_for_files_that_the_source_has_not_is_refused() -> None:
    source = files("data/raw/*.txt", encoding={"data/raw/deep/*": "koi8-r"})
    told = "encoding: expected a glob that matches a file of the source, got data/raw/deep/*"
    assert refusal(source) == f"source books: {told}"


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


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["link", "deep/link"])
@pytest.mark.parametrize(
    "glob", ["data/raw", "data/raw/**/*.txt", "data/raw/{name}", "data/raw/{name}/*", "data/raw/{name}/**"]
)
def test_a_linked_folder_which_dvc_does_not_follow_is_named(glob: str, name: str, inside: bool, project: Path) -> None:
    target = project / RAW if inside else project / "elsewhere"
    target.mkdir(exist_ok=True)
    (target / "f.txt").write_text("f")
    (project / RAW / name).symlink_to(target, target_is_directory=True)
    documents, unreadable = read(files("data/raw/a.txt", glob.format(name=name)))
    assert not any(name in document.path for document in documents)
    assert [(one.path, one.reason) for one in unreadable] == [(name, "linked_folder")]
    assert unreadable[0].problem == "expected files, got a linked folder, whose changes DVC does not see; copy it here"


def test_a_linked_folder_that_is_hidden_or_not_asked_for_is_no_matter(project: Path) -> None:
    for name in (".venv", "link"):
        (project / RAW / name).symlink_to(project / RAW / "deep", target_is_directory=True)
    assert [one.reason for one in read(files("data/raw/*"))[1]] == []
    assert sorted((one.path, one.reason) for one in read(files("data/raw"))[1]) == [
        (".venv", "hidden"),
        ("link", "linked_folder"),
    ]


def test_raw_may_be_a_link_itself(project: Path) -> None:
    (project / RAW).rename(project / "disk")
    (project / RAW).symlink_to(project / "disk", target_is_directory=True)
    assert paths(files("data/raw")) == paths(files("data/raw/**/*")) == EVERY


def test_a_link_to_nothing_is_named(project: Path) -> None:
    (project / RAW / "gone.txt").symlink_to(project / RAW / "nothing.txt")
    _, unreadable = read(files("data/raw"))
    assert [(one.path, one.reason) for one in unreadable] == [("gone.txt", "unreadable")]


def test_a_folder_without_permission_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "er")  # root may enter everything
    _, unreadable = read(files("data/raw"))
    assert [(one.path, one.reason) for one in unreadable] == [("deep/er", "unreadable")]


@pytest.mark.parametrize("place", ["elsewhere", "/tmp", "."])  # noqa: S108 (refused, never written to)
def test_a_local_dataset_that_dvc_does_not_watch_is_refused(place: str, project: Path) -> None:
    (project / "elsewhere").mkdir()
    told = refusal(HuggingFaceSource(name="hub", kind="huggingface", dataset=place))
    expected = "source hub: dataset: expected a name on the Hub or a folder under data/raw/, which DVC watches, "
    assert told == f"{expected}got {place}; copy it there"


def test_a_local_dataset_in_the_folder_is_taken_unless_it_has_links(project: Path) -> None:
    source = HuggingFaceSource(name="hub", kind="huggingface", dataset="data/raw/deep")
    assert [unit.source for unit in list_units(source, RAW)] == [source]
    (project / RAW / "deep" / "link").symlink_to(project, target_is_directory=True)
    assert "watches without links, got data/raw/deep/link; copy it there" in refusal(source)


@pytest.mark.usefixtures("project")
def test_a_dataset_of_the_hub_without_a_revision_may_change_without_notice() -> None:
    sources = [
        HuggingFaceSource(name="one", kind="huggingface", dataset="some/where"),
        HuggingFaceSource(name="two", kind="huggingface", dataset="some/where", revision="a" * 40),
        HuggingFaceSource(name="three", kind="huggingface", dataset="data/raw/deep"),
        files("data/raw"),
    ]
    assert unpinned_datasets(sources) == ["source one: some/where"]


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
    told = "source books: expected files under data/raw/, got data/raw/link.txt, a link out of it"
    assert refusal(files("data/raw/*.txt")) == told


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
