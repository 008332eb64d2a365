"""Single accidents, watched closely, with the settings of a normal setup."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.chaos import checks, money
from bench.chaos.stack import Stack, Teller
from bench.chaos.words import reply_of, utf16_length
from conversations.money import exact

People = Callable[[int, str], list[dict[str, Any]]]
Facts = list[dict[str, Any]]


def play(stack: Stack, facts: Facts, people_for: People, *, short: bool) -> list[dict[str, Any]]:
    """Each scenario's figures, with `broken` promises as sentences; what people saw is added to `facts`."""
    stack.open_nursery()
    stack.settle()
    shown = [
        sends_that_meet(stack, facts, people_for, rounds=5 if short else 100),
        redis_killed(stack, facts, people_for),
    ]
    if not short:
        shown += [returning_viewer(stack, facts, people_for), postgres_away(stack, facts, people_for)]
    stack.close_nursery()
    return shown


def races_for_money(stack: Stack, people_for: People, *, short: bool) -> list[dict[str, Any]]:
    """Room for five, with and without kills. The installation's limit stays: nothing may come after them."""
    amount = money.hold_of_a_beginning(stack.data)
    limit = money.spent_today(stack.data) + amount * 11 // 2
    # No answer is made shorter, so that the sixth does not fit.
    stack.open_nursery(
        INSTALLATION_DAILY_LIMIT=exact(limit), SHRINK_FLOOR="1000000", REPLY_LEASE="4", REPLY_SWEEP="1"
    )
    stack.settle()
    shown = [room_for_five(stack, people_for, clients=64, stop=short)]
    if not short:
        shown.append(room_for_five(stack, people_for, clients=64, kills=True))
    stack.close_nursery()
    return shown


def room_for_five(
    stack: Stack, people_for: People, *, clients: int, kills: bool = False, stop: bool = False
) -> dict[str, Any]:
    name = "room for five" + (", killed" if kills else "")
    before = stack.kills.total()
    people = people_at(stack, people_for, "killed" if kills else "five", clients, act="money", stop=stop)
    if kills:
        stack.rage(kills=10_000, seconds=12, per_second=4.0)
        stack.settle()
    told = [fact for fact in see_out(stack, people, seconds=60) if fact["what"] == "money"]
    end = time.time() + 45
    while checks.unfinished(stack) and time.time() < end:
        time.sleep(0.25)
    accepted = sum(200 <= fact["status"] < 300 for fact in told)
    refused = sum(fact["status"] == 402 for fact in told)
    broken = []
    if accepted + refused != clients or (accepted != 5 and not kills) or accepted < 5:
        broken.append(f"{name}: {accepted} accepted, {refused} refused of {clients}")
    return {
        "name": name,
        "clients": clients,
        "accepted": accepted,
        "refused": refused,
        "kills": stack.kills.total() - before,
        "broken": broken,
    }


def people_at(stack: Stack, people_for: People, name: str, count: int, **plan: Any) -> Teller:
    people = Teller("bench.chaos.people", log=stack.data / f"{name}.jsonl")
    people.tell({"name": name, "ports": stack.ports, "people": people_for(count, name), **plan})
    return people


def see_out(stack: Stack, people: Teller, *, seconds: float) -> Facts:
    """Tend the services until the people have left; what they said."""
    end = time.time() + seconds
    while people.process.poll() is None and time.time() < end:
        stack.tend()
        time.sleep(0.02)
    people.close()
    return list(people.news())


def sends_that_meet(stack: Stack, facts: Facts, people_for: People, *, rounds: int) -> dict[str, Any]:
    """The same send twice at the same moment, at two processes; then two different ones."""
    people = people_at(stack, people_for, "race", min(rounds, 10), act="race", rounds=rounds)
    told = see_out(stack, people, seconds=30 + rounds)
    facts += told
    twins = [fact for fact in told if fact["what"] == "twins"]
    rivals = [fact for fact in told if fact["what"] == "rivals"]
    broken = [
        f"twins of {fact['tag']}: {fact['statuses']}" for fact in twins if fact["statuses"] != [200, 200]
    ]
    for fact in rivals:
        if not {200} <= set(fact["statuses"]) <= {200, 409}:
            broken.append(f"rivals of {fact['tag']}: {fact['statuses']}")
    if len(twins) != rounds or len(rivals) != rounds:
        broken.append(f"races: {len(twins)} and {len(rivals)} of {rounds} took place")
    rows = checks.rows_of(stack)
    for fact in twins:
        found = sum(f"tag={fact['tag']} " in row["question"] for row in rows)
        if found != 1:
            broken.append(f"twins of {fact['tag']}: {found} messages")
    for fact in rivals:
        found = sum(f"tag={fact['tag']}" in row["question"] for row in rows)
        if found != fact["statuses"].count(200):
            broken.append(f"rivals of {fact['tag']}: {found} messages for {fact['statuses']}")
    refused = sum(409 in fact["statuses"] for fact in rivals)
    return {
        "name": "sends that meet",
        "rounds": rounds,
        "refused": refused,
        "queued": len(rivals) - refused,
        "broken": broken,
    }


def redis_killed(stack: Stack, facts: Facts, people_for: People) -> dict[str, Any]:
    """Valkey dies in mid-reply and comes back after 1.5 s; one viewer is where the reply runs, one elsewhere."""
    orders = [{"words": 250, "pace": 20, "places": [0, 1]}]
    people = people_at(stack, people_for, "redis", 1, act="sit", orders=orders)
    time.sleep(2.5)
    stack.kill_service(stack.valkey, away=1.5)
    told = see_out(stack, people, seconds=60)
    facts += told
    views = [fact for fact in told if fact["what"] == "saw"]
    gaps = sorted(view["longest_gap"] for view in views)
    broken = []
    if len(views) != 2 or any(view["state"] != "complete" for view in views):
        broken.append(f"redis: {[view['state'] for view in views]}")
    # The viewer beside the reply has the shorter gap: at most the journal's time-out.
    if gaps and gaps[0] > 0.6:
        broken.append(f"redis: the viewer beside the reply waited {gaps[0]:.2f} s")
    return {
        "name": "redis killed",
        "gap": gaps[0] if gaps else 0,
        "gap_elsewhere": gaps[-1] if gaps else 0,
        "broken": broken,
    }


def returning_viewer(stack: Stack, facts: Facts, people_for: People) -> dict[str, Any]:
    """A viewer on another process leaves and returns at 100 random offsets."""
    orders = [{"words": 500, "pace": 48, "places": [0, 1], "leaves": 100}]
    people = people_at(stack, people_for, "returning", 1, act="sit", orders=orders)
    told = see_out(stack, people, seconds=90)
    facts += told
    views = sorted((fact for fact in told if fact["what"] == "saw"), key=lambda fact: fact["connections"])
    broken = [
        f"returning: {view['state']} {view['wrong'][:3]}"
        for view in views
        if view["wrong"] or view["state"] != "complete"
    ]
    connections = views[-1]["connections"] if views else 0
    if connections < 101:
        broken.append(f"returning: {connections} connections")
    return {
        "name": "returning viewer",
        "connections": connections,
        "back": sum(v["back"] for v in views),
        "broken": broken,
    }


def postgres_away(stack: Stack, facts: Facts, people_for: People) -> dict[str, Any]:
    """PostgreSQL is away for 20 s: one reply ends meanwhile, one goes on through all of it."""
    orders = [{"words": 250, "pace": 20, "places": [0, 1]}, {"words": 560, "pace": 50, "places": [0, 1]}]
    people = people_at(stack, people_for, "away", 2, act="sit", orders=orders)
    time.sleep(3)
    stack.kill_service(stack.postgres, away=20)
    told = see_out(stack, people, seconds=120)
    facts += told
    views = [fact for fact in told if fact["what"] == "saw"]
    texts = {fact["tag"]: reply_of(fact["text"]) for fact in told if fact["what"] == "sending"}
    broken = []
    if len(views) != 4:
        broken.append(f"away: {len(views)} of 4 views ended")
    for view in views:
        if view["state"] != "complete" or view["most"] != utf16_length(texts[view["tag"]]):
            broken.append(f"away: {view['tag']} ended {view['state']} at {view['most']}")
        if view["longest_gap"] > 1.0:
            broken.append(f"away: a viewer of {view['tag']} waited {view['longest_gap']:.2f} s")
    outage = stack.outages[-1]
    return {
        "name": "postgres away",
        "away": outage.ended - outage.began,
        "gap": max((view["longest_gap"] for view in views), default=0),
        "saved_after": max((view["ended_at"] for view in views if view["tag"].endswith("p0")), default=0)
        - outage.ended,
        "broken": broken,
    }
