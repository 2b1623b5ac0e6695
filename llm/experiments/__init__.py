"""Run experiments around the pipeline; no stage imports this package."""
