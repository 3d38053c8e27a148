"""The house rules that no linter knows.  docs/architecture.md gives the reasons; each failure names its lines."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "walkeeper"
TESTS = ROOT / "tests"

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 700

# Each list is the whole list: who needs a new entry changes docs/architecture.md in the same commit.
THE_SHIELD = "timeline/timeline.py"
THREADS = {"storage/offload.py"}
ABANDONED_THREADS = {"storage/offload.py"}  # for reads, and only there: an abandoned write goes on unseen
RENAMES = {"storage/durable.py", "storage/disk.py"}
SYNCS = {"storage/disk.py"}
# One connection, one HTTP request, one command, and one that cannot be loaded: a restore_command must not end with the
# exit code of a traceback.
BOUNDARIES = {"services/connection.py", "control/app.py", "control/http1.py", "daemon/cli.py", "__main__.py"}
NOT_COLLECTED = {"integration", "browser", "deploy", "image", "demo", "bench"}  # sessions of their own

LIMITED_SCOPES = {"move_on_after", "move_on_at", "fail_after", "fail_at"}
NO_NAMES = {"utils", "util", "helpers", "common", "types", "core", "base", "misc"}
RENAME_CALLS = {"os.replace", "os.rename", "os.renames", "os.link", "shutil.move"}
SYNC_CALLS = {"os.fsync", "os.fdatasync", "os.sync"}
THREAD_CALLS = {
    "threading.Thread",
    "threading.Timer",
    "ThreadPoolExecutor",
    "concurrent.futures.ThreadPoolExecutor",
}
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")
SOMEBODYS_PATH = re.compile(r"(?<![\w.~-])/(home|root|work|Users)/\w")
TEXT = {".py", ".pyi", ".md", ".toml", ".txt", ".in", ".json", ".yaml", ".yml", ".sh", ".conf", ".service", ""}
PLACES = ("src", "tests", "typings", "docs", "deploy", "requirements", ".ci")


# ----------------------------------------------------------------------------------------- reading the tree


def python_files(*tops: Path) -> list[Path]:
    return [path for top in tops for path in sorted(top.rglob("*.py"))]


def text_files() -> list[Path]:
    inside = [path for place in PLACES for path in sorted((ROOT / place).rglob("*"))]
    outside = [
        path for path in sorted(ROOT.iterdir()) if path.name != ".git"
    ]  # of a worktree: a file that names one
    return [path for path in (*outside, *inside) if path.is_file() and path.suffix in TEXT]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


def room(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 1)}"


@cache
def calls(path: Path) -> list[tuple[ast.Call, str]]:
    """Every call, with the dotted name of what it calls."""
    return [(node, ast.unparse(node.func)) for node in nodes(path) if isinstance(node, ast.Call)]


def callers(names: set[str], *tops: Path) -> list[tuple[Path, ast.Call]]:
    return [(path, node) for path in python_files(*tops) for node, name in calls(path) if name in names]


def has_true(node: ast.Call, keyword: str) -> bool:
    return any(
        given.arg == keyword and not (isinstance(given.value, ast.Constant) and given.value.value is False)
        for given in node.keywords
    )


# ---------------------------------------------------------------------------------------------------- sizes


def test_no_function_is_longer_than_it_may_be() -> None:
    long = [
        f"{at(path, node)} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in python_files(SRC, TESTS)
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_no_file_is_longer_than_it_may_be() -> None:
    lengths = {
        path: len(path.read_text().splitlines()) for path in [*python_files(SRC, TESTS), ROOT / "noxfile.py"]
    }
    assert {str(path): count for path, count in lengths.items() if count > FILE_LINES_MAX} == {}


# ---------------------------------------------------------------------------------------------------- rooms


def test_every_module_says_what_it_is_for() -> None:
    silent = [at(path, tree(path)) for path in python_files(SRC, TESTS) if not ast.get_docstring(tree(path))]
    assert silent == []


def test_no_room_is_empty() -> None:
    rooms = {path.parent for path in python_files(SRC)}
    assert [str(r) for r in rooms if not any(path.name != "__init__.py" for path in r.glob("*.py"))] == []
    assert [str(r) for r in rooms if not (r / "__init__.py").exists()] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {path: set(path.relative_to(SRC).with_suffix("").parts) for path in python_files(SRC)}
    assert [str(path) for path, names in parts.items() if names & NO_NAMES] == []


def test_every_directory_of_tests_is_collected_or_has_a_session() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    collected = {Path(path).name for path in config["tool"]["pytest"]["ini_options"]["testpaths"]}
    present = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py") if path.parent != TESTS}
    assert present - collected - NOT_COLLECTED == set()


# -------------------------------------------------------------------------------------- cancellation, errors


def bare_shields(path: Path) -> list[str]:
    """Shields without a deadline, as a keyword or as an assignment."""
    found = [
        room(path)
        for node, name in calls(path)
        if has_true(node, "shield") and name.rpartition(".")[2] not in LIMITED_SCOPES
    ]
    for node in nodes(path):
        targets = node.targets if isinstance(node, ast.Assign) else []
        found += [
            room(path) for target in targets if isinstance(target, ast.Attribute) and target.attr == "shield"
        ]
    return found


def test_the_shield_is_written_once() -> None:
    assert [found for path in python_files(SRC) for found in bare_shields(path)] == [THE_SHIELD]


def test_threads_start_behind_one_door() -> None:
    started = {
        room(path)
        for path in python_files(SRC)
        for node, name in calls(path)
        if "to_thread" in name or name in THREAD_CALLS
    }
    assert started - THREADS == set()


def test_only_reads_are_abandoned_on_cancel() -> None:
    found = {
        room(path) for path in python_files(SRC) for node, _ in calls(path) if has_true(node, "abandon_on_cancel")
    }
    assert found - ABANDONED_THREADS == set()


def catches_everything(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {ast.unparse(kind) for kind in kinds}
    last = handler.body[-1]
    raised_again = isinstance(last, ast.Raise) and last.exc is None
    return "Exception" in names or ("BaseException" in names and not raised_again)


def test_everything_is_caught_at_the_boundaries_only() -> None:
    found = [
        (room(path), at(path, node))
        for path in python_files(SRC)
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler) and catches_everything(node)
    ]
    assert [where for name, where in found if name not in BOUNDARIES] == []
    assert len(found) <= len(BOUNDARIES)


# ------------------------------------------------------------------------------------------------- the disk


def test_only_durable_and_disk_rename() -> None:
    found = callers(RENAME_CALLS, SRC)
    found += [(path, node) for path in python_files(SRC) for node, name in calls(path) if name.endswith(".rename")]
    assert [at(path, node) for path, node in found if room(path) not in RENAMES] == []


def test_only_disk_syncs() -> None:
    assert [at(path, node) for path, node in callers(SYNC_CALLS, SRC) if room(path) not in SYNCS] == []


# --------------------------------------------------------------------------------------------------- tests


def test_tests_do_not_sleep() -> None:
    assert [at(path, node) for path, node in callers({"time.sleep", "sleep"}, TESTS)] == []


def test_tests_use_fakes_and_no_mocks() -> None:
    found = []
    for path in python_files(SRC, TESTS):
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if any("mock" in part.split(".") for part in (module, *names)):
                found.append(at(path, node))
    assert found == []


def test_no_test_is_skipped() -> None:
    skipping = {"skip", "skipif", "importorskip", "xfail", "skipTest", "SkipTest"}
    found = [
        at(path, node)
        for path in python_files(TESTS)
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in skipping
    ]
    assert found == []


# ---------------------------------------------------------------------------------------------------- texts


def matching(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in text_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_nothing_is_left_unfinished() -> None:
    assert matching(UNFINISHED) == []


def test_nothing_names_a_path_of_somebodys_machine() -> None:
    assert matching(SOMEBODYS_PATH) == []


def test_every_locked_requirement_has_a_hash_and_no_file_says_where_from() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text()
        assert "://" not in text, path
        assert "--index" not in text, path
        assert "--find-links" not in text, path
        pinned = re.findall(r"^[a-z0-9][\w.-]*(?:\[\S*\])?==(?:[^\\\n]|\\\n)*", text, re.MULTILINE)
        assert pinned, path
        assert [one for one in pinned if "--hash=sha256:" not in one] == [], path
