"""The architecture: imports run one way, `import asr` is quick, files stay short, the top level stays tidy."""

from __future__ import annotations

import ast
import graphlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGES = ("asr", "streaming", "recipes")  # each may import itself and those before it

# The packages of asr, from errors up to the command. A file may import from its own package and from earlier layers;
# files must not import each other in a cycle. `__init__` is `asr` itself, the public API.
LAYERS = (
    ("interrupts",),
    ("errors", "lazy", "packing", "pools", "steps", "terminal"),
    ("settings",),
    ("config", "files"),
    ("hub",),
    ("folders",),
    ("audio", "text", "output"),
    ("transcript",),
    ("writing",),
    ("model", "workers"),
    ("search",),
    ("checkpoint", "decoding", "jobs"),
    ("processes",),
    ("batches",),
    ("recogniser",),
    ("plot", "archive", "importing", "exporting", "publishing"),
    ("__init__",),
    ("commands",),
    ("__main__",),
)
LAYER_OF = {module: number for number, layer in enumerate(LAYERS) for module in layer}
TRAINING = "training"  # may import all of asr; only recipes and, inside a function, asr.commands.main may import it
DATA_ONLY = {"pretrained"}

HEAVY = (
    "av",
    "fastapi",
    "huggingface_hub",
    "jiwer",
    "librosa",
    "lightning",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pyarrow",
    "ray",
    "sentencepiece",
    "silero_vad",
    "sounddevice",
    "soundfile",
    "torch",
    "torchaudio",
    "typer",
    "uvicorn",
)
MAX_LINES = 400
TOP_LEVEL = (
    {"pyproject.toml", *PACKAGES, "tests"}
    | {f"{name}.md" for name in ("README", "CHANGELOG", "ARCHITECTURE", "CONTRIBUTING")}
    | {"LICENSE"}
)


class Import(NamedTuple):
    """An import of one of our modules."""

    path: Path
    line: int
    source: str  # dotted name of the importing module, "asr.search.beam"
    target: str  # dotted name of the imported package or module
    in_function: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.source} imports {self.target}"


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(root: Path, name: str) -> bool:
    path = root.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def targets(root: Path, path: Path, node: ast.AST) -> list[str]:
    """Dotted names of our own modules that this statement or call imports."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = path.parent.parts[: len(path.parent.parts) - node.level + 1] if node.level else ()
        base = ".".join([*package, *([node.module] if node.module else [])])
        inner = [f"{base}.{alias.name}" for alias in node.names]
        names = [name if is_module(root, name) else base for name in inner]
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__"):
            names = [str(node.args[0].value)]
    return [name for name in dict.fromkeys(names) if name.partition(".")[0] in PACKAGES]


def walk(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, in_function
        yield from walk(child, in_function or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def imports_of(root: Path, path: Path) -> Iterator[Import]:
    relative = path.relative_to(root)
    for node, in_function in walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for target in targets(root, relative, node):
            yield Import(relative, getattr(node, "lineno", 0), module_name(relative), target, in_function)


def all_imports(root: Path) -> list[Import]:
    return [found for path in python_files(root, PACKAGES) for found in imports_of(root, path)]


def python_files(root: Path, folders: tuple[str, ...]) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def room(name: str) -> str:
    """The part of `asr` to which a dotted name belongs: asr.search.beam is in search, asr itself is `__init__`."""
    return [*name.split("."), "__init__"][1]


def breaks_layers(found: Import) -> bool:
    source, target = room(found.source), room(found.target)
    if source == TRAINING or target == TRAINING or DATA_ONLY & {source, target}:
        return False  # test_training_is_imported_by_nothing_that_serves has the word
    if source not in LAYER_OF or target not in LAYER_OF:
        return False  # test_every_module_has_a_layer has the word
    return LAYER_OF[target] >= LAYER_OF[source] and source != target


def circle(imports: list[Import]) -> list[str]:
    """Files of `asr` that import each other in a cycle, the first one twice; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        if found.source.startswith("asr.") and found.target.startswith("asr."):
            graph.setdefault(found.source, set()).add(found.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def breaks_training(found: Import) -> bool:
    package = found.source.partition(".")[0]
    if not (found.target + ".").startswith(f"asr.{TRAINING}.") or package == "recipes":
        return False
    if package == "asr" and room(found.source) == TRAINING:
        return False
    return not (found.source == "asr.commands.main" and found.in_function)


def lines(violations: list[Import]) -> str:
    return "\n" + "\n".join(map(str, violations))


def test_packages_import_one_way(repository_root: Path) -> None:
    """`recipes` → `streaming` → `asr`."""
    rank = {package: number for number, package in enumerate(PACKAGES)}
    wrong = [
        found
        for found in all_imports(repository_root)
        if rank[found.target.partition(".")[0]] > rank[found.source.partition(".")[0]]
    ]
    assert not wrong, lines(wrong)


def test_every_module_has_a_layer(repository_root: Path) -> None:
    asr = repository_root / "asr"
    present = {path.relative_to(asr).parts[0].removesuffix(".py") for path in python_files(repository_root, ("asr",))}
    unknown = sorted(present - LAYER_OF.keys() - DATA_ONLY - {TRAINING})
    assert not unknown, f"new in asr: {', '.join(unknown)}; give each its place in LAYERS in {Path(__file__).name}"


def test_asr_imports_from_text_back_to_audio(repository_root: Path) -> None:
    inside = [found for found in all_imports(repository_root) if found.source.partition(".")[0] == "asr"]
    wrong = [found for found in inside if found.target.partition(".")[0] == "asr" and breaks_layers(found)]
    assert not wrong, f"{lines(wrong)}\nthe order is LAYERS in {Path(__file__).name}"


def test_no_files_of_asr_import_each_other_in_a_circle(repository_root: Path) -> None:
    inside = [found for found in all_imports(repository_root) if found.source.partition(".")[0] == "asr"]
    assert not circle(inside)


def test_a_circle_is_found(tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "three"), ("three", "one")):
        path = tmp_path / "asr" / "model" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def f():\n    import asr.model.{other}", encoding="utf-8")
    assert len(circle(all_imports(tmp_path))) == 4


def test_training_is_imported_by_nothing_that_serves(repository_root: Path) -> None:
    wrong = [found for found in all_imports(repository_root) if breaks_training(found)]
    assert not wrong, f"{lines(wrong)}\nonly recipes and, in a function, asr.commands.main may import asr.{TRAINING}"


@pytest.mark.parametrize(
    ("file", "code", "caught"),
    [
        ("asr/audio/waveform.py", "from asr.search.beam import search", True),
        ("asr/audio/waveform.py", "def f():\n    from ..model import las", True),
        ("asr/audio/waveform.py", "from asr import errors", False),
        ("asr/audio/waveform.py", "from asr import load", True),
        ("asr/audio/waveform.py", "import importlib\nimportlib.import_module('asr.commands.main')", True),
        ("asr/search/beam.py", "from .greedy import search", False),
        ("asr/search/beam.py", "from ..recogniser import Recogniser", True),
        ("asr/search/beam.py", "from ..model.las import Model", False),
        ("asr/model/features.py", "import asr.checkpoint", True),
        ("asr/model/encoder.py", "import asr.model.attention", False),
        ("asr/training/data.py", "import asr.recogniser", False),
        ("asr/recogniser.py", "def f():\n    import asr.training.data", True),
        ("asr/commands/main.py", "def f():\n    from asr.training import data", False),
        ("asr/commands/main.py", "from asr.training import data", True),
        ("streaming/session.py", "import asr.training", True),
        ("recipes/default_model/train.py", "import asr.training", False),
    ],
)
def test_the_import_rules_catch_what_they_should(tmp_path: Path, file: str, code: str, caught: bool) -> None:
    for name in ("asr/errors.py", "asr/model/las.py", "asr/search/greedy.py", "asr/training/data.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    found = [one for one in imports_of(tmp_path, path) if breaks_training(one) or breaks_layers(one)]
    assert bool(found) == caught


def imported_tests(path: Path) -> list[str]:
    """Imports of a file under `tests` from `tests`, except from `tests.support`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in names if re.match(r"tests\.(?!support\b)|tests$|\.", name)]


def test_no_test_imports_a_test(repository_root: Path) -> None:
    """Shared helpers are in `tests/support`, so that each test can be changed or removed without effect on others."""
    found = {str(path): imported_tests(path) for path in python_files(repository_root, ("tests",))}
    wrong = [f"{path} imports {', '.join(names)}" for path, names in found.items() if names]
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("from tests.asr.model.test_decoder import build", True),
        ("from tests.asr.audio.conftest import SECONDS", True),
        ("from tests import test_architecture", True),
        ("import tests.training.test_growth as growth", True),
        ("def f():\n    from .test_decoder import build", True),
        ("from . import conftest", True),
        ("from tests.support.sounds import tone", False),
        ("from tests.support import commands", False),
        ("import pytest", False),
    ],
)
def test_a_test_that_imports_a_test_is_caught(tmp_path: Path, code: str, caught: bool) -> None:
    path = tmp_path / "test_some.py"
    path.write_text(code, encoding="utf-8")
    assert bool(imported_tests(path)) == caught


def test_import_asr_is_quick(repository_root: Path) -> None:
    """`import asr` does not import slow modules, which are imported where they are used."""
    code = f"import sys, asr; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository_root, capture_output=True, text=True, check=True)
    loaded = done.stdout.strip()
    assert not loaded, f"import asr loads {loaded}; `python -X importtime -c 'import asr'` tells where"


def test_files_stay_short(repository_root: Path) -> None:
    count = {
        str(path.relative_to(repository_root)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files(repository_root, (*PACKAGES, "tests"))
    }
    long = [f"{path}: {lines}" for path, lines in count.items() if lines >= MAX_LINES]
    assert not long, f"files of {MAX_LINES} lines or more: {', '.join(long)}"


def test_what_the_architecture_page_names_exists(repository_root: Path) -> None:
    """Every file and test that ARCHITECTURE.md names in backticks exists."""
    page = (repository_root / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:asr|streaming|recipes|tests)/[\w./]*)(?:::(\w+))?`", page)
    assert len(named) > 40
    missing = [path for path, _ in named if not (repository_root / path).exists()]
    missing += [
        f"{path}::{test}"
        for path, test in named
        if test and path not in missing and f"def {test}(" not in (repository_root / path).read_text(encoding="utf-8")
    ]
    assert not missing, f"ARCHITECTURE.md names what is not there: {', '.join(missing)}"


def test_top_level_holds_what_is_agreed(repository_root: Path) -> None:
    git = shutil.which("git")
    if git is None or not (repository_root / ".git").exists():
        pytest.skip("not a git checkout")
    command = [git, "-c", f"safe.directory={repository_root}", "ls-files", "-z"]
    done = subprocess.run(command, cwd=repository_root, capture_output=True, text=True, check=True)
    top = {Path(name).parts[0] for name in done.stdout.split("\0") if name}
    unexpected = sorted(name for name in top - TOP_LEVEL if not name.startswith("."))
    assert not unexpected, f"at the top level but not agreed: {', '.join(unexpected)}"
