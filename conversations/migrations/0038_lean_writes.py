"""Write a message with fewer look-ups: see docs/decisions/0104-lean-writes.md.

The foreign key of a posting looked its place up for each word, which the trigger that writes both had just made; a
trigger takes the words of a deleted place along now, as the key did. One trigger reads the parent of a message, not
two. A new message has no place yet, so none is looked for, and words are put in order only to leave some out. The
index of answers holds no replies that have none: each state of a running reply made an entry.
"""

from importlib import import_module

import django.db.models.deletion
from django.db import migrations, models

branches = import_module("conversations.migrations.0020_message_branches")
recall = import_module("conversations.migrations.0021_message_recall")


def one_of(text, beginning, end):
    """The part of an earlier migration's SQL from one mark to the next."""
    return beginning + text.split(beginning, 1)[1].split(end, 1)[0] + end


KEY = "message_postings_place_id_5e32be96_fk_message_places_id"
NO_KEY = f"""
ALTER TABLE message_postings DROP CONSTRAINT {KEY};
CREATE FUNCTION message_place_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM message_postings WHERE place_id = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER message_place_gone AFTER DELETE ON message_places
    FOR EACH ROW EXECUTE FUNCTION message_place_gone();
"""
KEY_AGAIN = f"""
DROP TRIGGER message_place_gone ON message_places;
DROP FUNCTION message_place_gone;
ALTER TABLE message_postings ADD CONSTRAINT {KEY} FOREIGN KEY (place_id)
    REFERENCES message_places (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
"""

# `message_path_sums` is left for a message whose tokens are counted anew.
ONE_LOOK = """
DROP TRIGGER message_branch ON messages;
DROP FUNCTION message_branch;
DROP TRIGGER message_path_sums ON messages;

CREATE FUNCTION message_path() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    line bigint;
    depth integer := 0;
    above bigint := 0;
    asked_by text;
    spoken text[] := '{}';
BEGIN
    IF NEW.parent_id IS NOT NULL THEN
        -- The lock lets two answers to one message follow each other: one of them begins a line.
        SELECT branch_id, path_messages, path_tokens, role INTO line, depth, above, asked_by
        FROM messages WHERE id = NEW.parent_id FOR NO KEY UPDATE;
    END IF;
    NEW.path_messages := coalesce(depth, 0) + 1;
    NEW.path_tokens := coalesce(above, 0) + NEW.token_count;
    IF NEW.parent_id IS NOT NULL THEN
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
        -- Its words were put down in a language of the line that it leaves: they are asked for in all of those.
        spoken := coalesce((SELECT languages FROM message_branches b WHERE b.id = NEW.branch_id), '{}');
    END IF;
    INSERT INTO message_branches (conversation_id, parent_id, until, languages)
    VALUES (NEW.conversation_id, line, depth, spoken || ARRAY(
        SELECT each FROM message_branches b, unnest(b.languages[cardinality(b.languages):]) AS each
        WHERE b.id = line AND each <> ALL (spoken)))
    RETURNING id INTO NEW.branch_id;
    RETURN NEW;
END $$;
CREATE TRIGGER message_path BEFORE INSERT OR UPDATE OF parent_id ON messages
    FOR EACH ROW EXECUTE FUNCTION message_path();
CREATE TRIGGER message_path_sums BEFORE UPDATE OF token_count ON messages
    FOR EACH ROW EXECUTE FUNCTION message_path_sums();
"""
TWO_LOOKS = f"""
DROP TRIGGER message_path ON messages;
DROP FUNCTION message_path;
DROP TRIGGER message_path_sums ON messages;
{one_of(branches.TRIGGERS, "CREATE FUNCTION message_branch()", "EXECUTE FUNCTION message_branch();")}
CREATE TRIGGER message_path_sums BEFORE INSERT OR UPDATE OF parent_id, token_count ON messages
    FOR EACH ROW EXECUTE FUNCTION message_path_sums();
"""

PLACE = """
CREATE OR REPLACE FUNCTION message_place() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before text;
    spoken text;
    own bigint;
    words tsvector;
BEGIN
    IF NEW.branch_id IS NULL THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        UPDATE message_places SET branch_id = NEW.branch_id, depth = NEW.path_messages, tokens = NEW.token_count,
            is_set_aside = NEW.is_set_aside
        WHERE message_id = NEW.id RETURNING id INTO own;
        IF OLD.content = NEW.content AND own IS NOT NULL THEN
            RETURN NULL;
        END IF;
        UPDATE message_places SET embedding = NULL WHERE id = own AND embedding IS NOT NULL;
        DELETE FROM message_postings WHERE place_id = own;
    END IF;
    IF own IS NULL THEN
        INSERT INTO message_places (message_id, conversation_id, branch_id, depth, tokens, is_set_aside)
        VALUES (NEW.id, NEW.conversation_id, NEW.branch_id, NEW.path_messages, NEW.token_count, NEW.is_set_aside)
        RETURNING id INTO own;
    END IF;
    -- What has too few words to tell is read like the message before it.
    SELECT languages[cardinality(languages)] INTO before FROM message_branches WHERE id = NEW.branch_id;
    spoken := coalesce(message_language(NEW.content, before), before, 'simple');
    IF spoken IS DISTINCT FROM before THEN
        UPDATE message_branches SET languages = array_append(array_remove(languages, spoken), spoken)
        WHERE id = NEW.branch_id;
    END IF;
    words := message_words(spoken, NEW.content);
    IF length(words) > 2000 THEN
        words := ts_delete(words, ARRAY(SELECT lexeme FROM unnest(words) ORDER BY positions[1] OFFSET 2000));
    END IF;
    INSERT INTO message_postings (place_id, conversation_id, lexeme, frequency, number)
    SELECT own, NEW.conversation_id, word.lexeme, coalesce(cardinality(word.positions), 1), 1 + coalesce((
            SELECT p.number FROM message_postings p
            WHERE p.conversation_id = NEW.conversation_id AND p.lexeme = word.lexeme
            ORDER BY p.place_id DESC LIMIT 1
        ), 0)
    FROM unnest(words) AS word;
    RETURN NULL;
END $$;
"""
PLACE_BEFORE = one_of(recall.TRIGGERS, "CREATE FUNCTION message_place()", "END $$;").replace(
    "CREATE", "CREATE OR REPLACE", 1
)

# Django knows of a unique column and no more.
ANSWERED = """
ALTER TABLE replies DROP CONSTRAINT replies_answer_id_key;
CREATE UNIQUE INDEX replies_answer_id_key ON replies (answer_id) WHERE answer_id IS NOT NULL;
"""
ANSWERED_OR_NOT = """
DROP INDEX replies_answer_id_key;
ALTER TABLE replies ADD CONSTRAINT replies_answer_id_key UNIQUE (answer_id);
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0037_settling")]
    operations = [
        migrations.SeparateDatabaseAndState(
            [migrations.RunSQL(NO_KEY, KEY_AGAIN)],
            [
                migrations.AlterField(
                    "messageposting",
                    "place",
                    models.ForeignKey(
                        "conversations.messageplace",
                        django.db.models.deletion.CASCADE,
                        db_constraint=False,
                        related_name="+",
                    ),
                )
            ],
        ),
        migrations.RunSQL(ONE_LOOK, TWO_LOOKS),
        migrations.RunSQL(PLACE, PLACE_BEFORE),
        migrations.RunSQL(ANSWERED, ANSWERED_OR_NOT),
    ]
