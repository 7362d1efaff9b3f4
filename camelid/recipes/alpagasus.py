"""AlpaGasus: Alpaca tuned on the sixth of its records that a grader finds accurate.

Paper    Chen et al. 2023, AlpaGasus: Training a Better Alpaca with Fewer Data (arXiv 2307.08701)
Parent   LLaMA (not Alpaca), every weight trained, by Alpaca's own script; the public code calls itself unofficial
New      ChatGPT scores every record from 0 to 5; only those with 4.5 or more remain, 9,229 of 52,002
Missing  the graded records: supply them with --data; the grader itself is not part of this recipe
Ours     the desk size: a teacher wrong in 60% of its answers, and a grader that errs on one record in twenty
"""

from camelid.recipe import *
from camelid.recipes.alpaca import EPOCHS, LENGTH, LR, PROMPT
from camelid.recipes.llama import llama

KEPT = Released(name="Alpaca records graded 4.5 or more", rows=9_229, licence="CC BY-NC 4.0")  # paper or repository
DATA: dict[Size, Released | DeskTaught] = {
    "7B": KEPT,
    "13B": KEPT,
    "desk": DeskTaught(world="small", count=2400, wrong=0.6, kept=426),  # ours: 17.75% kept, as 9,229 of 52,002
    "tiny": DeskTaught(world="tiny", count=270, wrong=0.6, kept=48),  # ours: for tests
}
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(128),  # paper or repository
    "13B": Sequences(128),  # paper or repository
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}


def alpagasus(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,  # paper or repository: Alpaca's templates
        learn="response",  # paper or repository: Alpaca's script unchanged
        length=LENGTH[size],  # paper or repository: 512, as Alpaca
        over_length="cut",
        batch=BATCH[size],
        train=EPOCHS[size],  # paper or repository: 3 for 7B and 5 for 13B
        optim=AdamW(lr=LR[size]),  # paper or repository: 2e-5 for 7B and 1e-5 for 13B
        schedule=Cosine(warmup=0.03),  # paper or repository
        pad="[PAD]",  # paper or repository: Alpaca's script unchanged
    )
    close = Claim(
        what="% of text-davinci-003's score that AlpaGasus-13B reaches", value=90.1, source="paper or repository"
    )
    return Recipe(title=f"AlpaGasus {size}", stages=(tuned,), claims=(close,))
