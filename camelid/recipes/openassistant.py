"""OpenAssistant LLaMA, SFT stage: LLaMA tuned on conversation trees that volunteers wrote.

Paper    Köpf et al. 2023, OpenAssistant Conversations (arXiv 2304.07327); model_training/configs
Parent   LLaMA, every weight trained
New      every path of a tree from its root to an assistant's message is a conversation; tokens of its own name the
         roles
Missing  reward model and PPO come with later waves; supply the trees with --data (--set tuned.data.best=1 follows the best
         replies alone). How many paths the trees have is not in our sources: the count below is of trees of every
         state, 161,443 messages (not 600k, as told elsewhere), of which more than 10,000 trees are fully annotated
Ours     eight devices are unverified: typical of its configurations; the cosine is unverified; a thread too long is cut
         at the end, where the original starts it at a random message; the desk size
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    opening="",
    system="{<|system|>}{system}{eos}",
    user="{<|prompter|>}{instruction}{eos}",
    cue="{<|assistant|>}",
    assistant="{reply}{eos}",  # repository: custom_datasets/formatting.py, among others
)
THREADS = Released(
    name="OASST1, conversation trees of every state", rows=66_497, licence="licence on its card"
)  # paper or repository: trees, not paths
DATA: dict[Size, Released | DeskTrees] = {
    "7B": THREADS,
    "13B": THREADS,
    "desk": DeskTrees(world="small", count=2400, wrong=0.3),  # ours: three replies, 30% wrong, the best kept
    "tiny": DeskTrees(world="tiny", count=48),  # ours: for tests
}
LENGTH: dict[Size, int] = {"7B": 2048, "13B": 2048, "desk": 256, "tiny": 384}  # repository: configs; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(4 * 2 * 8),  # repository: 4 x 2; unverified: on 8 devices
    "13B": Sequences(4 * 2 * 8),  # repository: 4 x 2; unverified: on 8 devices
    "desk": Sequences(16),  # ours: as the desk Vicuna's
    "tiny": Sequences(8),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(8),  # repository: configs
    "13B": Epochs(8),  # repository: configs
    "desk": Epochs(3),  # ours: generated records are simpler
    "tiny": Epochs(2),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 1e-5, "13B": 1e-5, "desk": 5e-4, "tiny": 1e-3}  # repository: configs; ours
WARMUP: dict[Size, Steps] = {
    "7B": Steps(100),
    "13B": Steps(100),
    "desk": Steps(5),
    "tiny": Steps(1),
}  # repository: configs; ours


def openassistant(size: Size = "13B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # repository: only messages of the assistant
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), eps=1e-12),  # repository: configs
        schedule=Cosine(warmup=WARMUP[size]),  # unverified: the shape after warm-up
        clip=2.0,  # repository: configs
        controls=(
            "<|prompter|>",
            "<|assistant|>",
            "<|system|>",
            "<|prefix_begin|>",
            "<|prefix_end|>",
        ),  # paper or repository
    )
    liked = Claim(what="no number of the LLaMA models was confirmed in a source", value=None, source="none found")
    return Recipe(title=f"OpenAssistant {size}", stages=(tuned,), claims=(liked,))
