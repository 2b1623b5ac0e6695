"""Finetune on preferences."""
