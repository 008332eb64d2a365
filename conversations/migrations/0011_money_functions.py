"""The two movements of money as functions: one round trip each, planned once for each connection, atomic by themselves.

Each of their statements sees what was committed before it, so under READ COMMITTED the condition of an UPDATE decides.
Budgets are locked in one order: the conversation's cap, the person's day, the installation's day, the hottest last.
"""

from django.db import migrations

RESERVE = """
CREATE FUNCTION budget_reserve(
    p_hold uuid, p_amount bigint, p_user bigint, p_conversation uuid, p_needs_cap boolean,
    p_needs_installation boolean, p_purpose text, p_caused_by bigint, p_reply uuid, p_attempt uuid, p_model text,
    p_input_tokens integer, p_max_tokens integer, p_price jsonb, p_lease integer, p_now timestamptz,
    -- held, full (nothing is held then) or unopened: a row that there must be is missing
    OUT outcome text, OUT scopes uuid[]
) LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := coalesce(p_now, statement_timestamp());
    cap uuid;
    person uuid;
    installation uuid;
BEGIN
    -- Where no row is needed, none may open unseen until this transaction has ended.
    IF p_conversation IS NOT NULL THEN
        IF NOT p_needs_cap THEN
            PERFORM pg_advisory_xact_lock_shared(330241, hashtext(p_conversation::text));
        END IF;
        SELECT b.id INTO cap FROM budgets b WHERE b.scope = 'conversation' AND b.subject = p_conversation::text;
    END IF;
    IF NOT p_needs_installation THEN
        PERFORM pg_advisory_xact_lock_shared(330242, 0);
    END IF;
    SELECT b.id INTO installation FROM budgets b
        WHERE b.scope = 'installation' AND b.subject = '' AND b.ends_at > moment ORDER BY b.starts_at DESC LIMIT 1;
    SELECT b.id INTO person FROM budgets b
        WHERE b.scope = 'user' AND b.subject = p_user::text AND b.ends_at > moment ORDER BY b.starts_at DESC LIMIT 1;
    IF person IS NULL OR (p_needs_installation AND installation IS NULL)
        OR (p_needs_cap AND p_conversation IS NOT NULL AND cap IS NULL)
    THEN
        outcome := 'unopened';
        RETURN;
    END IF;

    outcome := 'full';
    scopes := array_remove(ARRAY[cap, person, installation], NULL);
    IF cap IS NOT NULL THEN
        UPDATE budgets b SET held = b.held + p_amount
            WHERE b.id = cap AND (b."limit" IS NULL OR b.spent + b.held + p_amount <= b."limit" + b.extra);
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    UPDATE budgets b SET held = b.held + p_amount
        WHERE b.id = person AND (b."limit" IS NULL OR b.spent + b.held + p_amount <= b."limit" + b.extra);
    IF NOT FOUND THEN
        IF cap IS NOT NULL THEN
            UPDATE budgets b SET held = b.held - p_amount WHERE b.id = cap;
        END IF;
        RETURN;
    END IF;
    IF installation IS NOT NULL THEN
        UPDATE budgets b SET held = b.held + p_amount
            WHERE b.id = installation AND (b."limit" IS NULL OR b.spent + b.held + p_amount <= b."limit" + b.extra);
        IF NOT FOUND THEN
            UPDATE budgets b SET held = b.held - p_amount WHERE b.id IN (cap, person);
            RETURN;
        END IF;
    END IF;
    INSERT INTO budget_holds (id, purpose, user_id, caused_by, conversation_id, reply_id, attempt_id, model, amount,
        input_tokens, max_tokens, price, conversation_budget_id, user_budget_id, installation_budget_id, created_at,
        lease_expires_at)
    VALUES (p_hold, p_purpose, p_user, p_caused_by, p_conversation, p_reply, p_attempt, p_model, p_amount,
        p_input_tokens, p_max_tokens, p_price, cap, person, installation, moment,
        moment + p_lease * interval '1 s');
    outcome := 'held';
END
$$
"""

RESOLVE = """
CREATE FUNCTION budget_resolve(
    p_hold uuid, p_attempt uuid, p_state text, p_charged bigint, p_if_sent boolean, p_line uuid,
    p_input_tokens integer, p_cached_tokens integer, p_cache_write_tokens integer, p_output_tokens integer,
    p_reasoning_tokens integer, p_usage_reported boolean, p_now timestamptz,
    -- all NULL: it was resolved before, or there is no such hold
    OUT charged bigint, OUT amount bigint, OUT purpose text
) LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := coalesce(p_now, statement_timestamp());
    hold budget_holds;
    the_day date;
BEGIN
    -- Waits for a row that takes this hold over at this moment, and what follows sees that row.
    UPDATE budget_holds h SET state = p_state, resolved_at = moment
        WHERE h.id = coalesce(p_hold, (SELECT a.id FROM budget_holds a WHERE a.attempt_id = p_attempt))
            AND h.state = 'held'
        RETURNING h.* INTO hold;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF p_if_sent AND hold.sent_at IS NULL THEN
        p_charged := 0;
        p_input_tokens := 0;
        p_cached_tokens := 0;
        p_cache_write_tokens := 0;
        p_output_tokens := 0;
        p_reasoning_tokens := 0;
    END IF;
    IF hold.conversation_budget_id IS NOT NULL THEN
        UPDATE budgets b SET held = b.held - hold.amount, spent = b.spent + p_charged
            WHERE b.id = hold.conversation_budget_id;
    END IF;
    UPDATE budgets b SET held = b.held - hold.amount, spent = b.spent + p_charged
        WHERE b.id = hold.user_budget_id RETURNING b.day INTO the_day;
    INSERT INTO ledger_entries (id, kind, purpose, hold_id, user_id, caused_by, conversation_id, reply_id, attempt_id,
        model, held, charged, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        usage_reported, is_underestimate, price, conversation_budget_id, user_budget_id, installation_budget_id, day,
        held_at, created_at)
    VALUES (p_line, p_state, hold.purpose, hold.id, hold.user_id, hold.caused_by, hold.conversation_id,
        hold.reply_id, hold.attempt_id, hold.model, hold.amount, p_charged, p_input_tokens, p_cached_tokens,
        p_cache_write_tokens, p_output_tokens, p_reasoning_tokens, p_usage_reported, p_charged > hold.amount,
        hold.price, hold.conversation_budget_id, hold.user_budget_id, hold.installation_budget_id, the_day,
        hold.created_at, moment);
    IF hold.installation_budget_id IS NOT NULL THEN
        UPDATE budgets b SET held = b.held - hold.amount, spent = b.spent + p_charged
            WHERE b.id = hold.installation_budget_id;
    END IF;
    charged := p_charged;
    amount := hold.amount;
    purpose := hold.purpose;
END
$$
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0010_overrides_are_called_prices")]
    operations = [
        migrations.RunSQL(RESERVE, "DROP FUNCTION budget_reserve"),
        migrations.RunSQL(RESOLVE, "DROP FUNCTION budget_resolve"),
    ]
