"""One command for each reliability goal of training, decoding, model files and numbers, at any size.

    python -m tests.goals                    what there is, and how much of it runs at every commit
    python -m tests.goals R1 --n 10000       so many cases (kills, crash states, injections ...), or a little more
    python -m tests.goals R6 --n 500 --seed 3
    python -m tests.goals all                every goal at its every-commit size

One JSON line for each: cases, seconds, and what failed. Goals R1 and R6 draw their moments from --seed. All others try the
cases 0, 1, 2 ... in order and a failure names its case, so a larger --n contains the smaller ones; --seed is refused there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Goal:
    """What a goal says, the tests that try it, and how many cases these have at every commit."""

    says: str
    cases: int
    tests: tuple[str, ...] = ()
    harness: tuple[str, ...] = ()  # of tests.kill, where the goal is tried by it


DURABLE, LOOP, TEAM = "tests/test_durable.py", "tests/train/test_loop.py", "tests/train/test_team.py"
PARALLEL, BATCH, SPIKES = "tests/train/test_parallel.py", "tests/data/test_batch.py", "tests/train/test_spikes.py"

LLAMA, ENGINE, NATIVE = "tests/models/test_llama.py", "tests/generate/test_engine.py", "tests/native/test_llama.py"
GGUF, DIRECTORY, META = (f"tests/checkpoints/test_{name}.py" for name in ("gguf", "directory", "meta"))
SAFETENSORS, FUZZ = "tests/checkpoints/test_safetensors_io.py", "tests/checkpoints/test_fuzz.py"
TEMPLATE, BPE, PIECES = (
    "tests/dialogue/test_template.py",
    "tests/tokenizers/test_byte_bpe.py",
    "tests/tokenizers/test_sentencepiece.py",
)

GOALS: dict[str, Goal] = {
    "R1": Goal("runs killed at random moments end in the bits of one left alone", 50, harness=("--signal", "KILL")),
    "R2": Goal(
        "killed at any step or system call of a commit, it is the old or the new",
        1,  # every step there is, at any size
        (
            f"{DURABLE}::test_killed_at_any_step_leaves_the_old_or_the_new_and_the_next_writer_cleans_up",
            f"{DURABLE}::test_killed_at_any_system_call_leaves_the_old_or_the_new",
        ),
    ),
    "R3": Goal(
        "after a power cut a commit is the old or the new",
        600,
        (
            f"{DURABLE}::test_a_power_cut_leaves_the_old_or_the_new",
            f"{DURABLE}::test_the_power_cut_model_finds_a_forgotten_sync",
        ),
    ),
    "R4": Goal(
        "a full disk loses no commit and is told with its bytes",
        25,
        (
            f"{DURABLE}::test_a_disk_full_at_any_byte_keeps_the_old_and_says_how_much_is_needed",
            f"{DURABLE}::test_any_failing_call_is_an_error_and_leaves_the_old_alone",
            f"{LOOP}::test_a_full_disk_at_any_moment_loses_no_commit_and_the_run_goes_on_where_it_stood",
            f"{PARALLEL}::test_a_disk_full_at_one_rank_fails_the_commit_of_all_and_leaves_the_one_before",
        ),
    ),
    "R5": Goal(
        "damage of any kind is found before a tensor is used, and the newest good commit is gone on with",
        100,
        (
            "tests/train/test_damage.py",
            f"{DURABLE}::test_every_damaged_byte_is_found_and_placed",
            f"{PARALLEL}::test_a_damaged_or_missing_piece_is_found_and_the_run_falls_back",
        ),
    ),
    "R6": Goal("runs asked to stop commit within ten seconds and go on to the same bits", 8, harness=("--signal", "TERM")),
    "R7": Goal(
        "what is not finite, on any rank, is refused by all in its step and changes no bit",
        30,
        (
            f"{LOOP}::test_a_value_that_is_not_finite_is_found_in_its_own_step_and_changes_no_bit",
            f"{TEAM}::test_what_is_not_finite_on_one_rank_is_refused_by_all_in_the_same_step_and_changes_no_bit",
            f"{PARALLEL}::test_what_is_not_finite_on_one_rank_is_refused_by_all_and_no_piece_changes",
        ),
    ),
    "R8": Goal("spikes roll back and pass over replayably, a bounded number of times", 12, (SPIKES,)),
    "R9": Goal(
        "steps with the same bits on 1, 2 and 4 processes and when their number changes; 1e-6 in fast sums",
        200,
        (
            f"{TEAM}::test_two_hundred_steps_have_the_same_bits_on_1_2_and_4_ranks_and_when_their_number_changes_at_each_resume",
            f"{TEAM}::test_fast_sums_differ_in_the_last_bits_only",
        ),
    ),
    "R10": Goal(
        "any split of a batch into micro-batches and ranks has the same gradient to 1e-12",
        160,
        (
            f"{TEAM}::test_however_a_batch_is_split_into_micro_batches_and_ranks_its_gradient_is_the_same_to_1e_12",
            f"{LOOP}::test_however_a_batch_is_cut_into_micro_batches_its_gradient_is_the_same_to_1e_12",
        ),
    ),
    "R11": Goal(
        "any cursor lands on its sample, each sample once an epoch, as fast at 10^9 as at 0",
        400,
        (
            f"{BATCH}::test_random_cursors_land_on_the_sample_that_a_walk_would_reach",
            f"{BATCH}::test_sample_one_thousand_million_is_found_as_fast_as_the_first",
            f"{BATCH}::test_an_epoch_holds_every_sequence_exactly_once_however_it_is_split",
            "tests/data/test_scale.py::test_a_cold_start_at_sample_a_thousand_million_takes_no_twenty_milliseconds",
        ),
    ),
    "D1": Goal(
        "texts that never become control ids and come back exactly, in every template and field",
        20_000,
        (f"{TEMPLATE}::test_hostile_texts_never_become_control_ids_and_come_back_exactly",),
    ),
    "D4": Goal(
        "strings that decode to themselves, with the reference library's ids",
        40_000,
        (
            f"{BPE}::test_ids_are_tiktokens_and_decode_to_the_text",
            f"{BPE}::test_a_megabyte_of_anything_takes_under_two_seconds",
            f"{PIECES}::test_ids_are_the_reference_librarys_and_decode_to_the_text",
            f"{PIECES}::test_a_megabyte_of_anything_takes_under_two_seconds",
        ),
    ),
    "D5": Goal(
        "packs of documents that are the same as separate ones and change nothing in each other",
        160,
        (
            f"{LLAMA}::test_packed_documents_are_the_same_as_separate_ones",
            f"{LLAMA}::test_a_change_in_one_document_changes_exactly_nothing_elsewhere",
        ),
    ),
    "D6": Goal(
        "chats whose supervised text is exactly the assistant's with its end token",
        2_000,
        (f"{TEMPLATE}::test_masks_are_exact_on_random_chats",),
    ),
    "D7": Goal(
        "generations whose streamed text is the whole text, cut at the same stops",
        2_500,
        ("tests/generate/test_answer.py", "tests/generate/test_stop.py"),
    ),
    "F1": Goal(
        "mutants of model files of every kind, each read or refused in time and memory",
        50_000,
        (f"{FUZZ}::test_every_mutant_is_read_or_refused_in_time_and_memory",),
    ),
    "F2": Goal(
        "malicious files that run, open, connect and write nothing",
        2_000,
        (
            f"{META}::test_hostile_files_run_nothing_by_two_witnesses",
            f"{META}::test_hostile_files_are_refused_through_the_child_as_well",
            f"{META}::test_the_child_opens_connects_and_starts_nothing",
        ),
    ),
    "F3": Goal(
        "archives that escape or unfold to many times their size, refused",
        1,  # .pth is the only archive that is read; those of F2 hold the rest
        (f"{META}::test_a_file_that_unfolds_to_many_times_its_size_is_refused",),
    ),
    "F4": Goal(
        "hostile names that open nothing outside the model's folder",
        400,
        (
            f"{DIRECTORY}::test_names_in_an_index_are_never_paths",
            f"{DIRECTORY}::test_hostile_shard_names_open_nothing_outside_the_folder",
        ),
    ),
    "F5": Goal(
        "mutants of templates, which are data, each read or refused; foreign ones are read by a bounded interpreter, never run",
        2_440,
        (
            f"{FUZZ}::test_every_mutant_is_read_or_refused_in_time_and_memory[template-2440]",
            "tests/dialogue/test_foreign.py",
            "tests/dialogue/test_interpreter.py",
        ),
    ),
    "F6": Goal("the package runs no text as code, unpickles, fetches and shells out nowhere", 1, ("tests/test_gate.py",)),
    "F7": Goal(
        "files that the reference library reads with the same bytes",
        150,
        (f"{SAFETENSORS}::test_every_file_written_here_is_the_librarys_and_the_other_way_round",),
    ),
    "F8": Goal(
        "saves over the file that is being read, bits equal",
        100,
        (f"{SAFETENSORS}::test_saving_over_the_file_being_read_is_safe",),
    ),
    "N1": Goal(
        "random shapes with the logits of the NumPy reference, or with logits and gradients of transformers",
        330,
        (
            f"{LLAMA}::test_logits_are_those_of_the_numpy_reference",
            f"{LLAMA}::test_logits_and_gradients_are_those_of_transformers",
        ),
    ),
    "N2": Goal(
        "gradients of every operation and of a whole model are those of differences",
        1,  # every operation there is, at any size
        (f"{LLAMA}::test_a_whole_model_passes_gradcheck", "tests/nn"),
    ),
    "N3": Goal(
        "schedules of chunks, rollbacks, kept and evicted pages with the logits of one full reading",
        130,
        (
            f"{LLAMA}::test_a_cache_filled_in_any_order_gives_the_same_logits",
            "tests/generate/test_decode.py::test_any_schedule_of_chunks_rollbacks_and_kept_rows_gives_the_logits_of_a_full_forward",
            "tests/nn/test_paged.py::test_any_schedule_over_pages_gives_the_logits_of_one_reading",
            f"{NATIVE}::test_any_schedule_of_chunks_and_rollbacks_gives_the_bits_of_a_full_forward",
            f"{ENGINE}::test_what_a_request_notes_is_the_full_forward_to_the_bit",
        ),
    ),
    "N4": Goal(
        "requests with the same bits alone and in any company, whatever came when, was preempted or aborted",
        940,
        (
            f"{ENGINE}::test_any_schedule_gives_every_request_the_bits_it_has_alone",
            f"{NATIVE}::test_a_request_gets_the_same_bits_alone_and_in_any_company",
        ),
    ),
    "N5": Goal(
        "tensors whose error is within the format's bound, with the bytes of the reference encoders",
        150,
        ("tests/quantize",),
    ),
    "N6": Goal(
        "every cycle of up to four conversions ends in the bits that it began with",
        1,  # every cycle there is, at any size
        (
            f"{GGUF}::test_every_cycle_of_formats_keeps_every_bit",
            f"{GGUF}::test_cycles_from_the_other_formats_keep_every_byte_of_the_tensors",
        ),
    ),
}  # fmt: skip


def tried(name: str, n: int, seed: int) -> dict[str, object]:
    """What came of one goal at a size."""
    goal, began = GOALS[name], time.monotonic()
    if goal.harness:
        command = [sys.executable, "-m", "tests.kill", "--n", str(n), "--seed", str(seed), *goal.harness]
        scale = n / goal.cases
    else:
        scale = max(1.0, n / goal.cases)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *goal.tests]
    environment = {**os.environ, "CAMELID_N": str(scale), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    told: dict[str, object] = {"goal": name, "says": goal.says, "cases": max(n, goal.cases) if goal.tests else n}
    told |= {"seconds": round(time.monotonic() - began, 1), "holds": done.returncode == 0}
    lines = done.stdout.strip().splitlines()
    return told | {"told": lines[-1] if lines else ""} | ({} if told["holds"] else {"output": lines[-40:]})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goal", nargs="?", choices=(*GOALS, "all"))
    parser.add_argument("--n", type=int, help="cases (default: those of every commit)")
    parser.add_argument("--seed", type=int, help="of the moments of R1 and R6")
    asked = parser.parse_args()
    if asked.goal is None:
        for name, goal in GOALS.items():
            print(f"{name:<4} {goal.cases:>4}  {goal.says}")
        return 0
    names = list(GOALS) if asked.goal == "all" else [asked.goal]
    if asked.seed is not None and not GOALS[names[0]].harness:
        parser.error(f"--seed: {names[0]} tries its cases in order; use --n")
    holds = True
    for name in names:
        found = tried(name, asked.n or GOALS[name].cases, asked.seed or 0)
        print(json.dumps(found, ensure_ascii=False), flush=True)
        holds = holds and found["holds"] is True
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
