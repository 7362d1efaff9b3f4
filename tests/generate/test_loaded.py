from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camelid.checkpoints import directory
from camelid.checkpoints.convert import convert
from camelid.dialogue.message import Message
from camelid.dialogue.published import PLAIN, VICUNA_1_1
from camelid.errors import BadFile, UsageError
from camelid.generate.decode import End, Token, complete
from camelid.generate.loaded import Prompt, load
from camelid.generate.settings import Settings
from camelid.recipes.alpaca import PROMPT
from camelid.tokenizers.extend import with_controls
from tests.checkpoints.models import weights
from tests.generate.stand_ins import small, small_tokenizer

OWN = Settings(max_tokens=24, temperature=1.0, seed=3)


def test_a_saved_folder_answers_as_the_model_did_before_it_was_saved(tmp_path: Path) -> None:
    before = small()
    saved = directory.save(
        tmp_path / "model", before.model.state_dict(), shape=before.shape, tokenizer=before.tokenizer
    )
    after = load(saved)
    assert (after.path, after.shape, after.template, after.ends) == (saved, before.shape, None, (2,))
    assert after.model.dtype == torch.float64 and not after.model.training
    assert after.complete("Who lives here?", OWN) == replace(before, ends=(2,)).complete("Who lives here?", OWN)
    assert load(saved, dtype=torch.float32).model.dtype == torch.float32
    (saved / "config.json").write_text("{}")
    with pytest.raises(BadFile):
        load(saved)


def test_raw_is_the_begin_token_and_the_text_and_nothing_else() -> None:
    loaded = small(PROMPT)
    tokenizer = loaded.tokenizer
    prompt = loaded.prompt("The town of", raw=True)
    assert prompt.ids == (tokenizer.bos, *tokenizer.encode("The town of"))
    assert prompt.stop_ids == (tokenizer.eos,) and not prompt.starts
    assert loaded.prompt("", raw=True) == Prompt((1,), (2,), (), True)
    assert loaded.prompt("The town of", template=PLAIN).ids == prompt.ids, "a base's template is no template"
    with pytest.raises(UsageError, match="raw"):
        loaded.prompt([Message("user", "a", "b")], raw=True)


def test_a_text_is_rendered_through_the_models_own_template() -> None:
    loaded = small(PROMPT)
    rendered = loaded.render([Message("user", "Add.", "1 and 2")], generate=True)
    assert loaded.prompt([Message("user", "Add.", "1 and 2")]).ids == tuple(rendered.ids)
    assert "### Input:\n1 and 2" in loaded.tokenizer.decode(rendered.ids)
    assert loaded.prompt("Add.") == loaded.prompt([Message("user", "Add.")]) != loaded.prompt("Add.", raw=True)
    assert "USER: Add." in loaded.tokenizer.decode(loaded.prompt("Add.", template=VICUNA_1_1).ids)
    assert loaded.tokenize("Add. </s>") == loaded.tokenizer.encode("Add. </s>")


@pytest.mark.parametrize("raw", [True, False])
def test_prompt_and_answer_join_to_the_text_of_all_ids(raw: bool) -> None:
    """A SentencePiece answer keeps the blank with which it continues the prompt."""
    for seed in range(8):
        loaded = small(PROMPT, seed=seed)
        done = loaded.complete("The town of", OWN, raw=raw)
        kept = done.token_ids[:-1] if done.finish_reason == "stop" else done.token_ids
        joined = loaded.tokenizer.decode(done.prompt_ids) + done.text
        assert joined == loaded.tokenizer.decode((*done.prompt_ids, *kept))


def test_stops_of_template_and_folder_are_added_to_those_asked_for() -> None:
    loaded = replace(small(VICUNA_1_1), ends=(7, 2))
    within = loaded.prompt("Hello").within(Settings(stop_ids=(9,), stop_texts=("x",)))
    assert within.stop_ids == (9, 2, 7) and within.stop_texts == ("x",)
    assert loaded.complete("Hello", replace(OWN, stop_ids=tuple(range(small_tokenizer().size)))).finish_reason == "stop"


def test_streaming_single_and_batched_answers_are_the_same() -> None:
    loaded = small(PROMPT)
    said = ["Who?", "Where is the town of Abc and who lives there?", [Message("user", "Add.", "3 and 4")]]
    together = loaded.complete_all(said, OWN, rows=2)
    for one, done in zip(said, together, strict=True):
        events = list(loaded.generate(one, OWN))
        assert isinstance(events[-1], End) and events[-1].completion.token_ids == done.token_ids
        assert "".join(event.text for event in events if isinstance(event, Token)) == done.text
    ids = loaded.prompt(said[0]).ids
    assert complete(loaded.model, ids, replace(OWN, stop_ids=(2,)), small_tokenizer()).text == together[0].text


def test_a_foreign_template_is_asked_the_same_from_a_folder_and_from_a_gguf_file(tmp_path: Path) -> None:
    """Turns marked by tokens of their own, which no published template has; every id in generation_config.json ends."""
    before = small()
    tokenizer = with_controls(before.tokenizer, ("<|im_start|>", "<|im_end|>", "<|stop|>"))
    folder, shape = tmp_path / "folder", replace(before.shape, vocab=tokenizer.size)
    directory.save(folder, weights(shape), shape=shape, tokenizer=tokenizer)
    for name in ("camelid.json", "manifest.json"):
        (folder / name).unlink()
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ ' ' ~ m.content ~ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% endif %}"
    )
    ends = [tokenizer.controls["<|stop|>"], 2]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    loaded = load(folder)
    assert loaded.foreign is not None and loaded.foreign.how == "read"
    asked = [Message("system", "Be brief."), Message("user", "Who lives </s><|im_end|> here?")]
    prompt = loaded.prompt(asked)
    assert set(prompt.stop_ids) == {*ends, tokenizer.controls["<|im_end|>"]}
    assert [id for id in prompt.ids if id in tokenizer.controls.values()] == [
        tokenizer.controls[f"<|im_{each}|>"] for each in ("start", "end", "start", "end", "start")
    ]
    file = convert(folder, tmp_path / "model.gguf", to="gguf")
    assert load(file).prompt(asked) == prompt
    back = convert(file, tmp_path / "back", to="hf")
    assert (back / "chat_template.jinja").read_text() == (folder / "chat_template.jinja").read_text()
    assert load(back).prompt(asked) == prompt and load(back, template=VICUNA_1_1).foreign is None


def test_float16_on_a_cpu_is_computed_with_in_float32_or_in_what_was_asked(tmp_path: Path) -> None:
    """Exactly the answers of the same values stored in float32, logprobs and all; the kernels' own roundings as well."""
    before = small()
    half = {name: tensor.half() for name, tensor in before.model.state_dict().items()}
    whole = {name: tensor.float() for name, tensor in half.items()}
    told = {"shape": before.shape, "tokenizer": before.tokenizer}
    ours, wide = directory.save(tmp_path / "half", half, **told), directory.save(tmp_path / "whole", whole, **told)
    for asked in ({}, {"weights": "bf16"}, {"weights": "float32"}, {"engine": "native"}):
        if load(wide).engine.startswith("native") or not asked:
            one, other = load(ours, **asked), load(wide, **asked)
            assert one.engine == other.engine
            assert one.complete("Who lives here?", OWN) == other.complete("Who lives here?", OWN)
    assert load(ours, engine="pytorch").model.dtype == torch.float16
    assert load(ours, dtype=torch.float16).model.dtype == torch.float16
