"""Chapters 6 and 7: a pretrained model and labeled rows in, a finetuned model out."""
