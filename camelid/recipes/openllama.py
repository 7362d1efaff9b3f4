"""OpenLLaMA: LLaMA's recipe run again on an open reproduction of its data, under a permissive licence.

Paper    none; the repository openlm-research/open_llama and its README, May to July 2023 (Apache 2.0)
Parent   none
New      RedPajama in place of LLaMA's own texts; a 3B that LLaMA does not have; weights that anybody may use
Missing  1.2T tokens of RedPajama-1T as assembled for the run, and in which proportions they were drawn: supply texts
         with --data
Ours     proportions are RedPajama's token counts, since none were published; rates of the 3B are those of 7B, since the
         README says "hyperparameters of the LLaMA paper", which has no 3B; the vocabulary keeps spaces, where v1's
         merged runs of them (so that v1 cannot write code: README); the desk size, which is LLaMA's with another seed
"""

from camelid.recipe import *
from camelid.recipes.llama import BATCH as LLAMA_BATCH
from camelid.recipes.llama import DATA as LLAMA_DATA
from camelid.recipes.llama import DEVIATION as LLAMA_DEVIATION
from camelid.recipes.llama import LENGTH as LLAMA_LENGTH
from camelid.recipes.llama import LR as LLAMA_LR
from camelid.recipes.llama import SHAPES as LLAMA_SHAPES
from camelid.recipes.llama import WARMUP as LLAMA_WARMUP

RED_PAJAMA = Mixture(
    parts=(
        Part(name="CommonCrawl", share=72.56, made="RedPajama-1T"),  # card of RedPajama-1T: 878B of its 1,210B tokens
        Part(name="C4", share=14.46, made="RedPajama-1T"),  # card of RedPajama-1T: 175B
        Part(name="Github", share=4.88, made="RedPajama-1T"),  # card of RedPajama-1T: 59B
        Part(name="ArXiv", share=2.31, made="RedPajama-1T"),  # card of RedPajama-1T: 28B
        Part(name="Books", share=2.15, made="RedPajama-1T"),  # card of RedPajama-1T: 26B
        Part(name="Wikipedia", share=1.98, made="RedPajama-1T"),  # card of RedPajama-1T: 24B
        Part(name="StackExchange", share=1.65, made="RedPajama-1T"),  # card of RedPajama-1T: 20B
    )
)
DATA: dict[Size, Mixture | DeskText] = LLAMA_DATA | {"3B": RED_PAJAMA, "7B": RED_PAJAMA, "13B": RED_PAJAMA}  # README
SHAPES: dict[Size, LlamaShape] = LLAMA_SHAPES | {
    "3B": SIZES["openllama-3B"],  # litgpt config
}  # README: LLaMA's architecture
LENGTH: dict[Size, int] = LLAMA_LENGTH | {
    "3B": 2048,  # README: LLaMA's context length
}  # README: LLaMA's context length
BATCH: dict[Size, Tokens] = LLAMA_BATCH | {
    "3B": Tokens(4 * M),  # README: LLaMA's hyperparameters
}  # README: LLaMA's hyperparameters
TRAIN: dict[Size, Tokens] = {
    "3B": Tokens(1000 * B),  # README: 1T
    "7B": Tokens(1000 * B),  # README: 1T
    "13B": Tokens(1000 * B),  # README: 1T
    "desk": Tokens(3_600_000),  # ours: as LLaMA's
    "tiny": Tokens(8192),  # ours: for tests
}
LR: dict[Size, float] = LLAMA_LR | {
    "3B": 3e-4,  # unverified: as 7B
}  # README: LLaMA's hyperparameters
WARMUP: dict[Size, Steps] = LLAMA_WARMUP | {
    "3B": Steps(2000),  # README: LLaMA's hyperparameters
}  # README: LLaMA's hyperparameters
DEVIATION: dict[Size, float] = LLAMA_DEVIATION | {
    "3B": 0.02,  # ours: unpublished; the habit of transformers
}  # ours: as LLaMA's


def openllama(size: Size = "7B") -> Recipe:
    pieces = TrainTokenizer(
        name="pieces",
        kind="sentencepiece",  # README: trained anew
        data=DATA[size],
        vocab=SHAPES[size].vocab,
        seed=1,  # ours: another vocabulary than LLaMA's
    )
    pretrained = Pretrain(
        name="pretrained",
        shape=SHAPES[size],
        tokenizer=pieces,
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), decay=0.1),  # README: LLaMA's optimizer
        schedule=Cosine(warmup=WARMUP[size], floor=0.1),  # README: LLaMA's schedule
        clip=1.0,  # README: LLaMA's hyperparameters
        deviation=DEVIATION[size],
        seed=1,  # ours: other weights than LLaMA's
    )
    alike = Claim(what="mean of 22 scores of the 7B, where LLaMA-7B has 0.55", value=0.55, source="README, Evaluation")
    return Recipe(title=f"OpenLLaMA {size}", stages=(pieces, pretrained), claims=(alike,))
