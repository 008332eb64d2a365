"""Replay a dialogue in a file under each strategy, and say what it would cost and keep. No model is called."""

from __future__ import annotations

import json
import statistics
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from conversations.catalog import ModelEntry, UnknownModel, load_catalog
from conversations.context.caching import rules_for
from conversations.context.policy import Policy
from conversations.context.presets import CHAT
from conversations.context.simulate import Request, bill, full_history, replay_and_ask
from conversations.cost_lab.files import BadFile, Dialogue, read_file
from conversations.cost_lab.lab import MOST_MODELS, PLANS
from conversations.cost_lab.recollection import Recollection
from conversations.llm.tokens import count_tokens
from conversations.money import dollars
from conversations.policies import policy_of

#: Asked of each dialogue at most, taken evenly from all.
MOST_QUESTIONS = 200
FULL_HISTORY = "Everything, always"


class Command(BaseCommand):
    help = "Replays a dialogue in a JSON file under each strategy and prints tokens, cache, cost and recall."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "file",
            type=Path,
            help="an exported conversation, a list of messages with role and content, or either with questions: "
            '{"messages": [{"id", "role", "content"}], "questions": [{"text", "evidence": [id]}]}',
        )
        parser.add_argument(
            "--model", action="append", default=[], help="a model id of the catalogue; may be repeated"
        )
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")

    def handle(self, *, file: Path, model: list[str], json: bool, **options: Any) -> None:
        try:
            dialogues = read_file(file)
            models = _models(model)
        except (BadFile, UnknownModel) as error:
            raise CommandError(str(error)) from None
        found = [_simulated(dialogue, models) for dialogue in dialogues]
        if json:
            self._print_json(found)
        else:
            for one in found:
                self._print_table(one, models)

    def _print_json(self, found: list[dict[str, Any]]) -> None:
        self.stdout.write(json.dumps(found, indent=2, ensure_ascii=False))

    def _print_table(self, found: dict[str, Any], models: Sequence[ModelEntry]) -> None:
        self.stdout.write(f"{found['name']}: {found['turns']:,} turns, {found['tokens']:,} tokens", ending="")
        self.stdout.write(f", {found['questions']:,} questions" if found["questions"] else "")
        has_recall = bool(found["questions"])
        head = ["strategy", "input tokens", "median", "most", "cached", *(one.label for one in models)]
        rows = [head + ["recall"] * has_recall]
        for one in found["strategies"]:
            cells = [
                one["name"],
                f"{one['input_tokens']:,}",
                f"{one['median_tokens']:,}",
                f"{one['most_tokens']:,}",
                f"{100 * one['cached_share']:.0f} %",
                *("does not fit" if cost is None else dollars(cost) for cost in one["cost"].values()),
            ]
            rows.append(cells + ([f"{100 * one['recall']:.1f} %"] if has_recall else []))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            self.stdout.write("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
        self.stdout.write("")


def _models(wanted: Sequence[str]) -> list[ModelEntry]:
    """Those that are named, or the first ones with a price; the first of all counts the tokens."""
    catalog = load_catalog()
    if wanted:
        found = [catalog.get(one) for one in wanted]
        for entry in found:
            if entry.price is None:
                raise BadFile(f"{entry.label} has no price.")
        return found
    priced = [entry for entry in catalog.entries if entry.price is not None]
    if not priced:
        raise BadFile("There is no model with a price. Add a provider, or a price for a model.")
    return priced[:MOST_MODELS]


def _simulated(dialogue: Dialogue, models: Sequence[ModelEntry]) -> dict[str, Any]:
    first = models[0]
    turns, asked = dialogue.turns(first.model_id), dialogue.asked(first.model_id)
    asked = asked[:: max(len(asked) // MOST_QUESTIONS, 1)][:MOST_QUESTIONS]
    rules = rules_for(first.model_id)
    replayed = partial(
        replay_and_ask,
        turns,
        asked,
        count_tokens=partial(count_tokens, model_id=first.model_id),
        system_prompt=dialogue.system_prompt,
        cache_lifetime=rules.lifetime if rules else None,
    )
    rows = []
    for plan in PLANS.values():
        policy = policy_of(first, plan.preset(CHAT))
        recall = Recollection(overhead=policy.message_overhead) if policy.recall_tokens else None
        requests, shares = replayed(policy=policy, recall=recall)
        rows.append(_row(plan.name, requests, shares, models, policy))
    system = count_tokens(dialogue.system_prompt, first.model_id)
    policy = policy_of(first, PLANS["full"].preset(CHAT))
    everything = full_history(turns, system_tokens=system, overhead=policy.message_overhead)
    rows.append(_row(FULL_HISTORY, everything, [1.0] * len(asked), models, policy))
    return {
        "name": dialogue.name,
        "turns": len(turns),
        "tokens": sum(one.question.tokens + (one.answer.tokens if one.answer else 0) for one in turns),
        "questions": len(asked),
        "counted_for": first.id,
        "strategies": rows,
    }


def _row(
    name: str,
    requests: Sequence[Request],
    shares: Sequence[float],
    models: Sequence[ModelEntry],
    policy: Policy,
) -> dict[str, Any]:
    """Costs in nano-USD by model id, summaries included; None where a request does not fit into the window."""
    billed = [bill(requests, price=entry.known_price(), rules=rules_for(entry.model_id)) for entry in models]
    first = billed[0]
    return {
        "name": name,
        "input_tokens": first.input_tokens,
        "median_tokens": first.median_tokens,
        "most_tokens": first.most_tokens,
        "cached_share": round(first.cache_share, 4),
        "cost": {
            entry.id: one.cost if one.most_tokens + policy.reply_tokens <= entry.context_window else None
            for entry, one in zip(models, billed, strict=True)
        },
        "recall": round(statistics.fmean(shares), 4) if shares else None,
    }
