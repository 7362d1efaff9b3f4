"""Koala-All: the same with open data beside it, six times as much and noisier.

Paper    Geng et al. 2023, Koala: A Dialogue Model for Academic Research (blog); EasyLM and koala_data_pipeline
Parent   LLaMA, every weight trained
New      distilled conversations and Alpaca, OIG, Anthropic HH, WebGPT, OpenAI summaries, all in one mixture
         bad answers of the rated sets follow "An Unhelpful Answer:" in place of "GPT:" (the mark "poor" of a message)
Missing  rate and batch are not published; supply the records with --data
Ours     every record is trained on, where the original's code takes 90% of Alpaca and 95% of OIG; HH has about 160K
         rated rows by the blog (50k is told elsewhere); everything else as Koala-Distill; the desk size, whose added
         records are wrong in 30% of their answers
"""

from camelid.recipe import *
from camelid.recipes import koala
from camelid.recipes.koala import BATCH, LENGTH, LR
from camelid.recipes.llama import llama

PROMPT = replace(koala.PROMPT, marks=(("poor", "An Unhelpful Answer:"),))  # repository: of answers rated low or bad
OPEN = Blend(
    portions=(
        Portion(
            data=Released(name="ShareGPT, deduplicated", rows=30_000, licence="no release in our sources")
        ),  # blog or repository
        Portion(data=Released(name="HC3", rows=87_000, licence="licence on its card")),  # blog or repository
        Portion(
            data=Released(name="OIG, three parts", rows=30_000, licence="licence on its card")
        ),  # blog or repository
        Portion(data=Released(name="Alpaca", rows=52_000, licence="CC BY-NC 4.0")),  # blog or repository
        Portion(data=Released(name="Anthropic HH", rows=160_000, licence="licence on its card")),  # blog: about 160K
        Portion(
            data=Released(name="WebGPT comparisons", rows=20_000, licence="licence on its card")
        ),  # blog or repository
        Portion(
            data=Released(name="OpenAI summaries", rows=93_000, licence="licence on its card")
        ),  # blog or repository
    )
)
DATA: dict[Size, Blend] = {
    "7B": OPEN,
    "13B": OPEN,
    "desk": Blend(
        portions=(
            Portion(data=DeskConversations(world="small", count=300)),  # ours: as Koala-Distill
            Portion(data=DeskTaught(world="small", count=1200, wrong=0.02)),  # ours: as Koala-Distill
            Portion(data=DeskTaught(world="small", count=2400, wrong=0.3, marked=True)),  # ours: the noisy rest
        )
    ),
    "tiny": Blend(
        portions=(
            Portion(data=DeskConversations(world="tiny", count=12)),  # ours: for tests
            Portion(data=DeskTaught(world="tiny", count=24, wrong=0.02)),  # ours: for tests
            Portion(data=DeskTaught(world="tiny", count=48, wrong=0.3, marked=True)),  # ours: for tests
        )
    ),
}


def koala_all(size: Size = "13B") -> Recipe:
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
    better = Claim(
        what="% of real queries on which it is at least as good as Alpaca", value=70, source="blog or repository"
    )
    return Recipe(title=f"Koala-All {size}", stages=(tuned,), claims=(better,))
