"""Deduplication and filtering handed to datatrove, for corpora that need a cluster: scripts with this package's words and
numbers.

datatrove's MinHash decides by shared buckets alone; here candidates are compared run by run before one goes. So the
script finds what `near` finds, and of pairs less near than the similarity those that happen to share a bucket as well:
the buckets are those that keep the missed pairs rare. Said in the script too, for whoever runs it.
"""

from __future__ import annotations

from camelid.data.duplicates import MINIMA, MISSED, RUN, band_rows
from camelid.data.quality import BULLETS, COMMON, ELLIPSES, LETTERED, MEAN_WORD, OF_THEM, SYMBOLS, WORDS
from camelid.data.shingles import WORD

TOKENIZER = '''\
class Words(WordTokenizer):
    """camelid's words; nothing else about a text is compared."""

    def word_tokenize(self, text):
        return re.findall({word!r}, text.casefold())

    def sent_tokenize(self, text):
        return [text]

    def span_tokenize(self, text):
        return [(0, len(text))]


'''
SCRIPT = '''\
"""Near duplicates out of {source}, by datatrove (written for 0.10.1): pip install "camelid[datatrove]"

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


{words}AS_IT_IS = TextNormConfig(
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
        source=_quoted(f"{folder}/{files}"),
        folder=folder,
        files=files,
        out=out,
        reader="ParquetReader" if parquet else "JsonlReader",
        words=TOKENIZER.format(word=WORD.pattern),
        run=run,
        similarity=similarity,
        buckets=buckets,
        hashes=hashes,
        missed=(1 - similarity**hashes) ** buckets,
        half=1 - (1 - 0.5**hashes) ** buckets,
        bound=MISSED,
    )


FILTER = '''\
"""What breaks none of Gopher's rules of {source}, by datatrove (written for 0.10.1): pip install "camelid[datatrove]"

The words and numbers are those of `camelid data filter --rules prose`: words are runs of letters, digits and underscores,
case folded. What goes is kept apart in {out}/removed.

Start it as it is on one machine. On a cluster put SlurmPipelineExecutor in place of LocalPipelineExecutor.
"""

import re

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import GopherQualityFilter
from datatrove.pipeline.readers import {reader}
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer

SOURCE, FILES, OUT = {folder!r}, {files!r}, {target!r}
TASKS = 1  # files are shared among so many; no more than there are files


{words}def main():
    rules = GopherQualityFilter(
        min_doc_words={fewest},
        max_doc_words={most},
        min_avg_word_length={short},
        max_avg_word_length={long},
        max_symbol_word_ratio={symbols},
        max_bullet_lines_ratio={bullets},
        max_ellipsis_lines_ratio={ellipses},
        max_non_alpha_words_ratio={lettered},
        min_stop_words={of_them},
        stop_words={common},
        language=Words(),
        exclusion_writer=JsonlWriter(f"{{OUT}}/removed", compression=None),
    )
    pipeline = [{reader}(SOURCE, glob_pattern=FILES), rules, JsonlWriter(f"{{OUT}}/kept", compression=None)]
    LocalPipelineExecutor(pipeline=pipeline, tasks=TASKS, logging_dir=f"{{OUT}}/logs").run()


if __name__ == "__main__":
    main()
'''


def filter_script(folder: str, files: str, out: str, *, parquet: bool) -> str:
    """A Python script that keeps those texts of `files` in `folder` that break no rule of prose, in the folder `out`."""
    return FILTER.format(
        source=_quoted(f"{folder}/{files}"),
        out=_quoted(out),
        folder=folder,
        files=files,
        target=out,
        reader="ParquetReader" if parquet else "JsonlReader",
        words=TOKENIZER.format(word=WORD.pattern),
        fewest=WORDS[0],
        most=WORDS[1],
        short=MEAN_WORD[0],
        long=MEAN_WORD[1],
        symbols=SYMBOLS,
        bullets=BULLETS,
        ellipses=ELLIPSES,
        lettered=LETTERED,
        of_them=OF_THEM,
        common=sorted(COMMON),
    )


def _quoted(name: str) -> str:
    """A name as a docstring can hold it."""
    return ascii(name).strip("'\"").replace("\\", "\\\\").replace('"', "'")
