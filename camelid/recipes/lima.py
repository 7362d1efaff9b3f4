"""LIMA: a thousand chosen conversations and nothing else.

Paper    Zhou et al. 2023, LIMA: Less Is More for Alignment (arXiv 2305.11206)
Parent   LLaMA 65B (7B for the ablations), every weight trained
New      1,000 hand-picked records, 15 epochs; a token of its own ends every turn; residual dropout that rises with
         depth
Missing  how the turn's token is spelled is not published; whether prompts are learned is unverified (the paper names a
         standard loss and no mask). The paper was read through notes that quote it. The checkpoint was chosen by hand
         between epochs 5 and 10, here the last one is kept. Supply the records with --data
Ours     "<EOT>", loss on every answer and its end, the rise of dropout by layer as in Open-Assistant's
         re-implementation, and the desk size; its records are those of a teacher without errors
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    user="{instruction}{<EOT>}",
    assistant="{reply}{<EOT>}",  # paper, by quoting notes: no role words, every utterance closed
)
CHOSEN = Released(name="LIMA, train", rows=1_000, licence="licence on its card")  # paper, by quoting notes
DATA: dict[Size, Released | DeskTaught] = {
    "65B": CHOSEN,
    "7B": CHOSEN,
    "desk": DeskTaught(world="small", count=240),  # ours: a tenth of the desk Alpaca's
    "tiny": DeskTaught(world="tiny", count=24),  # ours: for tests
}
LENGTH: dict[Size, int] = {"65B": 2048, "7B": 2048, "desk": 256, "tiny": 384}  # paper, by quoting notes; ours
BATCH: dict[Size, Sequences] = {
    "65B": Sequences(32),  # paper, by quoting notes
    "7B": Sequences(64),  # paper, by quoting notes: 64 for smaller models
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(8),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "65B": Epochs(15),  # paper, by quoting notes
    "7B": Epochs(15),  # paper, by quoting notes
    "desk": Epochs(15),  # ours: as 65B
    "tiny": Epochs(2),  # ours: for tests
}
LR: dict[Size, float] = {"65B": 1e-5, "7B": 1e-5, "desk": 5e-4, "tiny": 1e-3}  # paper, by quoting notes; ours
DROPOUT: dict[Size, float] = {
    "65B": 0.3,
    "7B": 0.2,
    "desk": 0.2,
    "tiny": 0.2,
}  # paper, by quoting notes: 0.2 for smaller; ours


def lima(size: Size = "65B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # unverified: a choice, ours
        length=LENGTH[size],
        over_length="cut",  # paper, by quoting notes: trimmed at 2,048 tokens
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), decay=0.1),  # paper, by quoting notes
        schedule=Linear(floor=0.1),  # paper, by quoting notes: from 1e-5 to 1e-6, no warm-up
        controls=("<EOT>",),  # ours: its spelling is not published
        dropout=DROPOUT[size],
    )
    equal = Claim(
        what="% of prompts where people find it equal to or better than GPT-4",
        value=43,
        source="paper, by quoting notes",
    )
    return Recipe(title=f"LIMA {size}", stages=(tuned,), claims=(equal,))
