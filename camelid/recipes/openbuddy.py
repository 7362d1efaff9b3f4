"""OpenBuddy: LLaMA with common Chinese, Japanese and Korean characters in its vocabulary, tuned on long conversations.

Paper    none; the repository OpenBuddy/OpenBuddy, from May 2023
Parent   LLaMA, every weight trained; later Llama 2, Llama 3 and others
New      single characters instead of three bytes each, so that a conversation is shorter; no text is read before
         tuning: the new rows learn there
Missing  nearly everything: data, their number, rate, batch, epochs, length and the size of the vocabulary were not
         published; supply conversations with --data and text for the characters with --data characters=FILE
Ours     all of these: Vicuna's settings, and a vocabulary of 37,632; new rows begin as the mean of the bytes that wrote
         them before; only the first line of the system message is here, five more follow in the original; that an end
         token follows each answer is unverified; the desk size, in the desk world's second language
"""

from camelid.recipe import *
from camelid.recipes.llama import llama

PROMPT = Template(
    system="{system}\n\n",
    default_system="You are a helpful, respectful and honest INTP-T AI Assistant named Buddy. You are talking to a human "
    "User.",
    user="User: {instruction}\n",
    cue="Assistant:",
    assistant=" {reply}\n{eos}",  # repository: legacy-prompt-format.md; unverified: the end token
    markers=("User:", "Assistant:"),
)
TEXT = Mixture(
    parts=(Part(name="Chinese, Japanese and Korean", share=100.0, made="not published"),)
)  # README: common characters
TEXTS: dict[Size, Mixture | DeskText] = {
    "7B": TEXT,
    "13B": TEXT,
    "33B": TEXT,
    "65B": TEXT,
    "desk": DeskText(world="small", bytes=300 * K, told="second language"),  # ours
    "tiny": DeskText(world="tiny", bytes=20 * K, told="second language"),  # ours: for tests
}
LEARNED: dict[Size, int] = {
    "7B": 20_000,
    "13B": 20_000,
    "33B": 20_000,
    "65B": 20_000,
    "desk": 700,
    "tiny": 500,
}  # ours: not published
VOCAB: dict[Size, int] = {
    "7B": 37_632,
    "13B": 37_632,
    "33B": 37_632,
    "65B": 37_632,
    "desk": 1048,
    "tiny": 420,
}  # ours: not published
CHATS = Released(name="multilingual conversations", rows=None, licence="not published")
DATA: dict[Size, Released | DeskInstructions] = {
    "7B": CHATS,
    "13B": CHATS,
    "33B": CHATS,
    "65B": CHATS,
    "desk": DeskInstructions(world="small", count=800, told="second reading"),  # ours: a third of the desk Alpaca's
    "tiny": DeskInstructions(world="tiny", count=32, told="second reading"),  # ours: for tests
}
LENGTH: dict[Size, int] = {
    "7B": 2048,
    "13B": 2048,
    "33B": 2048,
    "65B": 2048,
    "desk": 256,
    "tiny": 384,
}  # ours: not published
BATCH: dict[Size, Sequences] = {
    "7B": Sequences(128),  # ours: not published, as Vicuna
    "13B": Sequences(128),  # ours: not published, as Vicuna
    "33B": Sequences(128),  # ours: not published, as Vicuna
    "65B": Sequences(128),  # ours: not published, as Vicuna
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(16),  # ours: for tests
}
EPOCHS: dict[Size, Epochs] = {
    "7B": Epochs(3),
    "13B": Epochs(3),
    "33B": Epochs(3),
    "65B": Epochs(3),
    "desk": Epochs(8),
    "tiny": Epochs(2),
}  # ours: not published, as Vicuna
LR: dict[Size, float] = {
    "7B": 2e-5,
    "13B": 2e-5,
    "33B": 2e-5,
    "65B": 2e-5,
    "desk": 1e-3,
    "tiny": 1e-3,
}  # ours: not published, as Vicuna


def openbuddy(size: Size = "33B") -> Recipe:
    characters = ExtendTokenizer(
        name="characters",
        start=llama(size),
        data=TEXTS[size],
        learned=LEARNED[size],
        vocab=VOCAB[size],
        only="characters",  # README: common characters
    )
    tuned = Finetune(
        name="tuned",
        start=llama(size),
        data=DATA[size],
        prompt=PROMPT,
        learn="assistant",  # ours: not published, as Vicuna
        length=LENGTH[size],
        over_length="cut",
        batch=BATCH[size],
        train=EPOCHS[size],
        optim=AdamW(lr=LR[size]),
        schedule=Cosine(warmup=0.04),  # ours: not published, as Vicuna
        tokenizer=characters,
        new_rows="pieces",  # ours: not published
    )
    none = Claim(what="no benchmark of the LLaMA models was published", value=None, source="README")
    return Recipe(title=f"OpenBuddy {size}", stages=(characters, tuned), claims=(none,))
