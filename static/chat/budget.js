// The day's money in the sidebar: right again after each turn, in every tab, and when the day is over.

import { $, $$ } from './page.js';

const TICK = 30_000; // milliseconds

function refresh() {
  if (!document.hidden) htmx.trigger(document.body, 'budget-stale');
}

/** "6 h 12 m", as the server writes it. */
function words(milliseconds) {
  const minutes = Math.floor(milliseconds / 60_000);
  return minutes < 60 ? `${minutes} m` : `${Math.floor(minutes / 60)} h ${minutes % 60} m`;
}

function tick() {
  for (const time of $$('[data-resets]')) {
    const left = Date.parse(time.dateTime) - Date.now();
    if (left <= 0) return refresh();
    time.textContent = words(left);
  }
}

document.addEventListener('parley:sent', refresh);
document.addEventListener('parley:done', refresh);
document.addEventListener('visibilitychange', refresh);
addEventListener('focus', refresh);
addEventListener('pageshow', (event) => { if (event.persisted) refresh(); });
new BroadcastChannel('parley').onmessage = refresh; // another tab has sent, or its reply has ended
setInterval(tick, TICK);

// On the page of the ledger: a bar is chosen by pointer as its day is by keyboard, in the table below; and who has
// chosen goes on where the choice is said.
document.addEventListener('click', ({ target }) => {
  const bar = target.closest('[data-day]');
  if (bar) $(`#day-${bar.dataset.day} a`)?.click();
});
document.addEventListener('htmx:afterSwap', ({ detail }) => {
  if (detail.target.id !== 'spend') return;
  const chosen = $('#chosen');
  chosen.focus({ preventScroll: true });
  chosen.scrollIntoView({ block: 'nearest' });
});
