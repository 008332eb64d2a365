"""`python -m bench.chaos`: the full run, about 15 minutes; `--short`: a small one for the tests, about a minute."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.chaos import checks, money, report, scenarios
from bench.chaos.stack import MODEL, Stack, Teller, running
from bench.stack import make_viewers
from chatapp.embedded import paths

RESULTS = Path(__file__).resolve().parent.parent / "results" / "chaos.json"
#: Within this time of the last kill every reply has ended, with the lease of a normal setup.
PROMISED = 45.0


def people_for(count: int, prefix: str) -> list[dict[str, Any]]:
    from django.db import connection

    connection.close()  # PostgreSQL may have died since
    people = make_viewers(count, messages=0, prefix=prefix)
    connection.close()
    return [{**who, "model": MODEL} for who in people]


def round_of_kills(
    stack: Stack,
    facts: list[dict[str, Any]],
    *,
    name: str,
    kills: int,
    seconds: float,
    people: int,
    per_second: float,
    lease: int,
    sweep: int,
) -> dict[str, Any]:
    """People talk while everything dies; then calm, until the last reply has ended."""
    stack.open_nursery(REPLY_LEASE=str(lease), REPLY_SWEEP=str(sweep))
    stack.settle()
    before, began = stack.kills.total(), time.time()
    crowd = Teller("bench.chaos.people", log=stack.data / f"{name}.jsonl")
    crowd.tell({"act": "crowd", "name": name, "ports": stack.ports, "people": people_for(people, name)})
    time.sleep(1)
    stack.rage(kills=kills, seconds=seconds, per_second=per_second)
    stack.settle()
    calm, allowed = time.time(), PROMISED - 35 + lease + sweep
    assert crowd.process.stdin is not None
    crowd.process.stdin.close()
    while checks.unfinished(stack) and time.time() < calm + allowed + 15:
        time.sleep(0.25)
    settled = time.time() - calm
    try:
        crowd.process.wait(120)
    except Exception:
        crowd.process.kill()
    facts += crowd.news()
    stack.close_nursery()
    took = calm - began
    done = stack.kills.total() - before
    print(
        f"{name}: {done} kills in {took:.0f} s; all replies ended {settled:.1f} s after the last", flush=True
    )
    return {
        "name": name,
        "kills": done,
        "seconds": took,
        "people": people,
        "lease": lease,
        "sweep": sweep,
        "settled_after": settled,
        "allowed": allowed,
    }


def resolve_abandoned_holds() -> None:
    """What beat does each minute for calls whose worker has died: now, when all of their leases are over."""
    from django.db import connection
    from django.db.models import Max
    from django.utils import timezone

    from conversations.enforcement import expire_stale
    from conversations.models import Hold

    connection.close()  # PostgreSQL may have died since
    held = Hold.objects.filter(state=Hold.State.HELD)
    if last := held.aggregate(last=Max("lease_expires_at"))["last"]:
        time.sleep(max(0.0, (last - timezone.now()).total_seconds()) + 0.1)
    expire_stale()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="how many processes are killed in all")
    parser.add_argument("--seconds", type=float, default=1500, help="and for how long at most")
    parser.add_argument("--webs", type=int, default=4)
    parser.add_argument("--per-second", type=float, default=2.0, help="kills, on average")
    parser.add_argument("--short", action="store_true", help="one round and the quick scenarios")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--write", action="store_true", help="write docs/reliability.md and bench/results/chaos.json"
    )
    options = parser.parse_args()
    random.seed(options.seed)
    facts: list[dict[str, Any]] = []
    rounds = []
    with running(webs=options.webs) as stack, money.Sampler(paths.database_url(stack.data)) as sampler:
        shown = scenarios.play(stack, facts, people_for, short=options.short)
        quick, slow = (
            (options.kills, 0) if options.short else (int(options.kills * 0.75), int(options.kills * 0.25))
        )
        rounds.append(
            round_of_kills(
                stack, facts, name="quick", kills=quick, seconds=options.seconds, people=24 if options.short else 40,
                per_second=options.per_second, lease=4, sweep=1,
            )
        )  # fmt: skip
        if slow:
            rounds.append(
                round_of_kills(
                    stack, facts, name="real", kills=slow, seconds=options.seconds, people=120,
                    per_second=options.per_second, lease=30, sweep=5,
                )
            )  # fmt: skip
        shown += scenarios.races_for_money(stack, people_for, short=options.short)
        resolve_abandoned_holds()
        verdict = checks.check(stack, facts)
        paid = money.check(stack.data, sampler, checks.calls_of(stack.calls))
        verdict.broken += paid.broken
        for played in rounds:
            if played["settled_after"] > played["allowed"]:
                verdict.broken.append(f"settled: {played['name']} took {played['settled_after']:.1f} s")
        verdict.broken += [line for scenario in shown for line in scenario["broken"]]
        verdict.broken += stack.unexpected
        found = {
            "kills": dict(sorted(stack.kills.items())),
            "total": stack.kills.total(),
            "webs": options.webs,
            "rounds": rounds,
            "scenarios": shown,
            "verdict": verdict.as_json(),
            "money": asdict(paid),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        if verdict.broken:
            keep(stack)
    if options.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        report.write(found)
    print(report.summary(found))
    return 1 if verdict.broken else 0


def keep(stack: Stack) -> None:
    """What was broken is looked for in the logs: keep them where the next run does not remove them."""
    import shutil

    place = stack.data.parent / "broken"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(stack.data / "logs", place)
    for file in stack.data.glob("*.jsonl"):
        shutil.copy(file, place)
    print(f"The logs of this run are kept in {place}.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
