"""Leave out indexes that nobody asks, and keep room in the pages of holds: each is written when it is sent and when it
is resolved."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("conversations", "0011_money_functions")]
    operations = [
        migrations.RemoveIndex(model_name="hold", name="holds_open_by_lease"),
        migrations.RemoveIndex(model_name="ledgerentry", name="ledger_of_installation"),
        migrations.RemoveIndex(model_name="ledgerentry", name="ledger_of_user_budget"),
        migrations.RunSQL(
            "ALTER TABLE budget_holds SET (fillfactor = 70)", "ALTER TABLE budget_holds RESET (fillfactor)"
        ),
    ]
