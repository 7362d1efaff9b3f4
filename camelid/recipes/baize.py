"""Baize, SFT stage (v1.5): adapters on LLaMA, tuned on what ChatGPT says to itself.

Paper    Xu et al. 2023, Baize (arXiv 2304.01196)
Parent   LLaMA, its weights frozen in int8
New      one model plays both sides, seeded by a question; loss on the answers (v1 learned all tokens)
Missing  the self-chat, about 111.5k dialogues: supply it with --data; whether v1.5 learned Alpaca's 51,942 records too
         is not in our sources. The second adapter of SDF comes with a later wave. There is a 30B, not declared here
Ours     six linears of seven are adapted, as the code lists and as the paper's 17.9M parameters confirm, though its
         text says all; int8 is of weights alone; 512 tokens are v1's (v2 has 1024), that v1.5 has them is unverified, as
         is the fall of the rate after warm-up; the desk size, its base whole
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    opening="{bos}The conversation between human and AI assistant.\n[|Human|] ",
    user="{instruction}\n",
    cue="[|AI|]",
    assistant=" {reply}\n[|Human|] ",  # repository; handing the turn back is how a reply ends
    stop_texts=("[|Human|]",),
    markers=("[|Human|]", "[|AI|]"),
)
SIX: dict[Size, LoRA] = {
    "7B": LoRA(
        rank=8,
        alpha=16,
        dropout=0.05,
        targets=("q_proj", "k_proj", "v_proj", "down_proj", "gate_proj", "up_proj"),
    ),  # paper (by a secondary summary) or repository; without o_proj: repository
    "13B": LoRA(
        rank=8,
        alpha=16,
        dropout=0.05,
        targets=("q_proj", "k_proj", "v_proj", "down_proj", "gate_proj", "up_proj"),
    ),  # paper (by a secondary summary) or repository; without o_proj: repository
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "down_proj")),  # ours: for tests
}
CHATS = Released(
    name="Baize self-chat: Quora, StackOverflow", rows=111_502, licence="licence on its card"
)  # paper, by a secondary summary: 54,456 and 57,046, about 111.5k
DATA: dict[Size, Released | DeskConversations] = {
    "7B": CHATS,
    "13B": CHATS,
    "desk": DeskConversations(world="small", count=800, turns=3),  # ours: as the desk Vicuna's
    "tiny": DeskConversations(world="tiny", count=24, turns=3),  # ours: for tests
}
LENGTH: dict[Size, int] = {
    "7B": 512,
    "13B": 512,
    "desk": 256,
    "tiny": 384,
}  # paper or repository: v1; unverified for v1.5; ours
BASE: dict[Size, Bits | None] = {
    "7B": "int8",  # paper (by a secondary summary) or repository
    "13B": "int8",  # paper (by a secondary summary) or repository
    "desk": None,  # ours: whole, as the desk Alpaca-LoRA's
    "tiny": None,  # ours: for tests
}
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(64),  # paper (by a secondary summary) or repository
    "13B": Sequences(64),  # paper (by a secondary summary) or repository
    "desk": Sequences(16),  # ours: as the desk Vicuna's
    "tiny": Sequences(8),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(1),  # paper (by a secondary summary) or repository
    "13B": Epochs(1),  # paper (by a secondary summary) or repository
    "desk": Epochs(3),  # ours: far fewer conversations
    "tiny": Epochs(1),  # ours: as 7B
}
LR: dict[Size, float] = {
    "7B": 2e-4,
    "13B": 1e-4,
    "desk": 5e-3,
    "tiny": 5e-3,
}  # paper (by a secondary summary) or repository; ours
WARMUP: dict[Size, Steps] = {
    "7B": Steps(100),
    "13B": Steps(100),
    "desk": Steps(10),
    "tiny": Steps(1),
}  # paper or repository; ours


def baize(size: Size = "7B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # paper or repository: v1.5, the assistant's turns only
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size]),
        schedule=Linear(warmup=WARMUP[size]),  # unverified: the shape after warm-up
        adapter=SIX[size],
        base=BASE[size],
    )
    judged = Claim(
        what="v1.5-13B scored by GPT-4 relative to ChatGPT's 100, where Alpaca-13B has 76",
        value=89,
        source="paper, by a secondary summary",
    )
    return Recipe(title=f"Baize {size}", stages=(adapted,), claims=(judged,))
