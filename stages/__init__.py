"""One short script a stage; `python -m stages.NAME` comes through here before the script imports torch."""

from llm.core.threads import limit_spinning

limit_spinning()
