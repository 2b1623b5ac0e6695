"""Implement commands of `python -m llm` that edit or check params.yaml."""
