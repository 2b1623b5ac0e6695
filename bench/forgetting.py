"""Peak memory and time of measuring what a base with a long context has forgotten, and of checking its export.

    python -m bench.forgetting                  windows as the stage takes them
    python -m bench.forgetting --whole-context  windows of the base's whole context, as before
    python -m bench.forgetting --context 2048 --layers 2 --bytes 4096

The base has the shape of a common one of 135M weights (30 layers of 576, 9 heads, vocabulary 49,152) and a context of
8,192 tokens; its weights are drawn. The peak is that of the whole process, so each way is run by itself.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from llm.core.device import Machine
from llm.export.hf.folder import write_folder
from llm.export.verify import compare_with_transformers
from llm.finetune.shared import forgetting
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer, train_tokenizer

SHAPE = {"family": "llama", "attention": "grouped", "positions": None, "d_model": 576, "n_heads": 9, "n_kv_heads": 3}
SHAPE |= {"d_ff": 1536, "dropout": 0.0, "rope_theta": 100000.0, "norm_eps": 1e-5, "tie_embeddings": True}
N_BYTES_SHOWN = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.forgetting", allow_abbrev=False)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--batch-size", type=int, default=32, help="rows of a training step, params.yaml's docstring")
    parser.add_argument("--bytes", type=int, default=forgetting.N_BYTES, help="of held-out text")
    parser.add_argument("--whole-context", action="store_true", help="windows of the whole context, in full batches")
    parser.add_argument("--export", action="store_true", help="write the folder and check it in Transformers as well")
    given = parser.parse_args()
    if given.whole_context:
        forgetting.MOST_POSITIONS = given.context
        forgetting.MOST_LOGITS = 1 << 60
    machine = Machine.find()
    config = ModelConfig(**SHAPE, n_layers=given.layers, vocab_size=given.vocabulary, context_length=given.context)
    model = GPT(config, torch.Generator().manual_seed(1)).eval()
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "tokenizer.json"
        # Tokens of a few bytes each, as a base's tokenizer has them.
        text = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
        train_tokenizer([text], 4096).save(str(file))
        tokenizer = Tokenizer.load(file)
        texts = [(text * (given.bytes // len(text) + 1))[: given.bytes]]
        print(f"{model.n_parameters() / 1e6:.0f}M weights, context {config.context_length:,}, before: {peak():.2f} GB")
        began = time.perf_counter()
        figures = forgetting.base_figures(model.to(machine.device), texts, tokenizer, given.batch_size, machine, "base")
        seconds = time.perf_counter() - began
        print(f"measured {figures}: peak {peak():.2f} GB, {seconds:.1f} s, {machine.matmul_dtype}")
        if given.export:
            began = time.perf_counter()
            write_folder(Path(place) / "out", model, file)
            parity = compare_with_transformers(Path(place) / "out", model, 1)
            seconds = time.perf_counter() - began
            print(f"checked in Transformers, agrees {parity.agrees()}: peak {peak():.2f} GB, {seconds:.1f} s")


def peak() -> float:
    """The most memory that this process had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / N_BYTES_SHOWN


if __name__ == "__main__":
    main()
