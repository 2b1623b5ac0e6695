"""Serving: a model over HTTP with OpenAI's API, many texts at once, and as a chat in the terminal."""
