"""Every metric, figure and picture, the weights and the tokenizer → one page in HTML that needs no network."""

from pathlib import Path
from typing import Annotated, Any

import llm.report.evaluate as evaluate_pages
import llm.report.memorise as memorise_pages
from llm.core import stage
from llm.core.stage import Input, Output, Param, Seed
from llm.report.card import lineage_rows, read_metrics, tasks_to_show
from llm.report.page import Report, Text, Token, write_report


def main(
    prepare_params: Annotated[dict[str, Any], Param("prepare")],
    label_params: Annotated[dict[str, Any], Param("label")],
    tokenize_params: Annotated[dict[str, Any], Param("tokenize")],
    sample_params: Annotated[dict[str, Any], Param("sample")],
    model_params: Annotated[dict[str, Any], Param("model")],
    pretrain_params: Annotated[dict[str, Any], Param("pretrain")],
    evaluate_params: Annotated[dict[str, Any], Param("evaluate")],
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
    details: Input = Path("metrics/details/evaluate.json"),
    memorise_details: Input = Path("metrics/details/memorise.json"),
    vocabulary: Input = Path("plots/tokenize/vocabulary.svg"),
    curve: Input = Path("plots/pretrain/curve.svg"),
    finetune_plots: Input = Path("plots/finetune"),
    raw: Input = Path("data/raw"),
    given: Input = Path("data/given"),
    corpus: Input = Path("data/corpus"),
    labeled: Input = Path("data/labeled"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    tokens: Input = Path("data/tokens"),
    windows: Input = Path("data/windows"),
    weights: Input = Path("models/pretrained"),
    exported: Input = Path("models/export/hf/model.safetensors"),
    gguf: Input = Path("models/export/gguf"),
    finetuned: Input = Path("models/finetuned"),
    card: Input = Path("models/export/README.md"),
    template: Input = Path("llm/report/page.html.jinja"),
    evaluation: Output = Path("reports/evaluation.md"),
    samples: Output = Path("reports/samples.md"),
    continuations: Output = Path("reports/continuations.md"),
    memorisation: Output = Path("reports/memorisation.md"),
    report: Output = Path("reports/report.html"),
) -> None:
    """Write the page. `prepare` to `export` are metrics; `finetune`, `finetune_plots`, `finetuned` have a part a task.

    `evaluation` to `memorisation` are reports in Markdown.
    """
    evaluated = read_metrics(details)
    evaluation.write_text(evaluate_pages.evaluation(evaluated), encoding="utf-8")
    samples.write_text(evaluate_pages.samples(evaluated), encoding="utf-8")
    continuations.write_text(evaluate_pages.continuations(evaluated), encoding="utf-8")
    memorisation.write_text(memorise_pages.markdown(read_metrics(memorise_details)), encoding="utf-8")
    files = {"prepare": prepare, "tokenize": tokenize, "pretrain": pretrain, "baselines": baselines}
    files |= {"evaluate": evaluate, "memorise": memorise, "cloze": cloze, "export": export}
    params = {"seed": seed, "prepare": prepare_params, "label": label_params, "tokenize": tokenize_params}
    params |= {"sample": sample_params, "model": model_params, "pretrain": pretrain_params}
    params |= {"evaluate": evaluate_params, "memorise": memorise_params}
    params |= {"cloze": cloze_params, "export": export_params, "finetune": {"tasks": tasks}}
    drawn = evaluate_pages.pictures(evaluated)
    pictures = {name: path.read_text(encoding="utf-8") for name, path in (("vocabulary", vocabulary), ("curve", curve))}
    pictures |= {"rivals": drawn["bits_per_byte"], "context": drawn["context"], "calibration": drawn["calibration"]}
    artifacts = {"you": raw, "you ": given, "prepare": corpus, "label or you": labeled, "tokenize": tokenizer}
    artifacts |= {"tokenize ": tokens, "sample": windows, "pretrain": weights, "export": exported, "export ": gguf}
    artifacts |= {f"finetune@{name}": finetuned / name for name in tasks} | {"card": card}
    passage = evaluated["passage"]
    page = write_report(
        Report(
            metrics={name: read_metrics(path) for name, path in files.items()},
            figures=_figures(evaluated),
            finetuned=tasks_to_show({name: read_metrics(finetune / f"{name}.json") for name in tasks}),
            params=params,
            pictures=pictures,
            finetuned_pictures={name: _pictures(finetune_plots / name) for name in tasks},
            samples=[_text(of["prompt"], of["method"], of, of["prompt_tokens"]) for of in evaluated["samples"]],
            passage=_text(passage["document"], passage["split"], passage, 0) if passage else None,
            # A file that keeps a folder in place is no input.
            lineage=[row for row in lineage_rows(artifacts) if Path(row[1]).name not in (".gitkeep", ".keep")],
        ),
        template.read_text(encoding="utf-8"),
    )
    report.write_text(page, encoding="utf-8")


def _figures(details: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the figures of each split as the page reads them."""
    figures = {}
    for split, of in details["splits"].items():
        found = of["contamination"]
        shares = {"window_share": found["window_fraction"], "token_share": found["token_fraction"]}
        context = [row | {"share": row["fraction"]} for row in of["context"]]
        figures[split] = of | {"summary": of["model"], "contamination": found | shares, "context": context}
    if figures:
        quality = dict(details["quality"])
        if "model" in quality:
            quality |= {"true": quality["true_text"], "texts": quality["model"]["texts"]}
        figures[next(reversed(figures))]["quality"] = quality
    return figures


def _text(title: str, way: str, of: dict[str, Any], n_given: int) -> Text:
    pairs = enumerate(zip(of["tokens"], of["nats"], strict=True))
    return Text(title, way, [Token(piece, nats, at < n_given) for at, (piece, nats) in pairs])


def _pictures(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.svg"))}


if __name__ == "__main__":
    stage.run(main)
