"""Deduplication handed to datatrove, for corpora that need a cluster: a script with this package's words and numbers.

datatrove's MinHash decides by shared buckets alone; here candidates are compared run by run before one goes. So the
script finds what `near` finds, and of pairs less near than the similarity those that happen to share a bucket as well:
the buckets are those that keep the missed pairs rare. Said in the script too, for whoever runs it.
"""

from __future__ import annotations

from camelid.data.duplicates import MINIMA, MISSED, RUN, band_rows
from camelid.data.shingles import WORD

SCRIPT = '''\
"""Near duplicates out of {source}, by datatrove (written for 0.10.1): pip install "datatrove[processing]"

The words and numbers are camelid's: words are runs of letters, digits and underscores, case folded; {run} of them
in a row are compared; {buckets} buckets of {hashes} minima, so that a pair of texts with {similarity} of its runs in common
is missed with probability {missed:.1e} (at most {bound}). What differs from `camelid data dedup`:

- texts that share a bucket are taken for near and not compared run by run. A pair with half of its runs in common
  shares one with probability {half:.2g}: more goes than there. Raise HASHES, and more near pairs stay as well.
- nearness is passed on: of a chain of texts, each near to the next, one is kept.
- texts of fewer than {run} words have no run and are all kept, repetitions too.
- which text of a group is kept, datatrove decides.

Start it as it is on one machine. On a cluster put SlurmPipelineExecutor in place of LocalPipelineExecutor.
"""

import re

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import {reader}
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig
from datatrove.utils.word_tokenizers import WordTokenizer

SOURCE, FILES, OUT = {folder!r}, {files!r}, {out!r}
TASKS = 1  # files are shared among so many; no more than there are files

RUN = {run}  # words in a row
BUCKETS = {buckets}
HASHES = {hashes}  # minima in a bucket


class Words(WordTokenizer):
    """camelid's words; nothing else about a text is compared."""

    def word_tokenize(self, text):
        return re.findall({word!r}, text.casefold())

    def sent_tokenize(self, text):
        return [text]

    def span_tokenize(self, text):
        return [(0, len(text))]


AS_IT_IS = TextNormConfig(
    lowercase=False,
    norm_whitespace=False,
    remove_punctuation=False,
    norm_unicode_diacritics=False,
    norm_numbers=False,
)
SHA1 = HashConfig(hash_fc="sha1")  # newer releases of xxhash, the default, refuse the text that they are given
CONFIG = MinhashConfig(n_grams=RUN, num_buckets=BUCKETS, hashes_per_bucket=HASHES, norm_config=AS_IT_IS, hash_config=SHA1)


def reader():
    return {reader}(SOURCE, glob_pattern=FILES)


def main():
    signatures, buckets, removed = (f"{{OUT}}/minhash/{{name}}" for name in ("signatures", "buckets", "removed"))
    words = Words()
    stages = [
        (TASKS, [reader(), MinhashDedupSignature(signatures, config=CONFIG, language=words)]),
        (BUCKETS, [MinhashDedupBuckets(signatures, buckets, config=CONFIG)]),
        (1, [MinhashDedupCluster(buckets, removed, config=CONFIG)]),
        (TASKS, [reader(), MinhashDedupFilter(removed), JsonlWriter(f"{{OUT}}/kept", compression=None)]),
    ]
    for number, (tasks, pipeline) in enumerate(stages, 1):
        done = LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, logging_dir=f"{{OUT}}/logs/{{number}}")
        done.run()


if __name__ == "__main__":
    main()
'''


def dedup_script(folder: str, files: str, out: str, *, parquet: bool, similarity: float = 0.8, run: int = RUN) -> str:
    """A Python script that removes near duplicates from the texts of `files` in `folder` and writes to the folder `out`."""
    hashes = band_rows(similarity)
    buckets = MINIMA // hashes
    return SCRIPT.format(
        source=ascii(f"{folder}/{files}").strip("'\"").replace("\\", "\\\\").replace('"', "'"),
        folder=folder,
        files=files,
        out=out,
        reader="ParquetReader" if parquet else "JsonlReader",
        word=WORD.pattern,
        run=run,
        similarity=similarity,
        buckets=buckets,
        hashes=hashes,
        missed=(1 - similarity**hashes) ** buckets,
        half=1 - (1 - 0.5**hashes) ** buckets,
        bound=MISSED,
    )
