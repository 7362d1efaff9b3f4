"""Real files in their published formats under the real tokenizer: masks exact, every row kept or counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camelid.data.batch import PretrainingBatches
from camelid.data.cache import from_texts
from camelid.data.corpus import render_all
from camelid.data.mixture import Mixture
from camelid.data.source import Dialogue, documents
from camelid.data.trees import conversations
from camelid.dialogue.message import Message
from camelid.dialogue.template import render
from camelid.errors import BadData
from camelid.recipe import Fields, Finetune, Pretrain, Table, Trees
from camelid.recipes import MEMBERS
from camelid.supply import supplied
from camelid.tokenizers.extend import with_controls
from camelid.tokenizers.protocol import Tokenizer
from tests.conftest import size
from tests.tokenizers.conftest import llama_2, llama_3  # noqa: F401

FILES = {
    "gpt-4-llm": "alpaca_random_9k.json",
    "alpagasus": "alpagasus_claude_t45.json",
    "gpt4-x-alpaca": "alpaca_random_9k.json",
    "expertllama": "alpaca_random_9k.json",
    "vicuna": "vicuna_dummy_conversation.json",
    "koala-distill": "vicuna_dummy_conversation.json",
    "koala-all": "vicuna_dummy_conversation.json",
    "ultralm": "vicuna_dummy_conversation.json",
    "baize": "vicuna_dummy_conversation.json",
    "lima": "vicuna_dummy_conversation.json",
    "belle": "alpaca_zh_1k.json",
    "huatuo": "huatuo_8k.json",
    "openassistant": "oasst_en_100_trees.jsonl",
    "vicuna-v1.5": "vicuna_dummy_conversation.json",
    "vicuna-v1.5-16k": "vicuna_dummy_conversation.json",
    "yulan-chat": "vicuna_dummy_conversation.json",
    "gogpt": "vicuna_dummy_conversation.json",
    "chinese-llama2": "vicuna_dummy_conversation.json",
    "openbuddy": "vicuna_dummy_conversation.json",
    "dolly": "alpaca_random_9k.json",
    "alpaca-cot": "alpaca_random_9k.json",
    "knowlm": "alpaca_zh_1k.json",
    "chinese-llama-2": "alpaca_zh_1k.json",
    "llama2-chinese": "alpaca_zh_1k.json",
    "camel": "huatuo_8k.json",
    "meditron": "huatuo_8k.json",
    "metamath": "../eval/gsm8k_train.jsonl",
    "guanaco": "oasst_en_100_trees.jsonl",
    "guanaco-dataset": "alpaca_zh_1k.json",
    "anima": "alpaca_zh_1k.json",
    "chinese-vicuna": "alpaca_zh_1k.json",
    "chinese-vicuna-4bit": "alpaca_random_9k.json",
    "chinese-vicuna-chat": "vicuna_dummy_conversation.json",
    "platypus": "alpaca_random_9k.json",
    "alpaca": "alpaca_random_9k.json",
    "alpaca-lora": "alpaca_random_9k.json",
    "airoboros": "vicuna_dummy_conversation.json",  # its own columns have no file here; its prompt has no input
}
READERS = [  # members that read plain text first; OpenLLaMA's own pieces and Atom's are not among the files: Llama 2's
    name
    for name, member in MEMBERS.items()
    if any(isinstance(stage, Pretrain) for stage in member.make(member.published).stages)
]
GSM8K = Fields(instruction="question", output="answer")  # the columns of that file, where MetaMathQA has others


def rows(path: Path) -> int:
    text = path.read_text("utf-8")
    return len(json.loads(text)) if text.lstrip().startswith("[") else len(text.splitlines())


@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_a_published_file_is_rendered_whole_with_exact_masks(name: str, file: str, shared: Path, llama_2) -> None:  # noqa: F811
    stage = MEMBERS[name].make(MEMBERS[name].published).last
    assert isinstance(stage, Finetune)
    tokenizer = with_controls(llama_2, stage.controls) if stage.controls else llama_2
    path = shared / "instruct" / file
    trees = file.endswith("trees.jsonl")
    fields = GSM8K if name == "metamath" else stage.fields
    told = supplied(Trees(path=str(path)) if trees else Table(path=str(path)), stage.prompt, "tuned", [], fields)
    assert len(told) == (len(list(conversations(path))) if trees else rows(path))
    check_masks(told[: size(400)], stage, tokenizer)


def check_masks(told: list[Dialogue], stage: Finetune, tokenizer: Tokenizer) -> None:
    """Every dialogue is rendered, and what is learned of it is its replies to the token."""
    corpus, report = render_all(
        told, stage.prompt, tokenizer, learn=stage.learn, length=stage.length, over_length=stage.over_length
    )
    assert report.rows == report.kept == len(told) and not report.dropped and not report.bad_rows
    assert report.tokens_in == report.tokens + report.tokens_cut and corpus.tokens == report.tokens
    names = {id: control for control, id in tokenizer.controls.items()}
    for number, dialogue in enumerate(told):
        whole = render(stage.prompt, dialogue, tokenizer, learn=stage.learn)
        assert corpus.sequence(number).tolist() == whole.ids[: stage.length]
        assert corpus.marks(number).tolist() == [int(mark) for mark in whole.supervised[: stage.length]]
        replies = [message.content for message in dialogue if message.role == "assistant"]
        taught = whole.replies[-1:] if stage.learn == "last" else whole.replies
        assert [bool(mark) for mark in whole.supervised] == [
            place > 0 if stage.learn == "everything" else any(reply.start <= place < reply.end for reply in taught)
            for place in range(len(whole.ids))
        ]
        for reply, wanted in zip(whole.replies, replies, strict=True):
            ids = [id for id in whole.ids[reply.start : reply.end] if id not in names]
            starts = whole.ids[reply.start - 1] in names
            assert stage.prompt.content(tokenizer.decode(ids, starts=starts)) == wanted


@pytest.mark.parametrize("shown", [False, True], ids=["zero-shot", "retriever-aware"])
def test_apibench_is_rendered_with_the_request_and_its_answer_as_they_stand(
    shown: bool,
    shared: Path,
    llama_2,  # noqa: F811
) -> None:
    member = MEMBERS["gorilla"]
    stage = (member.variants["retriever"] if shown else member.make)("7B").last
    assert isinstance(stage, Finetune)
    path = shared / "instruct" / "apibench_torchhub_train.json"
    lines = path.read_text().splitlines()
    with pytest.raises(BadData, match="2 of 837 rows cannot be used") as refused:
        supplied(Table(path=str(path)), stage.prompt, "tuned", [], stage.fields)
    assert [str(each).rpartition("line ")[2] for each in refused.value.problems[1:]] == [
        "357: 'code' has an answer without 'api_call': it calls nothing",
        "397: 'code' breaks off before its end",
    ]
    notes: list[str] = []
    told = supplied(Table(path=str(path), bad_rows="skip"), stage.prompt, "tuned", notes, stage.fields)
    assert len(told) == 835 and notes == [f"2 rows of {path} cannot be used"]
    check_masks(told[: size(400)], stage, llama_2)
    for dialogue in told:
        asked, answer = dialogue
        line = lines[int(dialogue.place.rpartition(" ")[2]) - 1]
        code = json.loads(line)["code"]
        assert asked.content.partition("\n###Input: ")[0] in code and answer.content in code
        assert len(code) - len(asked.content) - len(answer.content) < 60, "all of the row is there but its quotes"
        assert asked.input == json.dumps(json.loads(line)["api_data"]) * shown and asked.input in line
        begins = llama_2.decode(render(stage.prompt, dialogue, llama_2, learn=stage.learn).ids)
        documented = f"\nUse this API documentation for reference: {asked.input}" * shown
        assert begins == f"###USER: {asked.content}{documented}###ASSISTANT: {answer.content}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", READERS)
def test_real_web_pages_are_read_whole_in_rows_of_the_published_length(
    name: str,
    shared: Path,
    cache: Path,
    llama_2,  # noqa: F811
    llama_3,  # noqa: F811
) -> None:
    recipe = MEMBERS[name].make(MEMBERS[name].published)
    stage = next(stage for stage in recipe.stages if isinstance(stage, Pretrain))
    tokenizer = llama_3 if name.startswith("llama-3") else llama_2
    path = shared / "pretrain" / "c4_300.jsonl"
    texts = list(documents(path))
    corpus, report = from_texts(path, tokenizer, cache)
    assert report.rows == report.kept == len(texts) == len(corpus) == rows(path) and not report.bad_rows
    for number in range(0, len(texts), 60):
        first, *ids, last = corpus.sequence(number).tolist()
        assert (first, last) == (tokenizer.bos, tokenizer.eos) and tokenizer.decode(ids) == texts[number]
    mixture = Mixture.by_epochs({"c4": corpus}, 1, seed=0)
    batches = PretrainingBatches(
        mixture, length=stage.length, tokens_per_step=stage.length, micro_tokens=stage.length, last="keep"
    )
    read = [batch for step in range(batches.steps) for batch in batches.at(step)]
    assert all(batch.tokens == stage.length for batch in read[:-1]) and batches.left_over == 0
    assert sum(batch.tokens for batch in read) == corpus.tokens
    assert sum(batch.supervised for batch in read) == corpus.tokens - len(texts), "all but the first of each page"


def test_a_record_that_a_template_has_no_place_for_names_row_and_field(shared: Path, llama_2) -> None:  # noqa: F811
    stage = MEMBERS["huatuo"].make("7B").last
    told = supplied(Table(path=str(shared / "instruct" / "alpaca_zh_1k.json")), stage.prompt, "adapted", [])
    with pytest.raises(BadData, match=r"alpaca_zh_1k.json, row \d+: messages\[0\].input: has no place"):
        render_all(told, stage.prompt, llama_2, learn="response", length=256, over_length="cut")


def test_the_columns_of_a_released_table_are_read_by_the_recipe_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "dolly.jsonl"
    row = {
        "instruction": "Sum it up.",
        "context": "Rivers flow.",
        "response": "They flow.",
        "category": "summarization",
    }
    path.write_text(json.dumps(row) + "\n")
    stage = MEMBERS["dolly"].make("7B").last
    assert isinstance(stage, Finetune)
    (dialogue,) = supplied(Table(path=str(path)), stage.prompt, "tuned", [], stage.fields)
    assert list(dialogue) == [Message("user", "Sum it up.", "Rivers flow."), Message("assistant", "They flow.")]
    for wrong in ({"response": 3}, {"context": ["a"]}):
        path.write_text(json.dumps(row) + "\n" + json.dumps(row | wrong) + "\n")
        with pytest.raises(BadData, match=r"line 2: '(response|context)' is (a number|a list), not text"):
            supplied(Table(path=str(path)), stage.prompt, "tuned", [], stage.fields)
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    with pytest.raises(BadData, match="or a table with the columns instruction, context, response"):
        supplied(Table(path=str(path)), stage.prompt, "tuned", [], stage.fields)


def test_a_mask_moved_by_one_token_is_found(llama_2) -> None:  # noqa: F811
    stage = MEMBERS["vicuna"].make("7B").last
    dialogue = [Message("user", "Name a river."), Message("assistant", "The Nile.")]
    rendered = render(stage.prompt, dialogue, llama_2, learn=stage.learn)
    (reply,) = rendered.replies
    moved = llama_2.decode(rendered.ids[reply.start - 1 : reply.end - 1], starts=False)
    assert stage.prompt.content(moved) != "The Nile."
