"""Asking a judge: questions without pictures, answered once, kept in a journal so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from qwenvl.answer import Answer, Status
from qwenvl.engines.base import Engine
from qwenvl.request import Request
from qwenvl.subject import Subject
from workflows.errors import JudgeError, RunLockedError

JOURNAL, MANIFEST, REPORT = "judgements.jsonl", "manifest.json", "judge.json"
LONGEST = 18_000
"""Characters of a question to a judge; longer ones are not asked, and never cut."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said to one question.

    Attributes
    ----------
    status : str
        'ok'; 'malformed' (it answered, but not in the form asked for); 'refused'; 'unreached' (no answer at all);
        'too long' (not asked).
    text : str or None
        The chosen class.
    value : object
        The JSON value.
    raw : str
        The judge's words.
    """

    status: str
    text: str | None = None
    value: Any = None
    raw: str = ""


class Journal:
    """The judgements of one folder, by the hash of their question."""

    def __init__(self, file: IO[str], known: dict[str, Judgement]) -> None:
        self._file, self._known = file, known

    def get(self, key: str) -> Judgement | None:
        """The judgement of a question, None where it has not been asked."""
        return self._known.get(key)

    def put(self, key: str, judgement: Judgement) -> None:
        """Keep a judgement."""
        row = {"question": key, "status": judgement.status, "text": judgement.text, "value": judgement.value,
               "raw": judgement.raw}  # fmt: skip
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()
        self._known[key] = judgement


@contextmanager
def open_journal(folder: Path, identity: dict[str, str]) -> Iterator[Journal]:
    """Open the journal of a judging, or go on with the same one.

    Parameters
    ----------
    folder : Path
        New, empty, or of the same judging.
    identity : dict
        What has to be equal for two to be the same: kind, model, answers.

    Raises
    ------
    JudgeError
        The folder holds other files, or another judging.
    RunLockedError
        Another process writes there.
    """
    manifest = folder / MANIFEST
    if folder.exists() and not folder.is_dir():
        raise JudgeError(f"{folder} is a file, and a judging needs a folder. Name another one with -o.")
    if folder.exists() and any(folder.iterdir()) and not manifest.is_file():
        raise JudgeError(f"{folder} holds other files. Name an empty or new folder with -o.")
    if manifest.is_file():
        earlier = json.loads(manifest.read_text(encoding="utf-8"))
        other = sorted(key for key in {*earlier, *identity} if earlier.get(key) != identity.get(key))
        if other:
            raise JudgeError(
                f"{folder} holds another judging: {', '.join(other)} differ. Name another folder with -o, or repeat "
                "the same command to go on."
            )
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "judge.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunLockedError(f"Another process is judging into {folder}. Wait until it is done.") from error
    try:
        if not manifest.is_file():
            partial = folder / (MANIFEST + ".partial")
            partial.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
            partial.replace(manifest)
        known = _read(folder / JOURNAL)
        with (folder / JOURNAL).open("a", encoding="utf-8") as file:
            yield Journal(file, known)
    finally:
        lock.release()


def _read(path: Path) -> dict[str, Judgement]:
    """What an earlier process kept; a line that it was killed in is dropped, and asked again."""
    if not path.is_file():
        return {}
    whole, known = b"", {}
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
            known[row["question"]] = Judgement(row["status"], row["text"], row["value"], row["raw"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        whole += line
    if len(whole) != path.stat().st_size:
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(whole)
        partial.replace(path)
    return known


def ask(
    engine: Engine,
    requests: Sequence[Request],
    journal: Journal,
    *,
    report: Callable[[int, int], None] | None = None,
) -> list[Judgement]:
    """Ask every question that the journal does not know yet.

    Questions that got no answer at all are not kept, so that they are asked again next time; a malformed answer is an
    answer.

    Parameters
    ----------
    engine : Engine
    requests : sequence of Request
        Questions without pictures (classify, extract).
    journal : Journal
    report : callable, optional
        Called with questions done and questions in all.

    Returns
    -------
    list of Judgement
        One per request.
    """
    found = [journal.get(request.hash) for request in requests]
    left = [number for number, judgement in enumerate(found) if judgement is None]
    done = len(requests) - len(left)
    step = max(1, engine.batch_size(requests[0])) if requests else 1
    for start in range(0, len(left), step):
        numbers = left[start : start + step]
        told = engine.answer_many([Subject()], [requests[number] for number in numbers])
        for number, answers in zip(numbers, told, strict=True):
            judgement = found[number] = _judgement(answers[0])
            if judgement.status != "unreached":
                journal.put(requests[number].hash, judgement)
        done += len(numbers)
        if report is not None:
            report(done, len(requests))
    return [judgement or Judgement("unreached") for judgement in found]


def fenced(text: str) -> str:
    """Material between marks that it does not hold itself, so that nothing in it can stand outside of them.

    >>> fenced("a >>> b").splitlines()
    ['<<<<', 'a >>> b', '>>>>']
    """
    length = 3
    while ">" * length in text or "<" * length in text:
        length += 1
    return f"{'<' * length}\n{text}\n{'>' * length}"


def _judgement(answer: Answer) -> Judgement:
    if answer.status.complete and (answer.text is not None or answer.value is not None):
        return Judgement("ok", answer.text, answer.value, answer.raw)
    if answer.status is Status.REFUSED:
        return Judgement("refused", raw=answer.raw)
    if answer.status is Status.FAILED and answer.finish_reason == "error" and not answer.raw:
        return Judgement("unreached", raw=answer.error or "")
    return Judgement("malformed", raw=answer.raw)
