"""LLaMA: a decoder trained from nothing on public text only, smaller and longer than compute-optimal.

Paper    Touvron et al. 2023, LLaMA: Open and Efficient Foundation Language Models (arXiv 2302.13971)
Parent   none
New      RMSNorm before each block, SwiGLU, rotary positions; 1.0 to 1.4 trillion tokens of public data
Missing  the 1.4T tokens as assembled: the mixture is published, the filtered texts are not; supply your own with --data
Ours     initialisation N(0, 0.02), unpublished; documents packed in a row do not attend to each other, which the paper
         does not say; the desk size, its mixture generated and its vocabulary learned in the same run
"""

from camelid.recipe import *

TABLE_1 = Mixture(
    parts=(
        Part(
            name="CommonCrawl", share=67.0, made="CCNet: line dedup, language, perplexity; reference classifier"
        ),  # Table 1
        Part(name="C4", share=15.0, made="dedup, language, heuristics on punctuation and length"),  # Table 1
        Part(name="Github", share=4.5, made="permissive licences, line-length heuristics, file-level dedup"),  # Table 1
        Part(name="Wikipedia", share=4.5, made="dumps of June to August 2022, 20 languages"),  # Table 1
        Part(name="Books", share=4.5, made="Gutenberg and Books3, book-level dedup at 90% overlap"),  # Table 1
        Part(name="ArXiv", share=2.5, made="LaTeX without preamble, bibliography, comments"),  # Table 1
        Part(name="StackExchange", share=2.0, made="28 largest sites, answers sorted by score"),  # Table 1
    )
)
DATA: dict[Size, Mixture | DeskText] = {
    "7B": TABLE_1,
    "13B": TABLE_1,
    "33B": TABLE_1,
    "65B": TABLE_1,
    "desk": DeskText(world="small", bytes=11 * M),  # ours: told about once in the run
    "tiny": DeskText(world="tiny", bytes=60 * K),  # ours: for tests
}
SHAPES: dict[Size, LlamaShape] = {
    "7B": SIZES["llama-7B"],  # Table 2
    "13B": SIZES["llama-13B"],  # Table 2
    "33B": SIZES["llama-33B"],  # Table 2
    "65B": SIZES["llama-65B"],  # Table 2
    "desk": LlamaShape(
        layers=4, width=128, heads=4, kv_heads=4, head_width=32, hidden=352, vocab=1024, context=256
    ),  # ours: 1M
    "tiny": LlamaShape(
        layers=2, width=32, heads=2, kv_heads=2, head_width=16, hidden=64, vocab=400, context=384
    ),  # ours: tests
}
LENGTH: dict[Size, int] = {
    "7B": 2048,
    "13B": 2048,
    "33B": 2048,
    "65B": 2048,
    "desk": 256,
    "tiny": 128,
}  # section 2.3; ours
BATCH: dict[Size, Tokens] = {
    "7B": Tokens(4 * M),  # section 2.3
    "13B": Tokens(4 * M),  # section 2.3
    "33B": Tokens(4 * M),  # section 2.3
    "65B": Tokens(4 * M),  # section 2.3
    "desk": Tokens(1024),  # ours: small batches learn most from few tokens; docs/log.md
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "7B": Tokens(1000 * B),  # section 2.3 and Table 2: 1.0T
    "13B": Tokens(1000 * B),  # section 2.3 and Table 2: 1.0T
    "33B": Tokens(1400 * B),  # Table 2: 1.4T
    "65B": Tokens(1400 * B),  # Table 2: 1.4T
    "desk": Tokens(3_600_000),  # ours: two minutes on four cores; copying from the context is learned at 2 to 3 M
    "tiny": Tokens(8192),  # ours: for tests
}
LR: dict[Size, float] = {
    "7B": 3e-4,
    "13B": 3e-4,
    "33B": 1.5e-4,
    "65B": 1.5e-4,
    "desk": 4e-3,
    "tiny": 3e-3,
}  # Table 2; ours
WARMUP: dict[Size, Steps] = {
    "7B": Steps(2000),  # section 2.3
    "13B": Steps(2000),  # section 2.3
    "33B": Steps(2000),  # section 2.3
    "65B": Steps(2000),  # section 2.3
    "desk": Steps(50),  # ours: the same share of a far shorter run would be a single step
    "tiny": Steps(2),  # ours: for tests
}

DEVIATION: dict[Size, float] = {
    "7B": 0.02,  # ours: unpublished; the habit of transformers
    "13B": 0.02,  # ours: unpublished; the habit of transformers
    "33B": 0.02,  # ours: unpublished; the habit of transformers
    "65B": 0.02,  # ours: unpublished; the habit of transformers
    "desk": 0.07,  # ours: about 1 / sqrt(width); 0.02 learns sums far later, docs/log.md
    "tiny": 0.07,  # ours: as desk
}


def vocabulary(size: Size) -> TrainTokenizer:
    return TrainTokenizer(
        name="pieces",
        kind="sentencepiece",  # section 2.1: byte-pair encoding, digits split, byte fallback
        data=DATA[size],
        vocab=SHAPES[size].vocab,
    )


def llama(size: Size = "7B") -> Recipe:
    pieces = vocabulary(size)
    pretrained = Pretrain(
        name="pretrained",
        shape=SHAPES[size],
        tokenizer=pieces,
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), decay=0.1),  # section 2.3
        schedule=Cosine(warmup=WARMUP[size], floor=0.1),  # section 2.3: to 10% of the peak
        clip=1.0,  # section 2.3
        deviation=DEVIATION[size],
    )
    smaller = Claim(what="LLaMA-13B on MMLU, 5-shot, where GPT-3 175B has 43.9", value=46.9, source="Table 9")
    return Recipe(title=f"LLaMA {size}", stages=(pieces, pretrained), claims=(smaller,))
