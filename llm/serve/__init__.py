"""A model that answers: over HTTP as OpenAI's server does, many texts at once, and in the terminal."""
