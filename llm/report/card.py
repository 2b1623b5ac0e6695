"""The model card: what the model is, what it was made of, what it scored, how to load it, the hash of every artifact.

    metrics, params, config.json, artifacts  →  README.md: the Hub's front matter, and a section for each question

Every figure is read from what the stages wrote.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from llm.core.errors import UserError
from llm.report.markdown import fence, front_matter, python_string, shell_string, table

FOLDER = "models/export"
ORIGINS = {
    "docstrings": "signatures and docstrings of Python packages",
    "python": "the source code of Python's standard library",
}
NO_DOCSTRINGS = "the corpus has no docstrings"  # for the tasks that `label` makes of them
PYTHON_LICENSE = "https://docs.python.org/3/license.html"

TRANSFORMERS = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{FOLDER}/hf")
model = AutoModelForCausalLM.from_pretrained("{FOLDER}/hf")
ids = model.generate(**tokenizer("import ", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""
LLAMA_CPP = f"""
import xllamacpp

setting = xllamacpp.CommonParams()
setting.model.path = "{FOLDER}/gguf/FILE"
setting.port = 0  # a free one
server = xllamacpp.Server(setting)  # also speaks HTTP, at server.listening_address
answer = server.handle_completions({{"prompt": "import ", "max_tokens": 20, "temperature": 0}})
print("import " + answer["choices"][0]["text"])
"""
ONNX = f"""
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("{FOLDER}/hf/tokenizer.json")
session = onnxruntime.InferenceSession("{FOLDER}/onnx/model.onnx")
# The keys and values of no tokens, (1, heads, 0, width) a layer; what comes out as present goes in here next time.
past = {{
    given.name: np.zeros((1, given.shape[1], 0, given.shape[3]), dtype=np.float32)
    for given in session.get_inputs()
    if given.name.startswith("past_key_values")
}}
ids = np.array([tokenizer.encode("import ").ids])
logits = session.run(["logits"], {{"input_ids": ids, **past}})[0]
print(tokenizer.decode([int(logits[0, -1].argmax())]))
"""
OURS = f"""
from pathlib import Path

from llm.export.hf.base import open_model
from llm.model.generate import generate, greedy

model, tokenizer = open_model(Path("{FOLDER}/hf"))
ids = generate(model, tokenizer.prompt("import "), 20, greedy, tokenizer.eos_ids)
print("import " + tokenizer.decode(list(ids)))
"""


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics file; UserError where it is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
        raise UserError(f"{path}: wanted a metrics file, it is missing or no JSON") from None
    return content


def tasks_to_show(finetuned: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the tasks without those that are made of docstrings, where there are none."""
    return {name: report for name, report in finetuned.items() if report.get("skipped") != NO_DOCSTRINGS}


def lineage_rows(artifacts: dict[str, Path]) -> list[tuple[str, str, str]]:
    """(stage, file, md5) of every file of every artifact, in order. The md5 is the one that DVC keeps it under."""
    rows = []
    for stage, path in artifacts.items():
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as handle:
                digest = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            rows.append((stage, (file.relative_to(path.parent)).as_posix(), digest))
    return rows


def write_card(
    metrics: dict[str, dict[str, Any]],
    finetuned: dict[str, dict[str, Any]],
    lineage: list[tuple[str, str, str]],
    config: dict[str, Any],
    params: dict[str, Any],
    weights: str,
) -> str:
    """The card as Markdown; `weights` is the line that names the exported file (`weights_line`).

    `metrics` are by stage, `finetuned` by task. `config` is the pretrained model's config.json, `params` are the
    sections `sources`, `tokenize` and `pretrain` of params.yaml.
    """
    export, evaluation, finetuned = metrics["export"], metrics["evaluate"], tasks_to_show(finetuned)
    sections = {
        "Data": _data(metrics["prepare"], metrics["label"], params["sources"]),
        "Tokenizer": _tokenizer(metrics["tokenize"], params["tokenize"]),
        "Architecture": _architecture(config, metrics["pretrain"]),
        "Training": _training(metrics["pretrain"], params["pretrain"]),
        "Evaluation": _evaluation(evaluation, metrics["baselines"], metrics["prepare"])
        + _quality(evaluation.get("quality", {}))
        + _cloze(metrics["cloze"]),
        **({"Memorisation": _memorisation(metrics["memorise"])} if "memorise" in metrics else {}),
        **{f"Finetuned: {name}": _task(report) for name, report in finetuned.items()},
        "How to load it": _loading(export, finetuned, evaluation["example_prompt"]),
        "Limits": _limits(evaluation, metrics["prepare"], finetuned),
        "Lineage": [
            "Every file that this model came from, by the md5 that DVC keeps it under.",
            "",
            *table(["made by", "file", "md5"], [(stage, file, f"`{md5}`") for stage, file, md5 in lineage]),
        ],
    }
    lines = [*_front_matter(metrics, config, params["sources"]), "", "# A language model from the ground up", ""]
    lines += [*_opening(metrics, config, params["sources"]), "", weights]
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return "\n".join(lines) + "\n"


def _front_matter(
    metrics: dict[str, dict[str, Any]], config: dict[str, Any], sources: list[dict[str, Any]]
) -> list[str]:
    """The YAML that the Hub reads: its filters, and the figures as `model-index`."""
    export, evaluation = metrics["export"], metrics["evaluate"]
    front: dict[str, Any] = _license(sources)
    front["library_name"] = "groundup" if "skipped" in export else "transformers"
    front["tags"] = ["groundup", config["family"]]
    front["tags"] += ["gguf"] if _written(export["gguf"]) else []
    front["tags"] += ["onnx"] if "bytes" in export.get("onnx", {}) else []
    results = [
        _result("text-generation", "held-out text", split, "bits_per_byte", figures["bits_per_byte"])
        for split, figures in _splits(evaluation).items()
    ]
    results += [
        _result("multiple-choice", task.replace("_", " "), "test", "accuracy", figures["acc"])
        for task, figures in _cloze_tasks(metrics["cloze"]).items()
    ]
    if not evaluation.get("sees_the_future"):
        front["pipeline_tag"] = "text-generation"
    if results:
        front["metrics"] = sorted({result["metrics"][0]["type"] for result in results})
        front["model-index"] = [{"name": f"groundup-{config['family']}", "results": results}]
    return front_matter(front)


def _license(sources: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is known: the licence of Python, or that of each package; of other text nothing is known."""
    kinds = {source["kind"] for source in sources}
    if kinds == {"python"}:
        return {"license": "other", "license_name": "psf-2.0", "license_link": PYTHON_LICENSE}
    return (
        {"license": "other", "license_name": "of-each-package"} if kinds == {"docstrings"} else {"license": "unknown"}
    )


def _result(task: str, name: str, split: str, metric: str, value: float) -> dict[str, Any]:
    dataset = {"name": name, "type": "groundup", "split": split}
    measured = {"type": metric, "value": value, "name": metric.replace("_", " ")}
    return {"task": {"type": task}, "dataset": dataset, "metrics": [measured]}


def _opening(metrics: dict[str, dict[str, Any]], config: dict[str, Any], sources: list[dict[str, Any]]) -> list[str]:
    prepare, tokenize, pretrain, export = (metrics[name] for name in ("prepare", "tokenize", "pretrain", "export"))
    kinds = dict.fromkeys(source["kind"] for source in sources)
    origin = " and ".join(dict.fromkeys(ORIGINS.get(kind, "the user's own files") for kind in kinds))
    lines = [
        f"{pretrain['parameters']:,} parameters of the family {config['family']}, pretrained on "
        f"{tokenize['tokens']['train']:,} tokens ({prepare['bytes']['train']:,} bytes) of {origin}, "
        f"{pretrain['epochs']} times over.",
        "",
    ]
    if "skipped" in export:
        return [*lines, f"Only this project computes it: {export['skipped']}."]
    return [
        *lines,
        f"Transformers' logits are within {export['max_logit_difference']} of the ones that it was trained with.",
    ]


def _data(prepare: dict[str, Any], label: dict[str, Any], sources: list[dict[str, Any]]) -> list[str]:
    by_source = prepare["bytes_by_source"]
    rows = [(of["name"], _origin(of), f"{by_source.get(of['name'], 0):,}", _license_note(of)) for of in sources]
    lines = table(["source", "from", "bytes kept", "licence"], rows)
    if python := prepare.get("python"):
        lines += ["", f"sha256 of the modules of Python {python['version']}: `{python['library_sha256']}`."]
    lines += ["", *table(["part", "bytes"], [(split, f"{count:,}") for split, count in prepare["bytes"].items()])]
    dropped = {f"prepare: {reason}": count["documents"] for reason, count in prepare["dropped"].items()}
    dropped |= {f"label: {reason}": count for reason, count in label["dropped"].items() if count}
    rows_dropped = [(reason.replace("_", " "), count) for reason, count in dropped.items()]
    return [*lines, "", *table(["dropped on the way", "how many"], rows_dropped)] if rows_dropped else lines


def _origin(source: dict[str, Any]) -> str:
    match source["kind"]:
        case "python":
            modules = "" if source["include"] == ["*"] else f": {', '.join(source['include'])}"
            return f"{ORIGINS['python']}{modules}"
        case "docstrings":
            return f"{ORIGINS['docstrings']}: {', '.join(source['packages'])}"
        case "files":
            return f"files of the user's own: {', '.join(source['globs'])}"
        case "url":
            return f"{source['url']}, sha256 `{source['sha256']}`"
    revision = source.get("revision")
    return f"dataset {source['dataset']}" + (f" at `{revision}`" if revision else ", no fixed revision")


def _license_note(source: dict[str, Any]) -> str:
    if source["kind"] == "python":
        return f"[PSF-2.0]({PYTHON_LICENSE}), with the licences of what it incorporates"
    if source["kind"] == "docstrings":
        return "each package's own, which its distribution names"
    return "not known here: ask who published it"


def _tokenizer(tokenize: dict[str, Any], params: dict[str, Any]) -> list[str]:
    kind = {"bpe": "byte-level BPE", "word": "words", "char": "characters"}[params["kind"]]
    origin = f"brought along ({params['from']})" if params.get("from") else "trained on the training part alone"
    rows = [
        ("kind", f"{kind}, split pattern {params['pattern']}" if params["kind"] == "bpe" else kind),
        ("origin", origin),
        ("vocabulary", f"{tokenize['vocab_size']:,}"),
        *((f"bytes a token, {split}", value) for split, value in tokenize["bytes_per_token"].items()),
        ("decodes to the text that went in", "yes" if tokenize["lossless"] else "not always"),
    ]
    return table(["tokenizer", ""], rows)


def _architecture(config: dict[str, Any], pretrain: dict[str, Any]) -> list[str]:
    rows = [("parameters", f"{pretrain['parameters']:,}")]
    return table(["knob", "value"], [*rows, *((f"`{key}`", _shown(value)) for key, value in config.items())])


def _training(pretrain: dict[str, Any], params: dict[str, Any]) -> list[str]:
    optimizer, schedule, machine = params["optimizer"], params["schedule"], pretrain["machine"]
    rates = {"muon": ["muon_lr", "adamw_lr"], "adamw": ["adamw_lr"]}[optimizer["kind"]]
    rows = [
        ("steps", f"{params['max_steps']:,} of {params['batch_size']} windows"),
        ("tokens seen", f"{pretrain['tokens_seen']:,}"),
        ("floating-point operations", f"{pretrain['flops_per_token'] * pretrain['tokens_seen']:.3g}"),
        (
            "optimizer",
            ", ".join([optimizer["kind"], *(f"{rate.replace('_', ' ')} {optimizer[rate]}" for rate in rates)]),
        ),
        ("schedule", f"{schedule['kind']}, {schedule['warmup_steps']} steps of warm-up"),
        ("weights", f"from {params['init_from']}" if params.get("init_from") else "drawn"),
        ("kept step", f"{pretrain['selected_step']:,}"),
        ("loss, nats a token", f"train {pretrain['train_loss']}, val {_shown(pretrain.get('val_loss'))}"),
        ("machine", ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in machine.items())),
    ]
    return table(["training", ""], rows)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return str(value)


def _splits(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {split: evaluation[split] for split in ("val", "test") if split in evaluation}


def _evaluation(evaluation: dict[str, Any], baselines: dict[str, Any], prepare: dict[str, Any]) -> list[str]:
    splits = _splits(evaluation)
    if not splits:
        return ["No text was held out, so nothing was measured."]
    last = list(splits)[-1]
    order = {"this model": evaluation[last]["bits_per_byte"]} | baselines[last]
    own = {split: _with_interval(figures) for split, figures in splits.items()}
    rows = [
        (name.replace("_", " "), *(own[split] if name == "this model" else baselines[split][name] for split in splits))
        for name in sorted(order, key=lambda name: order[name])
    ]
    head = ["bits per byte", *(f"{split} ({prepare['bytes'][split]:,} bytes)" for split in splits)]
    lines = table(head, rows)
    if any("[" in cell for cell in own.values()):
        lines += ["", "Less is better. In brackets: an interval of 95%, by drawing documents anew."]
    for split, figures in splits.items():
        if "best_baseline" in figures:
            difference = _with_interval(figures, "bits_per_byte_difference")
            best = figures["best_baseline"].replace("_", " ")
            compared = f"the model less {best}, the best baseline: {difference} bits per byte, {figures['verdict']}."
            lines += ["", f"On {split}, {compared}"]
    return lines


def _with_interval(figures: dict[str, Any], key: str = "bits_per_byte") -> str:
    if f"{key}_low" not in figures:
        return str(figures[key])
    return f"{figures[key]} [{figures[f'{key}_low']}, {figures[f'{key}_high']}]"


def _quality(quality: dict[str, Any]) -> list[str]:
    """What the model writes after held-out text, beside how that text really goes on."""
    if "model" not in quality:
        return []
    sides = quality["model"], quality["true"]
    rows = [
        (name.replace("_", " "), *(_with_interval(of, name) if name in of else "–" for of in sides))
        for name in quality["true"]
    ]
    head = [f"{quality['texts']} continuations of {quality['split']}", "model", "true continuations"]
    return ["", *table(head, rows)]


def _cloze_tasks(cloze: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task: figures for task, figures in cloze.items() if task != "left_out"}


def _cloze(cloze: dict[str, Any]) -> list[str]:
    """Accuracy on multiple-choice tasks that are made of the test text."""
    tasks = _cloze_tasks(cloze)
    if not tasks:
        return []
    rows = [
        (task.replace("_", " "), figures["items"], _with_interval(figures, "acc"), figures["chance"])
        for task, figures in tasks.items()
    ]
    return ["", *table(["choices from the test text", "items", "accuracy", "chance"], rows)]


def _memorisation(memorise: dict[str, Any]) -> list[str]:
    """What the model has by heart; test, which it never saw, is the measure for train."""
    if not memorise["train"]["prefixes"]:
        return ["No document of train is long enough to be continued, so nothing was measured."]
    verdict = {
        True: "**The model copies**: more of train than of test comes back word for word, beyond chance.",
        False: "No more of train than of test comes back word for word than chance may bring.",
        None: "No document of test is long enough, so what it has by heart cannot be told from what is easy to guess.",
    }
    splits = [split for split in ("train", "test") if memorise[split]["prefixes"]]
    rows = [(name.replace("_", " "), *(memorise[split][name] for split in splits)) for name in memorise[splits[0]]]
    samples = memorise["samples"]
    found = f"{samples['copied']} of {samples['number']} samples copy a long run of tokens from train."
    return [verdict[memorise["copies"]], "", *table(["continued greedily", *splits], rows), "", found]


def _task(report: dict[str, Any]) -> list[str]:
    if isinstance(report.get("skipped"), str):  # else it counts the rows that were left out
        return [f"Skipped: {report['skipped']}."]
    counts = ", ".join(f"{count:,} {split}" for split, count in report["rows"].items())
    test = report["test"]
    lines = [f"Rows: {counts}.", "", *(_classified(report) if "pretrained" in test else _answered(test))]
    if seeds := report.get("seeds"):
        means = [
            (row.replace("_", " "), name.replace("_", " "), f"{of['mean']} ± {of['std']}")
            for row, figures in seeds.items()
            for name, of in figures.items()
        ]
        lines += ["", *table(["trained from several seeds", "", "mean ± standard deviation"], means)]
    if any(key.endswith("_low") for key in [*test, *test.get("pretrained", {})]):
        lines += ["", "In brackets: an interval of 95%, by drawing rows of test anew."]
    return lines


def _classified(report: dict[str, Any]) -> list[str]:
    """Every row of a classification task, the best first, and what the finetuned model has over some of them."""
    rows = [
        (
            name.replace("_", " "),
            *(_with_interval(figures, key) for key in ("accuracy", "macro_f1")),
            _setting(report["settings"][name]),
        )
        for name, figures in sorted(report["test"].items(), key=lambda row: -row[1]["accuracy"])
    ]
    lines = table(["on test", "accuracy", "macro-F1", "setting"], rows)
    if differences := report.get("differences"):
        less = [(name.replace("_", " "), _with_interval(of, "difference")) for name, of in differences.items()]
        lines += ["", *table(["accuracy of the finetuned model less that of", "difference"], less)]
    return lines


def _answered(test: dict[str, Any]) -> list[str]:
    """Every figure of a model that answers, before and after."""
    measured = {name: of for name, of in test.items() if isinstance(of, dict)}
    by_when = [{name: of[when] for name, of in measured.items()} for when in ("before", "after")]
    names = [name for name in measured if not name.endswith(("_low", "_high"))]
    rows = [(name.replace("_", " "), *(_with_interval(of, name) for of in by_when)) for name in names]
    return table(["on test", "before", "after"], rows)


def _setting(setting: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in setting.items() if not isinstance(value, dict))


def _loading(export: dict[str, Any], finetuned: dict[str, dict[str, Any]], prompt: str) -> list[str]:
    """A way in for each client that has a file here, and the reason for each that has none."""
    in_shell, in_python = shell_string(prompt), python_string(prompt)

    def code(snippet: str) -> list[str]:
        return fence("python", snippet.replace('"import "', in_python))

    chats = [name for name, report in finetuned.items() if "answer_bits_per_byte" in report.get("test", {})]
    shell = [f"python -m llm generate --model {FOLDER}/hf {in_shell}", f"python -m llm serve {FOLDER}/hf"]
    shell += [f"python -m llm chat models/finetuned/{name}" for name in chats]
    lines: list[str] = []
    if "skipped" in export:
        lines += [f"**Transformers**: not this one; {export['skipped']}.", ""]
    else:
        lines += ["**Transformers**", "", *code(TRANSFORMERS), ""]
    files = _written(export["gguf"])
    if files:
        file = f"model-{files[0].removeprefix('gguf-')}.gguf"
        command = f"llama-cli -m {FOLDER}/gguf/{file} -no-cnv -p {in_shell}"
        lines += ["**llama.cpp**, as a program or from Python", "", *fence("bash", command), ""]
        lines += [*code(LLAMA_CPP.replace("FILE", file)), ""]
    for name, about in (export["gguf"] | {"onnx": export.get("onnx", {})}).items():
        for state in about.keys() & {"skipped", "unverified"}:
            lines += [f"{name} is {state}: {about[state]}.", ""]
    if files and "skipped" not in export["gguf"].get("Modelfile", {}):
        commands = f"ollama create groundup -f {FOLDER}/gguf/Modelfile\nollama run groundup {in_shell}"
        lines += ["**Ollama**", "", *fence("bash", commands), ""]
    if "bytes" in export.get("onnx", {}):
        lines += ["**ONNX Runtime**", "", *code(ONNX), ""]
    lines += ["**This project**", "", *fence("bash", "\n".join(shell)), "", *code(OURS)]
    for name in chats:
        folder, report = f"models/finetuned/{name}", finetuned[name]
        places = [f"`{folder}/gguf` for llama.cpp and Ollama"] if _written(report.get("gguf", {})) else []
        places += [f"`{folder}/onnx` for ONNX Runtime"] if "bytes" in report.get("onnx", {}) else []
        if places:
            lines += ["", f"The model that answers, {name}, is in {' and in '.join(places)}, with its template."]
    return lines


def _written(gguf: dict[str, dict[str, Any]]) -> list[str]:
    """The formats that there are files of."""
    return [format_ for format_, about in gguf.items() if "bytes" in about]


def _limits(evaluation: dict[str, Any], prepare: dict[str, Any], finetuned: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["- A small model of a small text: it writes what looks like its text, and knows little."]
    code = "code may not run, " if "python" in prepare else ""
    lines += [f"- What it writes is not checked: {code}sentences may be untrue, and it may repeat its text."]
    if evaluation.get("sees_the_future"):
        lines += ["- Its attention reads what comes later: its bits per byte are no measure, and it cannot write."]
    if evaluation.get("lossless_tokens") is False:
        lines += ["- Its tokens do not hold all of the text, so its bits per byte flatter."]
    if "python" in prepare:
        lines += ["- It has read Python's own modules: other people's code, and prose, look otherwise."]
    behind = [name for name, report in finetuned.items() if _is_behind(report.get("test", {}))]
    if behind:
        lines += [f"- On {', '.join(behind)} logistic regression on words does better than the finetuned model."]
    return lines


def _is_behind(test: dict[str, Any]) -> bool:
    return "tfidf" in test and test["tfidf"]["accuracy"] > test["pretrained"]["accuracy"]
