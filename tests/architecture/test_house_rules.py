"""What the house rules forbid, found in the syntax tree rather than in review."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import ROOT, Module, body_lines, modules

OURS = (*modules("orchestrator"), *modules("tasks"))
EVERYTHING = (*OURS, *modules("tests"))

MAX_LINES = 300
MAX_FUNCTION = 60

#: Files that may wait for time itself, each with the reason.
SLEEPERS = {
    "tests/support/wait.py": "the one place that polls",
    "tests/support/zoo.py": "its tasks are asked to take long",
    "tests/support/labour.py": "its tasks are asked to take long",
    "tests/support/zoo_limits.py": "its tasks are asked to take long",
    "tests/support/limited.py": "its tasks are asked to take long",
    "tests/integration/canvas/tasks.py": "its tasks are asked to take long",
    "tests/chaos/tasks.py": "its tasks are asked to take long",
}


def test_import_contracts_hold() -> None:
    """Layers and every other contract in pyproject.toml."""
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "import-linter comes with the extra 'test'"
    done = subprocess.run([program, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_import_contracts_would_notice(tmp_path: Path) -> None:
    """Planted violations are caught: the contracts above are not empty words."""
    copy = tmp_path / "copy"
    for package in ("orchestrator", "tasks"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "orchestrator/utils.py").write_text("")
    with (copy / "orchestrator/contracts/outcome.py").open("a") as file:
        file.write("\nimport django\n")
    with (copy / "orchestrator/engine/app.py").open("a") as file:
        file.write("\nimport redis\n")
    with (copy / "tasks/email.py").open("a") as file:
        file.write("\nimport orchestrator.deadletters.services\n")
    with (copy / "orchestrator/runs/backend.py").open("a") as file:
        file.write("\nimport orchestrator.deadletters.models\n")
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    done = subprocess.run(
        [str(program), "--no-logo", "--no-cache"], cwd=copy, capture_output=True, text=True, timeout=120, env={}
    )
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    for broken in (
        "only downward BROKEN",
        "policies are pure BROKEN",
        "not Django or Redis BROKEN",
        "public surface only BROKEN",
        "only from the console BROKEN",
    ):
        assert broken in said, done.stdout
    assert "orchestrator.utils" in said


@pytest.mark.parametrize("module", OURS, ids=lambda module: module.name)
def test_modules_and_functions_stay_small(module: Module) -> None:
    """One promise a module, one thought a function."""
    assert len(module.text.splitlines()) <= MAX_LINES, f"{module.name} has grown; split it by promise"
    long = {node.name: body_lines(node) for node in module.functions() if body_lines(node) > MAX_FUNCTION}
    assert not long, f"{module.name}: {long}"


def test_no_module_without_an_owner() -> None:
    """A module is named after what it promises, not after being useful."""
    vague = re.compile(r"^(utils?|helpers?|misc|common|shared|manager)s?$")
    assert not [module.name for module in EVERYTHING if any(vague.match(Path(p).stem) for p in Path(module.name).parts)]


def test_every_module_says_what_it_is_for() -> None:
    """A docstring at the top; empty package markers, app configurations and migrations excepted."""
    silent = [
        module.name
        for module in OURS
        if module.text.strip() and ast.get_docstring(module.tree) is None
        if "/migrations/" not in module.name and module.path.name != "apps.py"
    ]
    assert not silent


def test_nothing_waits_by_luck() -> None:
    """Tests poll with a deadline; nobody sleeps and hopes."""
    sleeps = {
        module.name
        for module in modules("tests")
        for name, _ in module.calls()
        if name in ("time.sleep", "sleep", "asyncio.sleep")
    }
    assert sleeps <= set(SLEEPERS), f"wait for the event instead (tests.support.wait): {sleeps - set(SLEEPERS)}"


def test_nobody_connects_to_celery_signals() -> None:
    """Signals cannot veto and drop what a receiver raises; the seams do the work. (Sending Celery's own is fine.)"""
    found = []
    for module in OURS:
        names = {name.rsplit(".", 1)[1] for name in module.imports() if name.startswith("celery.signals.")}
        for call, _ in module.calls():
            owner, _, verb = call.rpartition(".")
            if verb in ("connect", "connect_via") and (owner.startswith("signals.") or owner in names):
                found.append((module.name, call))
    assert not found


def test_json_only() -> None:
    """No module of ours can read a pickle."""
    unsafe = ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal")
    assert not [(module.name, name) for module in OURS for name in module.imports() if name.split(".")[0] in unsafe]


def test_nobody_runs_tasks_eagerly() -> None:
    """Eager mode hides ack, redelivery and the worker process: nobody switches it on."""
    switched = [
        module.name
        for module in EVERYTHING
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Assign) and "always_eager" in ast.unparse(node.targets[0]).lower())
        or (isinstance(node, ast.keyword) and node.arg == "task_always_eager")
    ]
    assert not switched


def test_nobody_mocks_our_parts() -> None:
    """Tests stand on the real thing."""
    assert not [(module.name, name) for module in EVERYTHING for name in module.imports() if "mock" in name.split(".")]


def test_nothing_is_left_for_later() -> None:
    """No marks of unfinished work, and no body that only raises NotImplementedError."""
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X"))
    marks = re.compile(rf"#.*\b({words})\b")
    assert not [module.name for module in EVERYTHING if marks.search(module.text)]
    assert not [module.name for module in OURS if "raise NotImplementedError" in module.text]


def test_environment_is_read_in_the_settings_only() -> None:
    """Everything else reads Django's settings; launching and tests deal with environments by trade."""
    readers = {
        module.name
        for module in OURS
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
    }
    by_trade = ("orchestrator/launch/", "orchestrator/demo/")
    allowed = {
        "orchestrator/settings.py",
        # These name the settings module before Django can be asked.
        "orchestrator/wsgi.py",
        "orchestrator/asgi.py",
        # These start other processes with the environment that they shall have.
        "orchestrator/management/commands/up.py",
        "orchestrator/management/commands/demo.py",
        # A switch each of libpq's, of Flower's and of Django's, that exist nowhere else.
        "orchestrator/management/first_start.py",
        "orchestrator/flower/checks.py",
        "orchestrator/outbox/writer.py",
    }
    assert {name for name in readers if not name.startswith(by_trade)} <= allowed


def test_type_ignores_and_lint_ignores_are_narrow() -> None:
    """An exception names its rule."""
    for module in OURS:
        for line in module.text.splitlines():
            assert not re.search(r"#\s*type:\s*ignore(?!\[)", line), f"{module.name}: {line.strip()}"
            assert not re.search(r"#\s*noqa(?!:)", line), f"{module.name}: {line.strip()}"
