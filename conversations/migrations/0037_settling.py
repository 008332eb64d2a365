"""The end of a reply as one function: its own rows first, the money last. One round trip that commits by itself.

In one statement, what triggers do about the answer would come when the budgets are locked already.

A row that is named by its key is found by its key: where a condition says `= 'running'` or `= 'held'`, PostgreSQL may
take the partial index of the open rows for the shorter way and look through all of them, which is right while hardly
any are open. `IS TRUE` hides the condition from it. The two indexes of open holds become one.
"""

from importlib import import_module

from django.db import migrations, models

money = import_module("conversations.migrations.0011_money_functions")

FUNCTION = """
CREATE FUNCTION reply_finish(
    p_reply uuid, p_epoch integer, p_state text, p_error_code text, p_error_detail text, p_first_token_at timestamptz,
    -- the message that it becomes, if it has a text
    p_answer uuid, p_text text, p_reasoning text, p_token_count integer, p_model text,
    -- its last attempt; NULL: the one that is still running, if there is one
    p_attempt uuid, p_finish_reason text, p_input_tokens integer, p_cached_tokens integer, p_output_tokens integer,
    p_reasoning_tokens integer, p_usage_reported boolean,
    -- the conversation: a preset that was changed meanwhile decides anew how much is shown
    p_cut jsonb, p_preset_digest text, p_compaction_due boolean, p_vectors_due boolean,
    -- what becomes of the attempt's hold: see budget_resolve
    p_hold_state text, p_charged bigint, p_line uuid, p_billed_input integer, p_billed_cached integer,
    p_billed_cache_write integer, p_billed_output integer, p_billed_reasoning integer,
    -- all NULL: it was not the caller's to end; the last three: no hold was resolved
    OUT has_waiting boolean, OUT person bigint, OUT conversation uuid, OUT attempt uuid, OUT attempt_number smallint,
    OUT attempt_model text, OUT charged bigint, OUT amount bigint, OUT purpose text
) LANGUAGE plpgsql
-- A connection plans it once, and may do so while there are few rows: it would look through all of them later.
SET enable_seqscan = off AS $$
DECLARE
    question uuid;
    unused uuid;
BEGIN
    UPDATE replies r SET state = p_state, finished_at = now(), lease_expires_at = NULL,
        answer_id = CASE WHEN p_text <> '' THEN p_answer END, text = '', reasoning = '', error_code = p_error_code,
        error_detail = p_error_detail, first_token_at = coalesce(p_first_token_at, r.first_token_at)
    WHERE r.id = p_reply AND r.epoch = p_epoch AND (r.state = 'running') IS TRUE
    RETURNING r.user_id, r.conversation_id, r.question_id INTO person, conversation, question;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF p_text <> '' THEN
        INSERT INTO messages (id, conversation_id, parent_id, role, content, reasoning, input_tokens, output_tokens,
            token_count, model_used, is_set_aside)
        VALUES (p_answer, conversation, question, 'assistant', p_text, p_reasoning, coalesce(p_input_tokens, 0),
            coalesce(p_output_tokens, 0), p_token_count, p_model, p_state = 'interrupted');
    END IF;
    UPDATE reply_attempts a SET state = p_state, finish_reason = p_finish_reason, input_tokens = p_input_tokens,
        cached_tokens = p_cached_tokens, output_tokens = p_output_tokens, reasoning_tokens = p_reasoning_tokens,
        usage_reported = p_usage_reported, error_code = p_error_code, error_detail = p_error_detail,
        first_token_at = p_first_token_at, finished_at = now()
    WHERE a.reply_id = p_reply AND a.state = 'running' AND (p_attempt IS NULL OR a.id = p_attempt)
    RETURNING a.id, a.number, a.model INTO attempt, attempt_number, attempt_model;
    UPDATE conversations c SET last_updated = now(),
        leaf_id = CASE WHEN c.leaf_id = question AND p_text <> '' THEN p_answer ELSE c.leaf_id END,
        cut = CASE WHEN p_cut IS NOT NULL AND md5(c.preset::text) = p_preset_digest THEN p_cut ELSE c.cut END,
        cut_at = CASE WHEN p_cut IS NOT NULL AND md5(c.preset::text) = p_preset_digest THEN now() ELSE c.cut_at END,
        compaction_due_at = CASE WHEN p_compaction_due THEN coalesce(c.compaction_due_at, now())
            ELSE c.compaction_due_at END,
        vectors_due_at = CASE WHEN p_vectors_due THEN coalesce(c.vectors_due_at, now()) ELSE c.vectors_due_at END
    WHERE c.id = conversation;
    has_waiting := EXISTS (SELECT FROM replies w WHERE w.user_id = person AND w.state = 'waiting');

    FOR unused IN
        SELECT h.id FROM budget_holds h
        WHERE h.user_id = person AND h.reply_id = p_reply AND h.state = 'held' AND h.attempt_id IS NULL
    LOOP
        PERFORM budget_resolve(unused, NULL, 'void', 0, false, gen_random_uuid(), 0, 0, 0, 0, 0, false, NULL);
    END LOOP;
    IF attempt IS NOT NULL THEN
        SELECT r.charged, r.amount, r.purpose INTO charged, amount, purpose FROM budget_resolve(
            NULL, attempt, p_hold_state, p_charged, false, p_line, p_billed_input, p_billed_cached,
            p_billed_cache_write, p_billed_output, p_billed_reasoning, p_usage_reported, NULL) r;
    END IF;
END
$$
"""

RESOLVE = money.RESOLVE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
BY_ITS_KEY = RESOLVE.replace("AND h.state = 'held'", "AND (h.state = 'held') IS TRUE")


class Migration(migrations.Migration):
    dependencies = [("conversations", "0036_request_history")]
    operations = [
        migrations.RemoveIndex(model_name="hold", name="holds_open_by_reply"),
        migrations.RemoveIndex(model_name="hold", name="holds_open_by_user"),
        migrations.AddIndex(
            model_name="hold",
            index=models.Index(
                fields=["user_id", "reply_id"], condition=models.Q(state="held"), name="holds_open"
            ),
        ),
        migrations.RunSQL(BY_ITS_KEY, RESOLVE),
        migrations.RunSQL(FUNCTION, "DROP FUNCTION reply_finish"),
        *(
            migrations.RunSQL(
                f"ALTER FUNCTION {name} SET enable_seqscan = off",
                f"ALTER FUNCTION {name} RESET enable_seqscan",
            )
            for name in ("budget_reserve", "budget_resolve")
        ),
    ]
