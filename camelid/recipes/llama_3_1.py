"""Llama 3.1: Llama 3 read on to 128K tokens, its slow rotations slowed by eight.

Paper    Dubey et al. 2024, The Llama 3 Herd of Models (arXiv 2407.21783), sections 3.1-3.4; llama-models, apply_scaling
Parent   Llama 3 of the same size, every weight trained on
New      rotations longer than the old window are slowed by 8, short ones kept, a linear blend between; context 131,072
Missing  the long texts; supply them with --data. The context grew in six steps whose lengths are not in our sources,
         each until short tasks recovered and a needle was found; here it has its last length from the start. Rate,
         batch and schedule of this stage are not in our sources, and its 800B tokens are told for no size
Ours     a constant rate at the floor of Llama 3's cosine; optimizer as in our Llama 3; the desk size goes from 512
         tokens to 1024, with a factor of 2
"""

from camelid.recipe import *
from camelid.recipes.llama_3 import BATCH, DATA, SHAPES, llama_3, vocabulary

WIDER: dict[Size, LlamaShape] = {
    "8B": SIZES["llama-3.1-8B"],  # repository: models/llama3/model.py, apply_scaling
    "70B": SIZES["llama-3.1-70B"],  # repository: models/llama3/model.py, apply_scaling
    "405B": SIZES["llama-3.1-405B"],  # repository: models/llama3/model.py, apply_scaling
    "desk": replace(
        SHAPES["desk"], context=1024, scaling=RopeScaling(kind="llama3", factor=2.0, original=512)
    ),  # ours: twice the context
    "tiny": replace(
        SHAPES["tiny"], context=1536, scaling=RopeScaling(kind="llama3", factor=2.0, original=768)
    ),  # ours: tests
}
LENGTH: dict[Size, int] = {
    "8B": 131_072,
    "70B": 131_072,
    "405B": 131_072,
    "desk": 1024,
    "tiny": 512,
}  # paper, sections 3.1-3.4, or model card; ours
TRAIN: dict[Size, Tokens] = {
    "8B": Tokens(800 * B),  # unverified for this size: about 800B
    "70B": Tokens(800 * B),  # unverified for this size: about 800B
    "405B": Tokens(800 * B),  # paper, sections 3.1-3.4: about 800B
    "desk": Tokens(250 * K),  # ours: a twentieth of its parent's, as 800B are of 15.6T
    "tiny": Tokens(2048),  # ours: for tests
}
LR: dict[Size, float] = {
    "8B": 3e-6,  # ours: not in our sources; where Llama 3's cosine ends
    "70B": 1.5e-6,  # ours: not in our sources; where Llama 3's cosine ends
    "405B": 8e-7,  # ours: not in our sources; where Llama 3's cosine ends
    "desk": 4e-4,  # ours: a tenth of its parent's
    "tiny": 3e-4,  # ours: for tests
}


def llama_3_1(size: Size = "8B") -> Recipe:
    lengthened = Pretrain(
        name="lengthened",
        start=llama_3(size),
        shape=WIDER[size],
        tokenizer=vocabulary(size),
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],  # ours: not in our sources
        train=TRAIN[size],
        optim=AdamW(
            lr=LR[size],
            betas=(0.9, 0.95),  # ours: not in our sources, as Llama 2
            decay=0.1,  # paper, sections 3.1-3.4
        ),
        schedule=Constant(),
        clip=1.0,  # ours: not in our sources, as Llama 2
    )
    longer = Claim(what="Llama 3.1 405B on MMLU, 5-shot, base model", value=85.2, source="model card")
    return Recipe(title=f"Llama 3.1 {size}", stages=(lengthened,), claims=(longer,))
