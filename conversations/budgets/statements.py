"""The SQL of money, right under READ COMMITTED. The two movements themselves are functions of the database: see
migration 0011. The moment is the database's clock, unless a test says another.
"""

from __future__ import annotations

MOMENT = "coalesce(%(now)s::timestamptz, statement_timestamp())"

#: What a person may spend in a day: their own limit, their mark, the most generous of their groups, the default.
EFFECTIVE_LIMIT = """
CASE
    WHEN u.daily_limit IS NOT NULL THEN u.daily_limit
    WHEN u.is_unlimited OR g.is_unlimited THEN NULL
    ELSE coalesce(g.most, %(default_limit)s::bigint)
END
"""
GROUP_LIMITS = """
LEFT JOIN LATERAL (
    SELECT bool_or(l.daily_limit IS NULL) AS is_unlimited, max(l.daily_limit) AS most
    FROM users_groups m JOIN group_limits l ON l.group_id = m.group_id WHERE m.user_id = u.id
) g ON true
"""


def current(scope: str, subject: str) -> str:
    """The id of the row in force: the one that begins last, if it has not ended. A clock that jumps back finds it."""
    return f"""(
        SELECT id FROM budgets WHERE scope = '{scope}' AND subject = {subject} AND ends_at > {MOMENT}
        ORDER BY starts_at DESC LIMIT 1
    )"""


CURRENT_CONVERSATION = (
    "(SELECT id FROM budgets WHERE scope = 'conversation' AND subject = %(conversation)s::text)"
)
CURRENT_DAY = current("user", "%(subject)s::text")
CURRENT_INSTALLATION = current("installation", "''")

RESERVE = """
SELECT outcome, scopes FROM budget_reserve(
    p_hold => %(hold)s, p_amount => %(amount)s, p_user => %(user)s, p_conversation => %(conversation)s,
    p_needs_cap => %(needs_cap)s, p_needs_installation => %(needs_installation)s, p_purpose => %(purpose)s,
    p_caused_by => %(caused_by)s, p_reply => %(reply)s, p_attempt => %(attempt)s, p_model => %(model)s,
    p_input_tokens => %(input_tokens)s, p_max_tokens => %(max_tokens)s, p_price => %(price)s, p_lease => %(lease)s,
    p_now => %(now)s
)
"""

#: Locked, so that what is read is still so when the smaller hold is asked for.
ROOMS = """
SELECT scope, "limit" + extra, "limit" + extra - spent - held, ends_at FROM budgets
WHERE id = ANY(%(scopes)s::uuid[]) ORDER BY array_position(%(scopes)s::uuid[], id) FOR NO KEY UPDATE
"""

ATTACH = f"""
UPDATE budget_holds SET attempt_id = coalesce(%(attempt)s::uuid, attempt_id), sent_at = coalesce(sent_at, {MOMENT}),
    lease_expires_at = {MOMENT} + %(lease)s * interval '1 s'
WHERE id = %(hold)s AND (state = 'held') IS TRUE
RETURNING id
"""

#: The hold that a send made for its reply serves the first attempt, if it covers what turned out to be needed. It is
#: part of the statement that puts the attempt on record, in which `ours` is the reply, if that is still the caller's.
TAKE_OVER = f"""
UPDATE budget_holds SET attempt_id = %(attempt)s::uuid, sent_at = coalesce(sent_at, {MOMENT}),
    lease_expires_at = {MOMENT} + %(lease)s * interval '1 s'
WHERE user_id = %(user)s AND reply_id = %(reply)s::uuid AND state = 'held'
    AND (attempt_id IS NULL OR attempt_id = %(attempt)s::uuid)
    AND model = %(model)s AND input_tokens >= %(input_tokens)s AND max_tokens <= %(max_tokens)s
    AND EXISTS (SELECT FROM ours)
RETURNING max_tokens, price::text
"""

#: What `reply_finish`, which ends a reply with its rows, is told of the hold of its last attempt: see migration 0037.
HOLD_ENDS = """
    p_hold_state => %(hold_state)s, p_charged => %(charged)s, p_line => %(line)s,
    p_billed_input => %(billed_input_tokens)s, p_billed_cached => %(billed_cached_tokens)s,
    p_billed_cache_write => %(billed_cache_write_tokens)s, p_billed_output => %(billed_output_tokens)s,
    p_billed_reasoning => %(billed_reasoning_tokens)s
"""

#: What never changes of a hold.
HOLD = """
SELECT input_tokens, price::text FROM budget_holds WHERE id = %(hold)s::uuid OR attempt_id = %(attempt)s::uuid
"""

RESOLVE = """
SELECT charged, amount, purpose FROM budget_resolve(
    p_hold => %(hold)s, p_attempt => %(attempt)s, p_state => %(state)s, p_charged => %(charged)s,
    p_if_sent => %(if_sent)s, p_line => %(line)s, p_input_tokens => %(input_tokens)s,
    p_cached_tokens => %(cached_tokens)s, p_cache_write_tokens => %(cache_write_tokens)s,
    p_output_tokens => %(output_tokens)s, p_reasoning_tokens => %(reasoning_tokens)s,
    p_usage_reported => %(usage_reported)s, p_now => %(now)s
)
"""

RECORD_FREE = f"""
INSERT INTO ledger_entries (id, kind, purpose, user_id, caused_by, conversation_id, reply_id, attempt_id, model,
    input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage_reported, price,
    user_budget_id, day, held_at, created_at)
SELECT %(line)s::uuid, 'free', %(purpose)s, %(user)s, %(caused_by)s::bigint, %(conversation)s::uuid, %(reply)s::uuid,
    %(attempt)s::uuid, %(model)s, %(input_tokens)s, %(cached_tokens)s, %(cache_write_tokens)s, %(output_tokens)s,
    %(reasoning_tokens)s, %(usage_reported)s, %(price)s::jsonb, b.id, b.day, {MOMENT}, {MOMENT}
FROM (SELECT {CURRENT_DAY} AS id) found LEFT JOIN budgets b ON b.id = found.id
WHERE b.id IS NOT NULL OR NOT %(needs_day)s::bool
RETURNING id
"""

# --- Rows that open -----------------------------------------------------------------------------------------------

LOCK_OPENING = "SELECT pg_advisory_xact_lock(%(lock)s::int, hashtext(%(name)s::text))"
LOCK_INSTALLATION = "SELECT pg_advisory_xact_lock(%(lock)s::int, 0)"

#: What a new day of a person follows from.
PERSON = f"""
SELECT {CURRENT_DAY}, {MOMENT}, u.time_zone, {EFFECTIVE_LIMIT},
    (SELECT max(ends_at) FROM budgets WHERE scope = 'user' AND subject = %(subject)s::text)
FROM users u {GROUP_LIMITS} WHERE u.id = %(user)s
"""
INSTALLATION = f"""
SELECT {CURRENT_INSTALLATION}, {MOMENT}, (SELECT max(ends_at) FROM budgets WHERE scope = 'installation')
"""
CONVERSATION = f"""
SELECT {CURRENT_CONVERSATION}, {MOMENT}, (SELECT cost_cap FROM conversations WHERE id = %(conversation)s::uuid)
"""

OPEN_DAY = """
INSERT INTO budgets (id, scope, subject, day, starts_at, ends_at, "limit")
VALUES (%(budget)s, 'user', %(subject)s, %(day)s, %(starts_at)s, %(ends_at)s, %(limit)s) RETURNING id
"""


def adopt(column: str, whose: str) -> str:
    """Give the open holds of a scope to its new row. Waits for those that are being resolved at this moment."""
    return f"""
    WITH adopted AS (
        UPDATE budget_holds SET {column} = %(budget)s WHERE state = 'held' AND {column} IS NULL AND {whose}
        RETURNING amount
    )
    SELECT coalesce(sum(amount), 0)::bigint FROM adopted
    """


def open_late(column: str, whose: str) -> str:
    """Begin a row with what the ledger says, as a line of its own. Goes after `adopt`, with a snapshot of its own."""
    return f"""
    WITH earlier AS (
        SELECT coalesce(sum(charged), 0)::bigint AS charged FROM ledger_entries
        WHERE {column} IS NULL AND kind <> 'opening' AND {whose}
    ), line AS (
        INSERT INTO ledger_entries (id, kind, purpose, model, charged, {column}, held_at, created_at)
        SELECT %(line)s::uuid, 'opening', '', '', charged, %(budget)s, %(moment)s::timestamptz, %(moment)s
        FROM earlier WHERE charged > 0
    )
    INSERT INTO budgets (id, scope, subject, day, starts_at, ends_at, "limit", spent, held)
    SELECT %(budget)s::uuid, %(scope)s, %(subject)s, %(day)s::date, %(starts_at)s::timestamptz,
        %(ends_at)s::timestamptz, %(limit)s::bigint, charged, %(held)s::bigint
    FROM earlier
    RETURNING id
    """


ADOPT_INSTALLATION = adopt(
    "installation_budget_id", "created_at >= %(starts_at)s AND created_at < %(ends_at)s"
)
OPEN_INSTALLATION = open_late(
    "installation_budget_id",
    # A line is written after its hold: its own time lets an index find it.
    "created_at >= %(starts_at)s AND held_at >= %(starts_at)s AND held_at < %(ends_at)s",
)
ADOPT_CONVERSATION = adopt("conversation_budget_id", "conversation_id = %(conversation)s::uuid")
OPEN_CONVERSATION = open_late("conversation_budget_id", "conversation_id = %(conversation)s::uuid")

# --- What is left --------------------------------------------------------------------------------------------------

REMAINING = f"""
SELECT {MOMENT}, u.time_zone, {EFFECTIVE_LIMIT},
    (SELECT max(ends_at) FROM budgets WHERE scope = 'user' AND subject = %(subject)s::text),
    b.spent, b.held, b."limit" + b.extra, b.ends_at
FROM users u {GROUP_LIMITS} LEFT JOIN budgets b ON b.id = {CURRENT_DAY} WHERE u.id = %(user)s
"""

OTHER_ROOMS = f"""
SELECT scope, "limit" + extra, spent + held, ends_at FROM budgets
WHERE id IN ({CURRENT_CONVERSATION}, {CURRENT_INSTALLATION})
"""

SPENT_IN_CONVERSATION = """
SELECT coalesce(sum(charged), 0)::bigint FROM ledger_entries WHERE conversation_id = %(conversation)s::uuid
"""

#: Today's rows of these people, as their limits are now.
APPLY_LIMITS = f"""
UPDATE budgets b SET "limit" = wanted."limit"
FROM (
    SELECT u.id, {EFFECTIVE_LIMIT} AS "limit" FROM users u {GROUP_LIMITS}
    WHERE %(users)s::bigint[] IS NULL OR u.id = ANY(%(users)s::bigint[])
) wanted
WHERE b.scope = 'user' AND b.subject = wanted.id::text AND b.ends_at > {MOMENT}
    AND b."limit" IS DISTINCT FROM wanted."limit"
RETURNING b.id
"""

#: A limit that was taken away leaves a row without one: there may be holds in it.
APPLY_INSTALLATION = f"""
UPDATE budgets SET "limit" = %(limit)s::bigint
WHERE id = {CURRENT_INSTALLATION} AND "limit" IS DISTINCT FROM %(limit)s::bigint
RETURNING id
"""

APPLY_CAPS = """
UPDATE budgets b SET "limit" = coalesce(c.cost_cap, %(limit)s::bigint)
FROM conversations c
WHERE b.scope = 'conversation' AND b.subject = c.id::text
    AND b."limit" IS DISTINCT FROM coalesce(c.cost_cap, %(limit)s::bigint)
RETURNING b.id
"""
