"""A pass, sealed: a statement of what was examined, that can be verified somewhere else.

The form is in-toto's Statement v1: the files of the run are its subjects, each with its sha256;
the predicate is the checklist. The statement carries a hash of itself, so that no byte of it or
of the evidence changes unnoticed. Only a signature says who made it: an ssh one, made and checked
by ssh-keygen (OpenSSH 8.2 and later).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vexrun.errors import ConfigError, InfrastructureError
from vexrun.gate.checklist import Checklist
from vexrun.image.manifest import sha256_of
from vexrun.process import run

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:vexrun:gate:1"
#: What `ssh-keygen -Y` binds a signature to, so that one made for mail is none for a gate.
NAMESPACE = "vexrun-gate"
_SEAL = "statement_sha256"


def seal(checklist: Checklist, directory: Path, file: Path, key: Path | None) -> None:
    """Write the statement of an open gate to `file`, and its signature beside it.

    Raises ConfigError for a gate that is shut, or a file inside the evidence.
    """
    if not checklist.open:
        raise ConfigError("A gate that is shut cannot be sealed.", evidence=checklist.sentence)
    if file.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(
            f"The seal '{file}' would lie inside the evidence that it seals.",
            hint="Choose a file outside of the run's directory.",
        )
    statement: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}}
            for name, digest in _digests(directory).items()
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"checklist": checklist.model_dump(mode="json")},
    }
    statement["predicate"][_SEAL] = _self_hash(statement)
    file.write_text(_written(statement))
    signature = _signature_of(file)
    signature.unlink(missing_ok=True)
    if key is not None:
        run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(file)])


@dataclass(frozen=True)
class Verified:
    """What became of a seal: `problems` are sentences, none when it holds."""

    problems: list[str]
    notes: list[str] = field(default_factory=list)
    checklist: Checklist | None = None


def verify(
    file: Path,
    evidence: Path | None,
    *,
    allowed_signers: Path | None = None,
    identity: str | None = None,
) -> Verified:
    """Whether the seal in `file` is whole, and the evidence is what was sealed.

    `evidence` is the run's directory, by default where it was. With `allowed_signers` (the format
    of ssh-keygen) a good signature by `identity` is demanded. Raises ConfigError when there is no
    seal to verify.
    """
    try:
        text = file.read_text()
        statement = json.loads(text)
        checklist = Checklist.model_validate(statement["predicate"]["checklist"])
        sealed = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    except OSError as error:
        raise ConfigError(f"The seal '{file}' cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        problem = str(error).splitlines()[0]
        return Verified([f"'{file}' is no seal of vexrun, or was damaged: {problem}."])
    problems = _statement_problems(statement, text, file, checklist)
    directory = evidence or Path(checklist.run_dir)
    problems += _evidence_problems(directory, sealed)
    notes = []
    signature = _signature_of(file)
    if allowed_signers is not None:
        problems += _signature_problems(file, text, signature, allowed_signers, identity or "")
    elif signature.exists():
        notes.append(
            f"'{signature}' was not checked: name --allowed-signers and --identity for that."
        )
    else:
        notes.append(
            "It is not signed: it shows that the evidence is as it was sealed, and not by whom."
        )
    return Verified(problems, notes, checklist)


def _statement_problems(
    statement: dict[str, Any], text: str, file: Path, checklist: Checklist
) -> list[str]:
    problems = []
    kind = (statement.get("_type"), statement.get("predicateType"))
    if kind != (STATEMENT_TYPE, PREDICATE_TYPE):
        problems.append(f"'{file}' is a statement of another kind: {kind[1]}.")
    claimed = statement["predicate"].pop(_SEAL, None)
    if claimed != _self_hash(statement):
        problems.append(f"'{file}' was edited: the hash that it carries is not its own.")
    statement["predicate"][_SEAL] = claimed
    if text != _written(statement):
        problems.append(f"'{file}' is not byte for byte what vexrun writes.")
    if not checklist.open or checklist.refused or not checklist.lines:
        problems.append(f"'{file}' seals a gate that is shut.")
    return problems


def _evidence_problems(directory: Path, sealed: dict[str, str]) -> list[str]:
    if not directory.is_dir():
        return [f"The evidence is not at '{directory}': name its directory with --evidence."]
    actual = _digests(directory)
    problems = [f"'{name}' is missing." for name in sorted(sealed.keys() - actual.keys())]
    problems += [f"'{name}' was added." for name in sorted(actual.keys() - sealed.keys())]
    problems += [
        f"'{name}' was changed after it was sealed."
        for name in sorted(sealed.keys() & actual.keys())
        if sealed[name] != actual[name]
    ]
    return problems


def _signature_problems(
    file: Path, text: str, signature: Path, allowed: Path, identity: str
) -> list[str]:
    if not identity:
        raise ConfigError(
            "--allowed-signers needs --identity: whose signature it has to be.",
            hint="It is the first word of that person's line in the file.",
        )
    if not signature.is_file():
        return [f"It is not signed: there is no '{signature}'."]
    argv = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", identity]
    argv += ["-n", NAMESPACE, "-s", str(signature)]
    done = run(argv, input_text=text, check=False)
    if done.returncode == 0:
        return []
    return [f"'{signature}' is no good signature of '{identity}': {done.tail(1)}"]


def _digests(directory: Path) -> dict[str, str]:
    """Every file below the run's directory; a link is sealed as the path it holds."""
    digests = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            digests[name] = hashlib.sha256(b"link " + str(path.readlink()).encode()).hexdigest()
        elif path.is_file():
            try:
                digests[name] = sha256_of(path)
            except OSError as error:
                raise InfrastructureError(
                    f"The evidence '{path}' cannot be read: {error.strerror}."
                ) from error
    return digests


def _self_hash(statement: dict[str, Any]) -> str:
    return hashlib.sha256(_written(statement).encode()).hexdigest()


def _written(statement: dict[str, Any]) -> str:
    return json.dumps(statement, indent=2) + "\n"


def _signature_of(file: Path) -> Path:
    return file.with_name(file.name + ".sig")
