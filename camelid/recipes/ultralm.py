"""UltraLM: LLaMA tuned on conversations that two instances of ChatGPT hold with each other.

Paper    Ding et al. 2023, Enhancing Chat Language Models by Scaling High-quality Instructional Conversations (arXiv
         2305.14233)
Parent   LLaMA, every weight trained
New      1.47M conversations of 3.8 turns; one teacher plays the user, and no person's question is used
Missing  warm-up and schedule are not in our sources, and rate, epochs and clip are its script's defaults, not the
         paper's; supply the conversations with --data
Ours     the system text stands as a first user turn in training too, as it does at inference; a conversation too long
         is cut, where the paper splits it; constant rate; the desk size
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    system="User: {system}{eos}",
    default_system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, very detailed, and polite answers to the user's questions.",
    user="\nUser: {instruction}{eos}",
    cue="\nAssistant: ",
    assistant="{reply}{eos}",  # repository; the system text: at inference
)
ULTRACHAT = Released(name="UltraChat", rows=1_468_352, licence="licence on its card")  # paper, sections 3-5
DATA: dict[Size, Released | DeskConversations] = {
    "13B": ULTRACHAT,
    "65B": ULTRACHAT,
    "desk": DeskConversations(world="small", count=800, turns=3),  # ours: as the desk Vicuna's
    "tiny": DeskConversations(world="tiny", count=24, turns=3),  # ours: for tests
}
LENGTH: dict[Size, int] = {"13B": 2048, "65B": 2048, "desk": 256, "tiny": 384}  # paper, sections 3-5; ours
BATCH: dict[Size, Sequences] = {
    "13B": Sequences(512),  # paper, sections 3-5
    "65B": Sequences(512),  # paper, sections 3-5
    "desk": Sequences(16),  # ours: as the desk Vicuna's
    "tiny": Sequences(8),  # ours: for tests
}
LR: dict[Size, float] = {"13B": 1e-5, "65B": 1e-5, "desk": 1e-3, "tiny": 1e-3}  # repository: script's default; ours


def ultralm(size: Size = "13B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # repository: text of the assistant and its end
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(3),  # repository: script's default
        optim=AdamW(lr=LR[size]),
        schedule=Constant(),  # ours: not in our sources
        clip=1.0,  # repository: script's default
    )
    scored = Claim(
        what="scored by GPT-4 from 1 to 10, where Vicuna-13B has 8.96", value=9.02, source="paper, sections 3-5"
    )
    return Recipe(title=f"UltraLM {size}", stages=(tuned,), claims=(scored,))
