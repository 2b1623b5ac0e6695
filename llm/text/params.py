"""The sections of params.yaml that the text half takes: prepare, label, tokenize and sample."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llm.params import Section

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class PythonSource(Section):
    """The running interpreter's standard library: the modules that a pattern in `include` matches."""

    name: Name
    kind: Literal["python"]
    include: list[str] = Field(min_length=1)


class FilesSource(Section):
    """Text files of the user's own, under data/raw."""

    name: Name
    kind: Literal["files"]
    globs: list[str] = Field(min_length=1)


Source = Annotated[PythonSource | FilesSource, Field(discriminator="kind")]


class SplitParams(Section):
    """How documents are held out: whole ones by a hash of their text, or the end of each by position."""

    method: Literal["document", "position"]
    val: Share
    test: Share

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"wanted val + test below 1, given {self.val} + {self.test}")
        return self


class PrepareParams(Section):
    """Where the text comes from and what is held out."""

    sources: list[Source] = Field(min_length=1)
    share: Annotated[float, Field(gt=0, le=1)]
    split: SplitParams

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"wanted a name of its own for each source, given {', '.join(names)}")
        return self


class LabelParams(Section):
    """Which functions of the corpus become labeled rows."""

    n_packages: Annotated[int, Field(ge=2)]
    max_rows_per_package: Count
    max_rows_per_document: Count
    min_chars: Count
    max_chars: Count


class TokenizeParams(Section):
    """The size of the vocabulary, special tokens and the 256 bytes included."""

    vocab_size: Annotated[int, Field(ge=300, le=1 << 24)]


class SampleParams(Section):
    """The sliding window over the token stream."""

    context_length: Annotated[int, Field(ge=2)]
    stride: Count
