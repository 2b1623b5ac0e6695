"""Documentation out of source code: the same text from the same files, whatever the interpreter."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.corpus.docstrings import Entry, module_text, package_files, split_entries
from llm.corpus.document import RawDocument, Unreadable
from llm.corpus.params import DocstringsSource
from llm.corpus.sources import list_units, read_unit

MODULE = '''\
"""Tools of the demo.

They are small.
"""

def plain(a, b=2, *args, key=None, **rest) -> dict[str, int]:
    r"""Return a \\ and b.


    Two empty lines become one.
    """

def bare(): return 1

class Shape(Base, metaclass=Meta):
    """A shape."""

    def area(self):
        """Return the area."""

    async def wait(self, seconds: float = 1.5):
        """Wait."""

    class Inner:
        def method(self, text='x y'):
            """Do it."""

try:
    import fast
except ImportError:
    def fallback():
        """Be slow."""
else:
    def quick():
        """Be fast."""

if True:
    def chosen():
        """Be chosen."""
'''
ENTRIES = [
    Entry(
        "def plain(a, b=2, *args, key=None, **rest) -> dict[str, int]",
        "Return a \\ and b.\n\nTwo empty lines become one.",
    ),
    Entry("class Shape(Base)", "A shape."),
    Entry("def Shape.area(self)", "Return the area."),
    Entry("async def Shape.wait(self, seconds: float=1.5)", "Wait."),
    Entry("def Shape.Inner.method(self, text='x y')", "Do it."),
    Entry("def quick()", "Be fast."),
    Entry("def chosen()", "Be chosen."),
]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a distribution `demo-kit` with the module `demo` into a folder of its own; returns a lock file."""

    def install(installed: str = "1.2", pinned: str = "demo-kit==1.2\n", **files: str) -> Path:
        site = tmp_path / "site"
        contents = {"demo/__init__.py": MODULE, "demo/tests/test_a.py": MODULE, "demo/data.txt": "no module"} | {
            name.replace("__", "/") + ".py": text for name, text in files.items()
        }
        for name, text in contents.items():
            path = site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        info = site / f"demo_kit-{installed}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: demo-kit\nVersion: {installed}\n")
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*contents, "../../bin/demo.py"]))
        monkeypatch.syspath_prepend(str(site))
        lock = tmp_path / "requirements.lock"
        lock.write_text(pinned)
        return lock

    return install


def test_documented_objects_come_in_the_order_of_the_file() -> None:
    text = module_text(MODULE)
    assert text.startswith("Tools of the demo.\n\nThey are small.\n\n\ndef plain(")
    assert split_entries(text) == ENTRIES


@pytest.mark.parametrize("source", ["", "x = 1\n", "def f():\n    return 1\n"])
def test_a_module_without_docstrings_has_no_text(source: str) -> None:
    assert module_text(source) == ""


@pytest.mark.parametrize("source", ["def f(:\n", "type X = int\n", "class A[T]: pass\n", "x = '\0'\n"])
def test_what_python_3_11_does_not_parse_is_an_error_in_every_version(source: str) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        module_text(source)


def test_modules_of_a_package_are_sorted_and_without_tests(package: Callable[..., Path]) -> None:
    lock = package(demo__z=MODULE, demo__a=MODULE)
    assert [path for path, _ in package_files("demo-kit", lock)] == ["demo/__init__.py", "demo/a.py", "demo/z.py"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"installed": "1.3"}, "demo-kit: expected version 1.2 of LOCK, got 1.3; run `make setup`"),
        ({"pinned": "demo==1.2\n"}, "LOCK: expected a line demo-kit==VERSION for a source of docstrings, got none"),
    ],
)
def test_another_version_than_the_pinned_one_is_refused(
    setting: dict[str, str], sentence: str, package: Callable[..., Path]
) -> None:
    lock = package(**setting)
    with pytest.raises(UserError) as error:
        package_files("demo-kit", lock)
    assert str(error.value).replace(str(lock), "LOCK") == sentence


def test_a_package_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("no-such-kit==3\n")
    with pytest.raises(UserError, match="no-such-kit: expected version 3, it is not installed; run `make setup`"):
        package_files("no-such-kit", lock)


def test_a_build_for_another_device_is_the_same_version(package: Callable[..., Path]) -> None:
    assert package_files("demo-kit", package(installed="1.2+cpu"))


def test_a_source_yields_a_document_for_each_module_with_documentation(package: Callable[..., Path]) -> None:
    lock = package(demo__bare="x = 1\n", demo__broken="def f(:\n", demo__left="'''Left out.'''\n")
    source = DocstringsSource(name="docs", kind="docstrings", packages=["demo-kit"], exclude=["demo/left*"])
    found = [one for unit in list_units(source, Path("data/raw"), lock) for one in read_unit(unit, 10**6)]
    assert [one.path for one in found] == ["demo/__init__.py", "demo/broken.py"]
    document, unreadable = found
    assert isinstance(document, RawDocument) and document.text == module_text(MODULE)
    assert isinstance(unreadable, Unreadable) and unreadable.reason == "not_parsed"


def test_a_source_counts_what_it_leaves_out_across_modules_or_keeps_it(package: Callable[..., Path]) -> None:
    long = " ".join(f"word{number}" for number in range(40))
    lock = package(demo__a=f'"""First.\n\n{long}"""', demo__b=f'class B:\n    """Also.\n\n    {long}"""')
    kept = {}
    for repeated in ("drop", "keep"):
        source = DocstringsSource(name="docs", kind="docstrings", packages=["demo-kit"], repeated=repeated)
        units = list_units(source, Path("data/raw"), lock)
        documents = [found for unit in units for found in read_unit(unit, 10**6) if isinstance(found, RawDocument)]
        kept[repeated] = [document.path for document in documents], sum(unit.n_repeated for unit in units)
    modules = ["demo/__init__.py", "demo/a.py"]
    assert kept == {"drop": (modules, 1), "keep": ([*modules, "demo/b.py"], 0)}
