"""The admin in a real browser, under the same strict policy as the chat: nothing inline, nothing from elsewhere."""

from __future__ import annotations

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from conversations.accounts import invite
from conversations.models import Provider, User
from conversations.money import DOLLAR
from tests import cast
from tests.admin.test_people import queued_reply
from tests.servers import Server
from tests.test_reconciliation import day_of, line, open_hold

from .conftest import SignIn
from .test_hostile_text import nothing_happens

pytestmark = pytest.mark.browser


def addresses(alice: User) -> list[str]:
    reply = queued_reply(alice)
    invitation, _ = invite(cast.ada())
    provider = Provider.objects.create(name="Relay", slug="relay", base_url="http://127.0.0.1:1/v1")
    rows = {
        "conversation": reply.conversation_id,
        "reply": reply.pk,
        "user": alice.pk,
        "invitation": invitation.pk,
        "provider": provider.pk,
        "budget": day_of(str(alice.pk), spent=4 * DOLLAR, held=DOLLAR // 2).pk,
        "hold": open_hold(DOLLAR // 2, user_id=alice.pk).pk,
        "ledgerentry": line(4 * DOLLAR, user_id=alice.pk, day=timezone.localdate()).pk,
    }
    lists = [f"/admin/conversations/{noun}/" for noun in rows]
    changes = [f"/admin/conversations/{noun}/{key}/change/" for noun, key in rows.items()]
    return [
        "/admin/",
        *lists,
        *changes,
        "/admin/conversations/user/add/",
        "/admin/conversations/provider/add/",
        f"/admin/conversations/user/{alice.pk}/grant/",
        "/admin/auth/group/",
        "/admin/auth/group/add/",
        "/admin/reconciliation/",
    ]


def test_the_admin_keeps_the_policy_and_can_be_read(sign_in: SignIn, site: Server, alice: User) -> None:
    page = sign_in(cast.ada())
    for address in addresses(alice):
        with nothing_happens(page, site):
            assert page.goto(address)
            expect(page.locator("#site-name")).to_be_visible()

    with nothing_happens(page, site):
        page.goto("/admin/conversations/user/add/")
        page.get_by_label("E-mail").fill("dora@example.org")
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_role("link", name="dora@example.org").first.click()
        page.get_by_role("button", name="Make a password link").click()
        assert page.get_by_label("Link").input_value().startswith(site.url)
    with nothing_happens(page, site):
        set_limits(page, alice)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.goto("/admin/conversations/user/")
        assert contrast(page, "#result_list th a") >= 4.5, theme
        assert contrast(page, ".breadcrumbs") >= 4.5, theme


def set_limits(page: Page, alice: User) -> None:
    """In the list and in bulk. In the test above: the server keeps content types, which the next test's tables lack."""
    page.goto("/admin/conversations/user/")
    row = page.locator("#result_list tbody tr", has_text=alice.email)
    row.locator("input[type=text]").fill("-1")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("An amount cannot be negative.")).to_be_visible()
    row.locator("input[type=text]").fill("7.50")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(row).to_contain_text("$7.50 · own")

    row.locator(".action-select").check()
    page.get_by_label("Action:").select_option("set_limit")
    page.get_by_role("button", name="Go").click()
    page.get_by_label("Unlimited").check()
    page.get_by_role("button", name="Set the limit").click()
    expect(row).to_contain_text("unlimited · own")


def test_the_first_page_can_be_read(sign_in: SignIn, alice: User) -> None:
    day_of(str(alice.pk), spent=4 * DOLLAR, held=DOLLAR // 2)
    page = sign_in(cast.ada())
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.goto("/admin/")
        expect(page.get_by_role("img", name="$4.00 spent and $0.50 held of $5.00")).to_be_visible()
        for selector in (".used.near span", ".kpis .note", ".card > header p", ".card thead th"):
            assert contrast(page, selector) >= 4.5, (theme, selector)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def contrast(page: Page, selector: str) -> float:
    """WCAG contrast of an element's text with the first opaque background behind it."""
    ratio: float = page.locator(selector).first.evaluate(
        """element => {
            const light = colour => {
                const canvas = new OffscreenCanvas(1, 1).getContext('2d');
                canvas.fillStyle = colour;
                canvas.fillRect(0, 0, 1, 1);
                const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => value / 255)
                    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
                return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
            };
            let behind = element;
            while (/, 0\\)|\\/ 0\\)/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
            const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light);
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }"""
    )
    return ratio
