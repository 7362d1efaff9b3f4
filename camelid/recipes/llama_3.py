"""Llama 3: the same dense decoder on 15 trillion tokens, with a vocabulary of 128k byte-level pieces.

Paper    Dubey et al. 2024, The Llama 3 Herd of Models (arXiv 2407.21783)
Parent   none
New      byte-level BPE of 128,256 ids; 8 key-value heads at every size; rotary base 500,000; context 8192
Missing  the texts: only the shares of four kinds are published; supply texts with --data. Batch, warm-up, decay and
         floor of 8B and 70B are not in our sources: those of 405B stand in for them. The batch of 405B grew from 4M to
         8M to 16M tokens (at 252M and 2.87T); here it has its last size. Final annealing on 40M tokens is left out
Ours     the paper was read in transcriptions; betas, gradient clip and initialisation, not in our sources, as in our
         Llama 2; the whole vocabulary is learned in the run, where the original adds 28k pieces to 100k of tiktoken's
"""

from camelid.recipe import *
from camelid.recipes.llama import DEVIATION

KINDS = Mixture(
    parts=(
        Part(
            name="general knowledge", share=50.0, made="HTML parser, URL, MinHash and line dedup"
        ),  # paper, sections 3.1-3.4
        Part(
            name="mathematics and reasoning", share=25.0, made="pages found by classifiers"
        ),  # paper, sections 3.1-3.4
        Part(name="code", share=17.0, made="pages found by classifiers"),  # paper, sections 3.1-3.4
        Part(name="multilingual", share=8.0, made="fastText over 176 languages"),  # paper, sections 3.1-3.4
    )
)
DATA: dict[Size, Mixture | DeskText] = {
    "8B": KINDS,
    "70B": KINDS,
    "405B": KINDS,
    "desk": DeskText(world="small", bytes=15 * M),  # ours: told about once in the run
    "tiny": DeskText(world="tiny", bytes=60 * K),  # ours: for tests
}
SHAPES: dict[Size, LlamaShape] = {
    "8B": SIZES["llama-3-8B"],  # paper, tables 3-7, or repositories
    "70B": SIZES["llama-3-70B"],  # paper, tables 3-7, or repositories
    "405B": SIZES["llama-3-405B"],  # paper, Table 3: 8 KV heads; a build that lists 16 repeats them
    "desk": LlamaShape(
        layers=4, width=128, heads=4, kv_heads=2, head_width=32, hidden=392, vocab=1024, context=512, theta=5e5
    ),  # ours: Llama 2's desk size with Llama 3's rotary base
    "tiny": LlamaShape(
        layers=2, width=32, heads=2, kv_heads=1, head_width=16, hidden=64, vocab=400, context=768, theta=5e5
    ),  # ours: tests
}
LENGTH: dict[Size, int] = {
    "8B": 8192,
    "70B": 8192,
    "405B": 8192,
    "desk": 512,
    "tiny": 256,
}  # paper, sections 3.1-3.4; ours
BATCH: dict[Size, Tokens] = {
    "8B": Tokens(16 * M),  # unverified: the last batch of 405B
    "70B": Tokens(16 * M),  # unverified: the last batch of 405B
    "405B": Tokens(16 * M),  # paper, sections 3.1-3.4: the last of three
    "desk": Tokens(1024),  # ours: as LLaMA's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "8B": Tokens(15_000 * B),  # paper or model card: 15T+
    "70B": Tokens(15_000 * B),  # paper or model card: 15T+
    "405B": Tokens(15_600 * B),  # paper, sections 3.1-3.4: 15.6T
    "desk": Tokens(5040 * K),  # ours: as Llama 2's desk size
    "tiny": Tokens(8192),  # ours: for tests
}
LR: dict[Size, float] = {
    "8B": 3e-4,
    "70B": 1.5e-4,
    "405B": 8e-5,
    "desk": 4e-3,
    "tiny": 3e-3,
}  # paper, sections 3.1-3.4 and tables 3-7; ours
WARMUP: dict[Size, Steps] = {
    "8B": Steps(8000),  # unverified: 405B's
    "70B": Steps(8000),  # unverified: 405B's
    "405B": Steps(8000),  # paper, sections 3.1-3.4
    "desk": Steps(50),  # ours: as LLaMA's
    "tiny": Steps(2),  # ours: for tests
}
FLOOR: dict[Size, float] = {
    "8B": 0.01,  # unverified: 405B's
    "70B": 0.01,  # unverified: 405B's
    "405B": 0.01,  # paper, sections 3.1-3.4: from 8e-5 to 8e-7
    "desk": 0.01,  # ours: as 405B
    "tiny": 0.01,  # ours: as 405B
}
NORMAL: dict[Size, float] = DEVIATION | {"8B": 0.02, "70B": 0.02, "405B": 0.02}  # ours: not in our sources, as Llama 2


def vocabulary(size: Size) -> TrainTokenizer:
    return TrainTokenizer(
        name="pieces",
        kind="byte_bpe",  # repository: byte-level BPE
        data=DATA[size],
        vocab=SHAPES[size].vocab,  # repository: 128,000 and 256 control tokens
    )


def llama_3(size: Size = "8B") -> Recipe:
    pretrained = Pretrain(
        name="pretrained",
        shape=SHAPES[size],
        tokenizer=vocabulary(size),
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(
            lr=LR[size],
            betas=(0.9, 0.95),  # ours: not in our sources, as Llama 2
            decay=0.1,  # paper, sections 3.1-3.4, runs for scaling laws: 0.1 times the step's rate
        ),
        schedule=Cosine(warmup=WARMUP[size], floor=FLOOR[size]),
        clip=1.0,  # ours: not in our sources, as Llama 2
        deviation=NORMAL[size],
    )
    better = Claim(
        what="Llama 3 70B on MMLU, 5-shot, base model; Llama 2 70B has 68.9",
        value=79.5,
        source="model card or eval_details.md",
    )
    return Recipe(title=f"Llama 3 {size}", stages=(vocabulary(size), pretrained), claims=(better,))
