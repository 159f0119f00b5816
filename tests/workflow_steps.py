"""Run the jobs of a GitHub workflow here, step by step, as a runner would.

Expressions are looked up in contexts (`inputs`, `steps`, `env`, `matrix`, `runner`), a step that
uses './' runs the composite action of this checkout, and a step that uses somebody else's action
is only recorded. What is more than that is refused: a test must not guess what GitHub would do.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
ACTION = ROOT / "action.yml"
WORKFLOW = ROOT / ".github" / "workflows" / "vexfs-test.yml"

Contexts = dict[str, Any]
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


def load(path: Path) -> Any:
    # YAML 1.1 reads the key `on` as true; nothing here asks for it.
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def evaluate(expression: str, contexts: Contexts) -> str:
    """`a.b.c`, a quoted string, `format('…', …)`, and `x || y`."""
    for part in re.split(r"\s*\|\|\s*", expression):
        value = _term(part.strip(), contexts)
        if value:
            return value
    return ""


def _term(term: str, contexts: Contexts) -> str:
    if term.startswith("'") and term.endswith("'"):
        return term[1:-1]
    if called := re.fullmatch(r"format\((.*)\)", term):
        text, *values = [_term(each.strip(), contexts) for each in called[1].split(",")]
        return text.format(*values)
    if not re.fullmatch(r"[a-z_]+(\.[a-zA-Z_-]+)+", term):
        raise ValueError(f"not understood here: {term}")
    value: Any = contexts
    for name in term.split("."):
        value = value.get(name, {}) if isinstance(value, dict) else {}
    return str(value) if value != {} else ""


def fill(text: object, contexts: Contexts) -> str:
    return _EXPRESSION.sub(lambda found: evaluate(found[1], contexts), str(text))


def holds(condition: str, contexts: Contexts, failed: bool) -> bool:
    """The value of an `if:` made of `always()`, `==`, `!=` and `&&`."""
    always = False
    for part in filter(None, condition.split(" && ")):
        if part == "always()":
            always = True
            continue
        left, operator, right = re.fullmatch(r"(\S+) (==|!=) (\S+)", part).groups()  # type: ignore
        if (_term(left, contexts) == _term(right, contexts)) != (operator == "=="):
            return False
    return always or not failed


@dataclass
class Runner:
    """One machine of GitHub's: runs a job's steps and remembers what they left."""

    temporary: Path
    environment: dict[str, str] = field(default_factory=dict)
    uses: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    failed: bool = False

    def __post_init__(self) -> None:
        self.temporary.mkdir(parents=True, exist_ok=True)
        for name in ("path", "summary", "output"):
            (self.temporary / name).touch()

    @property
    def summary(self) -> str:
        return (self.temporary / "summary").read_text()

    def job(self, name: str, matrix: dict[str, str] | None = None, **inputs: str) -> None:
        """Run a job of the workflow with one row of its matrix."""
        workflow = load(WORKFLOW)
        contexts: Contexts = {"matrix": matrix or {}, "inputs": inputs}
        contexts["env"] = {k: fill(v, contexts) for k, v in workflow.get("env", {}).items()}
        self.steps(workflow["jobs"][name]["steps"], contexts)

    def action(self, **given: str) -> dict[str, str]:
        """Run the composite action; returns its outputs."""
        action = load(ACTION)
        unknown = set(given) - set(action["inputs"])
        assert not unknown, f"the action has no input {unknown}"
        inputs = {name: row.get("default", "") for name, row in action["inputs"].items()}
        contexts: Contexts = {"inputs": {**inputs, **given}}
        self.steps(action["runs"]["steps"], contexts)
        return {name: fill(row["value"], contexts) for name, row in action["outputs"].items()}

    def steps(self, steps: list[dict[str, Any]], contexts: Contexts) -> None:
        contexts.setdefault("steps", {})
        contexts["runner"] = {"temp": str(self.temporary)}
        for step in steps:
            if not holds(step.get("if", ""), contexts, self.failed):
                continue
            if "uses" in step:
                arguments = {k: fill(v, contexts) for k, v in step.get("with", {}).items()}
                if step["uses"] == "./":
                    self.action(**arguments)
                else:
                    self.uses.append((step["uses"], arguments))
            else:
                outputs = self._run(step, contexts)
                if "id" in step:
                    contexts["steps"][step["id"]] = {"outputs": outputs}

    def _run(self, step: dict[str, Any], contexts: Contexts) -> dict[str, str]:
        assert step["shell"] == "bash"
        output = self.temporary / "output"
        output.write_text("")
        added = (self.temporary / "path").read_text().split()
        environment = {
            **os.environ,
            **self.environment,
            **{name: fill(value, contexts) for name, value in step.get("env", {}).items()},
            "CI": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_PATH": str(self.temporary / "path"),
            "GITHUB_STEP_SUMMARY": str(self.temporary / "summary"),
            "RUNNER_TEMP": str(self.temporary),
        }
        environment["PATH"] = ":".join([*reversed(added), environment["PATH"]])
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.said.append(done.stdout)
        if done.returncode != 0:
            self.failed = True
        pairs = (line.partition("=") for line in output.read_text().splitlines())
        return {name: value for name, _, value in pairs}
