"""Llama 2: LLaMA's recipe on twice the context, 2.0 trillion tokens, and shared keys and values in the large sizes.

Paper    Touvron et al. 2023, Llama 2: Open Foundation and Fine-Tuned Chat Models (arXiv 2307.09288)
Parent   none
New      context 4096; grouped queries with 8 key-value heads in 34B and 70B, their feed-forward widened; 40% more
         tokens
Missing  the mixture: neither its sources nor their shares are in our sources; supply texts with --data. The 34B was
         evaluated in the paper and never released; its shape is that of Code Llama 34B
Ours     the paper was read in a translation and in transcriptions; initialisation and document masks as in our LLaMA;
         the desk size shares keys and values although the published 7B does not, so that the mechanism is tried
"""

from camelid.recipe import *
from camelid.recipes.llama import DEVIATION

PUBLIC = Mixture(
    parts=(
        Part(
            name="public sources, unnamed", share=100.0, made="most factual sources up-sampled, 89.7% English"
        ),  # paper, section 2
    )
)
DATA: dict[Size, Mixture | DeskText] = {
    "7B": PUBLIC,
    "13B": PUBLIC,
    "34B": PUBLIC,
    "70B": PUBLIC,
    "desk": DeskText(world="small", bytes=15 * M),  # ours: told about once in the run
    "tiny": DeskText(world="tiny", bytes=60 * K),  # ours: for tests
}
SHAPES: dict[Size, LlamaShape] = {
    "7B": SIZES["llama-2-7B"],  # repository or litgpt config
    "13B": SIZES["llama-2-13B"],  # repository or litgpt config
    "34B": SIZES["llama-2-34B"],  # configuration of Code Llama 34B, the same backbone
    "70B": SIZES["llama-2-70B"],  # repository or litgpt config, ffn_dim_multiplier 1.3
    "desk": LlamaShape(
        layers=4, width=128, heads=4, kv_heads=2, head_width=32, hidden=392, vocab=1024, context=512
    ),  # ours: LLaMA's desk size with what its keys and values lost given to the feed-forward, and twice its context
    "tiny": LlamaShape(
        layers=2, width=32, heads=2, kv_heads=1, head_width=16, hidden=64, vocab=400, context=768
    ),  # ours: tests
}
LENGTH: dict[Size, int] = {
    "7B": 4096,
    "13B": 4096,
    "34B": 4096,
    "70B": 4096,
    "desk": 512,
    "tiny": 256,
}  # paper, section 2, or model card; ours
BATCH: dict[Size, Tokens] = {
    "7B": Tokens(4 * M),  # paper, section 2, or model card: 4M
    "13B": Tokens(4 * M),  # paper, section 2, or model card: 4M
    "34B": Tokens(4 * M),  # paper, section 2, or model card: 4M
    "70B": Tokens(4 * M),  # paper, section 2, or model card: 4M
    "desk": Tokens(1024),  # ours: as LLaMA's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "7B": Tokens(2000 * B),  # paper, section 2, or model card: 2.0T
    "13B": Tokens(2000 * B),  # paper, section 2, or model card: 2.0T
    "34B": Tokens(2000 * B),  # paper, section 2, or model card: 2.0T
    "70B": Tokens(2000 * B),  # paper, section 2, or model card: 2.0T
    "desk": Tokens(5040 * K),  # ours: 40% more than LLaMA's desk size, as 2.0T are of 1.4T
    "tiny": Tokens(8192),  # ours: for tests
}
LR: dict[Size, float] = {
    "7B": 3e-4,
    "13B": 3e-4,
    "34B": 1.5e-4,
    "70B": 1.5e-4,
    "desk": 4e-3,
    "tiny": 3e-3,
}  # model card; for 34B and 70B a translation of the paper prints 3e-4; ours
WARMUP: dict[Size, Steps] = {
    "7B": Steps(2000),  # paper, section 2
    "13B": Steps(2000),  # paper, section 2
    "34B": Steps(2000),  # paper, section 2
    "70B": Steps(2000),  # paper, section 2
    "desk": Steps(50),  # ours: as LLaMA's
    "tiny": Steps(2),  # ours: for tests
}
NORMAL: dict[Size, float] = DEVIATION | {"34B": 0.02, "70B": 0.02}  # ours: unpublished; the habit of transformers


def vocabulary(size: Size) -> TrainTokenizer:
    return TrainTokenizer(
        name="pieces",
        kind="sentencepiece",  # as LLaMA's: paper, section 2
        data=DATA[size],
        vocab=SHAPES[size].vocab,  # as LLaMA's: 32k
    )


def llama_2(size: Size = "7B") -> Recipe:
    pieces = vocabulary(size)
    pretrained = Pretrain(
        name="pretrained",
        shape=SHAPES[size],
        tokenizer=pieces,
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), eps=1e-5, decay=0.1),  # paper, section 2
        schedule=Cosine(warmup=WARMUP[size], floor=0.1),  # paper, section 2: to 10% of the peak
        clip=1.0,  # paper, section 2
        deviation=NORMAL[size],
    )
    better = Claim(
        what="Llama 2 70B on MMLU, 5-shot, where LLaMA 65B has 63.4",
        value=68.9,
        source="paper, section 2, or model card",
    )
    return Recipe(title=f"Llama 2 {size}", stages=(pieces, pretrained), claims=(better,))
