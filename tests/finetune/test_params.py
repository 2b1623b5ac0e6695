"""A task is its defaults and what it states; a wrong key of either is named."""

import pytest

from llm.core import params
from llm.core.errors import UserError
from llm.finetune.params import MAX_ROW_TOKENS, FinetuneParams, load_task, resolve_task, with_defaults

TRAINING = "{epochs: 1.0, batch_size: 8, learning_rates: [0.1], lr_search_fraction: 0.5, adamw_lr_ratio: 0.1, \
layerwise_lr_decay: 1.0, weight_decay: 0.0, max_grad_norm: 1.0, warmup_fraction: 0.1, decay_fraction: 0.5, n_evals: 2, \
early_stopping_patience: null}"
PARAMS = f"""
finetune:
  n_seeds: 1
  defaults:
    split_column: null
    group_column: null
    on_error: fail
    max_tokens: 32
    method: {{kind: full, rank: 2, alpha: 4.0, targets: [query], k: 1}}
    training: {TRAINING}
    dpo: {{beta: 0.1, input_column: null, training: {{learning_rates: [0.01]}}}}
    instruct: {{on_overflow: drop, loss_on: assistant, packing: false}}
  tasks:
    pairs:
      {{kind: dpo, base: b, data: d.csv, prompt_column: p, chosen_column: c, rejected_column: r,
       method: {{kind: lora}}, training: {{epochs: 3.0}}}}
"""


def test_a_task_has_the_defaults_that_it_does_not_state(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    task = load_task(tmp_path / "params.yaml", "pairs")
    assert (task.beta, task.max_tokens, task.method.kind, task.method.rank) == (0.1, 32, "lora", 2)
    # The task, the defaults of its kind, those of all kinds.
    assert (task.training.epochs, task.training.learning_rates, task.training.batch_size) == (3.0, [0.01], 8)


def test_wrong_defaults_are_one_problem_not_one_of_each_task(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS.replace("rank: 2", "rnak: 2"))
    finetune = with_defaults(params.read(tmp_path / "params.yaml")["finetune"])
    with pytest.raises(UserError, match=r"^p: finetune\.defaults\.method\.rnak: unknown key$"):
        params.check(FinetuneParams, finetune, "finetune", "p")


def test_the_template_of_zero_shot_fits_the_labels(make_task):
    with pytest.raises(ValueError, match=r"null or a template that ends in \{label\}"):
        make_task("classify", {"zero_shot": "{text} {label}?"})
    with pytest.raises(ValueError, match=r"null where a row has any number of labels \(label_separator\)"):
        make_task("classify", {"zero_shot": "{text} {label}", "label_separator": "|"})


@pytest.mark.parametrize(
    ("lengths", "context", "expected"),
    [
        ([10] * 50, 256, 64),
        ([10] * 999 + [5000], 256, 64),  # one row in a thousand is longer
        ([10] * 998 + [65, 5000], 256, 128),
        ([300], 256, 256),
        ([9000], 100_000, MAX_ROW_TOKENS),
        ([], 48, 48),
    ],
)
def test_rows_of_train_decide_on_the_most_tokens(make_task, lengths, context, expected):
    task = make_task("instruct", {"max_tokens": None})
    assert task.max_tokens_of(lengths, context) == expected
    assert make_task("instruct", {"max_tokens": 7}).max_tokens_of(lengths, context) == 7
    with pytest.raises(UserError, match=f"expected at most the base's context of {context}, got {context + 1}"):
        make_task("instruct", {"max_tokens": context + 1}).max_tokens_of(lengths, context)


def test_a_key_that_is_missing_everywhere_is_named():
    with pytest.raises(
        UserError, match=r"^params.yaml: finetune.tasks.mine.method: .* finetune.tasks.mine.text_columns: "
    ):
        resolve_task({"kind": "classify", "base": "b", "data": "d"}, {}, "mine")
