"""Fuzzing guided by coverage, for as long as one likes: `python3 noxfile.py -s fuzz -- --seconds 300 [--target NAME]`.

All targets share the time.  What is found on the way is kept in .nox/fuzz-corpus, and the next run begins with it.  The
first target that fails ends the run with exit code 1 and is told with its input, which `--target NAME --replay FILE` gives
it again.  Exit code 2: this Python has no atheris, or the arguments mean nothing.
"""

import argparse
import io
import math
import os
import resource
import sys
import tempfile
import traceback
from contextlib import redirect_stderr
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

KEPT: Final = Path(__file__).resolve().parents[2] / ".nox" / "fuzz-corpus"
INPUT_BYTES_MAX: Final = 16_384
"""Two pages of WAL; in longer inputs there is nothing new, and each takes longer."""

INPUT_SECONDS_MAX: Final = 10
"""Longest that one input may take, on a machine that has other things to do."""

ADDRESS_SPACE_BYTES: Final = 512 << 20
"""On top of what the process has when it begins: a gigabyte that is announced cannot be had."""


def main(arguments: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python3 noxfile.py -s fuzz --")
    parser.add_argument("--seconds", type=positive, default=300.0, help="for all targets together (default: 300)")
    parser.add_argument("--target", metavar="NAME", help="this one only")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="give the target this input, once")
    said = parser.parse_args(arguments)
    if said.replay is None and find_spec("atheris") is None:
        release = ".".join(map(str, sys.version_info[:2]))
        print(
            f"walkeeper: no atheris for Python {release} on this machine: requirements/fuzz.in says where there is"
        )
        return 2
    names = import_targets(instrumented=said.replay is None)
    chosen = [said.target] if said.target else names
    if not set(chosen) <= set(names) or (said.replay is not None and not said.target):
        parser.error(f"--target is one of {', '.join(names)}")
    if said.replay is not None:
        replay(said.target, said.replay)
        return 0
    return fuzz_all(chosen, said.seconds)


def positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ValueError(text)
    return seconds


def import_targets(*, instrumented: bool) -> list[str]:
    """The names of all targets.  What is instrumented tells atheris which branches an input has taken."""
    if instrumented:
        import atheris

        # It says of each module that it does so.
        with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["walkeeper", "fuzz"]):
            import fuzz.targets
    else:
        import fuzz.targets
    return list(fuzz.targets.TARGETS)


def replay(name: str, path: Path) -> None:
    """Raises what the target raises."""
    from fuzz.targets import TARGETS

    TARGETS[name](path.read_bytes())
    print(f"{name}: nothing is wrong with {path}")


def fuzz_all(names: list[str], seconds: float) -> int:
    """One process each, one after the other: libFuzzer ends the process that it runs in."""
    each = max(1, round(seconds / len(names)))
    print(f"{len(names)} targets, {each} s each", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="walkeeper-fuzz-") as scratch:
            failed = fuzz_one(name, each, Path(scratch))
            if failed:
                report(name, Path(scratch))
                return 1
    print(f"{len(names)} targets are clean", flush=True)
    return 0


def fuzz_one(name: str, seconds: int, scratch: Path) -> bool:
    """Whether the target failed.  What it says of itself is in ``scratch``."""
    child = os.fork()
    if not child:
        log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())
        try:
            run_target(name, seconds, scratch)
        except SystemExit:
            pass  # atheris has said why
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            os._exit(1)  # what the parent has begun is not the child's to end
    _, status = os.waitpid(child, 0)
    failed = os.waitstatus_to_exitcode(status) != 0
    print(f"{'FAILED' if failed else 'ok':>6}  {name:16} {last_words(scratch)}", flush=True)
    return failed


def run_target(name: str, seconds: int, scratch: Path) -> NoReturn:
    import atheris

    from fuzz.targets import TARGETS

    target = TARGETS[name]
    corpus, seeds = KEPT / name, scratch / "seeds"
    for directory in (corpus, seeds):
        directory.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (seeds / sha256(seed).hexdigest()[:16]).write_bytes(seed[:INPUT_BYTES_MAX])
    limit_address_space()
    options = {
        "max_total_time": seconds,
        "max_len": INPUT_BYTES_MAX,
        "timeout": INPUT_SECONDS_MAX,
        "artifact_prefix": f"{scratch}/",
        "print_final_stats": 1,
        "verbosity": 1,
    }
    flags = [f"-{option}={value}" for option, value in options.items()]

    def feed(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            (scratch / "crash").write_bytes(data)
            raise

    atheris.Setup([name, *flags, str(corpus), str(seeds)], feed)
    atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")


def limit_address_space() -> None:
    """Beyond it there is a MemoryError, which no target may raise."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def last_words(scratch: Path) -> str:
    """How many inputs there were, and how much code they reached, in libFuzzer's words."""
    lines = (scratch / "log").read_text(errors="replace").splitlines()
    runs = [line.split()[-1] for line in lines if line.startswith("stat::number_of_executed_units")]
    reached = [line for line in lines if " cov: " in line]
    reached_lines = reached[-1].partition(" cov: ")[2].split()[0] if reached else "?"
    return f"{runs[-1] if runs else '?'} inputs, {reached_lines} edges"


def report(name: str, scratch: Path) -> None:
    """Everything that is known, and how to see it again."""
    lines = (scratch / "log").read_text(errors="replace").splitlines()
    begin = next(
        (at for at, line in enumerate(lines) if "===" in line or "ERROR" in line), max(0, len(lines) - 40)
    )
    print(*lines[begin : begin + 60], sep="\n")
    for path in (each for each in scratch.iterdir() if each.name.startswith(("crash", "timeout", "oom"))):
        content = path.read_bytes()
        kept = KEPT / f"{name}.{path.name}"
        kept.write_bytes(content)
        print(f"\ntarget: {name}\ninput:  {content!r}")
        print(f"replay: python3 noxfile.py -s fuzz -- --target {name} --replay {kept}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
