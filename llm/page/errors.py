"""The error for a model without a page."""

from llm.core.errors import UserError


class NoPageError(UserError):
    """A model that is too large for a page, or that engine.js does not support; the stage writes the reason instead."""
