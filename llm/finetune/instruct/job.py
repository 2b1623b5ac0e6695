"""An instruction task: conversations in, a model that answers out."""

from functools import partial

from llm.finetune.data.messages import read_conversations
from llm.finetune.instruct.instruct import make_objective, prepare_rows
from llm.finetune.params import InstructTask
from llm.finetune.shared.job import Job, Outcome, merge_counts, open_base
from llm.finetune.shared.language import LanguageTask, run_language_task

ANSWERS_SCORED = 100


def run(job: Job, task: InstructTask) -> Outcome:
    """Train, and score the answers of test before and after."""
    base = open_base(job)
    before = base.load().to(job.machine.device)
    conversations, dropped = read_conversations(job.data, task, job.seed)
    rows, counts = prepare_rows(conversations, task, base.tokenizer, before.config)
    objective = partial(make_objective, rows, task, base)
    kind = LanguageTask("instruct", objective, rows["test"], ANSWERS_SCORED, scores_answers=True)
    return run_language_task(job, task, kind, base, before, merge_counts(dropped, counts))
