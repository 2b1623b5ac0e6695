"""Keys and values of params.yaml that have another name since the last version; to be deleted in the next one.

>>> list(find_renames({"optimizer": {"muon_rate": 0.02}}, "pretrain"))
['pretrain.optimizer.muon_rate: renamed to muon_lr']
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

# The full key, or KEY=VALUE, and its new name; * stands for any part of a key.
RENAMES = {
    "prepare.share": "subset_fraction",
    "tokenize.from": "pretrained",
    "tokenize.whitespace": "keep_whitespace (true or false)",
    "pretrain.clean_share": "final_no_dropout_fraction",
    "pretrain.init=look_back": "previous_token_heads",
    "pretrain.optimizer.muon_rate": "muon_lr",
    "pretrain.optimizer.adamw_rate": "adamw_lr",
    "pretrain.optimizer.clip_norm": "max_grad_norm",
    "pretrain.schedule.decay_share": "decay_fraction",
    "pretrain.schedule.final_share": "final_lr_fraction",
    "pretrain.average": "weight_averaging",
    "pretrain.average_share": "ema_half_life_fraction and tail_fraction",
    "pretrain.stop_after_evals": "early_stopping_patience",
    "pretrain.keep": "checkpoint_selection",
    "finetune.seeds": "n_seeds",
    "finetune.tasks.*.kind=prefer": "dpo",
    "finetune.tasks.*.base=models/export": "models/export/hf",
    "finetune.tasks.*.weights": "base (the folder of the weights)",
    "finetune.tasks.*.too_long": "on_overflow",
    "finetune.tasks.*.too_long=cut": "truncate",
    "finetune.tasks.*.learn": "loss_on",
    "finetune.tasks.*.learn=answers": "assistant",
    "finetune.tasks.*.training.rates": "learning_rates",
    "finetune.tasks.*.training.search_share": "lr_search_fraction",
    "finetune.tasks.*.training.other_rate_ratio": "adamw_lr_ratio",
    "finetune.tasks.*.training.layer_rate_decay": "layerwise_lr_decay",
    "finetune.tasks.*.training.clip_norm": "max_grad_norm",
    "finetune.tasks.*.training.warmup_share": "warmup_fraction",
    "finetune.tasks.*.training.decay_share": "decay_fraction",
    "finetune.tasks.*.training.evals": "n_evals",
    "finetune.tasks.*.training.stop_after_evals": "early_stopping_patience",
}


def find_renames(content: Any, key: str) -> Iterator[str]:
    """Yield a line for each old key and each old value in the content under a dotted key."""
    if new := _new_name(key):
        yield f"{key}: renamed to {new}"
    if isinstance(content, str) and (new := _new_name(f"{key}={content}")):
        yield f"{key}: {content} is renamed to {new}"
    for name, value in content.items() if isinstance(content, dict) else ():
        yield from find_renames(value, f"{key}.{name}".removeprefix("."))


def _new_name(old: str) -> str | None:
    return next((new for pattern, new in RENAMES.items() if fnmatchcase(old, pattern)), None)
