"""The house rules, enforced: what may import what, what is never written, and that the paper matches the code."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import typer
from pydantic import BaseModel

import confide
from client.config import ClientSettings, DatasetSettings, SealingSettings
from models.zoo import MODELS, hyperparameters
from server.federation import FederationSettings
from strategies.settings import RunSettings

ROOT = Path(__file__).parents[1]
CORE = ("models", "privacy", "secagg")
ALLOWED = {
    "models": set(),
    "privacy": set(),
    "secagg": set(),
    "strategies": {*CORE},
    "client": {*CORE, "strategies"},
    "server": {*CORE, "strategies"},
    "simulations": {*CORE, "strategies", "client", "server"},
    "benchmarks": {*CORE, "strategies", "client", "server", "simulations"},
}
OURS = {*ALLOWED, "confide"}
STRANGERS = {"models": {"flwr", "opacus"}, "privacy": {"flwr"}, "secagg": {"torch", "flwr"}}
PRODUCT = [room for room in ALLOWED if room != "benchmarks"]
MOST_LINES = 400


def files(*rooms: str) -> list[Path]:
    """Every source file of the rooms."""
    return [file for room in rooms for file in sorted((ROOT / room).rglob("*.py"))]


def everything() -> list[Path]:
    """Every source file of the repository."""
    return [ROOT / "confide.py", *files(*ALLOWED, "tests")]


def where(file: Path, line: int) -> str:
    """A place, as an editor opens it."""
    return f"{file.relative_to(ROOT)}:{line}"


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import, wherever it stands: functions and TYPE_CHECKING too."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays in its own package, and no top-level name of ours is one level up.
            yield node.lineno, "." * node.level or (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and name_of(node.func) in {"import_module", "__import__"}:
            first = node.args[0] if node.args else None
            literal = isinstance(first, ast.Constant) and isinstance(first.value, str)
            yield node.lineno, str(first.value).partition(".")[0] if literal else "?"  # type: ignore[union-attr]  # `literal` has narrowed it


def name_of(function: ast.expr) -> str:
    """The last name of what is called: ``load`` for ``torch.load``."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room: str) -> None:
    forbidden = (OURS - ALLOWED[room] - {room}) | STRANGERS.get(room, set()) | {".", "..", "?"}
    found = [
        f"{where(file, line)} imports {name}"
        for file in files(room)
        for line, name in imports(tree(file))
        if name in forbidden
    ]
    assert not found, "\n".join(found)


def test_the_import_rule_would_notice() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from server.runs import RunDirectory\n"
        "def late():\n    import flwr.app\n    from . import near\n    import_module('client.cli')\n"
    )
    assert list(imports(ast.parse(source))) == [
        (1, "typing"),
        (3, "server"),
        (5, "flwr"),
        (6, "."),
        (7, "client"),
    ]


LOAD = """
import importlib, sys
from pathlib import Path
room = Path(sys.argv[1])
for file in sorted(room.rglob("*.py")):
    importlib.import_module(".".join(file.with_suffix("").parts))
print("\\n".join({name.partition(".")[0] for name in sys.modules}))
"""


# Those above may load everything below them, so there is nothing to find out.
@pytest.mark.parametrize("room", ["models", "privacy", "secagg", "strategies", "client", "server"])
def test_a_room_loads_without_those_above_it(room: str) -> None:
    forbidden = (OURS - ALLOWED[room] - {room}) | STRANGERS.get(room, set())
    # -W ignore: what third parties warn of while loading is no business of this test.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, room],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & forbidden == set()


def test_init_files_are_empty() -> None:
    full = [str(file) for file in files(*ALLOWED) if file.name == "__init__.py" and file.read_bytes()]
    assert not full
    for room in ALLOWED:
        folders = {file.parent for file in files(room)}
        assert all((folder / "__init__.py").exists() for folder in folders), room


def installed() -> list[str]:
    """Top-level names that installing Confide puts beside every other package."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    return sorted([*setuptools["py-modules"], *(p.rstrip("*") for p in setuptools["packages"]["find"]["include"])])


def test_the_whole_product_is_installed() -> None:
    assert {*PRODUCT, "confide"} <= set(installed())


@pytest.mark.parametrize("package", installed())
def test_package_names_are_ours_alone(package: str) -> None:
    assert set(packages_distributions().get(package, ["confide"])) == {"confide"}
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT), f"{package} comes from {spec.origin}, not this checkout"


def test_no_file_is_too_long() -> None:
    long = {str(f): n for f in everything() if (n := len(f.read_text("utf-8").splitlines())) > MOST_LINES}
    assert not long


def test_every_ignore_names_its_code() -> None:
    bare = re.compile(r"#\s*(type:\s*ignore(?!\[[a-z-]+[],])|noqa(?!:\s*[A-Z]+\d+)|ruff:\s*noqa|mypy:)", re.I)
    found = [
        where(file, token.start[0])
        for file in everything()
        for token in tokenize.generate_tokens(io.StringIO(file.read_text("utf-8")).readline)
        if token.type == tokenize.COMMENT and bare.search(token.string)
    ]
    assert not found


def dangers(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of whatever could run code that came in with data."""
    for line, name in imports(module):
        if name in {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}:
            yield line, name
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        keywords = {k.arg: k.value for k in node.keywords}
        allowed = keywords.get("allow_pickle")
        if allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False):
            yield node.lineno, "allow_pickle"
        if isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec", "compile"}:
            yield node.lineno, node.func.id
        called = ast.unparse(node.func)
        if called == "torch.load":
            only = keywords.get("weights_only")
            if not (isinstance(only, ast.Constant) and only.value is True):
                yield node.lineno, "torch.load without weights_only=True"
        if called in {"yaml.load", "os.system", "torch.hub.load"}:
            yield node.lineno, called
        shell = keywords.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            yield node.lineno, "shell"


def test_nothing_that_crossed_a_boundary_is_run() -> None:
    found = [
        f"{where(file, line)} {what}"
        for file in [ROOT / "confide.py", *files(*ALLOWED)]
        for line, what in dangers(tree(file))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "eval(text)",
        "torch.load(file)",
        "torch.load(file, weights_only=flag)",
        "np.load(file, allow_pickle=True)",
        "yaml.load(file)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_danger_rule_would_notice(source: str) -> None:
    assert list(dangers(ast.parse(source)))


def test_the_danger_rule_lets_pass_what_is_safe() -> None:
    safe = "model.eval()\nnp.load(f, allow_pickle=False)\ntorch.load(f, weights_only=True)\nre.compile('x')"
    assert not list(dangers(ast.parse(safe)))


def test_assert_is_for_tests() -> None:
    found = [
        where(file, node.lineno)
        for file in [ROOT / "confide.py", *files(*ALLOWED)]
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Assert)
    ]
    assert not found


def commands(group: click.Command, path: str = "confide") -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name."""
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, f"{path} {name}")
    else:
        yield path, group


COMMANDS = dict(commands(typer.main.get_command(confide.app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.epilog, f"{name}: no epilog"
    assert command.epilog.startswith(f"Example: {name}"), f"{name}: the example is {command.epilog!r}"
    paper = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert f"### `{name}`" in paper
    section = paper.partition(f"### `{name}`")[2].partition("\n##")[0]
    assert command.epilog.removeprefix("Example: ") in section
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name}: {parameter.opts} has no help"
            assert all(f"`{option}`" in section for option in parameter.opts), f"{name}: {parameter.opts}"


def test_no_command_is_documented_that_does_not_exist() -> None:
    paper = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### `(confide .+)`$", paper, re.M)) == set(COMMANDS)


def keys(settings: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every table and key below a settings model, as (table, key)."""
    for name, field in settings.model_fields.items():
        inner = table_of(field.annotation)
        if inner is None:
            yield prefix, name
        else:
            yield from keys(inner, f"{prefix}.{name}".lstrip("."))


def table_of(annotation: object) -> type[BaseModel] | None:
    """The settings model in an annotation such as ``dict[str, Model] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (table_of(part) for part in getattr(annotation, "__args__", ()))
    return next((part for part in inner if part is not None), None)


def tables(paper: str) -> dict[str, str]:
    """The text under each ``## `[table]` `` heading of docs/run-file.md."""
    parts = re.split(r"^##+ `\[(.+?)\]`.*$", paper, flags=re.M)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("table", "key"), sorted(keys(RunSettings)))
def test_every_key_of_the_run_file_is_documented(table: str, key: str) -> None:
    documented = tables((ROOT / "docs/run-file.md").read_text(encoding="utf-8"))
    assert table in documented, f"docs/run-file.md: no section [{table}]"
    assert re.search(rf"^\| `{key}` \|", documented[table], re.M), f"docs/run-file.md: [{table}] lacks {key}"


def test_no_key_is_documented_that_does_not_exist() -> None:
    known = set(keys(RunSettings))
    for table, text in tables((ROOT / "docs/run-file.md").read_text(encoding="utf-8")).items():
        if table != "model":  # its other keys belong to the zoo
            assert {(table, key) for key in re.findall(r"^\| `([a-z_0-9]+)` \|", text, re.M)} <= known


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_documented_with_its_defaults(model: str) -> None:
    row = re.search(rf"^\| `{model}` \|(.*)$", (ROOT / "docs/run-file.md").read_text(encoding="utf-8"), re.M)
    assert row, f"docs/run-file.md: [model] lacks {model}"
    for name, value in hyperparameters(model).items():
        shown = f'"{value}"' if isinstance(value, str) else value
        shown = list(shown) if isinstance(shown, tuple) else shown
        assert f"`{name} = {shown}`" in row[1], f"{model}: {name} = {shown}"


def test_every_key_of_federation_toml_is_documented() -> None:
    paper = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    missing = [key for key in FederationSettings.model_fields if f"| `{key}` |" not in paper]
    assert not missing


@pytest.mark.parametrize("settings", [ClientSettings, SealingSettings, DatasetSettings])
def test_every_key_of_client_toml_is_documented(settings: type[BaseModel]) -> None:
    paper = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for key in settings.model_fields:
        assert f"| `{key}` |" in paper or key in {"sealing", "dataset"}, f"docs/operations.md lacks {key}"


def test_every_dependency_is_justified() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    paper = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name is not None
        row = re.search(rf"^\| `{re.escape(name[0])}` \| .+ \|$", paper, re.M)
        assert row or name[0] == "confide", f"docs/dependencies.md lacks {name[0]}"
    for extra in extras:
        assert f"`{extra}`" in paper, f"docs/dependencies.md lacks the extra {extra}"


DISTRIBUTED_AS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "dp_accounting": "dp-accounting",
    "mlflow": "mlflow-skinny",
    "prometheus_client": "prometheus-client",
}


def test_every_import_is_of_a_known_dependency() -> None:
    paper = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    found = {
        f"{where(file, line)} imports {name}"
        for file in [ROOT / "confide.py", *files(*PRODUCT)]
        for line, name in imports(tree(file))
        if name not in OURS | sys.stdlib_module_names and f"`{DISTRIBUTED_AS.get(name, name)}`" not in paper
    }
    assert not found, "\n".join(sorted(found))


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]
    dead = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not dead


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    assert re.search(r"^## \[?Unreleased\]?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)


def test_the_readme_names_the_first_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme
