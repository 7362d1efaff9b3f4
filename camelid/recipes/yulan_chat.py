"""YuLan-Chat: LLaMA tuned in Chinese and English on instructions that were made ever more complex.

Paper    none of the first series; Zhu et al. 2024, YuLan (arXiv 2406.19853) for the third; RUC-GSAI/YuLan-Chat
Parent   LLaMA 13B and 65B, every weight trained: series 1, v1. Its v2 and series 2 (Llama 2) have 51,190 pieces and
         read on first, series 3 is a 12B trained from nothing
New      open instructions are cleaned, spread over 293 topics, and made harder: simple ones rewritten, single turns grown
         into several
Missing  250k records (90k Chinese and 90k English conversations, 70k of ShareGPT): supply them with --data, the easy
         ones first
Ours     rate, batch and epochs were not published: Vicuna's; the order of the file is kept, easy before hard, as series 3
         was tuned (for series 1 none is told); that an end token follows each answer is unverified; the desk size goes
         from single instructions to conversations
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    opening="{bos}The following is a conversation between a human and an AI assistant namely YuLan, developed by GSAI, "
    "Renmin University of China. The AI assistant gives helpful, detailed, and polite answers to the user's questions.",
    user="\n[|Human|]:{instruction}",
    cue="\n[|AI|]:",
    assistant="{reply}{eos}",  # README; unverified: the end token
    markers=("[|Human|]", "[|AI|]"),
)
RECORDS = Released(name="YuLan-Chat instructions, easy first", rows=250_000, licence="no release in our sources")
DATA: dict[Size, Released | Blend] = {
    "13B": RECORDS,  # README, June 2023
    "65B": RECORDS,  # README, June 2023
    "desk": Blend(
        portions=(
            Portion(data=DeskInstructions(world="small", count=1200)),  # ours: half of the desk Alpaca's
            Portion(data=DeskConversations(world="small", count=400, turns=3)),  # ours: as many answers
        )
    ),
    "tiny": Blend(
        portions=(
            Portion(data=DeskInstructions(world="tiny", count=24)),  # ours: for tests
            Portion(data=DeskConversations(world="tiny", count=12, turns=3)),  # ours: for tests
        )
    ),
}
LENGTH: dict[Size, int] = {"13B": 2048, "65B": 2048, "desk": 256, "tiny": 640}  # README; ours
BATCH: dict[Size, Sequences] = {
    "13B": Sequences(128),  # ours: not published, as Vicuna
    "65B": Sequences(128),  # ours: not published, as Vicuna
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(8),  # ours: for tests
}
LR: dict[Size, float] = {"13B": 2e-5, "65B": 2e-5, "desk": 1e-3, "tiny": 1e-3}  # ours: not published, as Vicuna


def tuned(size: Size) -> Finetune:
    return Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # README: as Vicuna
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(3),  # ours: not published, as Vicuna
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=0.04),  # ours: not published, as Vicuna
        order="given",  # arXiv 2406.19853: easy before hard, of series 3
    )


def yulan_chat(size: Size = "13B") -> Recipe:
    level = Claim(what="MMLU of the 13B, v1, where LLaMA-2-13B has 56.2", value=49.4, source="README")
    return Recipe(title=f"YuLan-Chat {size}", stages=(tuned(size),), claims=(level,))


def shuffled(size: Size = "13B") -> Recipe:
    """The same records in a fresh order each epoch: no curriculum."""
    mixed = replace(tuned(size), name="tuned", order="shuffled")
    return Recipe(title=f"YuLan-Chat {size}, shuffled", stages=(mixed,))
