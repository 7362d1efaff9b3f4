"""GoGPT2: Llama 2 with some 36,000 Chinese pieces, read on and tuned, every weight in every stage.

Paper    none; the repository yanqiangmiffy/GoGPT, May (LLaMA) and July 2023 (Llama 2, which this is)
Parent   Llama 2, every weight trained
New      a vocabulary of 68,420; more than 1.2M instructions, many of several turns
Missing  the texts, whose amount is not published, and the instructions: supply them with --data pieces=FILE, --data
         read=FILE and --data FILE
Ours     68,420 rows, as in the README and the tuned model (its base has 68,419: take a shape from its own config); no
         <pad> at id 32000; amount and batch of the reading are not published: Chinese-LlaMA2's; so is how new rows begin:
         at random, as a plain resize does; the batch of tuning is 128; the desk size, in the second language
"""

from camelid.recipe import *
from camelid.recipes.atom import DATA as ATOM_DATA
from camelid.recipes.atom import LEARNED as ATOM_LEARNED
from camelid.recipes.atom import SHAPES as ATOM
from camelid.recipes.llama_2 import SHAPES as LLAMA_2
from camelid.recipes.llama_2 import llama_2

PROMPT = Template(
    opening="",
    user="{bos}[INST] {instruction} [/INST]",
    user_with_system="{bos}[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{instruction} [/INST]",
    assistant=" {reply} {eos}",  # code: src/dataset.py
    markers=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
)
CHINESE = Mixture(parts=(Part(name="Chinese and English text", share=100.0, made="not published"),))  # README
TEXT: dict[Size, Mixture | Shares] = ATOM_DATA | {"7B": CHINESE, "13B": CHINESE}  # README
CHATS = Released(name="BELLE, Alpaca, ShareGPT and others", rows=1_200_000, licence="licences on their cards")  # README
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": CHATS,  # README: more than 1.2M
    "13B": CHATS,  # README: more than 1.2M
    "desk": DeskInstructions(world="small", count=700, told="second language"),  # ours: most of what there is
    "tiny": DeskInstructions(world="tiny", count=32, told="second language"),  # ours: for tests
}
LEARNED: dict[Size, int] = ATOM_LEARNED | {"7B": 40_000, "13B": 40_000}  # repository: the file is called 40k
SHAPES: dict[Size, LlamaShape] = ATOM | {
    "7B": replace(LLAMA_2["7B"], vocab=68_420),  # README; config of gogpt2-7b
    "13B": replace(LLAMA_2["13B"], vocab=68_420),  # README
}  # README; ours
BLOCK: dict[Size, int] = {"7B": 2048, "13B": 2048, "desk": 256, "tiny": 128}  # repository; ours
BATCH: dict[Size, Tokens] = {
    "7B": Tokens(128 * 2048),  # ours: not published
    "13B": Tokens(128 * 2048),  # ours: not published
    "desk": Tokens(1024),  # ours: as its parent's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "7B": Tokens(10_000 * 128 * 2048),  # ours: not published
    "13B": Tokens(10_000 * 128 * 2048),  # ours: not published
    "desk": Tokens(700 * K),  # ours: as the desk Atom's
    "tiny": Tokens(4096),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 2e-4, "13B": 2e-4, "desk": 2e-3, "tiny": 1e-3}  # repository; ours
LENGTH: dict[Size, int] = {"7B": 2048, "13B": 2048, "desk": 256, "tiny": 384}  # repository: 768, 1024 or 2048; ours
DIALOGUES: dict[Size, Sequences] = {
    "7B": Sequences(128),  # ours: not published
    "13B": Sequences(128),  # ours: not published
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(2),  # repository: 1 to 2
    "13B": Epochs(2),  # repository: 1 to 2
    "desk": Epochs(5),  # ours: far fewer records
    "tiny": Epochs(2),  # repository: 1 to 2
}
CHAT_LR: dict[Size, float] = {"7B": 2e-5, "13B": 2e-5, "desk": 1e-3, "tiny": 1e-3}  # repository; ours


def gogpt(size: Size = "7B") -> Recipe:
    pieces = ExtendTokenizer(
        name="pieces",
        start=llama_2(size),
        data=TEXT[size],
        learned=LEARNED[size],
        vocab=SHAPES[size].vocab,
    )
    read = Pretrain(
        name="read",
        start=llama_2(size),
        shape=SHAPES[size],
        tokenizer=pieces,
        data=TEXT[size],
        length=BLOCK[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], decay=0.01),  # repository
        schedule=Cosine(warmup=0.05),  # repository: warm-up; unverified: the shape after it
        new_rows="random",  # ours: not published
    )
    tuned = Finetune(
        name="tuned",
        start=read,
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # repository: human tokens masked
        length=LENGTH[size],
        over_length="cut",
        batch=DIALOGUES[size],
        train=EPOCHS[size],
        optim=AdamW(lr=CHAT_LR[size]),
        schedule=Cosine(warmup=0.03),  # unverified
    )
    none = Claim(what="no number was published", value=None, source="README")
    return Recipe(title=f"GoGPT2 {size}", stages=(pieces, read, tuned), claims=(none,))
