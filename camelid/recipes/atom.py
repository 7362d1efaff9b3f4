"""Atom: Llama 2 with a vocabulary of 65,000, read on in Chinese.

Paper    none; the repository FlagAlpha/Llama2-Chinese, August 2023
Parent   Llama 2, every weight trained
New      Chinese pieces and all emoji, so that Chinese text takes far fewer tokens; 100B tokens of Chinese
Missing  the texts: supply them with --data (the reading) and --data pieces=FILE (the vocabulary)
Ours     how new rows begin is not published: as the mean of their old pieces, which learns most in a short run; so is
         how many pieces the Chinese vocabulary was learned with; the cosine is unverified; the later widening to 32K by
         interpolation and NTK is not part of this recipe; the desk size, in the desk world's second language
"""

from camelid.recipe import *
from camelid.recipes.llama_2 import SHAPES as LLAMA_2
from camelid.recipes.llama_2 import llama_2

CHINESE = Mixture(
    parts=(
        Part(
            name="Chinese web, encyclopedias, WuDao, CLUE, competitions, MNBVC",
            share=100.0,
            made="shares not published",
        ),  # README
    )
)
DATA: dict[Size, Mixture | Shares] = {
    "7B": CHINESE,
    "desk": Shares(
        texts=(
            Share(text=DeskText(world="small", bytes=1500 * K, told="second language"), percent=90.0),  # ours
            Share(text=DeskText(world="small", bytes=300 * K), percent=10.0),  # ours: some of the parent's text
        )
    ),
    "tiny": Shares(
        texts=(
            Share(text=DeskText(world="tiny", bytes=20 * K, told="second language"), percent=90.0),  # ours: for tests
            Share(text=DeskText(world="tiny", bytes=20 * K), percent=10.0),  # ours: for tests
        )
    ),
}
LEARNED: dict[Size, int] = {"7B": 40_000, "desk": 800, "tiny": 500}  # ours: not published
SHAPES: dict[Size, LlamaShape] = {
    "7B": replace(LLAMA_2["7B"], vocab=65_000),  # README
    "desk": replace(LLAMA_2["desk"], vocab=1280),  # ours: a quarter more
    "tiny": replace(LLAMA_2["tiny"], vocab=440),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 4096, "desk": 256, "tiny": 128}  # repository: block_size; ours
BATCH: dict[Size, Tokens] = {
    "7B": Tokens(10 * 4 * 8 * 4096),  # repository: 10 x 4 on 8 devices
    "desk": Tokens(1024),  # ours: as its parent's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "7B": Tokens(100 * B),  # README: 100B, update of September 2023
    "desk": Tokens(700 * K),  # ours: three quarters of a minute
    "tiny": Tokens(4096),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 3e-5, "desk": 2e-3, "tiny": 1e-3}  # repository; ours
WARMUP: dict[Size, Steps] = {"7B": Steps(10_000), "desk": Steps(20), "tiny": Steps(1)}  # repository; ours


def vocabulary(size: Size) -> ExtendTokenizer:
    return ExtendTokenizer(
        name="pieces",
        start=llama_2(size),
        data=DATA[size],
        learned=LEARNED[size],
        vocab=SHAPES[size].vocab,
    )


def read(size: Size, pieces: ExtendTokenizer) -> Pretrain:
    return Pretrain(
        name="read",
        start=llama_2(size),
        shape=SHAPES[size],
        tokenizer=pieces,
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=WARMUP[size]),  # unverified: the shape after warm-up
        new_rows="pieces",  # ours: not published
    )


def atom(size: Size = "7B") -> Recipe:
    pieces = vocabulary(size)
    faster = Claim(what="% by which Chinese is encoded and decoded faster", value=350, source="README")
    return Recipe(title=f"Atom {size}", stages=(pieces, read(size, pieces)), claims=(faster,))
