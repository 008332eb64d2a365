from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("conversations", "0036_request_history")]
    operations = []
