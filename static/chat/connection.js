// The network, the session and the server: what stands in the way is said in a strip above the composer.

import { $, conversation, cookie, leafShown } from './page.js';
import { reconnect } from './stream.js';

/** Show one of the strips of `strips.html`; without a name, none. */
export function showStrip(name) {
  const place = $('#connection');
  if (!place || place.dataset.strip === (name ?? '')) return;
  place.dataset.strip = name ?? '';
  place.replaceChildren(...(name ? [$(`#strip-${name}`).content.cloneNode(true)] : []));
}

export function hideStrip(...names) {
  if (names.includes($('#connection')?.dataset.strip)) showStrip();
}

const isSignIn = (address) => address && new URL(address, location).pathname.startsWith(document.body.dataset.login);

document.addEventListener('htmx:configRequest', ({ detail }) => {
  // Signing in again, in any tab, changes the token: the cookie has the one that counts.
  detail.headers['x-csrftoken'] = cookie('csrftoken') ?? detail.headers['x-csrftoken'];
  delete detail.parameters.csrfmiddlewaretoken;
  if (conversation && detail.elt.id === 'thread' && detail.verb === 'get') {
    detail.parameters.known = $('#composer-tools').dataset.version;
    if (leafShown()) detail.parameters.leaf = leafShown();
  }
});

document.addEventListener('htmx:beforeSwap', ({ detail }) => {
  if (isSignIn(detail.xhr.responseURL)) {
    detail.shouldSwap = false;
    showStrip('signed-out');
  }
});

document.addEventListener('htmx:sendError', ({ detail }) => {
  if (detail.elt.id !== 'estimate') showStrip(navigator.onLine ? 'unreachable' : 'offline'); // that one sends nothing
});
document.addEventListener('htmx:responseError', ({ detail }) => {
  const isSignedOut = detail.xhr.getResponseHeader('X-Signed-Out');
  const strips = { 403: isSignedOut ? 'signed-out' : 'out-of-date', 404: 'gone' };
  showStrip(strips[detail.xhr.status] ?? 'failed');
});
document.addEventListener('htmx:afterRequest', ({ detail }) => {
  if (detail.successful && !isSignIn(detail.xhr.responseURL)) hideStrip('unreachable', 'failed', 'out-of-date');
});

// What was to come by itself has its words for not coming.
document.addEventListener('htmx:afterRequest', ({ detail }) => {
  const instead = !detail.successful && $('template[data-instead]', detail.target);
  if (instead) detail.target.replaceWith(instead.content.cloneNode(true));
});

addEventListener('offline', () => showStrip('offline'));
addEventListener('online', () => {
  hideStrip('offline', 'unreachable', 'reconnecting');
  reconnect();
});
if (!navigator.onLine) showStrip('offline');

document.addEventListener('parley:reconnecting', ({ detail }) => {
  showStrip('reconnecting');
  const soFar = $('#connection [data-so-far]');
  if (soFar && detail.words) soFar.textContent = `${detail.words.replace('· ', '')} so far, none lost.`;
});
document.addEventListener('parley:connected', () => hideStrip('reconnecting'));
document.addEventListener('parley:done', () => hideStrip('reconnecting'));
document.addEventListener('parley:signed-out', () => showStrip('signed-out'));
document.addEventListener('parley:gone', () => showStrip('gone'));
document.addEventListener('click', ({ target }) => {
  if (!target.closest('[data-reconnect]')) return;
  hideStrip('reconnecting');
  reconnect();
});
