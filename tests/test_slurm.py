"""The Slurm script, with stand-ins for Slurm's commands that do with signals what the real ones do."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "slurm.sbatch"
COMMANDS = {
    # a TERM to srun itself is "forcing job termination": its tasks are killed, not asked
    "srun": 'echo "srun $1 $2" >> "$LOG"\nshift 2\nSLURM_NODEID=0 "$@" &\n'
    "echo $! > \"$LOG.task\"\ntrap 'kill -KILL $!' TERM\nwait $!\n",
    # a signal for a job goes to the tasks of its steps, not to the batch step
    "scancel": 'echo "scancel $*" >> "$LOG"\nkill -TERM "$(cat "$LOG.task")"\n',
    "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; else echo "scontrol $*" >> "$LOG"; fi\n',
    "torchrun": 'echo "torchrun $*" >> "$LOG"\necho "patience $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >> "$LOG"\n'
    "trap 'echo committed >> \"$LOG\"; exit 1' TERM\n"
    'if [ -n "${ENDS:-}" ]; then exit "$ENDS"; fi\necho ready\nwhile :; do sleep 0.05; done\n',
}


@pytest.fixture
def slurm(tmp_path):
    """Starts the script as a batch step of two nodes: (process, log)."""
    (tmp_path / "bin").mkdir()
    for name, text in {**COMMANDS, "activate": ""}.items():
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + text)
        (tmp_path / "bin" / name).chmod(0o755)
    log = tmp_path / "log"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TORCH")},
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CAMELID_VENV": str(tmp_path),
        "LOG": str(log),
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "32",
    }

    def start(**more):
        return subprocess.Popen(
            ["bash", str(SCRIPT), "llama", "--data", "/a file"],
            env={**environment, **more},
            stdout=subprocess.PIPE,
            text=True,
        ), log

    return start


def test_a_job_near_its_end_lets_its_ranks_commit_and_is_queued_again(slurm):
    job, log = slurm()
    with job:
        assert job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGTERM)  # as --signal=B:TERM does: to the batch step alone
    assert job.returncode == 0
    step, launched, patience, *rest = log.read_text().splitlines()
    assert step == "srun --kill-on-bad-exit=1 --cpus-per-task=32", "srun takes no number of CPUs over from sbatch"
    assert launched == (
        "torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --master-addr node7 --master-port 20041 "
        "-m camelid grow llama --data /a file"
    )
    assert rest == ["scancel --signal=TERM 41", "committed", "scontrol requeue 41"]
    (notice,) = [line.rpartition("@")[2] for line in SCRIPT.read_text().splitlines() if "--signal=B:TERM@" in line]
    assert int(patience.split()[1]) < int(notice), "ranks have to be through before Slurm ends the job"


@pytest.mark.parametrize("code", [0, 2])
def test_a_job_that_ends_by_itself_keeps_its_code_and_is_not_queued_again(slurm, code):
    job, log = slurm(ENDS=str(code))
    with job:
        pass
    assert job.returncode == code and "scontrol" not in log.read_text()
