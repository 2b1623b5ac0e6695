"""A params file of the last version is refused with its new names, and every new name exists."""

import re
from pathlib import Path

import pytest

from llm.commands.check import check_params
from llm.commands.effective import effective_params
from llm.core import params
from llm.core.errors import UserError

SHIPPED = effective_params(Path(__file__).resolve().parents[2] / "params.yaml")  # with every key


@pytest.mark.parametrize("old", params.RENAMES)
def test_a_renamed_key_is_refused_with_its_new_name(old: str, tmp_path: Path) -> None:
    file, new = tmp_path / "params.yaml", params.RENAMES[old].split()[0]
    text = re.sub(rf"\b{new}:", f"{old}:", SHIPPED)
    assert text != SHIPPED
    file.write_text(text)
    with pytest.raises(UserError, match=rf"^{file}: .*\b{old}: renamed to {new}\b") as error:
        check_params(file)
    assert "\n" not in str(error.value)
