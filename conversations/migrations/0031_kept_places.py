"""Tell a process that keeps the places of a line what has come since, and whether what it keeps has changed."""

from django.db import migrations, models

# A message comes into a line at its end alone, so what is new is deeper than what is known. All else changes what was
# there, but for a vector that was missing: whoever keeps the place knows that it was. The transaction is the mark:
# a counter would be written anew for each of the messages that move together.
TRIGGER = """
CREATE FUNCTION message_line_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE message_branches SET changed_in = pg_current_xact_id()::text::bigint
    WHERE id = OLD.branch_id AND changed_in <> pg_current_xact_id()::text::bigint;
    RETURN NULL;
END $$;
CREATE TRIGGER message_line_changed AFTER UPDATE OF branch_id, depth, tokens, is_set_aside, embedding
    ON message_places FOR EACH ROW
    WHEN (OLD.branch_id <> NEW.branch_id OR OLD.depth <> NEW.depth OR OLD.tokens <> NEW.tokens
        OR OLD.is_set_aside <> NEW.is_set_aside
        OR (OLD.embedding IS NOT NULL AND OLD.embedding IS DISTINCT FROM NEW.embedding))
    EXECUTE FUNCTION message_line_changed();
"""

NO_TRIGGER = "DROP TRIGGER message_line_changed ON message_places; DROP FUNCTION message_line_changed()"


class Migration(migrations.Migration):
    dependencies = [("conversations", "0030_system_prompts")]
    operations = [
        migrations.AddField("messagebranch", "changed_in", models.BigIntegerField(db_default=0, default=0)),
        migrations.AddIndex(
            "messageplace",
            models.Index(fields=["conversation_id", "branch_id", "depth"], name="message_places_line"),
        ),
        migrations.AlterField("messageplace", "conversation_id", models.UUIDField()),
        migrations.RunSQL(TRIGGER, NO_TRIGGER),
    ]
