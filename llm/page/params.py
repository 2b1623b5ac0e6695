"""The section `page` of params.yaml."""

from llm.core.params import Count, Section


class PageParams(Section):
    """The page with a model in it; of a larger one there is no page, and the reason in its place."""

    max_bytes: Count
