"""ExpertLLaMA: LLaMA tuned on answers that its teacher gave in the role of an expert.

Paper    Xu et al. 2023, ExpertPrompting (arXiv 2305.14688)
Parent   LLaMA, every weight trained, by Alpaca's script
New      the teacher first describes the ideal expert for each instruction, then answers as that expert; the student
         never sees the description
Missing  the 52k expert answers: supply them with --data; the training wrapper is not in the repository
Ours     the wrapper of the inference script is used in training too, which is unverified, as is a length of 512 (as
         Alpaca); an input stands on a line below its instruction; the desk size, taught without errors
"""

from camelid.recipe import *
from camelid.recipes.alpaca import LENGTH
from camelid.recipes.llama import llama

PROMPT = Template(
    user="### Human:\n{instruction}\n\n",
    user_with_input="### Human:\n{instruction}\n{input}\n\n",
    cue="### Assistant:\n",  # paper or repository: at inference; unverified in training
    markers=("### Human:", "### Assistant:"),
)
DATA: dict[Size, Released | DeskTaught] = {
    "7B": Released(name="ExpertLLaMA answers", rows=52_000, licence="licence on its card"),  # paper or repository: 52k
    "desk": DeskTaught(world="small", count=2400),  # ours: as the desk Alpaca's
    "tiny": DeskTaught(world="tiny", count=48),  # ours: for tests
}
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(4 * 4 * 8),  # paper or repository: 4 devices x 4 x 8
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 2e-5, "desk": 1e-3, "tiny": 1e-3}  # paper or repository; ours


def expertllama(size: Size = "7B") -> Recipe:
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # paper or repository: Alpaca's script
        length=LENGTH[size],  # unverified: as Alpaca's script
        over_length="cut",
        batch=BATCH[size],
        train=Epochs(3),  # paper or repository
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=0.03),  # paper or repository
        pad="[PAD]",  # unverified: as Alpaca's script
    )
    share = Claim(
        what="% of ChatGPT's score on 80 questions, where Alpaca-13B has 75.6",
        value=96.5,
        source="paper or repository: 655.5 of 679.0",
    )
    return Recipe(title=f"ExpertLLaMA {size}", stages=(tuned,), claims=(share,))
