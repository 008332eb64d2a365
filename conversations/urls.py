"""Addresses of the chat. `/replies/<id>/stream/` is answered in front of Django: see `chatapp.asgi`."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from .views import (
    alerts,
    context,
    conversations,
    cost_lab,
    estimates,
    health,
    inspector,
    memory,
    messages,
    presets,
    replies,
    search,
    spend,
    summaries,
)

urlpatterns: list[URLPattern | URLResolver] = [
    # The first is what is asked for most: each one before it would be tried.
    path("conversations/<uuid:pk>/messages/", messages.conversation_messages, name="message_send"),
    path("", conversations.home, name="home"),
    path("sidebar/", conversations.sidebar, name="sidebar"),
    path("search/", search.search, name="search"),
    path("archived/", conversations.archived, name="archived"),
    path("budget/", spend.budget, name="budget"),
    path("estimate/", estimates.estimate, name="estimate"),
    path("spend/", spend.spend, name="spend"),
    path("spend/export.csv", spend.spend_export, name="spend_export"),
    path("conversations/", messages.conversation_create, name="conversation_create"),
    path("conversations/<uuid:pk>/", conversations.conversation, name="conversation"),
    path(
        "conversations/<uuid:pk>/composer/", conversations.conversation_composer, name="conversation_composer"
    ),
    path(
        "conversations/<uuid:pk>/settings/", conversations.conversation_settings, name="conversation_settings"
    ),
    path(
        "conversations/<uuid:pk>/summaries/", summaries.conversation_summaries, name="conversation_summaries"
    ),
    path("conversations/<uuid:pk>/cost-lab/", cost_lab.cost_lab, name="cost_lab"),
    path("conversations/<uuid:pk>/cost-lab/export.csv", cost_lab.cost_lab_export, name="cost_lab_export"),
    path("conversations/<uuid:pk>/context/", context.conversation_context, name="conversation_context"),
    path("conversations/<uuid:pk>/menu/", conversations.conversation_menu, name="conversation_menu"),
    path("conversations/<uuid:pk>/rename/", conversations.conversation_rename, name="conversation_rename"),
    path("conversations/<uuid:pk>/pin/", conversations.conversation_pin, name="conversation_pin"),
    path("conversations/<uuid:pk>/archive/", conversations.conversation_archive, name="conversation_archive"),
    path("conversations/<uuid:pk>/delete/", conversations.conversation_delete, name="conversation_delete"),
    path("conversations/<uuid:pk>/restore/", conversations.conversation_restore, name="conversation_restore"),
    path("conversations/<uuid:pk>/messages/", messages.conversation_messages, name="messages_earlier"),
    path("messages/<uuid:pk>/text/", messages.message_text, name="message_text"),
    path("messages/<uuid:pk>/edit/", messages.message_edit, name="message_edit"),
    path("replies/<uuid:pk>/", replies.reply, name="reply"),
    path("replies/<uuid:pk>/stop/", replies.reply_stop, name="reply_stop"),
    path("replies/<uuid:pk>/retry/", replies.reply_retry, name="reply_retry"),
    path("replies/<uuid:pk>/continue/", replies.reply_continue, name="reply_continue"),
    path("replies/<uuid:pk>/keep/", replies.reply_keep, name="reply_keep"),
    path("replies/<uuid:pk>/withdraw/", replies.reply_withdraw, name="reply_withdraw"),
    path("replies/<uuid:pk>/request/", inspector.reply_request, name="reply_request"),
    path(
        "replies/<uuid:pk>/request/download/", inspector.reply_request_download, name="reply_request_download"
    ),
    path("conversations/<uuid:pk>/memory/", memory.conversation_memory, name="conversation_memory"),
    path("memory/", memory.memory_list, name="memory"),
    path("memory/export.json", memory.memory_export, name="memory_export"),
    path("memory/switch/", memory.memory_switch, name="memory_switch"),
    path("memory/restore/", memory.memory_restore, name="memory_restore"),
    path("memory/<uuid:pk>/edit/", memory.memory_edit, name="memory_edit"),
    path("memory/<uuid:pk>/scope/", memory.memory_scope, name="memory_scope"),
    path("memory/<uuid:pk>/pin/", memory.memory_pin, name="memory_pin"),
    path("memory/<uuid:pk>/answer/", memory.memory_answer, name="memory_answer"),
    path("memory/<uuid:pk>/forget/", memory.memory_forget, name="memory_forget"),
    path("presets/", presets.preset_list, name="presets"),
    path("presets/new/", presets.presets_new, name="presets_new"),
    path("presets/import/", presets.presets_import, name="presets_import"),
    path("presets/default/", presets.presets_default, name="presets_default"),
    path("presets/<uuid:pk>/", presets.preset_edit, name="preset_edit"),
    path("presets/<uuid:pk>/delete/", presets.preset_delete, name="preset_delete"),
    path("presets/<uuid:pk>/restore/", presets.preset_restore, name="preset_restore"),
    path("presets/<uuid:pk>/share/", presets.preset_share, name="preset_share"),
    path("presets/<uuid:pk>/export.json", presets.preset_export, name="preset_export"),
    path("notice/", alerts.notice, name="notice"),
    path("notice/<uuid:pk>/put-away/", alerts.notice_put_away, name="notice_put_away"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
]
