"""Finetune on conversations."""
