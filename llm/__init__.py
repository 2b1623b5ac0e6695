"""Build a language model from the ground up: the library that the stages share."""
