"""`docs/reliability.md`, with the figures of a run and nothing typed by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from conversations.money import dollars

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"

PLACES = {
    "web: before_hold": "web process, before the hold of a send",
    "web: after_hold": "web process, after that hold, before its commit",
    "web: before_commit": "web process, before a message is committed",
    "web: after_commit": "web process, after the commit, before the reply is started",
    "web: between_claim_and_plan": "web process, between claiming a reply and planning what the model sees",
    "web: after_request_sent": "web process, after the request went to the provider",
    "web: before_first_delta": "web process, before the first text is written",
    "web: mid_stream": "web process, in the middle of the text",
    "web: between_checkpoints": "web process, between two checkpoints",
    "web: before_finish": "web process, before the end is committed",
    "web: in_finish": "web process, while the database writes the end",
    "web: between_finish_and_publish": "web process, between that commit and its announcement",
    "web: in_recovery": "web process, while it ends the reply of a dead one",
    "web: in_drain": "web process, told to stop, while it drains",
    "web: from outside": "web process, anywhere",
    "worker": "Celery worker, anywhere",
    "beat": "Celery beat, anywhere",
    "valkey": "Valkey",
    "postgres": "PostgreSQL, the whole server",
    "a session of postgres": "PostgreSQL, one session (which ends all of them)",
    "provider": "the model provider",
}


def summary(found: dict[str, Any]) -> str:
    verdict = found["verdict"]
    lines = [
        f"{found['total']} processes killed; {verdict['acknowledged']} messages, {verdict['views']} views."
    ]
    lines += [f"  {verdict[name]:>6} {says}" for name, says, _ in promises()]
    money = found["money"]
    lines.append(
        f"  money: {money['looks']} looks, {money['budgets']} budgets, holds {counted(money['holds'])}"
    )
    lines += [f"  {money[name]:>6} {says}" for name, says, _ in promises_of_money()]
    lines += [f"  broken: {line}" for line in verdict["broken"][:40]]
    return "\n".join(lines)


def promises() -> list[tuple[str, str, str]]:
    """The name of a figure that must be 0, what it counts, and the promise that it would break."""
    return [
        ("messages_lost", "messages answered with success that are not in the database", "P1"),
        ("messages_twice", "messages that are there twice, whatever was sent again", "P1"),
        ("seen_and_lost", "texts of which a viewer saw more than is stored, while Valkey lived", "P1"),
        ("replies_unfinished", "replies without an end", "P4"),
        ("answers_twice", "replies with two answers", "P4"),
        ("second_calls", "calls of the provider beyond one for each attempt", "P4"),
        ("views_wrong", "views with a gap, a repeat or another text than the stored one", "P5"),
        ("views_without_end", "views that never came to an end", "P5"),
    ]


def promises_of_money() -> list[tuple[str, str, str]]:
    """The same for the figures of `bench.chaos.money`."""
    return [
        ("over_limit", "looks at the budgets that found more spent and held than the limit", "P2"),
        ("calls_unpaid", "calls of the provider without a hold that was committed before", "P2"),
        ("underestimates", "calls that cost more than was held for them", "P2"),
        ("holds_open", "holds that nobody resolved", "P3"),
        ("holds_twice", "resolved holds with more or less than one line in the ledger", "P3"),
        ("drift", "budgets that are not the sum of their ledger and their open holds", "P3"),
        ("calls_uncharged", "calls that reached the provider and were charged nothing", "P3"),
        ("wrong_charges", "calls with reported usage that were not charged its price", "P3"),
    ]


def write(found: dict[str, Any]) -> None:
    PAGE.write_text(page(found), encoding="utf-8")


def page(found: dict[str, Any]) -> str:
    verdict, rounds, money = found["verdict"], found["rounds"], found["money"]
    scenes = {scene["name"]: scene for scene in found["scenarios"]}
    parts = [
        "# Reliability",
        "`make chaos` wrote this page; nothing in it was typed by hand. It runs the whole product as real processes "
        f"({found['webs']} web processes, two Celery workers, beat, PostgreSQL, Valkey, a provider that writes down "
        "every call) while people send messages and watch the replies, and kills all of it by SIGKILL, again and "
        "again: web processes at named places in the life of a reply, and everything anywhere. A client whose "
        "connection breaks sends again with the same key and watches again at another process, as a browser does. "
        "Afterwards three witnesses are compared: what people saw, what the provider was asked, what the database "
        "holds.",
        "## What was broken",
        table(
            ["promise", "counted", "found"],
            [[promise, says, str(verdict[name])] for name, says, promise in promises()]
            + [[promise, says, str(money[name])] for name, says, promise in promises_of_money()],
        ),
        f"{found['total']} processes were killed. {verdict['sends']} messages were sent, {verdict['acknowledged']} "
        f"answered with success, {verdict['given_up']} given up by their sender after one lost connection. "
        f"{verdict['calls']} calls reached the provider; {verdict['views']} views were followed over "
        f"{verdict['connections']} connections and compared with the known text at every event.",
        f"Every model cost money: $2 and $8 per million tokens. {sum(money['holds'].values())} holds were made and "
        f"ended ({counted(money['holds'])}), {dollars(money['charged'])} were charged in {money['budgets']} budgets. "
        f"A sampler looked at all budgets {money['looks']} times while the processes died; at most "
        f"{dollars(money['most_held'])} were held at one time.",
        verdict["broken"] and "**Broken:**\n\n" + "\n".join(f"- {line}" for line in verdict["broken"][:20]),
        "## How long, how much",
        bullets(
            *(
                f"{each['kills']} kills in {each['seconds']:.0f} s with {each['people']} people, "
                f"lease {each['lease']} s, reaper every {each['sweep']} s: {each['settled_after']:.1f} s after the "
                f"last kill every reply had ended (allowed: {each['allowed']:.0f} s)."
                for each in rounds
            ),
            f"{verdict['crashed']} replies lost their process after the model was called. Each ended as “interrupted” "
            f"with its text, {verdict['death_to_end_median']:.1f} s after that death in the middle of them and "
            f"{verdict['death_to_end_most']:.1f} s at most, further kills of the reaper and the database included.",
            f"Text that was journalled and is not stored: of {verdict['journalled_and_lost']} replies, "
            f"{verdict['journalled_and_lost_most']:.2f} s at most (promised: 1 s).",
            f"Text that the provider had sent to processes that died, and that is not stored, what was still on its "
            f"way through sockets included: {verdict['sent_and_lost_median']:.2f} s in the middle, "
            f"{verdict['sent_and_lost_most']:.2f} s at most.",
            f"{verdict['seen_and_lost_with_redis']} views had seen text that was lost when the web process died while "
            "Valkey was away, or within 2.5 s of that: such text is in memory and in the last checkpoint. "
            f"{verdict['journal_late']} times a web process found Valkey away that had not been killed (no answer in "
            "0.25 s, on a machine that does all of this at once).",
            f"{verdict['views_set_back']} times a new connection showed less than the one before it, until the text "
            "was there again.",
            f"Replies ended as {counted(verdict['replies'])}. Error codes: {counted(verdict['failures'])}.",
        ),
        "## What was killed",
        table(
            ["where", "kills"],
            [[says, str(found["kills"].get(name, 0))] for name, says in PLACES.items()]
            + [["**all**", f"**{found['total']}**"]],
        ),
        "## Single accidents, with the settings of a normal setup",
        bullets(*(scene_of(scene) for scene in scenes.values())),
        "## Run it",
        "`make chaos` takes about 15 minutes on two cores; `make test` includes a run of one minute. A process dies "
        "at a named place when `PARLEY_CRASH_AT` says so (`conversations/crash_points.py`), for instance "
        "`PARLEY_CRASH_AT=mid_stream:3`: at the third pass. "
        f"This run: {os.cpu_count()} cores, {found['date']}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def scene_of(scene: dict[str, Any]) -> str:
    said = {
        "room for five": "{clients} people sent at the same moment to two processes, with room for five holds in the "
        "installation's day: {accepted} were accepted, {refused} refused with their draft; no look found more held "
        "than the limit.",
        "room for five, killed": "The same while the processes died at the places where money moves ({kills} kills): "
        "{accepted} were accepted, {refused} refused, others as the killed ones gave their room back; no look found "
        "more held than the limit.",
        "sends that meet": "{rounds} times the same send arrived at two processes at the same moment, and {rounds} "
        "times two different ones: each pair of twins gave one message and one reply, and of the others what was "
        "answered with success is there ({queued} of the second ones waited their turn, {refused} were refused with "
        "their draft).",
        "redis killed": "Valkey killed in mid-reply, back after 1.5 s: the viewer beside the reply waited {gap:.2f} s "
        "at most between two pieces of text, the one at another process {gap_elsewhere:.2f} s; both saw all of "
        "the text.",
        "returning viewer": "A viewer at another process left and returned over {connections} connections at random "
        "offsets and saw exactly the final text ({back} times less than before).",
        "postgres away": "PostgreSQL away for {away:.1f} s in mid-reply: viewers waited {gap:.2f} s at most, the reply "
        "that ended meanwhile was saved {saved_after:.1f} s after the return, nothing was lost.",
    }[scene["name"]].format(**scene)
    return said + "".join(f" **Broken: {line}.**" for line in scene["broken"][:5])


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def bullets(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)
