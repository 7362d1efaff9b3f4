"""Anima: Guanaco 33B tuned on in Chinese, by QLoRA on one GPU.

Paper    none; lyogavin/Anima, README and training scripts. June 2023
Parent   Guanaco 33B, merged (timdettmers/guanaco-33b-merged), its weights frozen in NF4 with double quantization
New      a second QLoRA on a first; 10,000 steps of Chinese instructions, lengths chosen by quantiles of the data
Missing  about 690k records (guanaco_belle_merge_v1.0): supply them with --data. The later DPO and the 100K-token variant,
         on Llama 2 7B, come with other waves
Ours     question and answer share 1,024 tokens, where the original cuts each at 512; the answer follows the prompt's last
         space without another; no pad token, nothing is padded; the desk size, in the desk world's one language
"""

from camelid.recipe import *
from camelid.recipes.alpaca import PROMPT as ALPACA
from camelid.recipes.guanaco import BATCH, LORA, guanaco

PROMPT = replace(
    ALPACA, user=ALPACA.user + " ", user_with_input=ALPACA.user_with_input + " "
)  # code: Alpaca's text with a space behind "### Response:"
ADAPTER: dict[Size, LoRA] = {
    "33B": replace(LORA["33B"], dropout=0.0),  # code: training script, r 64, alpha 16, no dropout, all linear
    "desk": replace(LORA["desk"], dropout=0.0),  # ours: as the desk Guanaco's
    "tiny": replace(LORA["tiny"], dropout=0.0),  # ours: for tests
}
DATA: dict[Size, Released | DeskInstructions] = {
    "33B": Released(name="guanaco_belle_merge_v1.0", rows=690_000, licence="licence on its card"),  # README: about 690k
    "desk": DeskInstructions(world="small", count=1200),  # ours: half the desk Alpaca's
    "tiny": DeskInstructions(world="tiny", count=24),  # ours: for tests
}
LENGTH: dict[Size, int] = {"33B": 1024, "desk": 256, "tiny": 384}  # code: source_max_len 512, target_max_len 512; ours
TRAIN: dict[Size, Steps | Epochs] = {
    "33B": Steps(10_000),  # code: training script, max_steps
    "desk": Epochs(2),  # ours: what a minute can do
    "tiny": Epochs(1),  # ours: for tests
}
LR: dict[Size, float] = {"33B": 1e-4, "desk": 3e-3, "tiny": 5e-3}  # code: training script; ours


def anima(size: Size = "33B") -> Recipe:
    adapted = Finetune(
        name="adapted-again",
        start=guanaco(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="response",  # code: target tokens only
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],  # code: training script, 1 x 16
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], paged=True),  # code: training script, paged_adamw_32bit, no decay
        schedule=Constant(),  # code: training script; its warmup_ratio means nothing to this schedule
        clip=0.3,  # code: training script, max_grad_norm
        adapter=ADAPTER[size],
        base="nf4",  # code: training script, nf4 with double quantization
    )
    elo = Claim(
        what="Elo over 300 rounds on 80 translated questions, where ChatGPT has 1341.98 and Chinese-Vicuna 623.62",
        value=1096.69,
        source="README",
    )
    return Recipe(title=f"Anima {size}", stages=(adapted,), claims=(elo,))
