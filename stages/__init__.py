"""One script a pipeline stage; each is run as `python -m stages.NAME`, nobody imports them."""
