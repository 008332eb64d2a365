// The thread: its end is followed while the reader is there, and it changes when a reply ends or it went on elsewhere.

import { refreshSidebar } from './sidebar.js';
import { followReply } from './stream.js';
import { $, $$, announce, ask, conversation, focusOn, leafShown } from './page.js';

const thread = $('#thread');
let isFollowing = true;
let isStale = false;

// --- Its end -----------------------------------------------------------------------------------------------------------------

const isAtEnd = () => thread.scrollHeight - thread.scrollTop - thread.clientHeight < 64;

function toEnd() {
  thread.scrollTop = thread.scrollHeight;
}

function keepUp() {
  if (isFollowing) toEnd();
  else $('#to-end').hidden = false;
}

function beginAtTheRightPlace() {
  const address = new URLSearchParams(location.search);
  const named = location.hash.length > 1 && location.hash !== '#latest' && document.getElementById(location.hash.slice(1));
  if (named) {
    isFollowing = false;
    named.scrollIntoView({ block: 'center' });
  } else if (!address.has('before')) toEnd();
  if ('partial' in thread.dataset) isFollowing = false;
}

if (conversation) {
  beginAtTheRightPlace();
  let frame;
  document.addEventListener('parley:text', () => {
    frame ??= requestAnimationFrame(() => { frame = undefined; keepUp(); });
  });
  // Only going up leaves the end: it may have moved on by itself before the word of a scroll comes.
  let top = thread.scrollTop;
  thread.addEventListener('scroll', () => {
    isFollowing = isAtEnd() || (isFollowing && thread.scrollTop >= top);
    top = thread.scrollTop;
    $('#to-end').hidden = isFollowing;
  }, { passive: true });
  $('#to-end').addEventListener('click', () => {
    isFollowing = true;
    toEnd();
  });
  new ResizeObserver(() => { if (isFollowing) toEnd(); }).observe(thread);
}

// Earlier messages come above what is being read, and that stays where it is.
document.addEventListener('htmx:beforeSwap', ({ detail }) => {
  if (!detail.target.matches('#thread > .day')) return;
  const reading = $('article', thread);
  const top = reading.getBoundingClientRect().top;
  requestAnimationFrame(() => { thread.scrollTop += reading.getBoundingClientRect().top - top; });
});

// --- What is said ------------------------------------------------------------------------------------------------------------

const ENDS = {
  complete: 'Reply finished.',
  stopped: 'Reply stopped.',
  failed: 'The reply failed.',
  interrupted: 'The reply was cut off.',
};
const TITLE_CHECKS = [2000, 5000, 12_000, 30_000]; // milliseconds: a first exchange is given its title a little later

/** The same message again, because its first answer was lost on the way here. */
function dropRepeats() {
  for (const article of $$('article', thread)) {
    $$(`[id="${article.id}"]`, thread).slice(0, -1).forEach((repeat) => repeat.remove());
  }
}

function moveRowUp() {
  const row = $(`#c-${conversation}`);
  const list = row?.closest('ul');
  if (!row || (list.id !== 'list-today' && list.id !== 'list-pinned')) refreshSidebar();
  else if (list.id === 'list-today') list.prepend(row);
}

function refreshTools() {
  const leaf = leafShown();
  ask(thread.dataset.composer + (leaf ? `?leaf=${leaf}` : ''), '#composer-tools');
}

/** Show the thread as the server has it; a hidden tab does so when it is looked at. */
export function refreshThread() {
  if (!conversation || 'partial' in thread.dataset) return;
  isStale = document.hidden;
  if (!isStale) htmx.trigger(thread, 'thread-stale');
}

export const isThreadStale = () => isStale;

const isNextWaiting = () => Boolean($('[data-waits]', thread)) && !$('[data-stream], form.edit', thread);

document.addEventListener('parley:sent', () => {
  if (!conversation) return;
  isFollowing = true;
  delete thread.dataset.partial; // what was sent from the midst of the thread has brought its end
  requestAnimationFrame(() => {
    dropRepeats();
    $$('article.last', thread).slice(0, -1).forEach((article) => article.classList.remove('last'));
    toEnd();
    moveRowUp();
    followReply();
  });
});

document.addEventListener('parley:done', ({ detail }) => {
  const { state, cost } = detail.article.dataset;
  announce(`${ENDS[state] ?? 'Reply finished.'}${cost ? ` It cost ${cost}.` : ''}`);
  keepUp();
  followReply(); // another may have begun before the word of this end came
  if (isNextWaiting()) refreshThread();
  else refreshTools();
  refreshSidebar();
  if ($$('.msg--assistant', thread).length === 1) TITLE_CHECKS.forEach((delay) => setTimeout(refreshSidebar, delay));
});

// What was asked for before somebody sent or chose something here does not know of it: it is asked for again.
let changes = 0;
let isMissed = false;
const asked = new WeakMap(); // request → the changes before it
let focused; // the message with the focus, before all are drawn again

const changesThread = ({ requestConfig, target }) => requestConfig.verb === 'post' && target === thread;

document.addEventListener('htmx:beforeRequest', ({ detail }) => {
  if (changesThread(detail)) changes += 1;
  asked.set(detail.xhr, changes);
});
document.addEventListener('htmx:beforeSwap', ({ detail }) => {
  const draws = detail.requestConfig.verb === 'get' && (detail.target === thread || detail.target.id === 'composer-tools');
  if (draws && asked.get(detail.xhr) !== changes) {
    detail.shouldSwap = false;
    isMissed = true;
  }
  if (detail.target === thread) focused = document.activeElement.closest('#thread article')?.id;
});
document.addEventListener('htmx:afterRequest', ({ detail }) => {
  if (changesThread(detail)) changes += 1; // nor does what was asked for before it was answered
  else if (isMissed) {
    isMissed = false;
    refreshThread();
  }
});

document.addEventListener('htmx:afterSettle', ({ target, detail }) => {
  if (target !== thread && detail.target !== thread) return;
  const article = focused && document.activeElement === document.body && document.getElementById(focused);
  if (article) focusOn(article);
  focused = undefined;
  if (isFollowing) toEnd();
  followReply();
});

/** Go to the next or the previous message by keyboard. */
export function step(by) {
  const articles = $$('article', thread);
  const at = articles.indexOf(document.activeElement.closest('article'));
  const next = articles[at < 0 ? articles.length - 1 : Math.min(Math.max(at + by, 0), articles.length - 1)];
  if (!next) return;
  focusOn(next);
  next.scrollIntoView({ block: 'nearest' });
}

/** The message that a key acts on: the focused one, else the last. */
export const messageAtHand = () => document.activeElement.closest('article') ?? $('article.last', thread);

addEventListener('online', refreshThread);
// What waits begins without a word to this page.
if (conversation) setInterval(() => { if (isNextWaiting()) refreshThread(); }, 1500);
followReply();
