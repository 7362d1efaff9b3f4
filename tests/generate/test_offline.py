from __future__ import annotations

import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from camelid.checkpoints import directory
from camelid.dialogue.published import VICUNA_1_1
from camelid.durable import append_line
from camelid.errors import BadData, UsageError
from camelid.generate import offline
from camelid.generate.choices import branches
from camelid.generate.loaded import Loaded, load
from camelid.generate.offline import answer_file
from camelid.generate.settings import Settings
from tests.generate.stand_ins import small

OWN = Settings(max_tokens=12)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A small chat model in a folder."""
    made = small(VICUNA_1_1, context=320, seed=2)
    path = tmp_path_factory.mktemp("offline") / "model"
    state = {name: tensor.float() for name, tensor in made.model.state_dict().items()}  # type: ignore[union-attr]
    return load(directory.save(path, state, shape=made.shape, tokenizer=made.tokenizer, template=VICUNA_1_1))


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def some(count: int) -> list[dict[str, Any]]:
    chance, rows = random.Random(0), []
    for number in range(count):
        row: dict[str, Any] = {"prompt": f"Who lives in house {number}?"}
        if number % 3 == 0:
            row = {"id": f"row {number}", "messages": [{"role": "user", "content": f"Name {number} things."}]}
        if number % 4 == 0:
            row |= {"temperature": 1.0, "seed": number, "n": 3}
        rows.append(row | {"max_tokens": chance.randint(1, 20)})
    return rows


def test_answers_are_those_given_one_by_one_in_the_order_of_the_rows(loaded: Loaded, tmp_path: Path) -> None:
    rows = [*some(20), {"id": 7, "prompt": "Arl", "raw": True}, {"prompt": "Besk", "beams": 2, "top_logprobs": 2}]
    done = answer_file(loaded, written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", OWN, rows=5)
    found = lines(tmp_path / "out.jsonl")
    assert [row["line"] for row in found] == list(range(1, 23)) and found[0]["id"] == "row 0" and found[20]["id"] == 7
    assert (done.rows, done.answered, done.before, done.failed, done.answers) == (22, 22, 0, 0, 22 + 5 * 2)
    for row, told in zip(rows[:20], found, strict=False):
        said = row["messages"][0]["content"] if "messages" in row else row["prompt"]
        own = Settings(**{name: value for name, value in row.items() if name not in ("id", "messages", "prompt")})
        expected = [loaded.complete(said, one) for one in branches(own)]
        assert [answer["text"] for answer in told["answers"]] == [one.text for one in expected]
        assert [answer["tokens"] for answer in told["answers"]] == [len(one.token_ids) for one in expected]
        assert [answer["finish_reason"] for answer in told["answers"]] == [one.finish_reason for one in expected]
        assert told["prompt_tokens"] == len(expected[0].prompt_ids)
    assert "text" not in found[21]["answers"][0]["top_logprobs"][0] and found[21]["answers"][0]["logprobs"]


def test_a_killed_run_goes_on_and_ends_with_the_bytes_of_one_left_alone(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL between two lines and inside one: nothing is lost, nothing doubled."""
    source, whole, killed = (tmp_path / name for name in ("in.jsonl", "whole.jsonl", "killed.jsonl"))
    written(source, some(30))
    answer_file(loaded, source, whole, OWN, rows=4)
    chance, deaths = random.Random(0), 0
    for _ in range(100):
        left = chance.randint(0, 6)
        child = os.fork()
        if not child:
            count = 0

            def dying(path: Path, event: object, left: int = left) -> None:
                nonlocal count
                if count == left:
                    torn = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
                    with open(path, "ab") as file:
                        file.write(torn[: chance.randrange(len(torn))])
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                append_line(path, event)

            monkeypatch.setattr(offline, "append_line", dying)
            try:
                answer_file(loaded, source, killed, OWN, rows=chance.randint(1, 9))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        deaths += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            break
    assert deaths >= 4 and killed.read_bytes() == whole.read_bytes()
    again = answer_file(loaded, source, killed, OWN)
    assert (again.before, again.answered) == (30, 0) and killed.read_bytes() == whole.read_bytes()
    written(source, [*some(30), {"prompt": "One more?"}])
    assert answer_file(loaded, source, killed, OWN).answered == 1, "a file that grew is answered further"


def test_answers_of_another_job_are_refused(loaded: Loaded, tmp_path: Path) -> None:
    source, out = written(tmp_path / "in.jsonl", some(4)), tmp_path / "out.jsonl"
    answer_file(loaded, source, out, OWN)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="line 1 holds the answer of another prompt, setting or model"):
        answer_file(loaded, source, out, Settings(max_tokens=3, seed=1))
    written(source, [*some(2), {"prompt": "changed"}])
    with pytest.raises(UsageError, match="line 3 holds the answer of another"):
        answer_file(loaded, source, out, OWN)
    written(source, some(4)[:2])
    with pytest.raises(UsageError, match="holds 4 answers for 2 rows"):
        answer_file(loaded, source, out, OWN)
    assert out.read_bytes() == before


@pytest.mark.parametrize("held", [
    "my dear notes\nsecond line\nthird, without an end", "one line", '{"prompt": "Who?"}\n{"prompt": "W', '{"line": 1', "[1]\n",
])  # fmt: skip
def test_a_file_that_holds_no_answers_is_left_as_it_is(loaded: Loaded, tmp_path: Path, held: str) -> None:
    source, out = written(tmp_path / "in.jsonl", some(3)), tmp_path / "out.jsonl"
    out.write_text(held)
    with pytest.raises(UsageError, match=r"out\.jsonl: (what it holds at offset|line 1 holds).*name another file"):
        answer_file(loaded, source, out, OWN)
    assert out.read_text() == held
    for torn in ('{"line":1,"id":"ro', '{"line"', '{"line":1,"id":nu\0\0\0'):
        out.write_text(torn)
        assert answer_file(loaded, source, out, OWN).answered == 3
    source.write_text('{"prompt": "One"}\n{"prompt": "Two"}')
    with pytest.raises(UsageError, match="line 1 holds the answer of another prompt"):
        answer_file(loaded, source, source, OWN)
    assert source.read_text().endswith('Two"}'), "prompts without a last line end lose none"


BAD: list[tuple[Any, str]] = [
    ({"prompt": "word " * 400}, r"\d\d\d ids leave no room in the model's context of 320"),
    ({"prompt": "x", "temperatur": 1}, "temperatur: is no setting; did you mean 'temperature'?"),
    ({"prompt": "x", "max_tokens": "ten"}, "max_tokens"),
    ({"prompt": "x", "top_p": 7}, "top_p: 7.* is out of range"),
    ({"prompt": 3}, "prompt: found int"),
    ({"messages": []}, "messages: is no list, or empty"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "did you mean|choose from"),
    ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "both prompt and messages"),
    ({"text": "x"}, "has no prompt"),
    ([1], "is no object"),
    ({"messages": [{"role": "user", "content": "x"}], "raw": True}, "raw: found True"),
]


def test_rows_that_cannot_be_answered_are_all_named_before_anything_is_done(loaded: Loaded, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [{"prompt": "fine"}, *(row for row, _ in BAD)])
    with open(source, "a") as file:
        file.write("{not json}\n\n")
    with pytest.raises(BadData) as caught:
        answer_file(loaded, source, tmp_path / "out.jsonl", OWN)
    told = [str(problem) for problem in caught.value.problems]
    assert "12 of 13 rows cannot be answered" in told[0] and not (tmp_path / "out.jsonl").exists()

    for number, (_, wanted) in enumerate(BAD):
        assert f"line {number + 2}: " in told[number + 1] and re.search(wanted, told[number + 1]), told[number + 1]
    assert "line 13" in told[12] and "not strict JSON" in told[12]
    done = answer_file(loaded, source, tmp_path / "out.jsonl", OWN, skip_bad=True)
    assert (done.answered, done.failed, done.answers) == (13, 12, 1)
    found = lines(tmp_path / "out.jsonl")
    assert "answers" in found[0] and all("error" in row and "answers" not in row for row in found[1:])
    again = answer_file(loaded, source, tmp_path / "out.jsonl", OWN, skip_bad=True)
    assert (again.before, again.answered, again.failed) == (13, 0, 12)
    empty = written(tmp_path / "empty.jsonl", [])
    with pytest.raises(UsageError, match="holds no rows"):
        answer_file(loaded, empty, tmp_path / "none.jsonl", OWN)


def test_long_prompts_are_cut_when_that_is_wished_and_it_is_told(loaded: Loaded, tmp_path: Path) -> None:
    long = "Mila lives in the town of Arl. " * 30
    source = written(tmp_path / "in.jsonl", [{"prompt": long, "raw": True}, {"prompt": "short", "raw": True}])
    done = answer_file(loaded, source, tmp_path / "out.jsonl", OWN, truncate=True)
    first, second = lines(tmp_path / "out.jsonl")
    ids = loaded.prompt(long, raw=True).ids
    assert first["prompt_tokens"] == 320 - 12 and first["truncated"] == len(ids) - 308 and "truncated" not in second
    assert done.truncated == 1 and first["answers"][0]["tokens"] <= 12
    kept = (ids[0], *ids[-307:])
    expected = loaded.complete(offline.Prompt(kept, loaded.prompt(long, raw=True).stop_ids, (), False), OWN)
    assert first["answers"][0]["text"] == expected.text
