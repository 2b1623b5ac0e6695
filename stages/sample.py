"""Token ids → one token stream a split, and the table of where each sliding window begins."""

from typing import Annotated

from llm import stage
from llm.stage import Input, Output, Param
from llm.text.params import SampleParams
from llm.text.tables import SPLITS, iterate_rows, read_table
from llm.text.tokenizer import Tokenizer
from llm.text.windows import WindowsInfo, window_starts, write_info, write_stream, write_windows


def main(
    sample: Annotated[SampleParams, Param("sample")], tokens: Input, tokenizer: Input, windows: Output, metrics: Output
) -> None:
    """Write `windows`/{train,val,test}.npy (tokens), .parquet (window starts) and windows.json."""
    windows.mkdir(parents=True)
    encoder = Tokenizer.load(tokenizer)
    dtype = "<u2" if encoder.vocab_size <= 1 << 16 else "<u4"
    n_windows, n_tokens, n_bytes = {}, {}, {}
    for split in SPLITS:
        table = read_table(tokens / f"{split}.parquet", ["n_bytes"])
        n_bytes[split] = sum(table.column("n_bytes").to_pylist())
        lengths = sum(len(row["ids"]) for row in iterate_rows(tokens / f"{split}.parquet", ["ids"]))
        total = lengths + table.num_rows + 1 if table.num_rows else 0
        documents = (row["ids"] for row in iterate_rows(tokens / f"{split}.parquet", ["ids"]))
        n_tokens[split] = write_stream(windows / f"{split}.npy", documents, encoder.end_of_text, total, dtype)
        starts = window_starts(total, sample.context_length, sample.stride)
        write_windows(windows / f"{split}.parquet", starts)
        n_windows[split] = len(starts)
    write_info(
        windows / "windows.json",
        WindowsInfo(encoder.vocab_size, encoder.end_of_text, sample.context_length, sample.stride, n_bytes),
    )
    stage.write_json(metrics, {"tokens": n_tokens, "windows": n_windows})


if __name__ == "__main__":
    stage.run(main)
