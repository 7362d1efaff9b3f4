"""Chinese-Vicuna chat: its multi-turn adapter, on all seven linears, learning the last answer of a conversation.

Paper    Fan et al. 2025, Chinese-Vicuna (arXiv 2504.12737); Facico/Chinese-Vicuna, finetune_chat.py
Parent   LLaMA, its weights frozen in int8
New      conversations of several turns; loss on the last answer alone; 2,048 tokens
Missing  50k conversations (instruct_chat_50k: 30k of ShareGPT in Chinese, 20k of alpaca-zh): supply them with --data. Rate
         and epochs of this path are not in our sources
Ours     these as Chinese-Vicuna; a text too long is cut at the end, where the original shortens older turns; a reply ends
         at its first empty line, for the text has no end token; the desk size
"""

from camelid.recipe import *
from camelid.recipes.alpaca import BATCH
from camelid.recipes.alpaca_lora import LR
from camelid.recipes.chinese_vicuna import SIZED
from camelid.recipes.llama import llama

PROMPT = Template(
    opening=(
        "{bos}The following is a conversation between an AI assistant called Assistant and a human user called User. "
        "The assistant is intelligent, knowledgeable and polite to answer questions of user.\n\n"
    ),
    user="User:{instruction}\n\n",
    cue="Assistant:",
    assistant="{reply}\n\n",  # code: prompt.py: no end token between turns
    stop_texts=("\n\n",),
    markers=("User:", "Assistant:"),
)
LORA: dict[Size, LoRA] = {
    "7B": LoRA(
        rank=8, alpha=16, dropout=0.05, targets=EVERY_LINEAR
    ),  # code: finetune_chat.py; r and alpha as finetune.py
    "13B": LoRA(rank=8, alpha=16, dropout=0.05, targets=EVERY_LINEAR),  # code: finetune_chat.py, as 7B
    "desk": LoRA(rank=16, alpha=32, dropout=0.05, targets=EVERY_LINEAR),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "v_proj")),  # ours: for tests
}
CHATS = Released(name="instruct_chat_50k", rows=50_000, licence="licence on its card")  # README
DATA: dict[Size, Released | DeskConversations] = {
    "7B": CHATS,
    "13B": CHATS,
    "desk": DeskConversations(world="small", count=800, turns=3),  # ours: as the desk Vicuna's
    "tiny": DeskConversations(world="tiny", count=24, turns=3),  # ours: for tests
}
LENGTH: dict[Size, int] = {
    "7B": 2048,
    "13B": 2048,
    "desk": 256,
    "tiny": 384,
}  # code: finetune_chat.py, cutoff_len; ours


def chinese_vicuna_chat(size: Size = "7B") -> Recipe:
    adapted = Finetune(
        name="adapted",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="last",  # code: finetune_chat.py: the last turn of the assistant
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],  # code: finetune_chat.py, 128; ours
        train=Epochs(3),  # ours: not in our sources; as Chinese-Vicuna
        optim=AdamW(lr=LR[SIZED[size]]),  # ours: not in our sources; as Chinese-Vicuna
        schedule=Linear(warmup=0.05),  # code: finetune_chat.py, warmup_ratio
        adapter=LORA[size],
        base="int8",  # code: load_in_8bit, as finetune.py
    )
    none = Claim(what="no headline benchmark", value=None, source="README")
    return Recipe(title=f"Chinese-Vicuna chat {size}", stages=(adapted,), claims=(none,))
