"""Guanaco of the GuanacoDataset: LLaMA tuned on Alpaca's seeds widened to five languages, with the history in the prompt.

Paper    none; Guanaco-Model.github.io, README, and the data set's card. March 2023. Not the Guanaco of QLoRA
Parent   LLaMA 7B, every weight trained
New      what was said before stands in the instruction, what is asked now in the input, both with the speakers' names
Missing  rate, batch, length, epochs and schedule are not published; 52K of Alpaca and 534,530 new records, of whose four
         files one has no count in our sources: supply them with --data. The words NO IDEA, FORBIDDEN and SFW are plain
         text of the records; so is a line "System: ..." of knowledge in the input
Ours     all numbers as Alpaca's; the desk size, in the desk world's one language
"""

from camelid.recipe import *
from camelid.recipes.alpaca import BATCH, EPOCHS, LENGTH, LR
from camelid.recipes.llama import llama

PROMPT = Template(
    user="### Instruction:\n{instruction}\n### Response:\n",
    user_with_input="### Instruction:\n{instruction}\n### Input:\n{input}\n### Response:\n",  # README
    markers=("### Instruction:", "### Input:", "### Response:", "User:", "Assistant:", "System:"),
)
DATA: dict[Size, Blend] = {
    "7B": Blend(
        portions=(
            Portion(data=Released(name="guanaco_chat_all", rows=48_967, licence="GPL 3.0")),  # card
            Portion(data=Released(name="guanaco_non_chat", rows=279_644, licence="GPL 3.0")),  # card
            Portion(data=Released(name="guanaco_non_chat_mini_52K", rows=52_224, licence="GPL 3.0")),  # card
        )
    ),
    "desk": Blend(
        portions=(
            Portion(data=DeskConversations(world="small", count=400, turns=3, told="folded")),  # ours: half of it chat
            Portion(data=DeskInstructions(world="small", count=1200)),  # ours: half the desk Alpaca's
        )
    ),
    "tiny": Blend(
        portions=(
            Portion(data=DeskConversations(world="tiny", count=8, turns=3, told="folded")),  # ours: for tests
            Portion(data=DeskInstructions(world="tiny", count=24)),  # ours: for tests
        )
    ),
}


def guanaco_dataset(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # ours: not published; as Alpaca
        length=LENGTH[size],  # ours: not published; as Alpaca
        over_length="cut",
        batch=BATCH[size],  # ours: not published; as Alpaca
        train=EPOCHS[size],  # ours: not published; as Alpaca
        optim=AdamW(lr=LR[size]),  # ours: not published; as Alpaca
        schedule=Cosine(warmup=0.03),  # ours: not published; as Alpaca
    )
    none = Claim(what="no quantitative claim was published", value=None, source="README")
    return Recipe(title=f"Guanaco (GuanacoDataset) {size}", stages=(tuned,), claims=(none,))
