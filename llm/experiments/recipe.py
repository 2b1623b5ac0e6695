"""Choose what depends on how often a text is read: learning rate, weight decay, and what keeps it from being memorized.

The values were tried on texts of 0.2 to 15 MB (docs/log.md, "Runs for a law of planning").
"""

import math
from typing import NamedTuple

MOST_SEGMENTATIONS = 24


class Recipe(NamedTuple):
    """AdamW's learning rate, Muon's weight decay, dropout of the model and of merges, and the segmentations."""

    adamw_lr: float
    weight_decay: float
    dropout: float
    merge_dropout: float
    segmentations: int


# By the number of epochs from which a recipe is used.
RECIPES = {
    0.0: Recipe(0.006, 0.1, 0.0, 0.0, 1),
    3.0: Recipe(0.003, 0.1, 0.0, 0.1, 1),
    6.0: Recipe(0.003, 0.1, 0.1, 0.1, 1),
    16.0: Recipe(0.003, 0.5, 0.2, 0.1, 1),
}


def recipe_of(epochs: float) -> Recipe:
    """Return the recipe of a run that reads its text so often; an epoch is a segmentation of its own.

    >>> recipe_of(1.5)
    Recipe(adamw_lr=0.006, weight_decay=0.1, dropout=0.0, merge_dropout=0.0, segmentations=1)
    >>> recipe_of(7.5).segmentations, recipe_of(100).segmentations
    (8, 24)
    """
    recipe = RECIPES[max(least for least in RECIPES if least <= epochs)]
    n_segmentations = min(math.ceil(epochs), MOST_SEGMENTATIONS) if recipe.merge_dropout else 1
    return recipe._replace(segmentations=n_segmentations)
