"""One short script a stage; `python -m stages.NAME` comes through here before the script imports torch."""

from llm.core.threads import set_torch_defaults

set_torch_defaults()
