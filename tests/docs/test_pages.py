"""The documentation says what the code is."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING, fields
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class
from django.core.management.base import CommandError

import orchestrator
from orchestrator import conf
from orchestrator.contracts import errors, events
from orchestrator.contracts.outcome import Reason, Verdict
from orchestrator.monitoring import checks, database_checks, report
from tests.docs.pages import ROOT, Page, page, pages
from tests.support import compose

README = Page(ROOT / "README.md")


def ticked(cell: str) -> list[str]:
    """What stands between backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


# --- links and words ---------------------------------------------------------------


@pytest.mark.parametrize("one", pages(), ids=lambda one: one.name)
def test_links_lead_somewhere(one: Page) -> None:
    """Every relative link names a file that is there, and an anchor that is in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", one.prose):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (one.path.parent / path).resolve() if path else one.path
        assert found.exists(), f"{one.name} links to {target}"
        assert not anchor or anchor in Page(found).anchors(), f"{one.name} links to {target}"


def test_every_page_is_linked() -> None:
    """Nobody has to guess that a page exists."""
    index = page("README.md").text
    for one in pages():
        if one.path.parent == page("x").path.parent and one.path.name != "README.md":
            assert f"({one.path.name})" in index, f"{one.name} is not in the index"


def test_pages_use_the_words_of_the_glossary() -> None:
    """A dead letter is redriven, never replayed or requeued; it has one name."""
    wrong = re.compile(
        r"\b(dead[- ]?letter queue|failed queue|morgue|requeued? (it|them|letters)|replays? (it|letters))\b", re.I
    )
    assert not [(one.name, wrong.findall(one.text)) for one in pages() if wrong.search(one.text)]


def test_no_file_names_a_package_index() -> None:
    """Decision 1: whoever uses a mirror finds nothing to change."""
    hosts = ("pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js", "deb." + "debian")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    assert names
    assert not [
        name for name in names if any(host in (ROOT / name).read_text("utf-8", errors="ignore") for host in hosts)
    ]


# --- tables equal code -----------------------------------------------------------------


def test_settings_table_equals_the_settings() -> None:
    """Same keys in the same order; defaults that fit into a cell are the defaults."""
    rows = page("settings.md").rows("## The ORCHESTRATOR dict")
    declared = fields(conf.Settings)
    assert [ticked(row[0])[0] for row in rows] == [field.name.upper() for field in declared]
    for row, field in zip(rows, declared, strict=True):
        assert field.default is not MISSING
        shown = ticked(row[1])
        if isinstance(field.default, tuple):
            assert row[1].startswith("*"), f"{row[0]} has a long default"
        else:
            assert [text.replace('"', "'") for text in shown] == [repr(field.default)], row
        assert row[2]


def test_environment_table_equals_what_the_settings_read() -> None:
    """Every variable that settings.py reads has a row, and no other."""
    rows = page("settings.md").rows("## Environment of the reference project")
    read = re.findall(r"(?:env\.\w+|checked)\(\s*\"([A-Z_]+)\"", (ROOT / "orchestrator/settings.py").read_text())
    assert {ticked(row[0])[0] for row in rows} == set(read)


def test_checks_table_equals_the_checks() -> None:
    """Every id that a check can say has a row, and no other; deploy checks are marked."""
    rows = page("settings.md").rows("## System checks")
    source = inspect.getsource(checks) + inspect.getsource(database_checks)
    assert [ticked(row[0])[0] for row in rows] == sorted(set(re.findall(r'"(orchestrator\.[EW]\d+)"', source)))
    for row in rows:
        assert ("(deploy)" in row[1]) == (ticked(row[0])[0] >= "orchestrator.W020")


def test_events_table_equals_the_catalogue() -> None:
    """Every event has a row with its fields."""
    declared = {
        name: [field.name for field in fields(kind)]
        for name, kind in vars(events).items()
        if inspect.isclass(kind) and kind.__module__ == events.__name__
    }
    rows = page("events.md").rows("# Events")
    assert {ticked(row[0])[0]: ticked(row[3]) for row in rows} == declared


def test_errors_table_equals_the_tree() -> None:
    """Every exception has a row."""
    declared = [
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.OrchestratorError)
    ]
    assert [ticked(row[0])[0] for row in page("errors.md").rows("# Errors")] == declared


def test_public_surface_is_documented() -> None:
    """What the package exports is named in the README or a page; what the README imports is exported."""
    text = "".join(one.text for one in pages())
    assert not [name for name in orchestrator.__all__ if not re.search(rf"\b{name}\b", text)]
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name) is not None
    imported = re.findall(r"^from orchestrator import (.+)$", text, flags=re.MULTILINE)
    used = {name.strip() for line in imported for name in line.split(",")}
    assert used
    assert used <= set(orchestrator.__all__)


def test_commands_table_equals_the_commands() -> None:
    """Every command of ours has a row, and every row is a command."""
    ours = {name for name, app in get_commands().items() if str(app).startswith("orchestrator")}
    named = {ticked(row[0])[0].split()[0] for row in page("commands.md").rows("# Commands")}
    assert named == ours | {"check"}


def test_queue_health_says_what_its_page_says() -> None:
    """The keys of its JSON are the ones named."""
    keys = set(report.Report().as_json())
    text = page("commands.md").prose.partition("## queue_health")[2].partition("\n## ")[0]
    assert keys <= set(ticked(text))


# --- endings ------------------------------------------------------------------------------


def existing_tests() -> set[str]:
    """Names of all test functions."""
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)\(", path.read_text("utf-8"), flags=re.MULTILINE)
    }


@pytest.mark.parametrize("name", ["endings.md", "fail-modes.md"])
def test_named_tests_exist(name: str) -> None:
    """A page that says "shown by" is kept honest."""
    named = set(re.findall(r"`(test_\w+)`", page(name).text))
    assert named
    assert named <= existing_tests(), f"no such test: {sorted(named - existing_tests())}"


def test_endings_table_is_the_closed_set() -> None:
    """Every reason has a row in the first table, every verdict one somewhere, and each row names its test."""
    buried = page("endings.md").rows("## Ends that lie in the inbox")
    other = page("endings.md").rows("## Ends that need nobody")
    assert sorted(ticked(row[2])[0] for row in buried) == sorted(reason.value for reason in Reason)
    assert {ticked(row[1])[0] for row in (*buried, *other)} == {verdict.value for verdict in Verdict}
    assert all(ticked(row[3])[0].startswith("test_") for row in (*buried, *other))


# --- commands and blocks ----------------------------------------------------------------------


def manage_lines() -> list[tuple[str, str]]:
    """Every ``manage.py`` command line in a shell block of any page."""
    return [
        (one.name, part.partition("manage.py")[2].strip())
        for one in pages()
        for line in one.commands()
        for part in line.split("&&")
        if "manage.py" in part
    ]


@pytest.mark.parametrize(("where", "line"), manage_lines())
def test_command_lines_parse(where: str, line: str) -> None:
    """Each line in the documentation is one that the command understands."""
    name, *arguments = shlex.split(line)
    owner = get_commands()[name]
    command: Any = load_command_class(owner, name) if isinstance(owner, str) else owner
    try:
        command.create_parser("manage.py", name).parse_args(arguments)
    except (CommandError, SystemExit) as error:
        pytest.fail(f"{where}: manage.py {line}: {error}")


def test_readme_commands_are_the_ones_that_ci_runs() -> None:
    """The gate installs and tests exactly as a newcomer is told to."""
    lines = README.commands()
    ci = (ROOT / ".ci/run").read_text()
    (install_and_up,) = [line for line in lines if line.endswith("manage.py up") and line.startswith("python3")]
    (install_and_test,) = [line for line in lines if line.endswith("pytest") and line.startswith("python3")]
    venv, pip, test = install_and_test.split(" && ")
    assert venv in ci
    assert pip.replace("install -e", "install -qq -e") in ci
    assert test == ".venv/bin/python -m pytest"
    assert "python=.venv/bin/python" in ci
    assert '"$python" -m pytest' in ci
    # The first command differs in what it installs and runs, not in how.
    assert install_and_up == f"{venv} && .venv/bin/pip install -e '.[all]' && .venv/bin/python manage.py up"


def test_extras_named_in_the_readme_exist() -> None:
    """A misspelt extra installs nothing and says so only in passing."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for one in pages()
        for line in one.commands()
        for group in re.findall(r"\.\[([\w,]+)\]|--extra (\w+)", line)
        for extra in ",".join(group).strip(",").split(",")
    }
    assert named
    assert named <= set(extras)


def test_readme_task_block_declares_tasks(tmp_path: Any) -> None:
    """The block is a module that imports, except for its last line, which wants a broker."""
    (block,) = [block.text for block in README.blocks("python") if "charge.delay_on_commit" in block.text]
    declarations, _, call = block.partition("\n# Returns the id")
    assert call.count("\n") == 2
    (tmp_path / "readme_tasks.py").write_text(declarations)
    code = (
        "import django; django.setup()\n"
        "import readme_tasks as t\n"
        "assert t.charge.retries.limit == 5 and t.charge.sensitive == ('card_number',)\n"
        "assert t.charge(1, card_number='x') == 'charged 1'\n"
        "print(t.fetch.name, t.settle.name)\n"
    )
    import os

    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["readme_tasks.fetch", "readme_tasks.settle"]


def test_python_blocks_compile() -> None:
    """Every Python block is Python."""
    for one in pages():
        for block in one.blocks("python"):
            compile(block.text, one.name, "exec")


def test_production_page_names_what_compose_reads() -> None:
    """Every variable of compose.yaml is in the example of .env, and the required ones come first."""
    example = page("production.md").block(".env")
    named = re.findall(r"^(\w+)=", example, flags=re.MULTILINE)
    text = compose.FILE.read_text()
    read = dict.fromkeys(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert set(read) <= set(named)
    required = set(re.findall(r"(?<!\$)\$\{(\w+):\?", text))
    assert set(named[: len(required)]) == required


def test_the_lock_holds_what_the_image_needs() -> None:
    """Every dependency of the production extras is pinned, by hash, at a version that is allowed."""
    import tomllib

    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    pinned = {}
    for line in lines:
        one = Requirement(line.partition(" --hash=")[0])
        assert " --hash=sha256:" in line, one.name
        pinned[one.name] = next(iter(one.specifier)).version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for name in ("server", "pdf", "video") for text in project["optional-dependencies"][name]]
    for one in map(Requirement, [*project["dependencies"], *extras]):
        assert one.specifier.contains(pinned[one.name.lower()]), f"{one} is locked at {pinned[one.name.lower()]}"


def test_changelog_has_this_version() -> None:
    """What is released has its own heading; until then it stands under Unreleased."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[(Unreleased|{re.escape(orchestrator.__version__)})\]", text, flags=re.MULTILINE)


def test_version_is_one() -> None:
    """pyproject.toml and the package agree."""
    import tomllib

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == orchestrator.__version__


def test_compose_is_yaml_that_says_no_version() -> None:
    """The obsolete top-level key is not there."""
    assert "version" not in yaml.safe_load(compose.FILE.read_text())
