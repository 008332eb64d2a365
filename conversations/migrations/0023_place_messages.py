"""Place and read the messages that are there already, a bounded number in each transaction."""

from django.db import migrations

BATCH = 500

# From the root downwards, because a message finds its line by its parent's; of two answers the older goes on in it, as
# their ids tell. The triggers do the rest.
PLACE = """
DO $$
DECLARE
    unplaced record;
BEGIN
    FOR unplaced IN
        SELECT id FROM messages WHERE conversation_id = '{conversation}' AND branch_id IS NULL
        ORDER BY path_messages, id LIMIT {batch}
    LOOP
        UPDATE messages SET parent_id = parent_id WHERE id = unplaced.id;
    END LOOP;
END $$
"""


def place_messages(apps, schema_editor):
    unplaced = apps.get_model("conversations", "Message").objects.filter(branch_id=None)
    for conversation in list(unplaced.values_list("conversation_id", flat=True).distinct()):
        for _ in range(0, unplaced.filter(conversation_id=conversation).count(), BATCH):
            schema_editor.execute(PLACE.format(conversation=conversation, batch=BATCH))


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("conversations", "0022_recall_delete_rules")]
    operations = [migrations.RunPython(place_messages, migrations.RunPython.noop, elidable=True)]
