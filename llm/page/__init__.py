"""One HTML file with a whole model that runs in a browser."""
