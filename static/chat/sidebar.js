// The list of conversations: kept fresh, searched, renamed in place; the menu of a row; the drawer on a phone.

import { $, $$, ask, conversation, isOnPhone } from './page.js';

const AGAIN = 2000; // milliseconds until the list is drawn that somebody is at work in

const menu = $('#row-menu');
const search = $('#search');

// --- The list ----------------------------------------------------------------------------------------------------------------

const isBeingNamed = (place) => $$('.rename [name=title]', place).some(({ dataset }) => !('isLeft' in dataset));
const isInUse = () => coming.size > 0 || menu.matches(':popover-open') || isBeingNamed(document);

const coming = new Set(); // requests for the menu of a row, or for a field in its place
document.addEventListener('htmx:beforeRequest', ({ detail: { target, requestConfig, xhr } }) => {
  if (requestConfig.verb === 'get' && (target === menu || target.matches('.convo, .topbar .name'))) coming.add(xhr);
});
document.addEventListener('htmx:afterRequest', ({ detail }) => coming.delete(detail.xhr));

/** Draw the list again, unless it shows what was searched for; later, if somebody is at work in it. */
export function refreshSidebar() {
  if (isInUse()) setTimeout(refreshSidebar, AGAIN);
  else if (!search?.value.trim()) htmx.trigger(document.body, 'sidebar-stale');
}

// Somebody may be walking through the list by keyboard while it is drawn again: the focus goes back where it was.
let focused;
document.addEventListener('htmx:beforeSwap', ({ detail }) => {
  // It was asked for before somebody began to search, to give a name or to choose from a menu.
  if (detail.requestConfig.elt.id === 'convo-list' && (isInUse() || search?.value.trim())) {
    detail.shouldSwap = false;
    setTimeout(refreshSidebar, AGAIN);
  }
  if (detail.target.id === 'convo-list') focused = document.activeElement.closest('#convo-list a')?.getAttribute('href');
});
document.addEventListener('htmx:afterSwap', ({ detail }) => {
  if (detail.target.id !== 'convo-list') return;
  const title = conversation && $(`#title-${conversation}`);
  if (title?.matches('span')) document.title = `${title.textContent} · Parley`;
  if (focused) $$('#convo-list a').find((link) => link.getAttribute('href') === focused)?.focus();
  focused = undefined;
});

// Replies of other conversations end, too: look while one of them shows its dot.
setInterval(() => {
  if (!document.hidden && $('#convo-list .live') && !$('#thread [data-stream]')) refreshSidebar();
}, 5000);

export function toggleSidebar() {
  if (isOnPhone()) return $('#sidebar').togglePopover();
  const app = $('.app');
  const hide = app.dataset.sidebar !== 'hidden';
  if (hide) app.dataset.sidebar = 'hidden';
  else delete app.dataset.sidebar;
  document.cookie = `sidebar=${hide ? 'hidden' : ''}; path=/; max-age=${hide ? 31536000 : 0}; samesite=lax`;
}

document.addEventListener('click', ({ target }) => {
  if (target.closest('[data-toggle-sidebar]')) toggleSidebar();
});

// --- Search ------------------------------------------------------------------------------------------------------------------

export function openSearch() {
  if (isOnPhone()) $('#sidebar').showPopover();
  else if ($('.app').dataset.sidebar === 'hidden') toggleSidebar();
  search.focus();
  search.select();
}

search?.addEventListener('keydown', (event) => {
  if (event.key === 'ArrowDown') {
    event.preventDefault();
    $('#convo-list a')?.focus();
  } else if (event.key === 'Escape' && !event.isComposing && search.value) {
    event.preventDefault();
    event.stopPropagation();
    search.value = '';
    htmx.trigger(search, 'search');
  }
});

// --- The menu of a row -------------------------------------------------------------------------------------------------------

let opener = null;

document.addEventListener('htmx:afterSwap', ({ detail }) => {
  if (detail.target !== menu) return;
  opener = detail.requestConfig.elt;
  opener.style.anchorName = '--row-menu-opener';
  menu.style.positionAnchor = '--row-menu-opener';
  menu.showPopover({ source: opener });
  $('.item', menu)?.focus();
});
menu?.addEventListener('toggle', (event) => {
  opener?.setAttribute('aria-expanded', String(event.newState === 'open'));
  if (event.newState === 'closed' && opener) opener.style.anchorName = '';
});
document.addEventListener('click', ({ target }) => {
  if (target.closest('[data-closes-menu]')) menu.hidePopover();
});

// --- Renaming in place -------------------------------------------------------------------------------------------------------

/** Show a row's title in a field. */
export function rename(row) {
  ask(`${$('a', row).getAttribute('href')}rename/`, row);
}

const isNameField = (target) => target.matches?.('.rename [name=title]');
const putBack = () => htmx.trigger(document.body, 'sidebar-stale');

document.addEventListener('focusin', ({ target }) => {
  if (!isNameField(target) || target.dataset.was) return;
  target.dataset.was = target.value;
  target.select();
});
document.addEventListener('keydown', (event) => {
  if (!isNameField(event.target) || event.key !== 'Escape') return;
  event.stopPropagation();
  event.target.value = event.target.dataset.was;
  event.target.dataset.isLeft = '';
  putBack();
});
document.addEventListener('submit', ({ target }) => {
  // The field loses the focus when the answer replaces it: that is no second change.
  if (target.matches('.rename')) target.elements.title.dataset.isLeft = '';
});
document.addEventListener('htmx:afterRequest', ({ target, detail }) => {
  if (target.matches?.('.rename') && !detail.successful) delete target.elements.title.dataset.isLeft;
});
// A row or a title that comes along with something else leaves the name alone that is being written.
document.addEventListener('htmx:oobBeforeSwap', ({ detail }) => {
  const { target } = detail;
  if (target.matches('.convo, .topbar .name') && (coming.size || isBeingNamed(target.parentElement))) detail.shouldSwap = false;
});
document.addEventListener('focusout', ({ target }) => {
  if (!isNameField(target) || 'isLeft' in target.dataset) return;
  const name = target.value.trim();
  if (name && name !== target.dataset.was) return target.form.requestSubmit();
  target.dataset.isLeft = '';
  putBack();
});
