"""Finetune classifiers."""
