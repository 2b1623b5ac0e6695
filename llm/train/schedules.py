"""How the learning rate moves: a factor between 0 and 1 for each step.

Every kind warms up in a line. Then `wsd` stays at 1 and falls in a line over the last part of the steps (warm up,
stay, decay: Hägele et al. 2024, arXiv:2405.18392); `cosine` falls from the warm-up's end on along half a wave
(Loshchilov and Hutter 2017, arXiv:1608.03983); `constant` stays.
"""

import math

from llm.train.params import ScheduleParams


def lr_factor(step: int, n_steps: int, schedule: ScheduleParams) -> float:
    """The rate of a step as a share of the full one.

    The first step is 0 and already has a rate. `final_lr_fraction` is what the fall would reach at step n_steps, one
    after the last: so the last one still has a rate where it is 0.

    >>> shape = ScheduleParams(kind="wsd", warmup_steps=2, decay_fraction=0.5, final_lr_fraction=0.0)
    >>> [lr_factor(step, 8, shape) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    up = (step + 1) / schedule.warmup_steps if schedule.warmup_steps else 1.0
    match schedule.kind:
        case "wsd":
            decay_steps = schedule.decay_fraction * n_steps
            left = (n_steps - step) / decay_steps if decay_steps else 1.0
        case "cosine":
            after_warmup = max(step - schedule.warmup_steps, 0)
            left = (1 + math.cos(math.pi * after_warmup / max(n_steps - schedule.warmup_steps, 1))) / 2
        case "constant":
            left = 1.0
    return min(1.0, up, schedule.final_lr_fraction + (1 - schedule.final_lr_fraction) * left)
