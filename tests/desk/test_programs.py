"""Github: every program runs, in a process that may do next to nothing, and prints what is stated."""

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from camelid import desk
from camelid.desk.programs import SHAPES
from tests.conftest import size


def limited():
    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def printed(code):
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-c", code],
        capture_output=True,
        text=True,
        timeout=20,
        env={},
        preexec_fn=limited,
    )
    assert run.returncode == 0, (code, run.stderr)
    return run.stdout


def test_programs_print_what_is_stated():
    source = desk.sources(desk.world("small"))["Github"]
    found = [program for program, _ in zip(source.documents(seed=2), range(size(60)), strict=False)]
    assert {program.kind for program in found} == {shape.__name__.lstrip("_") for shape in SHAPES}
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda program: printed(program.text), found))
    for program, output in zip(found, outputs, strict=True):
        assert output == program.output
        remark = program.text.split("# prints\n")[1]
        assert "".join(f"{line[2:]}\n" for line in remark.splitlines()) == output


def test_facts_in_programs_are_the_worlds():
    world = desk.world("small")
    found = [program for program, _ in zip(desk.sources(world)["Github"].documents(), range(500), strict=False)]
    facts = [(program, fact) for program in found for fact in program.facts]
    assert len(facts) > 50
    for program, fact in facts:
        assert world.holds(fact)
        assert f'"{fact.subject}": "{fact.value}"' in program.text
