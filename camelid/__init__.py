"""camelid: any member of the LLaMA family, grown from its parent by its published recipe, measured, chatted with.

From Python five names do what the command line does: `load` gives a model, and the model has `chat`, `generate`, `score`
and `stream` (see generate/language_model.py).

    import camelid

    model = camelid.load("path/to/folder")  # or the name of a grown member: "alpaca"
    print(model.chat("Where does Mila live?", max_tokens=40).text)

Importing camelid imports nothing else; `load` imports PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from camelid.generate.language_model import LanguageModel

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    path: str | Path,
    *,
    engine: Literal["native", "pytorch", "compiled"] | None = None,
    weights: Literal["float32", "bf16", "q8_0", "q4_0"] | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    rows: int = 64,
    cache: Literal["float", "int8"] = "float",
    template: str | None = None,
) -> LanguageModel:
    """The model in a folder (ours or Hugging Face's) or a GGUF file, or a grown member by its name, ready to be asked.

    engine    "native" (the kernels; CPU), "pytorch", or "compiled" (PyTorch with compiled passes); by default native
              where it can be had, and else pytorch
    weights   how the kernels hold the weights, rounded at once; as stored by default. All but float32 round what the
              weights are multiplied with as well
    dtype     of PyTorch's weights: "float32", "bfloat16", "float16", "float64"; as stored by default
    device    "cpu", "cuda", "cuda:1", ...
    threads   CPU threads, for the whole process; PyTorch's number by default
    rows      requests that are decoded together
    cache     keys and values as floats, or in int8: 3.6 times less memory, and answers that differ by rounding
    template  in which it talks: a member's name, or "llama-2-chat", "llama-3-instruct", ... (dialogue/foreign.py); by
              default its own, of foreign models the published one whose marks its chat template has

    Raises BadFile naming all that is wrong with the files, and UsageError for a choice that cannot be had.
    """
    from camelid.errors import ProblemList
    from camelid.store import find_model, open_store

    problems = ProblemList()
    found = find_model(path, open_store(), problems) if isinstance(path, str) and "/" not in path else Path(path)
    written = None
    if template is not None:
        from camelid.recipes import template_of

        written = template_of(template, "template", problems)
    problems.raise_usage()
    assert found is not None
    from camelid.generate.language_model import load_model

    return load_model(
        found,
        engine=engine,
        weights=weights,
        dtype=dtype,
        device=device,
        threads=threads,
        rows=rows,
        cache=cache,
        template=written,
    )
