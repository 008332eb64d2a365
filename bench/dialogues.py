"""Long dialogues with questions whose evidence is known: LoCoMo and BEAM as they are published, or generated ones.

LoCoMo is `locomo10.json` of snap-research/locomo: a list of samples, each with `conversation` (`speaker_a`, `session_1`
and so on, lists of turns with `dia_id`, `speaker`, `text`, perhaps `blip_caption`) and `qa` (`question`, `evidence` as
a list of such ids). BEAM is either the folders of its repository (`chats/100K/1/chat.json` beside
`probing_questions/probing_questions.json`) or its rows on Hugging Face as JSON (`chat`, `probing_questions`): messages
with `id`, `role`, `content` at any depth, questions by ability with `source_chat_ids`, numbers at any depth.
"""

from __future__ import annotations

import ast
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_TURN = re.compile(r"D\d+:\d+")


@dataclass(frozen=True, kw_only=True)
class Turn:
    id: str
    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Question:
    text: str
    evidence: frozenset[str]  #: ids of the turns that hold the answer
    is_answerable: bool = True  #: False: what it asks for was never said


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    set: str  #: "locomo", "beam" or "generated"
    name: str
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]


def read(folder: Path) -> list[Dialogue]:
    """All dialogues below a folder. What is neither LoCoMo nor BEAM is passed over."""
    found: list[Dialogue] = []
    for path in sorted(folder.rglob("*.json*")):
        if path.name == "chat.json":
            asked = path.parent / "probing_questions" / "probing_questions.json"
            if asked.is_file():
                found.append(_beam(str(path.parent.relative_to(folder)), _json(path), _json(asked)))
            continue
        for number, row in enumerate(_rows(path)):
            if isinstance(row, dict) and {"conversation", "qa"} <= row.keys():
                found.append(_locomo(str(row.get("sample_id", number)), row))
            elif isinstance(row, dict) and {"chat", "probing_questions"} <= row.keys():
                name = f"{path.stem}/{row.get('conversation_id', number)}"
                found.append(_beam(name, _literal(row["chat"]), _literal(row["probing_questions"])))
    return [dialogue for dialogue in found if dialogue.questions]


def _locomo(name: str, row: dict[str, Any]) -> Dialogue:
    conversation = row["conversation"]
    sessions = sorted(
        (key for key in conversation if re.fullmatch(r"session_\d+", key)),
        key=lambda key: int(key.split("_")[1]),
    )
    turns = []
    for turn in (turn for session in sessions for turn in conversation[session]):
        caption = f" [shows {turn['blip_caption']}]" if turn.get("blip_caption") else ""
        role = "user" if turn["speaker"] == conversation["speaker_a"] else "assistant"
        content = f"{turn['speaker']}: {turn['text']}{caption}"
        turns.append(Turn(id=turn["dia_id"], role=role, content=content))
    asked = [(str(qa["question"]), _TURN.findall(" ".join(qa.get("evidence") or []))) for qa in row["qa"]]
    dialogue = _dialogue("locomo", name, turns, asked)
    never_said = {str(qa["question"]) for qa in row["qa"] if qa.get("category") == 5}
    questions = (replace(one, is_answerable=one.text not in never_said) for one in dialogue.questions)
    return replace(dialogue, questions=tuple(questions))


def _beam(name: str, chat: Any, probing: Any) -> Dialogue:
    turns = [Turn(id=str(m["id"]), role=m["role"], content=m["content"]) for m in _messages(chat)]
    # An id that stands for several messages says nothing.
    seen = Counter(turn.id for turn in turns)
    asked = []
    for question in (question for questions in probing.values() for question in questions):
        ids = [str(number) for number in _numbers(question.get("source_chat_ids"))]
        if all(seen[number] == 1 for number in ids):
            asked.append((str(question["question"]), ids))
    return _dialogue("beam", name, turns, asked)


def _dialogue(kind: str, name: str, turns: list[Turn], asked: list[tuple[str, list[str]]]) -> Dialogue:
    known = {turn.id for turn in turns}
    questions = tuple(
        Question(text=text, evidence=frozenset(ids)) for text, ids in asked if ids and known.issuperset(ids)
    )
    return Dialogue(set=kind, name=name, turns=tuple(turns), questions=questions)


def _messages(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and {"id", "role", "content"} <= value.keys():
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _messages(child)


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _numbers(child)


def _rows(path: Path) -> list[Any]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = _json(path)
    return found if isinstance(found, list) else [found]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _literal(value: Any) -> Any:
    """BEAM's rows hold some columns as the text of a Python value."""
    return ast.literal_eval(value) if isinstance(value, str) else value


# --- Generated ------------------------------------------------------------------------------------------------

#: What generated dialogues are made of. A fact is said once and asked for much later, mostly in other words.
SENTENCES: dict[str, Any] = json.loads((Path(__file__).parent / "sentences.json").read_text(encoding="utf-8"))


def generate(*, dialogues: int = 4, messages: int = 1_200, seed: int = 5) -> list[Dialogue]:
    """The same dialogues for the same seed. They show that something has changed, not how good it is."""
    source = random.Random(seed)
    return [generate_one(source, f"{seed}/{number}", messages) for number in range(dialogues)]


def generate_one(source: random.Random, name: str, messages: int) -> Dialogue:
    pairs = [
        (a, b, fact) for a in SENTENCES["names"] for b in SENTENCES["places"] for fact in SENTENCES["facts"]
    ]
    facts = source.sample(pairs, max(messages // 12, 1))
    at = dict(zip(source.sample(range(messages), len(facts)), facts, strict=True))
    turns = []
    # A question that two facts answer has both as its evidence.
    told: dict[str, list[str]] = {}
    for number in range(messages):
        if number % 2:
            content = " ".join(
                _filled(source, line)
                for line in source.choices(SENTENCES["answered"], k=source.randint(2, 9))
            )
        else:
            content = _filled(source, source.choice(SENTENCES["asked"]))
        if number in at:
            a, b, fact = at[number]
            lines = content.split(". ")
            lines.insert(
                source.randrange(len(lines)), fact["said"].format(a=a, b=b, n=source.randint(3, 28))[:-1]
            )
            content = ". ".join(lines)
            for question in (fact["asked"].format(a=a, b=b), fact["asked_of_all"]):
                told.setdefault(question, []).append(str(number))
        turns.append(Turn(id=str(number), role="assistant" if number % 2 else "user", content=content))
    return _dialogue("generated", name, turns, list(told.items()))


def _filled(source: random.Random, line: str) -> str:
    return line.format(
        name=source.choice(SENTENCES["names"]),
        place=source.choice(SENTENCES["places"]),
        thing=source.choice(SENTENCES["things"]),
        topic=source.choice(SENTENCES["topics"]),
        n=source.randint(2, 40),
    )
