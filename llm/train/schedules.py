"""How the learning rate moves: a factor between 0 and 1 for each step."""

from llm.train.params import ScheduleParams


def rate_factor(step: int, n_steps: int, schedule: ScheduleParams) -> float:
    """Warm up in a line, stay at 1, fall in a line towards 0 over the last `decay_share` of the steps.

    The first step is 0 and already has a rate; the last one, n_steps - 1, still has one.

    >>> shape = ScheduleParams(warmup_steps=2, decay_share=0.5)
    >>> [rate_factor(step, 8, shape) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    up = (step + 1) / schedule.warmup_steps if schedule.warmup_steps else 1.0
    decay_steps = schedule.decay_share * n_steps
    down = (n_steps - step) / decay_steps if decay_steps else 1.0
    return min(1.0, up, down)
