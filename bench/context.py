"""What recall finds, what requests cost, how long they take to build, through PostgreSQL: `python -m bench.context`.

Writes bench/results/context.json. Reads LoCoMo and BEAM from the folder that is named, else from
../shared/data/dialogues when it is there. Generated dialogues are measured beside them: those show that something has
changed, and only the published ones how good it is. Calls no model.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

from bench.bills import bills
from bench.dialogues import Dialogue, generate, read
from chatapp.embedded import folder, paths
from chatapp.embedded.postgres import Postgres
from conversations.context.plan import ContextPlan
from conversations.llm.tokens import count_tokens

DIALOGUES = paths.PROJECT.parent / "shared" / "data" / "dialogues"
RESULTS = Path(__file__).parent / "results" / "context.json"
ROOMS = (1_000, 2_000, 4_000, 8_000)
SIZES = (100, 1_000, 10_000)
#: What each set must have at least, with and without embeddings, by `ROOMS`.
LIMITS = {
    "locomo": {"product": (81, 87, 91, 95), "without embeddings": (79, 85, 90, 94)},
    "beam": {"product": (65, 71, 78, 86), "without embeddings": (60, 68, 74, 81)},
}
#: Milliseconds at the 95th percentile for the longest conversation, and how many more than for the shortest.
REQUEST_MS, GROWTH_MS = 15, 10
#: Questions that are asked of each long chat whose bill is measured.
ASKED = 100
TICKS = os.sysconf("SC_CLK_TCK")
COUNTED_AS = "gpt-4o"
QUESTION = "And what was it that we said about contract {n} with {name}, back in {place}?"


@contextmanager
def database() -> Iterator[None]:
    """An empty PostgreSQL of its own, and Django set up on it."""
    data = paths.PROJECT / ".cache" / "bench" / str(os.getpid())
    with ExitStack() as tidy:
        folder.make_data_dir(data)
        tidy.callback(shutil.rmtree, data, ignore_errors=True)
        tidy.enter_context(folder.locked(data))
        tidy.callback(shutil.rmtree, paths.make_runtime_dir(data), ignore_errors=True)
        postgres = Postgres(data)
        tidy.callback(postgres.stop)
        postgres.start()
        postgres.wait_ready()
        for name in ("DATABASE_URL", "DATABASE_URL_FILE"):
            os.environ.pop(name, None)
        os.environ |= {
            "DATA_DIR": str(data),
            "DJANGO_SETTINGS_MODULE": "chatapp.settings",
            "SECRET_KEY": "only for benchmarks",
        }
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0"], check=True, cwd=paths.PROJECT
        )
        import django

        django.setup()
        yield


class Story:
    """A dialogue as a conversation of the product, with a last message that asks."""

    def __init__(self, dialogue: Dialogue) -> None:
        from conversations.models import Conversation, Message, User

        self.dialogue = dialogue
        owner, _ = User.objects.get_or_create(email="bench@example.org", defaults={"password": "!"})
        self.conversation = Conversation.objects.create(user=owner, model="bench/model")
        self.ids: dict[Any, str] = {}
        parent: Message | None = None
        for turn in dialogue.turns:
            parent = Message.objects.create(
                conversation=self.conversation,
                parent=parent,
                role=turn.role,
                content=turn.content,
                token_count=count_tokens(turn.content, COUNTED_AS),
            )
            self.ids[parent.pk] = turn.id
        self.leaf = Message.objects.create(
            conversation=self.conversation, parent=parent, role="user", content="?", token_count=1
        )
        self.leaf.refresh_from_db()

    def embed(self) -> Story:
        """Make the vectors of its messages, as a worker does."""
        from conversations.meanings import embed_all

        embed_all()
        return self

    async def recalled(self, pool: Any, question: str, room: int) -> set[str]:
        from conversations.retrieval import recall

        found = await recall(
            pool, conversation_id=self.conversation.pk, leaf_id=self.leaf.pk, question=question, room=room
        )
        # A message that alone is more than the room comes back to be cut: not whole, it is no evidence.
        whole = [one.message for one in found if one.message.tokens <= room]
        assert sum(message.tokens for message in whole) <= room
        return {self.ids[message.id] for message in whole}


def variants() -> dict[str, Any]:
    """Names of what is measured, and what is different in it."""
    from conversations import retrieval

    without = mock.patch.object(retrieval, "embed_aside", return_value=None)
    exact = mock.patch.multiple(retrieval, RAREST_WORDS=1_000_000, POSTINGS=1_000_000_000)
    return {"product": ExitStack(), "without embeddings": without, "every word, every posting": exact}


async def evidence(stories: list[Story]) -> dict[str, Any]:
    """Percent of the labelled evidence that is among what is recalled, and of the questions that have all of theirs.

    Evidence of a question is the turns that answer it; it counts where the whole turn is in what was packed. Averaged
    over questions. "answerable" leaves out those that ask for what was never said, which LoCoMo calls category 5.
    """
    from conversations.database import make_pool

    pool = make_pool(1)
    await pool.open()
    figures: dict[str, Any] = {}
    for name, variant in variants().items():
        with variant:
            for room in ROOMS:
                shares: list[tuple[float, bool]] = []
                for story in stories:
                    for question in story.dialogue.questions:
                        found = await story.recalled(pool, question.text, room)
                        share = len(found & question.evidence) / len(question.evidence)
                        shares.append((share, question.is_answerable))
                figures.setdefault(name, {})[str(room)] = {
                    "evidence": percent(statistics.fmean(share for share, _ in shares)),
                    "whole": percent(statistics.fmean(share == 1 for share, _ in shares)),
                    "answerable": percent(statistics.fmean(share for share, is_one in shares if is_one)),
                }
    await pool.close()
    return {
        "dialogues": len(stories),
        "messages": sum(len(story.dialogue.turns) for story in stories),
        "questions": sum(len(story.dialogue.questions) for story in stories),
        "limit": LIMITS.get(stories[0].dialogue.set),
        "recall": figures,
    }


class Turn:
    """The request for a story's last message, built as a reply does: claim, recall, plan."""

    def __init__(self, story: Story) -> None:
        from conversations.catalog import ModelEntry
        from conversations.models import Reply

        self.story = story
        self.entry = ModelEntry(
            id="bench/model",
            provider="bench",
            provider_label="Bench",
            model_id=COUNTED_AS,
            label="model",
            dialect="openai",
            context_window=128_000,
            max_output=16_384,
            is_free=True,
        )
        conversation = story.conversation
        conversation.system_prompt = "You are a helpful assistant."
        conversation.save(update_fields=["system_prompt"])
        before = [pk for pk, turn in story.ids.items() if int(turn) % 2 == 0][-1]
        self.before, self.reply = (
            Reply.objects.create(
                user=conversation.user,
                conversation=conversation,
                question_id=question,
                model=self.entry.id,
                max_tokens=2_048,
                idempotency_key=uuid4(),
                state="complete",
            )
            for question in (before, story.leaf.pk)
        )

    async def begin(self, pool: Any) -> None:
        """Build the request of the turn before, which cuts the transcript; the others extend it."""
        await self.queue(pool, self.before)
        plan = await self.build(pool, QUESTION, reply=self.before)
        async with pool.connection() as connection:
            await connection.execute("UPDATE replies SET state = 'complete' WHERE id = %s", [self.before.pk])
            await connection.execute(
                "UPDATE conversations SET cut = %s, cut_at = now() WHERE id = %s",
                [json.dumps(plan.cut.to_json()), self.story.conversation.pk],
            )

    async def queue(self, pool: Any, reply: Any = None) -> None:
        """Let the reply be claimed once more."""
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE replies SET state = 'queued' WHERE id = %s", [(reply or self.reply).pk]
            )

    async def build(self, pool: Any, question: str, reply: Any = None, kept: Any = None) -> ContextPlan:
        from conversations.replies.context import Requests
        from conversations.replies.store import ReplyStore

        claimed = await ReplyStore(pool).claim((reply or self.reply).pk, "bench")
        assert claimed is not None
        claim, known = claimed
        *before, last = known.history
        asked = last._replace(content=question, tokens=count_tokens(question, COUNTED_AS))
        known = replace(known, history=[*before, asked])
        return await Requests(claim, known, pool, kept).plan(self.entry)


async def times(rounds: int) -> dict[str, Any]:
    """Milliseconds of building a request, and of the recalling in it: conversations of all sizes in turn, in one run.

    "first_request" is the first that a process builds for a conversation, "request" each one after it, when the process
    has what it keeps of a long conversation; "recall" is the recalling of a first one.

    Wall time says what a person waits on this machine as it is now; CPU what it would be on an idle one.
    """
    from asgiref.sync import sync_to_async

    from conversations.database import make_pool
    from conversations.kept_places import KeptPlaces

    pool = make_pool(1)
    await pool.open()
    kept = KeptPlaces(pool, later=0)
    async with pool.connection() as connection:
        backend = connection.info.backend_pid
    turns: dict[int, Turn] = {}
    for size in SIZES:
        (dialogue,) = generate(dialogues=1, messages=size, seed=size)
        story = await sync_to_async(Story)(dialogue)
        turns[size] = await sync_to_async(Turn)(await sync_to_async(story.embed)())
        await turns[size].begin(pool)
    async with pool.connection() as connection:
        await connection.execute("VACUUM ANALYZE")  # as autovacuum leaves what was not written just now
    spent = {part: {size: Spent() for size in SIZES} for part in ("first_request", "request", "recall")}
    for number in range(rounds + 5):
        question = QUESTION.format(n=number, name=("Anna", "Hiro", "Nadia")[number % 3], place="Porto")
        for size, turn in turns.items():
            # The first ones read the tables and prepare the statements.
            is_counted = number >= 5
            nothing = KeptPlaces(pool, later=60)
            for part, places in {"first_request": nothing, "request": kept}.items():
                await turn.queue(pool)
                with spent[part][size].of(backend, is_counted):
                    await turn.build(pool, question, kept=places)
            await nothing.close()
            await kept.filled()
            with spent["recall"][size].of(backend, is_counted):
                await turn.story.recalled(pool, question, 1_000)
    await pool.close()
    return {part: {str(size): one.figures() for size, one in sizes.items()} for part, sizes in spent.items()}


@dataclass
class Spent:
    wall: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @contextmanager
    def of(self, backend: int, is_counted: bool) -> Iterator[None]:
        began, used = time.perf_counter(), cpu_of(backend)
        yield
        if is_counted:
            self.wall.append((time.perf_counter() - began) * 1000)
            self.cpu += cpu_of(backend) - used

    def figures(self) -> dict[str, float]:
        return {
            "p50_ms": round(statistics.median(self.wall), 1),
            "p95_ms": round(statistics.quantiles(self.wall, n=20)[18], 1),
            "cpu_ms": round(self.cpu / len(self.wall) * 1000, 1),
        }


def print_building(found: dict[str, Any]) -> None:
    """The request's time against its limits, of the first turn and of those after it."""
    least, *_, most = map(str, SIZES)
    for part, name in {"first_request": "first turn of a process", "request": "turns after it"}.items():
        for size, figures in found[part].items():
            print(f"request of {size} messages, {name}: {json.dumps(figures)}")
        p95 = {size: found[part][size]["p95_ms"] for size in (least, most)}
        growth = p95[most] - p95[least]
        met = "met" if p95[most] <= REQUEST_MS and growth <= GROWTH_MS else "NOT MET"
        print(
            f"{name}: p95 at {most} {p95[most]:g} ms (limit {REQUEST_MS}), {growth:.1f} more than at {least}"
            f" (limit {GROWTH_MS}): {met}",
            flush=True,
        )


def cpu_of(backend: int) -> float:
    """Seconds of CPU so far: this process and the PostgreSQL backend that works for it."""
    fields = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + sum(map(int, fields[11:13])) / TICKS


def writing(messages: int = 400) -> dict[str, float]:
    """Milliseconds of CPU of a message, PostgreSQL's included: keeping its line and its words, and its vector."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()[0]
        used = {}
        for name, state in {"bare": "DISABLE", "kept": "ENABLE"}.items():
            for trigger in ("message_path", "message_place"):
                cursor.execute(f"ALTER TABLE messages {state} TRIGGER {trigger}")
            dialogue = generate(dialogues=1, messages=messages, seed=3)[0]
            began = cpu_of(backend)
            story = Story(dialogue)
            used[name] = (cpu_of(backend) - began) / messages * 1000
        began = cpu_of(backend)
        story.embed()
        vectors = (cpu_of(backend) - began) / messages * 1000
    words = statistics.fmean(len(turn.content.split()) for turn in dialogue.turns)
    more = round(used["kept"] - used["bare"], 2)
    return {"words_per_message": round(words), "more_cpu_ms": more, "vector_cpu_ms": round(vectors, 2)}


def percent(share: float) -> float:
    return round(100 * share, 1)


def read_all(folder: Path | None, *, quick: bool) -> tuple[list[Dialogue], dict[str, str]]:
    """What is published, generated ones beside it, and the SHA-256 of the files that were read."""
    generated = generate(dialogues=1 if quick else 4)
    if folder is None or not folder.is_dir():
        print("There are no published dialogues here: generated ones are measured.", flush=True)
        return generated, {}
    files = [path for path in sorted(folder.rglob("*.json*")) if path.is_file()]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files[:50]}
    return [*read(folder), *generated], digests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer dialogues and rounds, in about a minute")
    parser.add_argument("dialogues", nargs="?", type=Path, default=DIALOGUES, help="a folder")
    arguments = parser.parse_args()
    dialogues, digests = read_all(arguments.dialogues, quick=arguments.quick)
    with database():
        from conversations.llm.embeddings import warm_up

        figures: dict[str, Any] = {
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 2),
            "has_embeddings": warm_up(),
            "sources": digests,
            "writing": writing(),
            "building": asyncio.run(times(20 if arguments.quick else 200)),
            "sets": {},
        }
        print_building(figures["building"])
        for kind in sorted({dialogue.set for dialogue in dialogues}):
            chosen = [dialogue for dialogue in dialogues if dialogue.set == kind]
            stories = [Story(dialogue).embed() for dialogue in chosen]
            found = asyncio.run(evidence(stories))
            print(f"{kind}: {json.dumps(found['recall'])}", flush=True)
            found["bill"] = bills(chosen[:1] if arguments.quick else chosen, ASKED)
            figures["sets"][kind] = found
    text = json.dumps(figures, indent=2)
    print(text)
    if not arguments.quick:
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
