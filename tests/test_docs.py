"""The documentation is true: its code runs, its commands and links exist, its tables agree with the source."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import ndvi_scale
from ndvi_scale import errors
from ndvi_scale.bench.factors import table_of
from ndvi_scale.cli import EXIT_CODES, cli
from ndvi_scale.cluster.making import make_spec
from ndvi_scale.config import make_config, read_config
from ndvi_scale.forecast import Calibration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ndvi_scale.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_MORE = (
    "earth-search",
    "cdse",
    "example.org",
    "s3://",
    "gs://",
    "az://",
    "abfs://",
    "demo",
    "sandbox sandbox",
    "bench",
)
"""Commands with one of these need a network, a bucket or minutes, or make the sandbox that is there already."""


def blocks(language: str) -> list[tuple[Path, int, str]]:
    """Page, first line and text of every block in a language."""
    return [
        (page, text.count("\n", 0, match.start()) + 2, match[2])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for match in FENCE.finditer(text)
        if match[1] == language
    ]


def named(language: str) -> list[object]:
    """Parameters of a test over the blocks; the README's computes and writes, which is slow."""
    return [
        pytest.param(
            page,
            line,
            text,
            id=f"{page.relative_to(ROOT)}:{line}",
            marks=[pytest.mark.slow] if language == "python" and page.name == "README.md" else [],
        )
        for page, line, text in blocks(language)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of each call of ndvi-scale in a console block."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if "ndvi-scale" in words:
            yield words[words.index("ndvi-scale") + 1 :]


def runnable(text: str) -> list[list[str]]:
    """Those that need nothing but the sandbox."""
    return [words for words in commands(text) if not any(part in " ".join(words) for part in NEEDS_MORE)]


@pytest.fixture
def beside_a_sandbox(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: empty but for the sandbox, and a calibration as a measurement leaves one."""
    (tmp_path / "sandbox").symlink_to(sandbox.directory)
    (tmp_path / "bench").mkdir()
    known = Calibration("[x]", (1, 2), 5, 2.0, 0.01, 0.1, 0.1, 0.001, (1.0, 1.0), 0.1)
    (tmp_path / "bench" / "calibration.json").write_text(known.to_json(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_check() -> None:
    assert len(blocks("python")) > 8
    assert sum(len(list(commands(text))) for _, _, text in blocks("console")) > 10
    languages = {match[1] for page in PAGES for match in FENCE.finditer(page.read_text(encoding="utf-8"))}
    assert languages <= {"python", "console", "toml", "text", "mermaid"}


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Use `@` matmul:PendingDeprecationWarning"
)  # rioxarray and rasterio with affine 3
@pytest.mark.parametrize(("page", "line", "text"), named("python"))
def test_python_runs(beside_a_sandbox: Path, page: Path, line: int, text: str) -> None:
    code = compile("\n" * (line - 1) + text, str(page), "exec")
    exec(code, {"__name__": "docs"})  # noqa: S102 - our own documentation


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({page for page, _, text in blocks("console") if any(runnable(text))}))
def test_commands_run_one_after_another(beside_a_sandbox: Path, page: Path) -> None:
    for source, _, text in blocks("toml"):
        if source == page:
            Path("run.toml").write_text(text, encoding="utf-8")
    ran = []
    for source, _, text in blocks("console"):
        for words in runnable(text) if source == page else ():
            ran.append(words)
            cli(words, standalone_mode=False)
    assert ran


@pytest.mark.parametrize(("page", "line", "text"), named("console"))
def test_commands_exist(page: Path, line: int, text: str) -> None:
    """Every word of a command is one that click takes; values are not looked at."""
    known = [*commands(text)]
    assert known or "uv run" in text
    for words in known:
        command = cli.commands[words[0]]
        context = command.make_context(words[0], words[1:], resilient_parsing=True)
        given = {name for name in words if name.startswith("--")}
        unknown = given - {option for parameter in command.params for option in parameter.opts}
        assert not unknown, (page, line, words, unknown)
        assert not context.args


@pytest.mark.parametrize(("page", "line", "text"), named("toml"))
def test_settings_exist(beside_a_sandbox: Path, page: Path, line: int, text: str) -> None:
    if page.name == "bench.md":
        table_of(tomllib.loads(text), str(page))
        return
    if page.parent.name == "clusters":
        for name, profile in tomllib.loads(text).items():
            make_spec(profile, name)
        return
    Path("run.toml").write_text(text, encoding="utf-8")
    settings = read_config(Path("run.toml"))
    make_config({name: value for name, value in settings.items() if name not in {"out", "items"}})


def all_commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from all_commands(command)
        else:
            yield command


def test_every_option_is_described() -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    for name in cli.commands:
        assert f"| `{name}` |" in text
    for command in all_commands(cli):
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert not [option for option in options if f"`{option}" not in text], command.name
    listed = re.findall(r"^\| `--[^|]*\|[^|]*\|", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    described = set(re.findall(r"`(--[a-z-]+)", text))
    own = {option for command in all_commands(cli) for parameter in command.params for option in parameter.opts}
    everywhere = {option for parameter in cli.params for option in parameter.opts} | {"--help", "--version"}
    assert described <= own | everywhere


def test_options_named_in_prose_exist() -> None:
    own = {option for command in all_commands(cli) for parameter in command.params for option in parameter.opts}
    own |= {option for parameter in cli.params for option in parameter.opts} | {"--help", "--version"}
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        assert set(re.findall(r"(?<![\w-])(--[a-z]+(?:-[a-z]+)*)", text)) <= own, page


def rows(page: str, cells: int) -> list[tuple[str, ...]]:
    """Rows of a page's tables with so many cells, the first of which is a number."""
    found = []
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        parts = tuple(part.strip() for part in line.strip("|").split("|"))
        if line.startswith("|") and len(parts) == cells and parts[0].isdigit():
            found.append(parts)
    return found


def test_exit_codes_agree_with_the_source() -> None:
    # Those of other modules are an error of these to whoever catches one, with its code.
    known = [kind for kind in _children(errors.NdviScaleError) if kind.__module__ == errors.__name__]
    classes = [errors.NdviScaleError, *known]
    assert {name.strip("`"): int(code) for code, name, _ in rows("docs/cli.md", 3) if name} == {
        kind.__name__: kind.exit_code for kind in classes
    }
    printed = re.findall(r"^  (\d+)  (.+)$", EXIT_CODES, re.MULTILINE)
    assert [(code, meaning) for code, _, meaning in rows("docs/cli.md", 3)] == printed
    assert rows("README.md", 2) == printed


def _children(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from _children(child)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    text = (ROOT / "docs/decisions/0002-libraries.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| (?!library )([\w-]+) \|", text, re.MULTILINE)) == wanted


def test_the_pipeline_names_every_module() -> None:
    folder = Path(ndvi_scale.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    text = (ROOT / "docs/pipeline.md").read_text(encoding="utf-8")
    table = {name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line)}
    assert {name for name in modules if not name.startswith("__")} <= table


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        assert not anchor or anchor in _anchors(linked), target


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_public_names_are_used_as_they_are() -> None:
    """Names that the prose calls like functions are there."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"from ndvi_scale import ([^()\n]+)$", text, re.MULTILINE):
            assert {part.strip() for part in name.split(",") if part.strip()} <= set(ndvi_scale.__all__), page
