"""Every metric, figure and picture, the weights and the tokenizer → one page in HTML that needs no network."""

from pathlib import Path
from typing import Annotated, Any

from llm.core import stage
from llm.core.device import Machine
from llm.core.stage import Input, Output, Param, Seed
from llm.core.tables import iterate_rows
from llm.evaluate.params import EvaluateParams
from llm.evaluate.samples import draw_samples, with_prompts
from llm.evaluate.surprise import spell, surprises
from llm.model.gpt import GPT
from llm.model.weights import load_model
from llm.report.card import lineage_rows, read_metrics, tasks_to_show
from llm.report.page import Report, Text, Token, write_report
from llm.tokens.tokenizer import Tokenizer

PASSAGE_CHARS = 800  # of a held-out document that are shown at most


def main(
    prepare_params: Annotated[dict[str, Any], Param("prepare")],
    label_params: Annotated[dict[str, Any], Param("label")],
    tokenize_params: Annotated[dict[str, Any], Param("tokenize")],
    sample_params: Annotated[dict[str, Any], Param("sample")],
    model_params: Annotated[dict[str, Any], Param("model")],
    pretrain_params: Annotated[dict[str, Any], Param("pretrain")],
    evaluate_params: Annotated[EvaluateParams, Param("evaluate")],
    memorise_params: Annotated[dict[str, Any], Param("memorise")],
    cloze_params: Annotated[dict[str, Any], Param("cloze")],
    export_params: Annotated[dict[str, Any], Param("export")],
    tasks: Annotated[dict[str, Any], Param("finetune.tasks")],
    seed: Seed,
    prepare: Input = Path("metrics/prepare.json"),
    tokenize: Input = Path("metrics/tokenize.json"),
    pretrain: Input = Path("metrics/pretrain.json"),
    baselines: Input = Path("metrics/baselines.json"),
    evaluate: Input = Path("metrics/evaluate.json"),
    memorise: Input = Path("metrics/memorise.json"),
    cloze: Input = Path("metrics/cloze.json"),
    export: Input = Path("metrics/export.json"),
    finetune: Input = Path("metrics/finetune"),
    figures: Input = Path("reports/evaluation.json"),
    vocabulary: Input = Path("plots/tokenize/vocabulary.svg"),
    curve: Input = Path("plots/pretrain/curve.svg"),
    rivals: Input = Path("plots/evaluate/bits_per_byte.svg"),
    context: Input = Path("plots/evaluate/context.svg"),
    calibration: Input = Path("plots/evaluate/calibration.svg"),
    finetune_plots: Input = Path("plots/finetune"),
    raw: Input = Path("data/raw"),
    given: Input = Path("data/given"),
    corpus: Input = Path("data/corpus"),
    labeled: Input = Path("data/labeled"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    tokens: Input = Path("data/tokens"),
    windows: Input = Path("data/windows"),
    weights: Input = Path("models/pretrained"),
    exported: Input = Path("models/export/model.safetensors"),
    gguf: Input = Path("models/export/gguf"),
    finetuned: Input = Path("models/finetuned"),
    card: Input = Path("models/export/README.md"),
    template: Input = Path("llm/report/page.html.jinja"),
    report: Output = Path("reports/report.html"),
) -> None:
    """Write the page. `prepare` to `export` are metrics; `finetune`, `finetune_plots`, `finetuned` have a part a task.

    The samples are those of the evaluation, drawn again from the same seed.
    """
    machine = Machine.find()
    machine.retain_freed_memory()
    model = load_model(weights).to(machine.device)
    encoder = Tokenizer.load(tokenizer)
    files = {"prepare": prepare, "tokenize": tokenize, "pretrain": pretrain, "baselines": baselines}
    files |= {"evaluate": evaluate, "memorise": memorise, "cloze": cloze, "export": export}
    figures_by_split = read_metrics(figures)
    params = {"seed": seed, "prepare": prepare_params, "label": label_params, "tokenize": tokenize_params}
    params |= {"sample": sample_params, "model": model_params, "pretrain": pretrain_params}
    params |= {"evaluate": evaluate_params.model_dump(), "memorise": memorise_params}
    params |= {"cloze": cloze_params, "export": export_params, "finetune": {"tasks": tasks}}
    pictures = {"vocabulary": vocabulary, "curve": curve, "rivals": rivals, "context": context}
    pictures |= {"calibration": calibration}
    artifacts = {"you": raw, "you ": given, "prepare": corpus, "label or you": labeled, "tokenize": tokenizer}
    artifacts |= {"tokenize ": tokens, "sample": windows, "pretrain": weights, "export": exported, "export ": gguf}
    artifacts |= {f"finetune@{name}": finetuned / name for name in tasks} | {"card": card}
    prompted = with_prompts(evaluate_params, windows, encoder, seed)
    samples, passage = _read_aloud(model, encoder, prompted, seed, _passage(corpus, list(figures_by_split)), machine)
    page = write_report(
        Report(
            metrics={name: read_metrics(path) for name, path in files.items()},
            figures=figures_by_split,
            finetuned=tasks_to_show({name: read_metrics(finetune / f"{name}.json") for name in tasks}),
            params=params,
            pictures={name: path.read_text(encoding="utf-8") for name, path in pictures.items()},
            finetuned_pictures={name: _pictures(finetune_plots / name) for name in tasks},
            samples=samples,
            passage=passage,
            # A file that keeps a folder in place is no input.
            lineage=[row for row in lineage_rows(artifacts) if Path(row[1]).name not in (".gitkeep", ".keep")],
        ),
        template.read_text(encoding="utf-8"),
    )
    report.write_text(page, encoding="utf-8")


def _passage(corpus: Path, splits: list[str]) -> tuple[str, str, str] | None:
    """Path, split and the first lines of the first held-out document that fills a passage, else of the longest."""
    if not splits:
        return None
    best = {"path": "", "text": ""}
    for row in iterate_rows(corpus / f"{splits[-1]}.parquet", ["path", "text"]):
        if len(row["text"]) > len(best["text"]):
            best = row
        if len(best["text"]) >= PASSAGE_CHARS:
            break
    text = best["text"][:PASSAGE_CHARS]
    lines, line_break, _ = text.rpartition("\n")
    return best["path"], splits[-1], lines + line_break or text


def _read_aloud(
    model: GPT,
    tokenizer: Tokenizer,
    params: EvaluateParams,
    seed: int,
    held_out: tuple[str, str, str] | None,
    machine: Machine,
) -> tuple[list[Text], Text | None]:
    """The samples and the held-out passage, token by token with what each costs."""
    samples = draw_samples(model, tokenizer, params, seed)
    titles = [(sample.prompt, sample.way) for sample in samples]
    given = [tokenizer.encode(sample.prompt) for sample in samples]
    ids = [[*prompt, *sample.ids] for prompt, sample in zip(given, samples, strict=True)]
    n_given = [len(prompt) for prompt in given]
    if held_out:
        path, split, text = held_out
        titles, ids, n_given = [*titles, (path, split)], [*ids, tokenizer.encode(text)], [*n_given, 0]
    stride = min(params.stride, model.config.context_length)
    nats = surprises(model, ids, tokenizer.end_of_text, stride, params.batch_size, machine)
    texts = [
        Text(
            title,
            way,
            [
                Token(piece, cost, at < n)
                for at, (piece, cost) in enumerate(zip(spell(tokenizer, own), costs, strict=True))
            ],
        )
        for (title, way), own, n, costs in zip(titles, ids, n_given, nats, strict=True)
    ]
    return (texts[:-1], texts[-1]) if held_out else (texts, None)


def _pictures(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.svg"))}


if __name__ == "__main__":
    stage.run(main)
