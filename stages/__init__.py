"""One short script a stage; `python -m stages.NAME` comes through here before the script imports torch."""

from llm.core.openmp import limit_spinning

limit_spinning()
