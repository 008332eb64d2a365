"""What a send reads, as functions: where its sender stands, and the path that the request may be made of.

As a part of the claim the path was a plan of some forty nodes, which took longer to be set up than to be run.
"""

from django.db import migrations

HISTORY = """
CREATE FUNCTION request_history(
    p_last uuid, p_first uuid, p_view bigint, p_most integer, p_is_asked boolean, p_is_dated boolean
) RETURNS json LANGUAGE plpgsql STABLE
-- A connection plans it once, and may do so while there are few messages: it would look through all of them for each.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    -- The path is read up to where the last request began, if that is on it, however long its messages are.
    until uuid;
BEGIN
    IF p_last IS NULL THEN
        RETURN '[]';
    END IF;
    IF p_first IS NOT NULL THEN
        -- The usual case: a conversation that nobody has branched.
        SELECT f.id INTO until FROM messages f, messages l
        WHERE f.id = p_first AND l.id = p_last AND f.branch_id = l.branch_id AND f.path_messages <= l.path_messages;
        IF until IS NULL THEN
            -- The unforked lines that make up the path, each with the depth up to which it belongs to it.
            WITH RECURSIVE line AS (
                SELECT m.branch_id AS id, m.path_messages AS until FROM messages m WHERE m.id = p_last
                UNION ALL
                SELECT b.parent_id, least(line.until, b.until)
                FROM line JOIN message_branches b ON b.id = line.id WHERE b.parent_id IS NOT NULL
            )
            SELECT m.id INTO until FROM messages m JOIN line ON line.id = m.branch_id
            WHERE m.id = p_first AND m.path_messages <= line.until;
        END IF;
    END IF;
    RETURN (
        -- Else as far as so many tokens reach without the question, of which no message takes more than half.
        WITH RECURSIVE path AS (
            SELECT m.id, m.parent_id, m.role, m.content, m.token_count, m.is_set_aside, m.created_at, 1 AS step,
                CASE WHEN p_is_asked THEN 0 ELSE least(m.token_count, p_view / 2) END AS total
            FROM messages m WHERE m.id = p_last
            UNION ALL
            SELECT m.id, m.parent_id, m.role, m.content, m.token_count, m.is_set_aside, m.created_at, path.step + 1,
                path.total + least(m.token_count, p_view / 2)
            FROM path JOIN messages m ON m.id = path.parent_id
            WHERE path.step < p_most AND path.id IS DISTINCT FROM until AND (path.total <= p_view OR until IS NOT NULL)
        )
        SELECT coalesce(json_agg(json_build_array(id, role, content, token_count, is_set_aside,
            CASE WHEN p_is_dated THEN extract(epoch FROM created_at) END) ORDER BY step DESC), '[]') FROM path
    );
END $$
"""

LOCK = """
CREATE FUNCTION lock_sender(
    p_user bigint, p_conversation uuid, OUT running integer, OUT is_busy boolean, OUT leaf_id uuid, OUT leaf_role text,
    OUT leaf_parent_id uuid, OUT leaf_tokens bigint, OUT leaf_messages bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM users WHERE id = p_user FOR NO KEY UPDATE;
    -- Statements of their own: they see what the send before this one has committed.
    -- All states that are on their way: `replies_on_their_way` alone has them, and this person's are few. For fewer
    -- states PostgreSQL may look through all of `replies_one_unfinished`, which it takes for empty.
    SELECT count(*) FILTER (WHERE state <> 'waiting'), coalesce(bool_or(conversation_id = p_conversation), false)
        INTO running, is_busy
        FROM replies WHERE user_id = p_user AND state IN ('waiting', 'queued', 'running');
    IF p_conversation IS NULL THEN
        RETURN;
    END IF;
    SELECT m.id, m.role, m.parent_id, m.path_tokens, m.path_messages
        INTO leaf_id, leaf_role, leaf_parent_id, leaf_tokens, leaf_messages
        FROM conversations c JOIN messages m ON m.id = c.leaf_id
        WHERE c.id = p_conversation AND c.user_id = p_user;
END $$
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0035_pieces_go_with_vectors")]
    operations = [
        migrations.RunSQL(
            HISTORY, "DROP FUNCTION request_history(uuid, uuid, bigint, integer, boolean, boolean)"
        ),
        migrations.RunSQL(LOCK, "DROP FUNCTION lock_sender(bigint, uuid)"),
    ]
