"""The `export` section of params.yaml."""

from typing import Literal, Self

from pydantic import model_validator

from llm.core.params import Section

Format = Literal["gguf-f32", "gguf-f16", "gguf-q8_0", "onnx"]


class ExportParams(Section):
    """Formats that are written beside the Hugging Face folder."""

    formats: list[Format]

    @model_validator(mode="after")
    def _are_unique(self) -> Self:
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"expected each of formats once, got {', '.join(self.formats)}")
        return self
