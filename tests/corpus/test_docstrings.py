"""Documentation out of source code: the same text from the same files, in every interpreter."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.corpus.docstrings import Entry, module_text, package_files, split_entries
from llm.corpus.document import Document
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
PLAIN = "def plain(a, b=2, *args, key=None, **rest) -> dict[str, int]"
ENTRIES = [
    Entry(PLAIN, "Return a \\ and b.\n\nTwo empty lines become one."),
    Entry("class Shape(Base)", "A shape."),
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


def test_documented_objects_are_in_the_order_of_the_file() -> None:
    text = module_text(MODULE)
    assert text.startswith("Tools of the demo.\n\nThey are small.\n\n\ndef plain(")
    assert split_entries(text) == ENTRIES
    assert [module_text(source) for source in ("", "x = 1\n", "def f():\n    return 1\n")] == [""] * 3


@pytest.mark.parametrize("source", ["def f(:\n", "type X = int\n", "class A[T]: pass\n", "x = '\0'\n"])
def test_only_syntax_of_python_3_11_is_parsed(source: str) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        module_text(source)


def test_modules_of_a_package_are_sorted_and_without_tests(package: Callable[..., Path]) -> None:
    lock = package(installed="1.2+cpu", demo__z=MODULE, demo__a=MODULE)  # a build for a device is the same version
    assert [path for path, _ in package_files("demo-kit", lock)] == ["demo/__init__.py", "demo/a.py", "demo/z.py"]


@pytest.mark.parametrize(
    ("name", "setting", "problem"),
    [
        ("demo-kit", {"installed": "1.3"}, "demo-kit: expected version 1.2 of LOCK, got 1.3; run `make setup`"),
        ("demo-kit", {"pinned": "demo==1.2\n"}, "LOCK: expected a line demo-kit==VERSION for a source"),
        ("no-kit", {"pinned": "no-kit==3\n"}, "no-kit: expected version 3, it is not installed; run `make setup`"),
    ],
)
def test_only_the_pinned_version_is_read(name: str, setting: dict, problem: str, package: Callable[..., Path]) -> None:
    lock = package(**setting)
    with pytest.raises(UserError) as error:
        package_files(name, lock)
    assert str(error.value).replace(str(lock), "LOCK").startswith(problem)


LONG = " ".join(f"word{number}" for number in range(40))


@pytest.mark.parametrize(
    ("options", "paths", "n_repeated"),
    [
        ({}, ["__init__", "a", "broken", "left"], 1),
        ({"exclude": ["demo/left*"]}, ["__init__", "a", "broken"], 1),
        ({"repeated": "keep"}, ["__init__", "a", "b", "broken", "left"], 0),
    ],
)
def test_a_documented_module_is_a_document(options, paths: list, n_repeated: int, package: Callable[..., Path]) -> None:
    lock = package(
        demo__bare="x = 1\n",
        demo__broken="def f(:\n",
        demo__left="'Left out.'\n",
        demo__a=f'"""First.\n\n{LONG}"""',
        demo__b=f'class B:\n    """Also.\n\n    {LONG}"""',
    )
    source = DocstringsSource(name="docs", kind="docstrings", packages=["demo-kit"], **options)
    units = list_units(source, Path("data/raw"), lock)
    found = [one for unit in units for one in read_unit(unit, 10**6)]
    assert [one.path for one in found] == [f"demo/{name}.py" for name in paths]
    assert found[0] == Document("docs", "demo/__init__.py", module_text(MODULE))
    assert [one.reason for one in found if not one.readable] == ["not_parsed"]
    assert sum(unit.n_repeated for unit in units) == n_repeated
