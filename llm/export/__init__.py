"""Weights in other people's formats, and back; the model card."""
