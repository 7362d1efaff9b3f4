"""Guanaco: LLaMA in four bits, adapters on all of its linear maps, tuned on the best conversations of volunteers.

Paper    Dettmers et al. 2023, QLoRA (arXiv 2305.14314); artidoro/qlora, scripts
Parent   LLaMA, its weights frozen in NF4 with double quantization
New      a base of 4.127 bits a weight; moments in pages that may leave the memory; loss on both speakers' words
Missing  the paper counts 9,209 conversations, the released file has 9,846: supply it with --data, or OASST1's trees with
         --set adapted.data.best=1. Records of like length are grouped in the original, here they are packed
Ours     "###" closes the last reply too, so that its end is learned, and is what ends a reply; the sentence about a
         curious human stands before inference only in the original, and is left out; no [PAD] row, nothing is padded;
         what is computed in is the machine's; the desk size
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    opening="{bos}###",
    user=" Human: {instruction}### ",
    cue="Assistant:",
    assistant=" {reply}###",  # code: the released file's text
    stop_texts=("###",),
    markers=("### Human:", "### Assistant:"),
)
ALL = LoRA(
    rank=64,
    alpha=16,
    dropout=0.05,
    targets=EVERY_LINEAR,
)  # code: scripts, lora_r, lora_alpha, lora_dropout of 13B to 65B; paper, section 4: every linear layer
LORA: dict[Size, LoRA] = {
    "7B": replace(ALL, dropout=0.1),  # code: scripts, 7B
    "13B": ALL,
    "33B": ALL,
    "65B": ALL,
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "down_proj")),  # ours: for tests
}
THREADS = Released(
    name="openassistant-guanaco: OASST1, the best-ranked reply at every level", rows=9_846, licence="Apache 2.0"
)  # released file, train
DATA: dict[Size, Released | DeskConversations] = {
    "7B": THREADS,
    "13B": THREADS,
    "33B": THREADS,
    "65B": THREADS,
    "desk": DeskConversations(world="small", count=800, turns=3),  # ours: as the desk Vicuna's
    "tiny": DeskConversations(world="tiny", count=24, turns=3),  # ours: for tests
}
LENGTH: dict[Size, int] = {
    "7B": 513,
    "13B": 513,
    "33B": 513,
    "65B": 513,
    "desk": 256,
    "tiny": 384,
}  # code: scripts, target_max_len 512 after a source that is one BOS; ours
TRAIN: dict[Size, Steps | Epochs] = {
    "7B": Steps(1875),  # code: scripts, max_steps
    "13B": Steps(1875),  # code: scripts, max_steps
    "33B": Steps(1875),  # code: scripts, max_steps
    "65B": Steps(1875),  # code: scripts, max_steps
    "desk": Epochs(3),  # ours: as the desk Vicuna's
    "tiny": Epochs(1),  # ours: for tests
}
LR: dict[Size, float] = {
    "7B": 2e-4,
    "13B": 2e-4,
    "33B": 1e-4,
    "65B": 1e-4,
    "desk": 5e-3,
    "tiny": 5e-3,
}  # code: scripts, learning_rate; ours
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(16),  # code: scripts, 1 x 16
    "13B": Sequences(16),  # code: scripts, 1 x 16
    "33B": Sequences(16),  # code: scripts, 1 x 16
    "65B": Sequences(16),  # code: scripts, 1 x 16
    "desk": Sequences(16),  # code: scripts, 1 x 16
    "tiny": Sequences(8),  # ours: for tests
}


def guanaco(size: Size = "65B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="everything",  # code: oasst1 is all target; paper, appendix: the full selected conversation
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], paged=True),  # code: scripts, paged_adamw_32bit, adam_beta2 0.999, weight_decay 0
        schedule=Constant(),  # code: scripts; their warmup_ratio means nothing to this schedule
        clip=0.3,  # code: scripts, max_grad_norm
        adapter=LORA[size],
        base="nf4",  # code: scripts, bits, quant_type, double_quant
    )
    near = Claim(
        what="% of ChatGPT's score on 80 prompts, by GPT-4; 97.8 at 33B, 90.4 at 13B, 87.0 at 7B",
        value=99.3,
        source="paper, by a full-text translation",
    )
    equal = Claim(
        what="mean 5-shot MMLU of adapters on NF4 with double quantization, where 16-bit tuning has 53.0",
        value=53.1,
        source="paper, by a full-text translation",
    )
    return Recipe(title=f"Guanaco {size}", stages=(adapted,), claims=(near, equal))
