// What every module uses: finding elements, which conversation this is, words for those who listen.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** The id of the conversation on this page; undefined where a new one begins, and elsewhere. */
export const conversation = $('#thread')?.dataset.conversation;

/** The message that names the branch shown, if it is not the newest one. */
export const leafShown = () => new URLSearchParams(location.search).get('leaf');

export const cookie = (name) => document.cookie.split('; ').find((pair) => pair.startsWith(`${name}=`))?.slice(name.length + 1);

/** Enter sends where there is a keyboard; with Shift it begins a line, and an input method may take it for itself. */
export function isSendKey(event) {
  const composes = event.isComposing || event.keyCode === 229;
  const hasKeyboard = !matchMedia('(hover: none) and (pointer: coarse)').matches;
  return event.key === 'Enter' && !event.shiftKey && !composes && (hasKeyboard || event.ctrlKey || event.metaKey);
}

/** Replace an element by what an address gives. What fails is said by `connection.js`. */
export const ask = (address, target) => htmx.ajax('GET', address, { target, swap: 'outerHTML' }).catch(() => {});

/** Let the keyboard go on from a message. */
export function focusOn(article) {
  article.tabIndex = -1;
  article.focus({ preventScroll: true });
}

export const isOnPhone = () => matchMedia('(max-width: 820px)').matches;

export function announce(words) {
  const status = $('#announce');
  status.textContent = '';
  requestAnimationFrame(() => { status.textContent = words; });
}
