"""Chapter 5: batches, optimizers, the one training loop, checkpoints."""
