// Dialogs, and the panel beside the conversation.

import { $, $$ } from './page.js';

/** Whether the address is that of a panel. */
const isPage = () => /\/(settings|context|summaries|memory)\/$/.test(location.pathname);

let opener;  // what opened the panel, unless it was the panel itself

/** Close the panel, and go back to what opened it: where it is a page of its own, to the conversation. */
export function closePanel() {
  if (isPage()) return $('#panel [data-closes-panel]').click();
  const empty = document.createElement('div');
  empty.id = 'panel';
  empty.hidden = true;
  $('#panel').replaceWith(empty);
  const topbar = $$('.topbar [hx-target="#panel"]');
  [opener, ...topbar].find((link) => link?.isConnected && link.checkVisibility())?.focus();
}

// Who opens the panel goes on in it, in its field if there is one to write in. Who does something there stays at the
// button, comes to the first field that is wrong, or, where the button is gone, to what can be done next.
const AFTER = {
  get: ['[autofocus]', '[data-closes-panel]'],
  post: ['.is-wrong :is(input, select, textarea)', '.solid', '.strip button', '[data-closes-panel]'],
};
document.addEventListener('htmx:afterSwap', ({ detail }) => {
  if (detail.target.id !== 'panel') return;
  if (!detail.requestConfig.elt.closest('.panel')) opener = detail.requestConfig.elt;
  const places = AFTER[detail.requestConfig.verb] ?? AFTER.post;
  places.map((place) => $(`#panel ${place}`)).find(Boolean)?.focus();
});

export function openDialog(id) {
  $(':popover-open')?.hidePopover();
  $(`#${id}`).showModal();
}

document.addEventListener('click', (event) => {
  const opens = event.target.closest('[data-opens-dialog]');
  if (opens) openDialog(opens.dataset.opensDialog);
  if (event.target.closest('[data-closes-panel]') && !isPage()) {
    event.preventDefault();
    closePanel();
  }
});
