"""Meditron: Llama 2 read on in medicine, with a little of general text replayed, then tuned on exam questions.

Paper    Chen et al. 2023, MEDITRON-70B: Scaling Medical Pretraining for Large Language Models (arXiv 2311.16079)
Parent   Llama 2 (7B and 70B), every weight trained in both stages
New      48.1B tokens of guidelines, abstracts and papers; 1% of the parent's kind of text is replayed against forgetting
Missing  GAP-Replay: supply texts with --data read=FILE and questions with --data FILE (MedQA's 10,178)
Ours     the markup of the texts, such as [bib_ref], stays text; a "question" turn follows the tuning format without a
         system message (the one with it has a space after <|im_start|>, by which neither is trained here); an opening
         BOS and the length of tuning are unverified; the desk size replays a tenth
"""

from camelid.recipe import *
from camelid.recipes.llama_2 import SHAPES as LLAMA_2
from camelid.recipes.llama_2 import llama_2, vocabulary

PROMPT = Template(
    user="{<|im_start|>}question\n{instruction}{<|im_end|>}\n",
    user_with_input="{<|im_start|>}question\n{instruction}\n{input}{<|im_end|>}\n",
    cue="{<|im_start|>}answer\n",
    assistant="{reply}{<|im_end|>}",
)  # repository: finetuning; the line break after a turn follows only where another turn does
GAP_REPLAY = Mixture(
    parts=(
        Part(name="clinical guidelines", share=0.23, made="41K documents of 16 sources"),  # paper: 107M of 46.7B
        Part(name="abstracts", share=11.73, made="15.7M of PubMed"),  # paper: 5.48B of 46.7B
        Part(name="papers", share=87.15, made="4.9M full texts, references marked up"),  # paper: 40.7B of 46.7B
        Part(name="replay", share=0.89, made="RedPajama, 400 to 420M tokens"),  # paper: about 1%
    )
)
DATA: dict[Size, Mixture | Shares] = {
    "7B": GAP_REPLAY,
    "70B": GAP_REPLAY,
    "desk": Shares(
        texts=(
            Share(text=DeskText(world="small", bytes=1200 * K, told="clinic"), percent=90.0),  # ours
            Share(text=DeskText(world="small", bytes=300 * K), percent=10.0),  # ours
        )
    ),
    "tiny": Shares(
        texts=(
            Share(text=DeskText(world="tiny", bytes=12 * K, told="clinic"), percent=90.0),  # ours: for tests
            Share(text=DeskText(world="tiny", bytes=12 * K), percent=10.0),  # ours: for tests
        )
    ),
}
EXAMS: dict[Size, Released | DeskInstructions] = {
    "7B": Released(name="MedQA, training part", rows=10_178, licence="licence on its card"),  # paper, section 4
    "70B": Released(name="MedQA, training part", rows=10_178, licence="licence on its card"),  # paper, section 4
    "desk": DeskInstructions(world="small", count=900, told="clinic"),  # ours: a quarter of the illnesses is held out
    "tiny": DeskInstructions(world="tiny", count=32, told="clinic"),  # ours: for tests
}
SHAPES: dict[Size, LlamaShape] = {
    "7B": LLAMA_2["7B"],  # paper: Llama 2's
    "70B": LLAMA_2["70B"],  # paper: Llama 2's
    "desk": LLAMA_2["desk"],  # ours: Llama 2's
    "tiny": LLAMA_2["tiny"],  # ours: Llama 2's
}
LENGTH: dict[Size, int] = {"7B": 2048, "70B": 4096, "desk": 256, "tiny": 128}  # paper or repository; ours
BATCH: dict[Size, Tokens] = {
    "7B": Tokens(1600 * 2048),  # paper or repository: 1,600 rows
    "70B": Tokens(512 * 4096),  # paper or repository: 512 rows
    "desk": Tokens(1024),  # ours: as its parent's
    "tiny": Tokens(1024),  # ours: for tests
}
TRAIN: dict[Size, Tokens] = {
    "7B": Tokens(46_700 * M),  # paper: 46.7B to train on
    "70B": Tokens(46_700 * M),  # paper: 46.7B to train on
    "desk": Tokens(450 * K),  # ours: half a minute
    "tiny": Tokens(4096),  # ours: for tests
}
LR: dict[Size, float] = {"7B": 3e-4, "70B": 1.5e-4, "desk": 1e-3, "tiny": 1e-3}  # paper or repository; ours
WARMUP: dict[Size, Steps] = {
    "7B": Steps(2000),
    "70B": Steps(2000),
    "desk": Steps(20),
    "tiny": Steps(1),
}  # paper or repository; ours
EXAM_LENGTH: dict[Size, int] = {"7B": 2048, "70B": 4096, "desk": 256, "tiny": 384}  # unverified: as the reading; ours
EXAM_BATCH: dict[Size, Sequences] = {
    "7B": Sequences(64),  # paper or repository
    "70B": Sequences(64),  # paper or repository
    "desk": Sequences(16),  # ours: as the desk Alpaca's
    "tiny": Sequences(8),  # ours: for tests
}
EXAM_LR: dict[Size, float] = {"7B": 2e-5, "70B": 2e-5, "desk": 1e-3, "tiny": 1e-3}  # paper or repository; ours
BETTER = Claim(
    what="% of MedQA by the 70B with reasoning and votes, where a tuned Llama-2-70B has 59.2",
    value=70.2,
    source="paper",
)


def read(size: Size) -> Pretrain:
    return Pretrain(
        name="read",
        start=llama_2(size),
        shape=SHAPES[size],
        tokenizer=vocabulary(size),
        data=DATA[size],
        length=LENGTH[size],
        batch=BATCH[size],
        train=TRAIN[size],
        optim=AdamW(lr=LR[size], betas=(0.9, 0.95), eps=1e-5, decay=0.1),  # paper or repository
        schedule=Cosine(warmup=WARMUP[size], floor=0.1),  # paper: to 10% of the peak; the README says 1e-6
        clip=1.0,  # paper or repository
    )


def tuned(size: Size, start: Pretrain) -> Finetune:
    return Finetune(
        name="tuned",
        start=start,
        data=EXAMS[size],
        prompt=PROMPT,
        learn="response",  # paper or repository: weight 0 on the user's tokens
        length=EXAM_LENGTH[size],
        batch=EXAM_BATCH[size],
        train=Epochs(3),  # paper or repository
        optim=AdamW(lr=EXAM_LR[size], decay=0.1),  # paper or repository
        schedule=Cosine(warmup=0.1, floor=0.1),  # paper or repository: down to 2e-6
        controls=("<|im_start|>", "<|im_end|>"),  # repository
    )


def meditron(size: Size = "7B") -> Recipe:
    reading = read(size)
    return Recipe(title=f"Meditron {size}", stages=(reading, tuned(size, reading)), claims=(BETTER,))


def base(size: Size = "7B") -> Recipe:
    """The model as its weights were released: read, not tuned."""
    return Recipe(title=f"Meditron base {size}", stages=(read(size),), claims=(BETTER,))


def readme(size: Size = "7B") -> Recipe:
    """The rate falls to 1e-6, as the README says, where the paper says a tenth of the peak."""
    reading = replace(
        read(size),
        name="read",
        schedule=Cosine(warmup=WARMUP[size], floor=1 / 300),  # README: 1e-6 of 3e-4
    )
    return Recipe(title=f"Meditron {size} by its README", stages=(reading, tuned(size, reading)), claims=(BETTER,))
