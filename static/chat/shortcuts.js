// Keys. Each does what a control on the page does; single keys work outside of fields, and can be turned off.

import { $, $$, announce } from './page.js';
import { closePanel, openDialog } from './panels.js';
import { openSearch, rename, toggleSidebar } from './sidebar.js';
import { messageAtHand, step } from './thread.js';

const SINGLE_KEYS = {
  '?': () => openDialog('help'),
  '[': toggleSidebar,
  j: () => step(1),
  k: () => step(-1),
  c: () => $('[data-copy]', messageAtHand())?.click(),
  i: () => ($('[data-seen]', messageAtHand() ?? document) ?? $$('[data-seen]').at(-1))?.click(),
  r: () => ($('[data-retry]', messageAtHand()) ?? $('[data-again]', messageAtHand()))?.click(),
};
const LISTS = { '#preset-menu': 'a', '.menu:not(.picker)': '.item', '#convo-list': '.convo > a:first-child, a.row, a.hit' };

const isTyping = (element) => element.matches('input:not([type="radio"]), textarea, select, [contenteditable]');

function stopReply() {
  const stop = $('[data-stop]');
  if (stop) announce('Stopping.');
  stop?.click();
  return Boolean(stop);
}

/** The item before or after the one with the focus, in a menu or in the list. */
function neighbour(target, by) {
  for (const [list, items] of Object.entries(LISTS)) {
    const here = target.closest(list);
    if (!here) continue;
    const all = $$(items, here);
    return all[all.indexOf(target.closest(items)) + by];
  }
}

/** What this key does here; undefined when it is not ours. */
function actionOf(event) {
  const { key, target } = event;
  const mod = event.metaKey || event.ctrlKey;
  if (mod && event.shiftKey && key.toLowerCase() === 'o') return () => $('.side-top .primary').click();
  if (mod && !event.shiftKey && key.toLowerCase() === 'k' && $('#search')) return openSearch;
  if (key === 'F2' && target.closest('.convo')) return () => rename(target.closest('.convo'));
  if (key === ' ' && target.matches('a[role="button"]')) return () => target.click();
  if (key === 'ArrowDown' || key === 'ArrowUp') {
    const next = neighbour(target, key === 'ArrowDown' ? 1 : -1);
    return next && (() => next.focus());
  }
  const isSingle = !mod && !event.altKey && 'singleKeys' in document.body.dataset;
  if (isSingle && !isTyping(target) && !$('dialog[open]')) return SINGLE_KEYS[key.length === 1 ? key.toLowerCase() : key];
}

document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !event.isComposing && !$(':popover-open, dialog[open]')) {
    if (event.target.closest('.panel')) closePanel();
    else if (!stopReply() && event.target.id === 'draft') event.target.blur();
    return;
  }
  const act = actionOf(event);
  if (!act) return;
  event.preventDefault();
  act();
});

if (!/Mac|iPhone|iPad/.test(navigator.platform)) {
  $$('[data-keys]').forEach((keys) => { keys.textContent = keys.dataset.keys; });
  $$('[data-mod]').forEach((keys) => { keys.textContent = 'Ctrl'; });
}
