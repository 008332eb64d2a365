"""Named bundles of prompt, strategy and numbers: what people choose from, and where their own ones begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .allocate import reply_share
from .policy import KEYWORDS, MESSAGE_OVERHEAD, Policy, Strategy, budget_of, policy_for

#: In place of a model id: the cheapest one that is there.
CHEAPEST = "cheapest"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How a conversation begins and what its model is shown. A value out of range raises ValueError with a sentence."""

    slug: str
    name: str
    description: str = ""
    system_prompt: str = ""
    model: str = ""  #: a model id, CHEAPEST, or nothing for what the person has chosen
    temperature: float = 0.7
    reply_tokens: int = 2_048  #: at most
    strategy: Strategy = Strategy.ADAPTIVE
    token_budget: int | None = None  #: request and reply together; None: as the strategy has it
    high_water: int = 16_000  #: of `adaptive`
    cut_to_percent: int = 25  #: of the high-water mark
    recall_tokens: int | None = None  #: for each new message; None: as the strategy has it
    uses_summary: bool | None = None  #: None: as the strategy has it
    uses_memory: bool | None = None
    last_turns: int = 8
    newest_messages: int = 10
    latest_decisions: int = 5
    keywords: tuple[str, ...] = KEYWORDS
    soft_mark: float = 0.75
    fold_at_least: int = 6
    summary_tokens: int = 400
    on_stream_failure: Literal["keep", "discard"] = "keep"
    on_overflow: Literal["cut", "refuse"] = "cut"

    def __post_init__(self) -> None:
        for fault in faults_of(vars(self)).values():
            raise ValueError(fault)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preset:
        """A stored preset. Raises ValueError with a sentence for a value that is not known any more."""
        if unknown := sorted(set(data) - FIELDS):
            raise ValueError(f"A preset has no {', '.join(unknown)}.")
        values = dict(data)
        # What is none of these stays as it is, to be refused with its sentence.
        if values.get("strategy") in list(Strategy):
            values["strategy"] = Strategy(values["strategy"])
        if isinstance(values.get("keywords"), list):
            values["keywords"] = tuple(values["keywords"])
        return cls(**values)

    @classmethod
    def stored(cls, data: Any) -> Preset:
        """What a conversation keeps, as far as it can be read; the default preset where it keeps nothing."""
        if not isinstance(data, Mapping) or not data:
            return CHAT
        known = {name: value for name, value in data.items() if name in FIELDS}
        faulty = faults_of(known)
        return cls.from_json(
            {"slug": CHAT.slug, "name": CHAT.name}
            | {name: value for name, value in known.items() if name not in faulty}
        )

    @property
    def recalls(self) -> bool:
        """Whether what a request leaves out is searched for what may help with its question."""
        return bool(self.strategy is Strategy.ADAPTIVE if self.recall_tokens is None else self.recall_tokens)

    def policy(
        self,
        *,
        window: int,
        max_output: int,
        model: str = "",
        high_water: int | None = None,
        message_overhead: int = MESSAGE_OVERHEAD,
    ) -> Policy:
        """The numbers for a model with this window; `high_water` lowers the mark for a model that reads slowly."""
        chosen = {
            name: value
            for name in ("recall_tokens", "uses_summary", "uses_memory")
            if (value := getattr(self, name)) is not None
        }
        budget = budget_of(self.strategy, window=window, token_budget=self.token_budget)
        return policy_for(
            window=window,
            reply_tokens=reply_share(wanted=min(self.reply_tokens, max_output), budget=budget),
            high_water=min(self.high_water, high_water or self.high_water),
            strategy=self.strategy,
            token_budget=self.token_budget,
            cut_to_percent=self.cut_to_percent,
            model=model,
            message_overhead=message_overhead,
            last_turns=self.last_turns,
            newest_messages=self.newest_messages,
            latest_decisions=self.latest_decisions,
            keywords=self.keywords,
            soft_mark=self.soft_mark,
            fold_at_least=self.fold_at_least,
            summary_tokens=self.summary_tokens,
            refuses_overflow=self.on_overflow == "refuse",
            **chosen,
        )


#: The names of all values of a preset.
FIELDS = frozenset(field.name for field in fields(Preset))


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a number may be, both ends included."""

    least: float
    most: float
    is_whole: bool = True
    may_be_empty: bool = False

    def holds(self, value: object) -> bool:
        if value is None:
            return self.may_be_empty
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        return self.least <= value <= self.most


RANGES = {
    "temperature": Range(least=0.0, most=2.0, is_whole=False),
    "reply_tokens": Range(least=16, most=1_000_000),
    "token_budget": Range(least=500, most=10_000_000, may_be_empty=True),
    "high_water": Range(least=500, most=1_000_000),
    "cut_to_percent": Range(least=10, most=75),
    "recall_tokens": Range(least=0, most=100_000, may_be_empty=True),
    "last_turns": Range(least=1, most=1_000),
    "newest_messages": Range(least=1, most=1_000),
    "latest_decisions": Range(least=0, most=100),
    "soft_mark": Range(least=0.5, most=0.95, is_whole=False),
    "fold_at_least": Range(least=2, most=100),
    "summary_tokens": Range(least=50, most=4_000),
}

#: Characters.
LENGTHS = {"slug": 36, "name": 60, "description": 200, "system_prompt": 100_000, "model": 200}
MOST_KEYWORDS, LONGEST_KEYWORD = 50, 60


def faults_of(values: Mapping[str, Any]) -> dict[str, str]:
    """What cannot be among the values of a preset, each with a sentence. Other names are passed over."""
    found = {}
    for name, value in values.items():
        if fault := _fault(name, value):
            found[name] = fault
    return found


def _fault(name: str, value: Any) -> str | None:
    label = _label(name)
    if bounds := RANGES.get(name):
        whole = "a whole number " if bounds.is_whole and isinstance(value, float) else ""
        return (
            None
            if bounds.holds(value)
            else f"{label} is {whole}between {bounds.least:,} and {bounds.most:,}."
        )
    if longest := LENGTHS.get(name):
        if not isinstance(value, str):
            return f"{label} is a text."
        return None if len(value) <= longest else f"{label} has at most {longest:,} characters."
    match name:
        case "strategy":
            return None if value in list(Strategy) else f"The strategy is one of {', '.join(Strategy)}."
        case "uses_summary" | "uses_memory":
            return None if value is None or isinstance(value, bool) else f"{label} is true, false or null."
        case "on_stream_failure":
            return None if value in ("keep", "discard") else "A failed stream is kept or discarded."
        case "on_overflow":
            return None if value in ("cut", "refuse") else "An overflow is cut or refused."
        case "keywords":
            is_list = isinstance(value, list | tuple) and len(value) <= MOST_KEYWORDS
            if is_list and all(isinstance(word, str) and 0 < len(word) <= LONGEST_KEYWORD for word in value):
                return None
            return (
                f"Keywords are at most {MOST_KEYWORDS} words, each at most {LONGEST_KEYWORD} characters long."
            )
    return None


#: What a value is called where it is more than its name.
LABELS = {
    "reply_tokens": "The reply length",
    "high_water": "The high-water mark",
    "cut_to_percent": "The percentage that a cut leaves",
    "recall_tokens": "The recall",
    "last_turns": "The number of last turns",
    "newest_messages": "The number of newest messages",
    "latest_decisions": "The number of decisions",
    "fold_at_least": "The number of messages that a summary folds",
    "summary_tokens": "The summary length",
    "uses_summary": "The use of summaries",
    "uses_memory": "The use of memory",
}


def _label(name: str) -> str:
    return LABELS.get(name) or "The " + name.replace("_", " ")


CHAT = Preset(slug="chat", name="Chat", description="The default: remembers, at a small price")

PRESETS: dict[str, Preset] = {
    preset.slug: preset
    for preset in (
        CHAT,
        Preset(
            slug="support",
            name="Customer support",
            description="Short, polite, asks before it assumes",
            system_prompt=(
                "You help customers. Answer politely and in a few sentences. Ask when something is not clear, "
                "before you assume it. Promise nothing that you were not told. If you cannot help, say who can."
            ),
            strategy=Strategy.SLIDING_WINDOW,
            temperature=0.3,
            reply_tokens=1_024,
        ),
        Preset(
            slug="code",
            name="Code assistant",
            description="Runnable code, versions named, rollback shown",
            system_prompt=(
                "You help with code and operations. Give commands that run as written. Name versions. After every "
                "change say how to undo it. If you are not sure, say so and say what would settle it."
            ),
            strategy=Strategy.MEMORY,
            uses_summary=True,
            temperature=0.2,
            reply_tokens=4_096,
        ),
        Preset(
            slug="creative",
            name="Creative writing",
            description="Voice first, higher temperature",
            system_prompt=(
                "You write with the person, not for them. Keep to the voice, names and facts of the text so far. "
                "Show rather than explain, and leave out remarks about the text unless you are asked for them."
            ),
            strategy=Strategy.FULL,
            token_budget=48_000,
            cut_to_percent=50,
            temperature=1.0,
            reply_tokens=4_096,
        ),
        Preset(
            slug="knowledge",
            name="Knowledge base",
            description="Answers from your documents, with the source",
            system_prompt=(
                "You answer from what you were given in this conversation. Say where each answer comes from. If it is "
                "not there, say that it is not there, and do not fill the gap."
            ),
            strategy=Strategy.ADAPTIVE,
            recall_tokens=2_000,
            temperature=0.2,
        ),
        Preset(
            slug="agents",
            name="Agents",
            description="Everything is sent, and each step can be replayed",
            strategy=Strategy.FULL,
            cut_to_percent=50,
            temperature=0.0,
            reply_tokens=4_096,
        ),
        Preset(
            slug="economy",
            name="Economy",
            description="The cheapest model and a small context",
            model=CHEAPEST,
            strategy=Strategy.ADAPTIVE,
            high_water=4_000,
            recall_tokens=500,
            reply_tokens=1_024,
        ),
    )
}
