"""The distance between two members is told with what each side really has."""

from __future__ import annotations

import json

import pytest

from camelid.cli import main


def test_what_sets_two_members_apart_is_told_with_the_values_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    def apart(*words: str) -> dict[str, list[str | None]]:
        assert main(["diff", *words, "--json"]) == 0
        return {row.pop("setting"): list(row.values()) for row in json.loads(capsys.readouterr().out)}

    found = apart("alpaca", "alpaca-lora")
    assert found["pad"] == ["'[PAD]'", "none"] and found["length"] == ["512", "256"]
    assert found["adapter"] == ["none", "LoRA(rank=8, alpha=16, dropout=0.05)"]
    assert found["prompt.user"] == ["... 'truction}\\n\\n### Response:'", "... 'truction}\\n\\n### Response:\\n'"]
    found = apart("koala-distill", "koala-all")
    assert found["data.portions.Alpaca"] == [None, "rows=52_000, licence='CC BY-NC 4.0'"]
    assert apart("vicuna", "vicuna-v1.5")["start"] == ["LLaMA 7B", "Llama 2 7B"]
    found = apart("llama-3.1", "alpaca", "--size", "desk")
    assert found["operation"] == ["Pretrain", "Finetune"] and found["learn"] == [None, "'response'"]
    assert "scaling" not in found and "context" not in found, "one side alone could say it, and does not"
    assert found["train"][1] == "3 epochs"
    assert main(["diff", "alpaca", "guanaco"]) == 0
    told = capsys.readouterr().out
    assert "(default)" not in told and "each at its published size; --size desk compares both at one" in told
    assert main(["diff", "alpaca", "alpaca"]) == 0 and "are trained alike" in capsys.readouterr().out
