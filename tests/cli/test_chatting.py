"""What a person can say to `camelid chat` besides messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from camelid.cli.chatting import WORDS, Conversation
from camelid.data.source import dialogues
from camelid.dialogue.message import Message
from camelid.dialogue.published import LLAMA_2
from camelid.generate.chat import Chat
from camelid.generate.settings import Settings
from tests.generate.stand_ins import small


@pytest.fixture
def talk() -> Conversation:
    return Conversation(Chat(small(LLAMA_2, context=1024), Settings(max_tokens=8, temperature=1.0, seed=1)))


def roles(talk: Conversation) -> list[str]:
    return [message.role for message in talk.chat.messages]


def test_every_word_that_help_names_does_something(talk: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    talk.take("/help")
    told = capsys.readouterr().err
    assert all(word in told for word in WORDS)
    talk.take("Who?")
    assert roles(talk) == ["user", "assistant"]
    first, out = talk.chat.messages[-1], capsys.readouterr().out
    assert first.content == out.strip()
    talk.take("/again")
    assert roles(talk) == ["user", "assistant"] and talk.chat.messages[0] == Message("user", "Who?")
    assert talk.chat.messages[-1] != first and talk.chat.settings.seed == 2
    talk.take("/undo")
    assert roles(talk) == [] and "taken back: Who?" in capsys.readouterr().err
    talk.take("/system Be short.")
    talk.take("Who?")
    talk.take("/clear")
    assert talk.chat.messages == [Message("system", "Be short.")]
    talk.take("/system")
    assert talk.chat.messages == [] and not talk.done
    talk.take("/exit")
    assert talk.done


def test_what_is_saved_is_a_record_to_train_on(
    talk: Conversation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "said.jsonl"
    talk.take(f"/save {file}")
    assert "nothing was said yet" in capsys.readouterr().err and not file.exists()
    for line in ("Who?", "Where?"):
        talk.take(line)
        talk.take(f"/save {file}")
    found = list(dialogues(file))
    assert [len(messages) for messages in found] == [2, 4] and list(found[1]) == talk.chat.messages
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    talk.take(f"/save {file}")
    assert [len(messages) for messages in dialogues(file)] == [2, 4, 4], "a line without its end is ended first"
    talk.take(f"/save {tmp_path}")
    assert "name another file" in capsys.readouterr().err


def test_a_word_that_is_no_command_is_told_and_never_said(
    talk: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    talk.take("/cler")
    assert "/clear" in capsys.readouterr().err and not talk.chat.messages
    talk.take("/again")
    assert "nothing was said yet" in capsys.readouterr().err
    for line in (" /cler", "/usr/bin is a folder", "/exit is a word"):
        talk.take(line)
        assert talk.chat.messages[-2] == Message("user", line) and not talk.done


def test_the_likeliest_answer_is_not_asked_for_twice(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Conversation(Chat(small(LLAMA_2, context=256), Settings(max_tokens=2)))
    talk.take("Who?")
    talk.take("/again")
    assert "--temperature" in capsys.readouterr().err and roles(talk) == ["user", "assistant"]
