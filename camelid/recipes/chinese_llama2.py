"""Chinese-LlaMA2: Llama 2 with Chinese pieces, read on and tuned by adapters beside a fully trained embedding and head.

Paper    none; the repository michael-wzhu/Chinese-LlaMA2, July 2023, its second track
Parent   Llama 2, its weights frozen but for embedding and head
New      the 49,953 pieces of Chinese-LLaMA; adapters cannot absorb new rows, so embedding and head are trained whole
Missing  42 GB of Chinese and 3M dialogues: supply them with --data read=FILE --data pieces=FILE --data FILE
Ours     rate and warm-up as stated (+released has what the misspelt option of the scripts leads to); a long dialogue is
         cut at its end, where the original keeps the last block; alpha and dropout of the second adapter are
         unverified: as the first's; the prompt follows the code, not the README; its default system message, which is
         Llama 2's, is left out; the desk size, in the desk world's second language
"""

from camelid.recipe import *
from camelid.recipes.atom import DATA as ATOM_DATA
from camelid.recipes.atom import LEARNED as ATOM_LEARNED
from camelid.recipes.atom import SHAPES as ATOM
from camelid.recipes.llama_2 import SHAPES as LLAMA_2
from camelid.recipes.llama_2 import llama_2

PROMPT = Template(
    opening="",
    user="{bos}[INST]\n{instruction}\n[/INST]\n",
    user_with_system="{bos}[INST]<<SYS>>\n{system}\n<</SYS>>\n{instruction}\n[/INST]\n",
    assistant="{reply}{eos}",  # code: src/serving/gradio_demo.py
    markers=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
)
CHINESE = Mixture(parts=(Part(name="Chinese, 42 GB", share=100.0, made="sources not published"),))  # README
TEXT: dict[Size, Mixture | Shares] = ATOM_DATA | {"7B": CHINESE, "13B": CHINESE}  # README
CHATS = Released(name="UltraChat, Chinese-Alpaca, BELLE", rows=3_000_000, licence="licences on their cards")  # README
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": CHATS,  # README: 3M from v0.2 on
    "13B": CHATS,  # README: 3M from v0.2 on
    "desk": DeskInstructions(world="small", count=700, told="second language"),  # ours: most of what there is
    "tiny": DeskInstructions(world="tiny", count=32, told="second language"),  # ours: for tests
}
LEARNED: dict[Size, int] = ATOM_LEARNED | {"7B": 20_000, "13B": 20_000}  # facts: Chinese-LLaMA, its Chinese model
SHAPES: dict[Size, LlamaShape] = ATOM | {
    "7B": replace(LLAMA_2["7B"], vocab=49_953),  # README
    "13B": replace(LLAMA_2["13B"], vocab=49_953),  # README
}  # README; ours
READER: dict[Size, LoRA] = {
    "7B": LoRA(
        rank=24, alpha=32, dropout=0.1, targets=EVERY_LINEAR, trained=("embed_tokens", "lm_head")
    ),  # repository: src/further_ft
    "13B": LoRA(
        rank=6, alpha=32, dropout=0.1, targets=EVERY_LINEAR, trained=("embed_tokens", "lm_head")
    ),  # repository: src/further_ft; unverified: alpha and dropout as 7B
    "desk": LoRA(
        rank=16, alpha=32, dropout=0.1, targets=EVERY_LINEAR, trained=("embed_tokens", "lm_head")
    ),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.1, targets=EVERY_LINEAR, trained=("embed_tokens", "lm_head")),  # ours
}
LORA: dict[Size, LoRA] = {
    "7B": LoRA(rank=20, alpha=32, dropout=0.1, targets=EVERY_LINEAR),  # repository; unverified: alpha and dropout
    "13B": LoRA(rank=20, alpha=32, dropout=0.1, targets=EVERY_LINEAR),  # unverified: as 7B
    "desk": LoRA(rank=16, alpha=32, dropout=0.1, targets=EVERY_LINEAR),  # ours: as the desk Alpaca-LoRA's
    "tiny": LoRA(rank=4, alpha=8, dropout=0.1, targets=EVERY_LINEAR),  # ours: for tests
}
BLOCK: dict[Size, int] = {"7B": 512, "13B": 512, "desk": 256, "tiny": 128}  # repository; ours
BATCH: dict[Size, Tokens] = {
    "7B": Tokens(2 * 128 * 2 * 512),  # repository: 2 x 128 x 2 blocks
    "13B": Tokens(1 * 256 * 4 * 512),  # repository: 1 x 256 x 4 blocks
    "desk": Tokens(1024),  # ours: as its parent's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "7B": Tokens(10_000 * 2 * 128 * 2 * 512),  # repository: 10,000 steps
    "13B": Tokens(50_000 * 1 * 256 * 4 * 512),  # repository: 50,000 steps
    "desk": Tokens(700 * K),  # ours: as the desk Atom's
    "tiny": Tokens(4096),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 1e-4, "13B": 5e-5, "desk": 4e-3, "tiny": 2e-3}  # repository, as stated; ours
LENGTH: dict[Size, int] = {"7B": 1024, "13B": 1024, "desk": 256, "tiny": 384}  # repository: block; ours
DIALOGUES: dict[Size, Sequences] = {
    "7B": Sequences(1 * 160 * 4),  # repository
    "13B": Sequences(1 * 160 * 4),  # unverified: as 7B
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
STEPS: dict[Size, Steps] = {
    "7B": Steps(30_000),  # repository
    "13B": Steps(30_000),  # unverified: as 7B
    "desk": Steps(220),  # ours: five times through
    "tiny": Steps(4),  # ours: for tests
}
CHAT_LR: dict[Size, float] = {"7B": 2e-5, "13B": 2e-5, "desk": 5e-3, "tiny": 5e-3}  # repository, as stated; ours
NONE = Claim(what="no measure of quality was published", value=None, source="README: showcases and speed only")


def vocabulary(size: Size) -> ExtendTokenizer:
    return ExtendTokenizer(
        name="pieces",
        start=llama_2(size),
        data=TEXT[size],
        learned=LEARNED[size],
        vocab=SHAPES[size].vocab,
    )


def read(size: Size, pieces: ExtendTokenizer) -> Pretrain:
    return Pretrain(
        name="read",
        start=llama_2(size),
        shape=SHAPES[size],
        tokenizer=pieces,
        data=TEXT[size],
        length=BLOCK[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], decay=0.01),  # repository
        schedule=Cosine(warmup=0.05),  # repository, as stated
        new_rows="random",  # repository: a plain resize
        adapter=READER[size],
    )


def adapted(size: Size, start: Pretrain) -> Finetune:
    return Finetune(
        name="adapted",
        start=start,
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # repository: the assistant's tokens
        length=LENGTH[size],
        over_length="cut",
        batch=DIALOGUES[size],
        train=STEPS[size],
        optim=AdamW(lr=CHAT_LR[size], decay=1e-4),  # repository
        schedule=Cosine(warmup=0.05),  # unverified: as the reading's
        adapter=LORA[size],
    )


def chinese_llama2(size: Size = "7B") -> Recipe:
    pieces = vocabulary(size)
    reading = read(size, pieces)
    return Recipe(title=f"Chinese-LlaMA2 {size}", stages=(pieces, reading, adapted(size, reading)), claims=(NONE,))


def released(size: Size = "7B") -> Recipe:
    """A misspelt option leaves the rate at 5e-5, and a default of 2,000 steps overrides the stated warm-up."""
    pieces = vocabulary(size)
    reading = replace(
        read(size, pieces),
        name="read",
        optim=AdamW(lr=5e-5, decay=0.01),  # scripts: --leraning_rate is ignored
        schedule=Cosine(warmup=Steps(2000)),  # scripts: warmup_steps is set by default
    )
    chatting = replace(
        adapted(size, reading),
        name="adapted",
        optim=AdamW(lr=5e-5, decay=1e-4),  # scripts: --leraning_rate is ignored
        schedule=Cosine(warmup=Steps(2000)),  # scripts: warmup_steps is set by default
    )
    return Recipe(title=f"Chinese-LlaMA2 {size}, as released", stages=(pieces, reading, chatting), claims=(NONE,))
