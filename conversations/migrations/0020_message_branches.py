"""Give each message the unforked line it stands on: a path is a few lines, and nobody need walk it to know it."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

# `message_branch` runs before `message_path_sums`: PostgreSQL goes by name. NEW.path_messages is not known to it.
TRIGGERS = """
CREATE FUNCTION message_branch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    line bigint;
    depth integer := 0;
    asked_by text;
BEGIN
    IF NEW.parent_id IS NOT NULL THEN
        -- The lock lets two answers to one message follow each other: one of them begins a line.
        SELECT branch_id, path_messages, role INTO line, depth, asked_by
        FROM messages WHERE id = NEW.parent_id FOR NO KEY UPDATE;
        IF line IS NULL THEN  -- an older message that has none yet: its descendants get theirs after it
            NEW.branch_id := NULL;
            RETURN NEW;
        ELSIF TG_OP = 'UPDATE' AND NEW.parent_id = OLD.parent_id AND NEW.branch_id = line THEN
            RETURN NEW;
        -- A message that waits for a reply to end hangs under that reply's question. The line is the answer's.
        ELSIF NOT (asked_by = 'user' AND NEW.role = 'user') AND NOT EXISTS (
            SELECT FROM messages WHERE parent_id = NEW.parent_id AND branch_id = line AND id <> NEW.id
        ) THEN
            NEW.branch_id := line;
            RETURN NEW;
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        -- The first message of a line takes it along.
        UPDATE message_branches b SET parent_id = line, until = depth
        WHERE b.id = NEW.branch_id AND b.until = OLD.path_messages - 1;
        IF FOUND THEN
            RETURN NEW;
        END IF;
    END IF;
    INSERT INTO message_branches (conversation_id, parent_id, until, languages)
    VALUES (NEW.conversation_id, line, depth, coalesce(
        (SELECT languages[cardinality(languages):] FROM message_branches b WHERE b.id = line), '{}'))
    RETURNING id INTO NEW.branch_id;
    RETURN NEW;
END $$;
CREATE TRIGGER message_branch BEFORE INSERT OR UPDATE OF parent_id ON messages
    FOR EACH ROW EXECUTE FUNCTION message_branch();

DROP TRIGGER message_path_sums_below ON messages;
CREATE TRIGGER message_path_sums_below AFTER UPDATE OF parent_id, token_count ON messages
    FOR EACH ROW WHEN (OLD.path_tokens <> NEW.path_tokens OR OLD.path_messages <> NEW.path_messages
        OR OLD.branch_id <> NEW.branch_id)
    EXECUTE FUNCTION message_path_sums_below();
"""

NO_TRIGGERS = """
DROP TRIGGER message_branch ON messages;
DROP FUNCTION message_branch;
DROP TRIGGER message_path_sums_below ON messages;
CREATE TRIGGER message_path_sums_below AFTER UPDATE OF parent_id, token_count ON messages
    FOR EACH ROW WHEN (OLD.path_tokens <> NEW.path_tokens OR OLD.path_messages <> NEW.path_messages)
    EXECUTE FUNCTION message_path_sums_below();
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0014_replies_on_their_way")]
    operations = [
        migrations.CreateModel(
            name="MessageBranch",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("parent_id", models.BigIntegerField(null=True)),
                ("until", models.PositiveIntegerField(db_default=0, default=0)),
                (
                    "languages",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=20), db_default=[], default=list, size=None
                    ),
                ),
                (
                    "conversation",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="branches",
                        to="conversations.conversation",
                    ),
                ),
            ],
            options={"db_table": "message_branches", "verbose_name_plural": "message branches"},
        ),
        migrations.AddField("message", "branch_id", models.BigIntegerField(editable=False, null=True)),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
    ]
