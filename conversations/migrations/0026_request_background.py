"""What a request may be made of beside the path, as a function: a claim calls it where there is anything at all.

As a part of the claim itself it cost every reply, because PostgreSQL prepares each part of a statement before it knows
which ones it needs.
"""

from django.db import migrations, models

FUNCTION = """
CREATE FUNCTION request_background(
    p_conversation uuid, p_question uuid, p_user bigint, p_is_remembering boolean, p_cut jsonb
) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    shown uuid[] := ARRAY(SELECT jsonb_path_query(p_cut, '$.**{0 to 2}.memory[*]') #>> '{}');
    recalled uuid[] := ARRAY(SELECT jsonb_path_query(p_cut, '$.inserts[*].recalled[*]') #>> '{}');
BEGIN
    RETURN (
        -- The unforked lines that make up the path, each with the depth up to which it belongs to it.
        WITH RECURSIVE line AS (
            SELECT m.branch_id AS id, m.path_messages AS until FROM messages m WHERE m.id = p_question
            UNION ALL
            SELECT b.parent_id, least(line.until, b.until)
            FROM line JOIN message_branches b ON b.id = line.id WHERE b.parent_id IS NOT NULL
        ), told AS (
            SELECT i.* FROM memory_items i
            WHERE i.conversation_id = p_conversation AND i.user_id = p_user AND (
                i.scope = 'person' AND p_is_remembering OR i.source_id IS NULL OR EXISTS (
                    SELECT FROM messages m JOIN line ON line.id = m.branch_id AND m.path_messages <= line.until
                    WHERE m.id = i.source_id
                ))
            UNION ALL
            SELECT i.* FROM memory_items i
            WHERE i.user_id = p_user AND i.scope = 'person' AND i.state IN ('active', 'superseded')
                AND p_is_remembering AND i.conversation_id IS DISTINCT FROM p_conversation
        ), adopted AS (
            -- The one that the last request shows, and the newest.
            SELECT s.* FROM conversation_summaries s JOIN messages m ON m.id = s.covers_until_id
                JOIN line ON line.id = m.branch_id AND m.path_messages <= line.until
            WHERE s.conversation_id = p_conversation AND s.state = 'in_force'
            ORDER BY s.id IS NOT DISTINCT FROM (p_cut->>'summary_id')::uuid DESC, s.message_count_at_creation DESC,
                s.version DESC LIMIT 2
        )
        SELECT json_build_object(
            'memory', (
                SELECT json_agg(json_build_array(
                    id, kind, text, token_count, is_pinned, state = 'superseded', source_id) ORDER BY id)
                FROM told WHERE state = 'active' OR state = 'superseded' AND id = ANY (shown)
            ),
            'summaries', (
                SELECT json_agg(json_build_array(id, version, summary, token_count, covers_until_id,
                    message_count_at_creation, acts_at_once) ORDER BY message_count_at_creation, version)
                FROM adopted
            ),
            -- A message is not quoted back once something that it said is to be forgotten.
            'forgotten', (
                SELECT json_agg(i.source_id) FROM memory_items i
                WHERE i.conversation_id = p_conversation AND i.state = 'forgotten' AND i.source_id IS NOT NULL
            ),
            'recalled_before', (
                SELECT json_agg(json_build_array(m.id, m.role, m.content, m.token_count, m.is_set_aside, NULL))
                FROM messages m JOIN line ON line.id = m.branch_id AND m.path_messages <= line.until
                WHERE m.id = ANY (recalled)
            )
        )
    );
END $$
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0028_memory_reading")]
    operations = [
        migrations.AddIndex(
            "memoryitem",
            models.Index(
                fields=["user", "state"], condition=models.Q(scope="person"), name="memory_items_of_person"
            ),
        ),
        migrations.RunSQL(FUNCTION, "DROP FUNCTION request_background(uuid, uuid, bigint, boolean, jsonb)"),
    ]
