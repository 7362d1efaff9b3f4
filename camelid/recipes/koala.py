"""Koala-Distill: LLaMA tuned on conversations with ChatGPT only, cleaned.

Paper    Geng et al. 2023, Koala: A Dialogue Model for Academic Research (blog); EasyLM and koala_data_pipeline
Parent   LLaMA, every weight trained
New      30K ShareGPT conversations without duplicate questions, and the 87K answers of HC3
Missing  rate and batch are not published, nor is a training length in our sources (a context of 512, told elsewhere, is
         unsupported); supply the records with --data
Ours     rate, batch, warm-up and schedule as Vicuna's, which is of the same days; length as served; the desk size
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    opening="{bos}BEGINNING OF CONVERSATION: ",
    user="USER: {instruction} ",
    cue="GPT:",
    assistant="{reply}{eos}",  # repository: docs/koala.md, among others
    markers=("USER:", "GPT:"),
)
DISTILLED = Blend(
    portions=(
        Portion(
            data=Released(name="ShareGPT, deduplicated", rows=30_000, licence="no release in our sources")
        ),  # blog or repository
        Portion(
            data=Released(name="HC3", rows=87_000, licence="licence on its card")
        ),  # blog or repository: 60K human, 27K ChatGPT
    )
)
DATA: dict[Size, Blend] = {
    "7B": DISTILLED,
    "13B": DISTILLED,
    "desk": Blend(
        portions=(
            Portion(data=DeskConversations(world="small", count=300)),  # ours: many turns, all right
            Portion(data=DeskTaught(world="small", count=1200, wrong=0.02)),  # ours: single turns, nearly all right
        )
    ),
    "tiny": Blend(
        portions=(
            Portion(data=DeskConversations(world="tiny", count=12)),  # ours: for tests
            Portion(data=DeskTaught(world="tiny", count=24, wrong=0.02)),  # ours: for tests
        )
    ),
}
LENGTH: dict[Size, int] = {
    "7B": 2048,
    "13B": 2048,
    "desk": 256,
    "tiny": 384,
}  # unverified in training; served at 2048; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(128),  # ours: not published; as Vicuna
    "13B": Sequences(128),  # ours: not published; as Vicuna
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(8),  # ours: for tests
}
LR: dict[Size, float] = {
    "7B": 2e-5,  # ours: not published; as Vicuna
    "13B": 2e-5,  # ours: not published; as Vicuna
    "desk": 1e-3,  # ours: as the desk Alpaca's
    "tiny": 1e-3,  # ours: for tests
}


def koala_distill(size: Size = "13B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # repository: the bracketed fields carry no loss
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(2),  # blog or repository
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=0.03),  # ours: not in our sources; as Vicuna
    )
    clean = Claim(
        what="slightly better than Koala-All in blind pairs; no number is published",
        value=None,
        source="blog or repository",
    )
    return Recipe(title=f"Koala-Distill {size}", stages=(tuned,), claims=(clean,))
