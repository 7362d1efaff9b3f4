"""GPT4-x-Alpaca: an Alpaca tuned a second time, on answers of GPT-4.

Paper    none; the README of its data, GPTeacher, was read; the model card was not, it is remembered. April 2023
Parent   Alpaca 13B (in the original chavinlo/alpaca-13b, a replica), every weight trained on
New      a short second stage with a stronger teacher
Missing  rate, batch, length and schedule are not in our sources; supply GPTeacher's records with --data
Ours     all of these as Alpaca 13B's; 3 epochs (remembered of the card) and the prompt (usual practice) are unverified;
         the desk size, whose second teacher makes no errors
"""

from camelid.recipe import *
from camelid.recipes.alpaca import BATCH, LENGTH, LR, PROMPT, alpaca

DATA: dict[Size, Released | DeskTaught] = {
    "13B": Released(
        name="GPTeacher General-Instruct", rows=20_000, licence="licence on its card"
    ),  # README of GPTeacher: about 20,000
    "desk": DeskTaught(world="small", count=900),  # ours: two fifths of the desk Alpaca's
    "tiny": DeskTaught(world="tiny", count=24),  # ours: for tests
}


def gpt4_x_alpaca(size: Size = "13B") -> Recipe:
    tuned = Finetune(
        name="tuned-again",
        start=alpaca(size),
        data=DATA[size],
        prompt=PROMPT,  # unverified: usual practice with this model
        learn="response",  # ours: as Alpaca
        length=LENGTH[size],  # ours: not in our sources; as Alpaca
        over_length="cut",
        batch=BATCH[size],  # ours: not in our sources; as Alpaca
        train=Epochs(3),  # unverified: model card as remembered
        optim=AdamW(lr=LR[size]),  # ours: not in our sources; as Alpaca
        schedule=Cosine(warmup=0.03),  # ours: not in our sources; as Alpaca
        pad="[PAD]",  # ours: as its parent
    )
    none = Claim(what="no official benchmark was found", value=None, source="none found")
    return Recipe(title=f"GPT4-x-Alpaca {size}", stages=(tuned,), claims=(none,))
