"""Texts to a packed corpus on disk, beside Hugging Face's plain way: datasets.map over tokenizers, at equal cores.

    python benchmarks/tokenise_speed.py --tokenizer llama3.model --text FILE [FILE ...] [--cores 4] [--rounds 3]

Both read the same JSONL of texts and leave ids on the disk (ours: one array, mapped; theirs: Arrow). "one process" is
datasets.map with num_proc=1, and Rust's threads off; then both at --cores. Ids are compared text by text.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from camelid import tokenizers
from camelid.data import encoding
from camelid.data.cache import from_texts
from camelid.machine import processor_name

RESULTS = Path(__file__).parent / "results"


def documents(files: list[Path], size: int, megabytes: float) -> list[str]:
    """Texts of about `size` characters, cut at line ends, repeated to the amount asked for with a number before each."""
    whole = [path.read_text("utf-8", "replace") for path in files]
    texts, part = [], ""
    for text in whole:
        for line in text.splitlines(keepends=True):
            part += line
            if len(part) >= size:
                texts.append(part)
                part = ""
    made, total, turn = [], 0, 0
    while total < megabytes * 1e6:
        for text in texts:
            made.append(f"{turn} {text}" if turn else text)
            total += len(made[-1].encode())
            if total >= megabytes * 1e6:
                break
        turn += 1
    return made


def ours(data: Path, tokenizer: object, cores: int, room: Path) -> float:
    encoding.cores = lambda: cores  # type: ignore[attr-defined]  # what the machine would have
    began = time.perf_counter()
    from_texts(data, tokenizer, room / "cache", bos=False, eos=False)  # type: ignore[arg-type]
    return time.perf_counter() - began


def theirs(data: Path, file: Path, cores: int, room: Path) -> float:
    import datasets
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    tokenizer = Tokenizer.from_file(str(file))

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [each.ids for each in tokenizer.encode_batch(batch["text"], add_special_tokens=False)]}

    began = time.perf_counter()
    table = datasets.load_dataset("json", data_files=str(data), split="train", cache_dir=str(room / "hf"))
    count = cores if cores > 1 else None
    found = table.map(encode, batched=True, remove_columns=["text"], num_proc=count, load_from_cache_file=False)
    spent = time.perf_counter() - began
    assert len(found) == len(table)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--cores", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=12.0)
    parser.add_argument("--characters", type=int, default=2000, help="of one text")
    asked = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    tokenizer = tokenizers.load(asked.tokenizer)
    texts = documents(asked.text, asked.characters, asked.megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        room, data = Path(folder), Path(folder, "texts.jsonl")
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
        (room / "tokenizer.json").write_bytes(tokenizer.files()["tokenizer.json"])
        same = _same(tokenizer, room / "tokenizer.json", texts[: max(200, len(texts) // 20)])
        ways = {
            "hf, one process": lambda at: theirs(data, room / "tokenizer.json", 1, at),
            f"hf, {asked.cores} processes": lambda at: theirs(data, room / "tokenizer.json", asked.cores, at),
            "ours, one process": lambda at: ours(data, tokenizer, 1, at),
            f"ours, {asked.cores} processes": lambda at: ours(data, tokenizer, asked.cores, at),
        }
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(asked.rounds):
            for name, run in ways.items():
                place = Path(tempfile.mkdtemp(dir=room))
                spent[name].append(run(place))
                shutil.rmtree(place)
    speeds = {name: [size / seconds for seconds in times] for name, times in spent.items()}
    for name, found in speeds.items():
        print(f"{name:20} {statistics.median(found):7.2f} MB/s  ({min(found):.2f} to {max(found):.2f})")
    medians = [statistics.median(found) for found in speeds.values()]
    print(
        f"ratio, one process: {medians[2] / medians[0]:.2f}; {asked.cores} processes each: {medians[3] / medians[1]:.2f}"
    )
    print(f"ratio, ours on {asked.cores} to theirs on one: {medians[3] / medians[0]:.2f}; ids equal on {same}")
    told = {
        "machine": processor_name(), "python": platform.python_version(), "date": date.today().isoformat(),
        "command": " ".join([Path(sys.argv[0]).name, *(Path(word).name for word in sys.argv[1:])]),
        "megabytes": size, "texts": len(texts), "mb_per_second": speeds, "same": same,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"tokenise-{asked.tokenizer.stem}-{date.today()}.json").write_text(json.dumps(told, indent=1) + "\n")


def _same(tokenizer: object, file: Path, texts: list[str]) -> str:
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(file))
    equal = sum(
        tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids  # type: ignore[attr-defined]
        for text in texts
    )
    return f"{equal} of {len(texts)} texts"


if __name__ == "__main__":
    main()
