// Writing a message again, in its place. The server keeps the old version: what is sent from here is another one beside it.

import { $, $$, isSendKey } from './page.js';

const thread = $('#thread');

function cancel(form) {
  const article = form.closest('article');
  form.remove();
  $('[data-edit]', article)?.focus();
}

function onKey(event) {
  const form = event.target.closest('form.edit');
  if (!form || event.isComposing) return;
  if (event.key === 'Escape' && form.closest('article')) {
    event.stopPropagation(); // it would stop the reply
    cancel(form);
  } else if (event.target.matches('textarea') && isSendKey(event)) {
    event.preventDefault();
    form.requestSubmit();
  }
}

function onClick(event) {
  const form = event.target.closest('[data-cancel-edit]')?.closest('article form.edit');
  if (!form) return;
  event.preventDefault();
  cancel(form);
}

function begin({ target, detail }) {
  const field = $('form.edit textarea', detail.target ?? target);
  if (!field || field.dataset.begun) return;
  field.dataset.begun = '';
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
  field.scrollIntoView({ block: 'nearest' });
}

// --- The thread is drawn again while somebody writes in it -------------------------------------------------------------------

let open = []; // the forms, out of the page for a moment, with the place of the caret

document.addEventListener('htmx:beforeSwap', ({ detail }) => {
  if (detail.target !== thread || !detail.shouldSwap) return;
  open = $$('article form.edit', thread).filter((form) => !form.contains(detail.requestConfig.elt)).map((form) => {
    const field = $('textarea', form);
    const kept = { form, article: form.closest('article').id, hasFocus: field === document.activeElement };
    kept.selection = [field.selectionStart, field.selectionEnd];
    return kept;
  });
  open.forEach(({ form }) => form.remove());
});

function putBack({ detail }) {
  if (detail.target !== thread) return;
  for (const { form, article, hasFocus, selection } of open) {
    // Where another branch is shown, it is sent from the end of that one.
    (document.getElementById(article) ?? $$('article', thread).at(-1))?.append(form);
    if (!hasFocus) continue;
    $('textarea', form).focus({ preventScroll: true });
    $('textarea', form).setSelectionRange(...selection);
  }
  open = [];
}

thread?.addEventListener('htmx:afterSwap', putBack);
thread?.addEventListener('keydown', onKey);
thread?.addEventListener('click', onClick);
// As soon as it is in the page: a moment later the caret would move under somebody who already types.
thread?.addEventListener('htmx:afterSwap', begin);
