"""The error for a model without a page."""

from llm.core.errors import UserError


class NoPageError(UserError):
    """A model that a page cannot hold, or would compute otherwise; the stage goes on without a page."""
