"""Dialogues in files: an exported conversation, a list of messages, or either with questions and their evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from conversations.context.simulate import Turn
from conversations.context.view import HistoryMessage
from conversations.llm.tokens import count_tokens
from conversations.text import clean_text

LARGEST_FILE = 200 * 1024 * 1024
MOST_MESSAGES = 20_000
#: Of several dialogues in a file, as many are read.
MOST_DIALOGUES = 20

_SPEAKERS = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
_SESSION = re.compile(r"session_(\d{1,6})")
_ASKED_LATER = 10**9  # numbers of questions begin here, those of messages at 1


class BadFile(ValueError):
    """A sentence for who named the file."""


@dataclass(frozen=True, kw_only=True)
class Said:
    id: str
    role: Literal["user", "assistant"]
    content: str
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    name: str
    system_prompt: str
    messages: tuple[Said, ...]
    questions: tuple[tuple[str, frozenset[str]], ...] = ()  #: each with the ids of what answers it

    def turns(self, model_id: str) -> list[Turn]:
        """With the tokens that its messages have for a model. An answer to nobody stands for a message by itself."""
        numbers = self._numbers
        turns: list[Turn] = []
        waiting: HistoryMessage | None = None
        for said in self.messages:
            message = HistoryMessage(
                id=numbers[said.id],
                role=said.role,
                content=said.content,
                tokens=count_tokens(said.content, model_id),
                created_at=said.at,
            )
            if said.role == "user":
                turns += [Turn(question=waiting)] if waiting else []
                waiting = message
            elif waiting:
                turns.append(Turn(question=waiting, answer=message))
                waiting = None
            else:
                turns.append(Turn(question=replace(message, role="user")))
        return turns + ([Turn(question=waiting)] if waiting else [])

    def asked(self, model_id: str) -> list[Turn]:
        """The labelled questions, each as a turn of its own."""
        numbers = self._numbers
        return [
            Turn(
                question=HistoryMessage(
                    id=UUID(int=_ASKED_LATER + number),
                    role="user",
                    content=text,
                    tokens=count_tokens(text, model_id),
                ),
                cites=tuple(sorted(numbers[pk] for pk in evidence)),
            )
            for number, (text, evidence) in enumerate(self.questions)
        ]

    @property
    def _numbers(self) -> dict[str, UUID]:
        return {said.id: UUID(int=number) for number, said in enumerate(self.messages, 1)}


def read_file(path: Path) -> list[Dialogue]:
    """The dialogues in a file. Raises BadFile with what is wrong with it."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadFile(f"{path} is larger than {LARGEST_FILE // 1024**2} MB.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise BadFile(f"{path} is not text in UTF-8.") from None
    found = [_dialogue(value, f"{path.stem} {n}") for n, value in enumerate(_values(text, path), 1)]
    dialogues = [dialogue for dialogue in found if len(dialogue.messages) > 1]
    if not dialogues:
        raise BadFile(f"{path} holds no conversation of two messages or more.")
    return dialogues[:MOST_DIALOGUES]


def _values(text: str, path: Path) -> list[Any]:
    """What stands for one dialogue each."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number may have too many digits
        if path.suffix != ".jsonl":
            where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise BadFile(f"{path} is not JSON{where}.") from None
        return _lines(text, path)
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return [value] if any("role" in one for one in value) else value
    return [value]


def _lines(text: str, path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                raise BadFile(f"{path} is not JSON, line {number}.") from None
    if rows and all(isinstance(row, dict) and "role" in row for row in rows):
        return [rows]
    return rows


def _dialogue(value: Any, name: str) -> Dialogue:
    if isinstance(value, Mapping) and isinstance(value.get("conversation"), Mapping) and "qa" in value:
        return _with_sessions(value, name)
    rows = value.get("messages") if isinstance(value, Mapping) else value
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise BadFile("There are no messages in it: a list of them, or an object with “messages”, is wanted.")
    if len(rows) > MOST_MESSAGES:
        raise BadFile(f"It has {len(rows):,} messages; at most {MOST_MESSAGES:,} are replayed.")
    about: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    prompts = [about.get("system_prompt", "")]
    messages = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) or not isinstance(row.get("role"), str):
            raise BadFile(f"Message {number} has no role.")
        content = row.get("content")
        if not isinstance(content, str):
            raise BadFile(f"Message {number} has no text.")
        if row["role"] in ("system", "developer"):
            prompts.append(content)
            continue
        role = _SPEAKERS.get(row["role"].lower())
        if role is None:
            raise BadFile(
                f"Message {number} is by “{_printable(row['role'])[:40]}”: neither user nor assistant."
            )
        messages.append(_said(row.get("id", number), role, content, row.get("created_at")))
    prompt = "\n\n".join(one for one in prompts if isinstance(one, str) and one.strip())
    title = about.get("title")
    return Dialogue(
        name=_printable(title)[:80] if isinstance(title, str) and title else name,
        system_prompt=clean_text(prompt).text,
        messages=_distinct(messages),
        questions=_questions(about.get("questions") or (), messages),
    )


def _with_sessions(value: Mapping[str, Any], name: str) -> Dialogue:
    """Two people over many sessions: LoCoMo's form. The first of them is the user."""
    talk = value["conversation"]
    sessions = sorted((int(match[1]), key) for key in talk if (match := _SESSION.fullmatch(key)))
    messages: list[Said] = []
    for _, key in sessions:
        for line in talk[key] if isinstance(talk[key], list) else ():
            if not isinstance(line, Mapping) or not isinstance(line.get("text"), str):
                raise BadFile(f"In “{key}” there is a line without a text.")
            role = "user" if line.get("speaker") == talk.get("speaker_a") else "assistant"
            messages.append(
                _said(line.get("dia_id", len(messages)), role, f"{line.get('speaker')}: {line['text']}", None)
            )
    asked = [
        {"text": one.get("question"), "evidence": one.get("evidence")}
        for one in (value["qa"] if isinstance(value["qa"], list) else ())
        if isinstance(one, Mapping)
    ]
    return Dialogue(
        name=_printable(str(value.get("sample_id", name)))[:80],
        system_prompt="",
        messages=_distinct(messages),
        questions=_questions(asked, messages),
    )


def _printable(text: str) -> str:
    """As a terminal may be given it, whatever a file holds."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _said(pk: Any, role: str, content: str, at: Any) -> Said:
    try:
        moment = datetime.fromisoformat(at) if isinstance(at, str) else None
        if moment is not None and moment.tzinfo is None:
            moment = moment.astimezone()
    except (ValueError, OverflowError):
        moment = None
    return Said(
        id=str(pk),
        role="user" if role == "user" else "assistant",
        content=clean_text(content).text,
        at=moment,
    )


def _distinct(messages: Sequence[Said]) -> tuple[Said, ...]:
    seen = {said.id for said in messages}
    if len(seen) < len(messages):
        raise BadFile("Two of its messages have the same id.")
    return tuple(said for said in messages if said.content.strip())


def _questions(rows: Any, messages: Sequence[Said]) -> tuple[tuple[str, frozenset[str]], ...]:
    """Those whose evidence is all there."""
    known = {said.id for said in messages if said.content.strip()}
    return tuple(
        (text, evidence)
        for row in (rows if isinstance(rows, Sequence) else ())
        if isinstance(row, Mapping) and isinstance(text := row.get("text"), str) and text.strip()
        if (evidence := frozenset(_named(row.get("evidence")))) and evidence <= known
    )


def _named(evidence: Any) -> Iterator[str]:
    for one in evidence if isinstance(evidence, list) else ():
        yield str(one)
