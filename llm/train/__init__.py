"""Train: batches, losses, optimizers, the one loop, checkpoints, collectives."""
