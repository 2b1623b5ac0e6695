"""The sections prepare and label of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from llm.core.params import Count, EncodingName, Name, Section, Share
from llm.corpus.duplicates import NearDuplicateParams
from llm.corpus.repetition import RepetitionParams

EncodingByGlob = Annotated[
    Annotated[EncodingName, Tag("name")] | Annotated[dict[str, EncodingName], Tag("globs")],
    Discriminator(lambda value: "globs" if isinstance(value, dict) else "name"),
]
OnError = Literal["fail", "skip"]  # skip counts and reports what could not be read


class PythonSource(Section):
    """Source code of the running interpreter's standard library, by patterns of module paths."""

    name: Name
    kind: Literal["python"]
    include: list[str] = Field(min_length=1)
    exclude: list[str] = []  # of the modules that `include` matches


class DocstringsSource(Section):
    """Signatures and docstrings of installed packages, in the versions that requirements.lock pins."""

    name: Name
    kind: Literal["docstrings"]
    packages: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]] = Field(min_length=1)
    exclude: list[str] = []  # patterns of module paths, such as numpy/f2py/*
    repeated: Literal["drop", "keep"] = "drop"  # docstrings that repeat earlier ones


class _FileOptions(Section):
    text_field: str = "text"  # the field of a JSON object, the column of a table
    encoding: EncodingByGlob | None = None  # of all files, or by glob; null recognises it
    separator: Annotated[str, Field(min_length=1)] | None = None  # between documents of one text file
    on_error: OnError = "fail"


class FilesSource(_FileOptions):
    """Files of the user's own, under data/raw."""

    name: Name
    kind: Literal["files"]
    globs: list[str] = Field(min_length=1)


class UrlSource(_FileOptions):
    """One file from the network, of a known hash."""

    name: Name
    kind: Literal["url"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+/\S+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    encoding: EncodingName | None = None


class HuggingFaceSource(Section):
    """A dataset that the library `datasets` streams: its name on the Hub, or a folder under data/raw."""

    name: Name
    kind: Literal["huggingface"]
    dataset: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None  # a commit, so that the data cannot change
    text_field: str = "text"
    on_error: OnError = "fail"


Source = Annotated[
    PythonSource | DocstringsSource | FilesSource | UrlSource | HuggingFaceSource, Field(discriminator="kind")
]


class CleanParams(Section):
    """Rules that drop documents or remove characters from them; null disables a rule."""

    control_characters: Literal["remove", "keep"]
    min_chars: Count | None
    max_chars: Count | None = None
    repetition: RepetitionParams | None = None
    exact_duplicates: Literal["drop", "keep"] = "drop"
    near_duplicates: NearDuplicateParams | None


class SplitParams(Section):
    """How text is held out: whole documents by a hash, the end of each by position, or what suits (auto)."""

    method: Literal["auto", "document", "position"]
    val: Share
    test: Share

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"expected val + test below 1, got {self.val} + {self.test}")
        return self


class PrepareParams(Section):
    """Where the text comes from, what of it is dropped and what is held out."""

    sources: list[Source] = Field(min_length=1)
    engine: Literal["local", "ray"] = "local"
    subset_fraction: Annotated[float, Field(gt=0, le=1)]
    max_document_bytes: Annotated[int, Field(ge=1000)] = 100_000_000
    clean: CleanParams
    split: SplitParams

    @model_validator(mode="after")
    def _check_sections(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"expected a name of its own for each source, got {', '.join(names)}")
        near = self.clean.near_duplicates
        if near and near.action == "group" and self.split.method == "position":
            raise ValueError(
                "expected near_duplicates.action drop: with split.method position no split holds a document"
            )
        return self


class LabelParams(Section):
    """Which docstrings of the corpus become labeled rows."""

    n_packages: Annotated[int, Field(ge=2)]
    max_train_rows_per_package: Count
    max_rows_per_document: Count = 200
    min_chars: Count = 30
    max_chars: Count = 500
    max_answer_chars: Count = 400
