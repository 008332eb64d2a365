from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class ConversationsConfig(AppConfig):
    name = "conversations"
    verbose_name = "Parley"

    def ready(self) -> None:
        from conversations import wakeups  # noqa: F401  # its receivers hear what is due after a reply


class ParleyAdminConfig(admin_apps.AdminConfig):
    """Django's admin with Parley's first page. Named in INSTALLED_APPS in place of `django.contrib.admin`."""

    default = False  # not what “conversations” stands for
    default_site = "conversations.dashboard.ParleySite"

    def ready(self) -> None:
        from conversations import dashboard  # noqa: F401  # an error in it would be hidden by Django's discovery

        super().ready()
