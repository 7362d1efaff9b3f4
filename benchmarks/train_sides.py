"""One side of a comparison, in a process of its own: `train_sides.py SIDE ROW THREADS FOLDER [STEPS TO WARM UP]`.

Every side does whole steps: data, forward, backward, the gradient clipped to norm 1, fused AdamW. In float32, but for
"trl", which does what it does by default, in bfloat16, and "camelid bfloat16" beside it. Fresh weights, except that
zeros would do: speed does not depend on them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.train_rows import ALPHA, LONGEST, RANK, RATE, ROWS, SEQUENCES, SHAPES, Row, supervised
from benchmarks.turns import Turns


def camelid(row: Row, threads: int, folder: Path, turns: Turns, *, dtype: Any = "float32") -> None:
    """The trainer as it is, on the machine as it divides it."""
    from camelid.data.batch import PretrainingBatches, SequenceBatches
    from camelid.data.corpus import Corpus
    from camelid.data.mixture import Mixture
    from camelid.machine import Machine, divided, hands
    from camelid.models.shape import LINEARS, LoRA
    from camelid.train.settings import AdamW, Cosine

    shape = SHAPES[row.shape]
    lora = LoRA(RANK, ALPHA, targets=LINEARS) if row.kind == "lora" else None
    machine = divided(Machine(threads=threads, dtype=dtype), shape.parameters())
    turns.told["hands"] = hands(machine)
    batches: Any
    if row.kind == "dense":
        draw = np.random.default_rng(0)
        ids = draw.integers(0, shape.vocab, 80 * 100 * row.length).astype(np.uint16)
        corpus = Corpus(ids, np.arange(0, ids.size + 1, 100 * row.length), None)
        step = row.rows * row.length
        mixture = Mixture.by_proportion({"random": corpus}, {"random": 1.0}, 100_000 * step, seed=0)
        batches = PretrainingBatches(
            mixture,
            length=row.length,
            tokens_per_step=step,
            micro_tokens=machine.micro_tokens,
            shares=machine.shares,
        )
    else:
        corpus, micro, shares = supervised(folder), machine.micro_tokens, machine.shares
        batches = SequenceBatches(corpus, per_step=SEQUENCES, epochs=100, micro_tokens=micro, seed=0, shares=shares)
    _train(shape, lora, machine, batches, AdamW(lr=RATE), Cosine(), turns, fixed=row.rows * row.length)


def _train(
    shape: Any, lora: Any, machine: Any, batches: Any, optim: Any, schedule: Any, turns: Turns, *, fixed: int
) -> None:
    import torch

    from camelid.models.adapt import add_lora
    from camelid.models.llama import Llama, initialise
    from camelid.train.loop import Cadence, Conduct, train
    from camelid.train.loss import NextToken
    from camelid.train.optim import Optimizer

    torch.set_num_threads(machine.threads)
    dtype = getattr(torch, machine.dtype)
    model = Llama(shape, dtype=torch.float32 if lora is None else dtype)
    initialise(model, 0)
    if lora is not None:
        add_lora(model, lora, seed=0)
    optimizer = Optimizer(dict(model.named_parameters()), optim, dtype=dtype if lora is None else None)
    if lora is None:
        model.to(dtype)

    def told(step: int, *others: Any) -> None:
        turns.tick(fixed or sum(batch.tokens for batch in batches.at(step - 1)))

    conduct = Conduct(machine=machine, cadence=Cadence(seconds=None), progress=told)
    with tempfile.TemporaryDirectory() as scratch:
        words: dict[str, Any] = {"directory": Path(scratch) / "run", "seed": 0, "identity": {}, "conduct": conduct}
        train(model, batches, NextToken(), optimizer, schedule, **words)


def matrix(row: Row, threads: int, folder: Path, turns: Turns) -> None:
    """The rate of a large product by the faster library, as if it were tokens: one "token" is 10^6 operations."""
    import torch

    from camelid.machine import Machine
    from camelid.train.products import multiplying

    torch.set_num_threads(threads)
    one, other = torch.rand(4096, 4096), torch.rand(4096, 4096)
    out = torch.empty(4096, 4096)

    def step() -> int:
        torch.mm(one, other, out=out)
        return int(2 * 4096**3 / 1e6)

    with multiplying(Machine(threads=threads)):
        turns.work(step)


# --- the peers --------------------------------------------------------------------------------------------------------


def _transformers(shape: Any, threads: int) -> Any:
    """A model of theirs, drawn cheaply."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    config = transformers.LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.hidden,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.eps,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config._attn_implementation = "sdpa"
    return transformers.LlamaForCausalLM(config)


def _dense(model: Any, loss: Callable[[Any], Any], row: Row, turns: Turns, *, compiled: bool) -> None:
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, fused=True)
    model.train()
    if compiled:
        model.compile(dynamic=False)
    vocab = SHAPES[row.shape].vocab

    def step() -> int:
        loss(torch.randint(3, vocab, (row.rows, row.length))).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return row.rows * row.length

    turns.work(step)


def transformers(row: Row, threads: int, folder: Path, turns: Turns, *, compiled: bool = False) -> None:
    model = _transformers(SHAPES[row.shape], threads)
    _dense(model, lambda ids: model(input_ids=ids, labels=ids, use_cache=False).loss, row, turns, compiled=compiled)


def transformers_compiled(row: Row, threads: int, folder: Path, turns: Turns) -> None:
    transformers(row, threads, folder, turns, compiled=True)


def litgpt_compiled(row: Row, threads: int, folder: Path, turns: Turns) -> None:
    import torch
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    torch.set_num_threads(threads)
    shape = SHAPES[row.shape]
    model = GPT(
        Config(
            name="llama",
            block_size=shape.context,
            vocab_size=shape.vocab,
            padded_vocab_size=shape.vocab,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_query_groups=shape.kv_heads,
            n_embd=shape.width,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            intermediate_size=shape.hidden,
            norm_eps=shape.eps,
        )
    )
    model.max_seq_length = row.length
    if shape.tied:
        model.lm_head.weight = model.transformer.wte.weight

    def loss(ids: Any) -> Any:
        return chunked_cross_entropy(model(ids)[:, :-1], ids[:, 1:], chunk_size=0)

    _dense(model, loss, row, turns, compiled=True)


def torchtune_compiled(row: Row, threads: int, folder: Path, turns: Turns) -> None:
    import torch
    from torchtune.models.llama3_2 import llama3_2
    from torchtune.modules.loss import CEWithChunkedOutputLoss

    torch.set_num_threads(threads)
    shape = SHAPES[row.shape]
    model = llama3_2(
        vocab_size=shape.vocab,
        num_layers=shape.layers,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        embed_dim=shape.width,
        max_seq_len=shape.context,
        intermediate_dim=shape.hidden,
    )
    entropy = CEWithChunkedOutputLoss()
    model.set_num_output_chunks(entropy.num_output_chunks)

    def loss(ids: Any) -> Any:
        return entropy(model(ids), torch.hstack((ids[:, 1:], torch.full_like(ids[:, :1], -100))))

    _dense(model, loss, row, turns, compiled=True)


def _sequences(folder: Path, first: int | None = None) -> list[dict[str, list[int]]]:
    """Ids and labels as their trainers want them: what is not learned is -100."""
    corpus = supervised(folder)
    rows = []
    for index in range(len(corpus) if first is None else first):
        ids, marks = corpus.sequence(index).astype(int), corpus.marks(index)
        rows.append({"input_ids": ids.tolist(), "labels": np.where(marks, ids, -100).tolist()})
    return rows


def _trainer(
    row: Row, threads: int, folder: Path, turns: Turns, *, trl: bool, plain: bool = True, kind: str = ""
) -> None:
    """Their Trainer, eight sequences to a step.

    plain  float32 without recomputation, which TRL's own defaults are not
    kind   "packed" (TRL), "grouped" by length, or nothing: padded as they come
    """
    import torch
    import transformers as hf
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    shape = SHAPES[row.shape]
    model = _transformers(shape, threads)
    words = Tokenizer(WordLevel({f"t{number}": number for number in range(shape.vocab)}, unk_token="t0"))
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="t0", pad_token="t0", eos_token="t2", bos_token="t1"
    )
    records = _sequences(folder)
    if kind == "grouped":
        records = _grouped(records)
    arguments: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": SEQUENCES,
        "max_steps": 100_000,
        "logging_steps": 10**6,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "learning_rate": RATE,
        "optim": "adamw_torch_fused",
        "max_grad_norm": 1.0,
        "disable_tqdm": True,
    }
    if kind == "grouped":
        arguments["train_sampling_strategy"] = "sequential"
    if plain and trl:
        arguments |= {"bf16": False, "gradient_checkpointing": False}
    adapter = None
    if row.kind == "lora":
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        model = model if trl else get_peft_model(model, adapter)

    counted: list[int] = []

    class Told(hf.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *given: Any, **others: Any) -> None:
            turns.tick(sum(counted))
            counted.clear()

    base: Any
    data = Dataset.from_list(records)
    if trl:
        from trl import SFTConfig, SFTTrainer

        if kind == "packed":
            arguments |= {"packing": True, "per_device_train_batch_size": 2}
        base, settings = SFTTrainer, SFTConfig(max_length=LONGEST, **arguments)
        others = {"processing_class": tokenizer, "peft_config": adapter}
    else:
        base, settings = hf.Trainer, hf.TrainingArguments(**arguments)
        others = {"data_collator": hf.DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)}

    class Counted(base):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, inputs: Any, *given: Any, **others: Any) -> Any:
            counted.append(int((inputs["input_ids"] != 0).sum()))  # 0 pads, and stands in no record
            return super().training_step(model, inputs, *given, **others)

    torch.manual_seed(0)
    Counted(model=model, args=settings, train_dataset=data, callbacks=[Told()], **others).train()


def _grouped(records: list[dict[str, list[int]]]) -> list[dict[str, list[int]]]:
    """The records in the order of their own sampler by length, whose batches are then dealt out anew: it takes the
    longest first, and a turn sees but a few."""
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    lengths = [len(record["input_ids"]) for record in records]
    sampler = LengthGroupedSampler(SEQUENCES, lengths=lengths, generator=torch.Generator().manual_seed(0))
    order = np.array(list(sampler))
    batches = order[: len(order) // SEQUENCES * SEQUENCES].reshape(-1, SEQUENCES)
    dealt = np.random.default_rng(0).permutation(len(batches))
    return [records[index] for index in batches[dealt].reshape(-1)]


SIDES: dict[str, Callable[[Row, int, Path, Turns], None]] = {
    "camelid": camelid,
    "camelid bfloat16": lambda *given: camelid(*given, dtype="bfloat16"),
    "matrix": matrix,
    "transformers": transformers,
    "transformers compiled": transformers_compiled,
    "litgpt compiled": litgpt_compiled,
    "torchtune compiled": torchtune_compiled,
    "trl": lambda *given: _trainer(*given, trl=True, plain=False),
    "trl float32": lambda *given: _trainer(*given, trl=True),
    "trl packed": lambda *given: _trainer(*given, trl=True, kind="packed"),
    "transformers padded": lambda *given: _trainer(*given, trl=False),
    "transformers grouped": lambda *given: _trainer(*given, trl=False, kind="grouped"),
}


def main() -> None:
    side, row, threads, folder, warm = (*sys.argv[1:], "2")[:5]
    SIDES[side](ROWS[row], int(threads), Path(folder), Turns(warm=int(warm)))


if __name__ == "__main__":
    main()
