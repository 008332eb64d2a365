// What was done, with Undo: shown for eight seconds, longer while somebody points at it.

import { $, $$ } from './page.js';

const SHOWN = 8000; // milliseconds

function arm(toast) {
  let timer;
  const wait = () => clearTimeout(timer);
  const start = () => {
    wait();
    timer = setTimeout(() => (toast.matches(':hover, :focus-within') ? start() : toast.remove()), SHOWN);
  };
  toast.addEventListener('mouseenter', wait);
  toast.addEventListener('focusin', wait);
  toast.addEventListener('mouseleave', start);
  toast.addEventListener('focusout', start);
  toast.addEventListener('htmx:afterRequest', () => toast.remove());
  start();
}

const toasts = $('#toasts');
if (toasts) {
  $$('.toast', toasts).forEach(arm);
  new MutationObserver((changes) => {
    for (const added of changes.flatMap((change) => [...change.addedNodes])) if (added.matches?.('.toast')) arm(added);
  }).observe(toasts, { childList: true });
}
