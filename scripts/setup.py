"""Makes the virtual environment and installs what camelid needs, with a PyTorch build that fits the machine.

    python scripts/setup.py .venv core     what the commands need
    python scripts/setup.py .venv test     what the tests and checks need besides

On a machine without an NVIDIA driver only a CPU build of PyTorch is accepted: its version carries "+cpu", which no
CUDA build does. pip is asked first (a mirror or a local folder may be configured); where it knows no such build, uv is
asked, which knows where PyTorch publishes them. Nothing falls back to a CUDA build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
OLDEST, NEWEST = (3, 11), (3, 13)


def main(folder: str, group: str) -> int:
    if not OLDEST <= sys.version_info[:2] < NEWEST:
        found = ".".join(map(str, sys.version_info[:3]))
        print(
            f"setup: found Python {found}; camelid runs on 3.11 and 3.12: make PYTHON=python3.11 ...", file=sys.stderr
        )
        return 1
    environment = Path(folder)
    python = environment / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", str(environment))
    if group == "core":
        install_torch(python)
    pins = ROOT / "requirements" / f"{group}.txt"
    run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(pins))
    if group == "core":
        run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-e", str(ROOT))
    return 0


def install_torch(python: Path) -> None:
    """The build that fits: CUDA where a driver is present, else a CPU build or nothing."""
    quiet = ("--quiet", "--disable-pip-version-check")
    if has_gpu():
        run(str(python), "-m", "pip", "install", *quiet, f"torch=={TORCH}")
        return
    asked = [str(python), "-m", "pip", "install", *quiet, f"torch=={TORCH}+cpu"]
    if subprocess.run(asked, stderr=subprocess.DEVNULL).returncode == 0:
        return
    run(str(python), "-m", "pip", "install", *quiet, "uv")
    uv = python.parent / "uv"
    run(str(uv), "pip", "install", "--quiet", "--python", str(python), "--torch-backend", "cpu", f"torch=={TORCH}")


def has_gpu() -> bool:
    return bool(shutil.which("nvidia-smi")) or os.path.exists("/dev/nvidiactl")


def run(*command: str) -> None:
    print("setup:", " ".join(command[1:]), file=sys.stderr, flush=True)
    finished = subprocess.run(command)
    if finished.returncode:
        sys.exit(f"setup: {' '.join(command)} ended with {finished.returncode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
