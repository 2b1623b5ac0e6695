"""How good the model is: likelihood, baselines on the same bytes, samples."""
