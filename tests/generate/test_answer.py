from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.errors import UsageError
from camelid.generate.answer import Answer, Completion
from camelid.generate.decode import End, Token, complete, complete_all, generate
from camelid.generate.settings import Settings
from camelid.generate.stop import cut
from tests.conftest import size
from tests.generate.stand_ins import BYTES, ByteTokenizer, ForcedModel, small_tokenizer

MANY = st.text(st.sampled_from("ab é€𝄞👩\u200d\n\ufffd\x00"), max_size=24)


def cut_at_random(data: bytes, chance: random.Random) -> list[bytes]:
    places = sorted(chance.sample(range(len(data) + 1), min(len(data), chance.randrange(8))))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def answered(
    ids: list[int], own: Settings, tokenizer: ByteTokenizer = BYTES, room: int = 10**6
) -> tuple[str, Completion]:
    """The text shown piece by piece, and the completion."""
    answer, shown = Answer([0], own, tokenizer, room=room), []
    for id in ids:
        shown.append(answer.add(id, -1.0))
        if answer.finish_reason:
            break
    done = answer.completion()
    return "".join(shown), done


@given(MANY, st.binary(max_size=4), st.lists(MANY.filter(bool).map(lambda text: text[:3]), max_size=3), st.randoms())
@settings(max_examples=size(1500), deadline=None)
def test_streamed_text_is_the_whole_text_cut_at_its_stop(
    text: str, broken: bytes, stops: list[str], chance: random.Random
) -> None:
    """Goal D7: random token cuts, also inside characters, and bytes that are no text at all."""
    tokenizer = ByteTokenizer(cut_at_random(text.encode() + broken, chance))
    ids = list(range(2, tokenizer.size))
    whole = tokenizer.decode(ids)
    model = ForcedModel({7: ids}, tokenizer.size + 8)
    own = Settings(max_tokens=len(ids), stop_texts=tuple(stops), stop_ids=(1,))
    events = list(generate(model, [5, 7], own, tokenizer))
    assert isinstance(events[-1], End)
    done = events[-1].completion
    shown = "".join(event.text for event in events if isinstance(event, Token))
    assert shown == done.text == cut(whole, stops)[0]
    assert done.text.count("\ufffd") <= whole.count("\ufffd")
    assert list(done.token_ids) == ids[: len(done.token_ids)]
    assert done.finish_reason == ("stop" if cut(whole, stops)[1] else "length")
    assert complete(model, [5, 7], own, tokenizer) == done


@given(
    st.lists(st.tuples(MANY, MANY.filter(bool).map(lambda text: text[:2])), min_size=1, max_size=9), st.integers(1, 9)
)
@settings(max_examples=size(15), deadline=None)
def test_many_forced_answers_together_are_those_given_alone(pairs: list[tuple[str, str]], rows: int) -> None:
    """Scripts of very unequal lengths: rows leave the batch at different steps, and it is packed anew."""
    scripts = [[*BYTES.encode(text), 1] for text, _ in pairs]
    model = ForcedModel(scripts, BYTES.size)
    prompts = [[9] * (number % 4) + [number] for number in range(len(pairs))]
    each = [Settings(max_tokens=20, stop_texts=(stop,), stop_ids=(1,)) for _, stop in pairs]
    seen: dict[int, Completion] = {}
    together = complete_all(model, prompts, each, BYTES, rows=rows, finished=seen.__setitem__)
    assert together == [complete(model, prompt, own, BYTES) for prompt, own in zip(prompts, each, strict=True)]
    assert [seen[index] for index in range(len(prompts))] == together


@pytest.mark.parametrize("starts", [True, False])
def test_random_ids_of_a_real_tokenizer_stream_as_they_decode(starts: bool) -> None:
    """Goal D7 on SentencePiece: byte pieces in any order, controls, the first blank; stops of any place."""
    tokenizer, chance = small_tokenizer(), random.Random(starts)
    for _ in range(size(1000)):
        ids = [chance.randrange(tokenizer.size) for _ in range(chance.randint(1, 24))]
        whole = tokenizer.decode(ids, starts=starts)
        place, width = chance.randrange(len(whole) + 1), chance.randint(1, 4)
        stops = tuple(filter(None, [whole[place : place + width], "\ufffd\ufffd", "Arl"][: chance.randint(0, 3)]))
        answer = Answer([1], Settings(stop_texts=stops), tokenizer, room=len(ids), starts=starts)
        shown = ""
        for id in ids:
            shown += answer.add(id, 0.0)
            if answer.finish_reason:
                break
        assert shown == answer.completion().text == cut(whole, stops)[0]


def test_the_id_that_stops_is_kept_and_its_text_is_not() -> None:
    newline = BYTES.encode("\n")[0]
    shown, done = answered(BYTES.encode("yes\nno"), Settings(stop_ids=(newline,)))
    assert shown == done.text == "yes" and done.finish_reason == "stop"
    assert BYTES.decode(done.token_ids) == "yes\n" and len(done.logprobs) == 4


def test_half_a_character_at_the_end_shows_as_it_does_in_the_whole_text() -> None:
    ids = BYTES.encode("né")[:-1]
    assert answered(ids, Settings(max_tokens=2))[0] == BYTES.decode(ids) == "n\ufffd"
    assert answered([*ids, 1], Settings(stop_ids=(1,)))[0] == "n\ufffd"


def test_text_held_for_a_stop_is_shown_when_the_answer_ends_without_it() -> None:
    own = Settings(max_tokens=5, stop_texts=("END.",))
    assert answered(BYTES.encode("an EN"), own)[1].text == "an EN"
    assert answered([*BYTES.encode("EN"), 1], Settings(stop_texts=("END",), stop_ids=(1,)))[1].text == "EN"


def test_length_ends_an_answer_at_max_tokens_or_a_full_context() -> None:
    assert answered(BYTES.encode("abcdef"), Settings(max_tokens=3))[1].text == "abc"
    done = answered(BYTES.encode("abcdef"), Settings(max_tokens=5), room=2)[1]
    assert (done.text, done.finish_reason) == ("ab", "length")
    assert Answer([0], Settings(max_tokens=0), None, room=9).finish_reason == "length"


def test_an_answer_left_early_gives_all_its_text_every_time_it_is_asked() -> None:
    answer = Answer([0], Settings(stop_texts=("bcd",)), BYTES, room=9)
    assert "".join(answer.add(id, 0.0) for id in BYTES.encode("abc")) == "a"
    assert answer.completion() == answer.completion() and answer.completion().text == "abc"


def test_the_json_of_a_completion_has_exactly_the_fields_of_the_contract() -> None:
    done = Completion((1, 5), (6, 2), "x", (-0.5, -1.5), "stop")
    assert json.loads(json.dumps(done.data())) == {
        "prompt_ids": [1, 5], "token_ids": [6, 2], "text": "x", "logprobs": [-0.5, -1.5], "finish_reason": "stop",
    }  # fmt: skip
    noted = Completion((1, 5), (), "", (), "length", (None, -2.0)).data()
    assert noted["prompt_logprobs"] == [None, -2.0]


def test_stop_texts_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(UsageError, match=r"stop_texts.*without a tokenizer"):
        Answer([0], Settings(stop_texts=("x",)), None, room=1)
