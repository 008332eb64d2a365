// Answers come when they come: what somebody types meanwhile stays, the focus stays where they write, and a press on a
// button that an answer replaces under the pointer is a press on the new one. Imported last: it has the last word.

import { $, $$ } from './page.js';

const TEXT = 'textarea, input:not([type=hidden], [type=radio], [type=checkbox], [type=file], [type=password])';

const isText = (element) => Boolean(element?.matches(TEXT));

// --- What is typed, and the focus ----------------------------------------------------------------------------------------------

const asked = new WeakMap(); // request → the element that had the focus, and what each field of its target said
const swaps = new WeakMap(); // request → the fields to fill again, and the one somebody writes in

document.addEventListener('htmx:beforeRequest', ({ detail }) => {
  const values = new Map($$(TEXT, detail.target).map((field) => [field, field.value]));
  asked.set(detail.xhr, { focus: document.activeElement, values });
});

/** Fields that say more than the request knew: `data-stays` says that no request but its own form's knows any of it. */
function typedIn(target, { elt, values }) {
  const form = elt.closest('form');
  return $$(TEXT, target).filter((field) => {
    const isOthers = field.closest('[data-stays]') && field.form !== form;
    return field.value !== (isOthers ? field.defaultValue : values.get(field) ?? field.defaultValue);
  });
}

/** The field that has come in place of another one. */
const successor = (field) => (field.isConnected ? field : field.id && document.getElementById(field.id));

document.addEventListener('htmx:beforeSwap', ({ detail }) => {
  const request = asked.get(detail.xhr);
  if (!detail.shouldSwap || !request) return;
  const active = document.activeElement;
  const hasMovedOn = isText(active) && (active !== request.focus || active.value !== (request.values.get(active) ?? active.value));
  const typed = typedIn(detail.target, { elt: detail.requestConfig.elt, values: request.values });
  swaps.set(detail.xhr, {
    texts: typed.map((field) => ({ field, text: field.value })),
    writing: hasMovedOn && (!detail.target.contains(active) || typed.includes(active))
      ? { field: active, selection: [active.selectionStart, active.selectionEnd] } : null,
  });
});

addEventListener('htmx:afterSwap', ({ detail }) => {
  const { texts = [], writing } = swaps.get(detail.xhr) ?? {};
  for (const { field, text } of texts) {
    const now = successor(field);
    if (now && now !== field && isText(now)) now.value = text;
  }
  const now = writing && successor(writing.field);
  if (!now || now === document.activeElement && now === writing.field) return;
  now.focus({ preventScroll: true });
  if (writing.selection[0] !== null) now.setSelectionRange(...writing.selection);
});

// --- Presses -----------------------------------------------------------------------------------------------------------------

const CONTROL = 'a[href], button, summary, label';

let pressed;

const nameOf = (control) => control.getAttribute('aria-label') ?? control.textContent.trim();

addEventListener('mousedown', ({ target, button }) => { pressed = button === 0 ? target.closest?.(CONTROL) : undefined; }, true);
addEventListener('mouseup', ({ target }) => {
  if (!pressed || pressed.isConnected) return; // a click comes by itself
  const now = target.closest?.(CONTROL);
  if (now && now.tagName === pressed.tagName && nameOf(now) === nameOf(pressed)) now.click();
}, true);
