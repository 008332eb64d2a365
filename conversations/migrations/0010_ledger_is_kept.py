"""Let the database refuse to change, delete or empty the ledger; and keep room in the pages of budgets, whose sums
change with every call: an update that finds room in its page touches no index."""

from django.db import migrations

KEEP = """
CREATE FUNCTION ledger_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Lines of the ledger are never changed or deleted.' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER ledger_is_kept BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_kept();
CREATE TRIGGER ledger_is_not_emptied BEFORE TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_kept();
"""
FORGET = """
DROP TRIGGER ledger_is_kept ON ledger_entries;
DROP TRIGGER ledger_is_not_emptied ON ledger_entries;
DROP FUNCTION ledger_is_kept;
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0009_message_path_sums")]
    operations = [
        migrations.RunSQL(KEEP, FORGET),
        migrations.RunSQL("ALTER TABLE budgets SET (fillfactor = 50)", "ALTER TABLE budgets RESET (fillfactor)"),
    ]
