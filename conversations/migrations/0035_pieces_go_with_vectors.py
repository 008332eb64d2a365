"""Take the pieces of a message away with its vector: they are of a text that is no longer there."""

from django.db import migrations

TRIGGER = """
CREATE FUNCTION message_pieces() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.pieces := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER message_pieces BEFORE UPDATE OF embedding ON message_places
    FOR EACH ROW WHEN (NEW.embedding IS NULL AND NEW.pieces IS NOT NULL) EXECUTE FUNCTION message_pieces();
"""

NO_TRIGGER = """
DROP TRIGGER message_pieces ON message_places;
DROP FUNCTION message_pieces;
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0034_message_pieces")]
    operations = [migrations.RunSQL(TRIGGER, NO_TRIGGER)]
