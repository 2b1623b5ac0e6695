"""Share what every kind of finetuning needs."""
