"""Documents → a tokenizer trained on the train split alone, and the token ids of every split."""

import os
from typing import Annotated

from tqdm import tqdm

from llm import stage
from llm.stage import Input, Output, Param
from llm.text.params import TokenizeParams
from llm.text.tables import SPLITS, TableWriter, iterate_rows, tokens_schema
from llm.text.tokenizer import Tokenizer, batched_texts, train_tokenizer


def main(
    tokenize: Annotated[TokenizeParams, Param("tokenize")],
    corpus: Input,
    tokenizer: Output,
    tokens: Output,
    metrics: Output,
) -> None:
    """Write `tokenizer` (a tokenizer.json) and `tokens`/{train,val,test}.parquet."""
    rows = tqdm(iterate_rows(corpus / "train.parquet", ["text"]), desc="train tokenizer", unit=" documents")
    trained = train_tokenizer((row["text"] for row in rows), tokenize.vocab_size)
    trained.save(str(tokenizer))
    encoder = Tokenizer.load(tokenizer)
    n_tokens, n_bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    used: set[int] = set()
    for split in SPLITS:
        rows = tqdm(
            iterate_rows(corpus / f"{split}.parquet", ["doc_id", "text", "n_bytes"]),
            desc=f"encode {split}",
            unit=" documents",
        )
        with TableWriter(tokens / f"{split}.parquet", tokens_schema(encoder.vocab_size)) as table:
            for batch in batched_texts(rows, batch_bytes=8_000_000):
                encoded = encoder.encode_batch([row["text"] for row in batch], n_threads=os.cpu_count() or 1)
                for row, ids in zip(batch, encoded, strict=True):
                    table.write({"doc_id": row["doc_id"], "ids": ids, "n_bytes": row["n_bytes"]}, n_bytes=4 * len(ids))
                    n_tokens[split] += len(ids)
                    n_bytes[split] += row["n_bytes"]
                    used.update(ids)
    stage.write_json(
        metrics,
        {
            "vocab_size": encoder.vocab_size,
            "vocab_used": len(used),
            "tokens": n_tokens,
            "bytes_per_token": {split: round(n_bytes[split] / n, 4) for split, n in n_tokens.items() if n},
        },
    )


if __name__ == "__main__":
    stage.run(main)
