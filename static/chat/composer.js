// Sending: keys of the text field, what may be sent now, when the draft is let go, and which model answers.

import { showStrip } from './connection.js';
import { asSent, draftText, field, letGo, moveTo, save, setDraft } from './drafts.js';
import { $, $$, announce, conversation, isOnPhone, isSendKey } from './page.js';

const form = $('#composer-form');
const models = $('#model-menu');
let inFlight = null; // what was sent and is not answered yet
let isEnding = false; // the reply has ended, and the tools for the next message are on their way
let isWaiting = false; // somebody wants to send before that: then it is sent

const isBusy = () => 'running' in $('#composer-tools').dataset;

function send() {
  if (draftText()) $('.send:not(.stop)', form).click(); // htmx sends a form to where the button clicked last leads: that may be Stop
}

function sendIfWanted() {
  if (isWaiting) queueMicrotask(send); // htmx lets the answered request go first
  isWaiting = false;
}

/** Before the tools for it have come, a message would be sent with those of the one before. */
function onSubmit(event) {
  const isEarly = inFlight !== null || (isBusy() && isEnding);
  if (!isEarly || !event.submitter?.matches('.send:not(.stop)')) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  isWaiting = true;
}

function onKey(event) {
  if (!isSendKey(event)) return;
  event.preventDefault();
  send();
}

function beforeSend(event) {
  if (event.target !== form) return;
  htmx.trigger('#estimate', 'htmx:abort');
  if (!draftText()) {
    event.preventDefault();
  } else if (!navigator.onLine) {
    event.preventDefault();
    showStrip('offline');
  } else {
    save();
    inFlight = asSent();
    form.setAttribute('aria-busy', 'true');
  }
}

function afterSend(event) {
  if (event.target !== form) return;
  form.removeAttribute('aria-busy');
  if (inFlight === null && conversation) sendIfWanted();
  inFlight = null;
  isWaiting = false;
  if ([document.body, $('#send')].includes(document.activeElement)) field.focus();
}

if (form) {
  field.addEventListener('keydown', onKey);
  form.addEventListener('submit', onSubmit, true);
  form.addEventListener('htmx:configRequest', ({ detail }) => {
    if (!detail.formData.has('text')) return;
    if (detail.elt.id === 'estimate') sample(detail.formData, draftText());
    else detail.formData.set('text', draftText());
  });
  form.addEventListener('htmx:beforeRequest', beforeSend);
  form.addEventListener('htmx:afterRequest', afterSend);
}

// The server has committed the message: only now is the draft let go.
document.addEventListener('parley:sent', ({ detail }) => {
  if (inFlight !== null) letGo(inFlight);
  if (inFlight !== null && !conversation) moveTo(detail.conversation);
  inFlight = null;
  announce(detail.waits ? 'Sent. It waits for its turn.' : 'Sent. Parley is writing.');
});

document.addEventListener('parley:done', () => {
  isEnding = isBusy();
  $('[data-stop]')?.removeAttribute('data-stop'); // Escape has nothing to stop any more
});

/** The text of a message that was still waiting goes above what is being written. */
function takeBack(place) {
  setDraft([place.textContent, field.value].filter((part) => part.trim()).join('\n\n'));
  place.textContent = '';
  refreshEstimate();
  field.focus();
}

document.addEventListener('click', ({ target }) => {
  const starter = target.closest('[data-starter]');
  if (!starter) return;
  setDraft(starter.dataset.starter);
  refreshEstimate();
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
});

// --- What it costs ------------------------------------------------------------------------------------------------------------

const PIECES = 5;
const PIECE = 4000; // characters: what the server counts of a long draft, and all of it that is sent for an estimate

function sample(form, text) {
  const step = Math.floor((text.length - PIECE) / (PIECES - 1));
  const pieces = Array.from({ length: PIECES }, (_, n) => text.slice(n * step, n * step + PIECE));
  form.set('text', text.length > PIECES * PIECE ? pieces.join('') : text);
  form.set('length', text.length);
}

function refreshEstimate() {
  if (!isBusy()) htmx.trigger(document.body, 'estimate-stale');
}

/** The same words where there is no room for them beside the buttons. */
function mirrorEstimate() {
  $('.est-small').replaceChildren(...$('#estimate').cloneNode(true).childNodes);
}

if (form) {
  document.addEventListener('parley:draft', refreshEstimate);
  document.addEventListener('htmx:afterSwap', ({ detail }) => {
    if (detail.target.id === 'estimate') mirrorEstimate();
  });
  addEventListener('load', () => { if (draftText()) refreshEstimate(); }); // a draft that this device has kept
  // What is left may be less by now: as with the meter.
  addEventListener('focus', refreshEstimate);
  new BroadcastChannel('parley').onmessage = refreshEstimate;
}

// Who takes an offer goes on with its model.
document.addEventListener('click', ({ target }) => {
  const offer = target.closest('[data-offer]');
  const option = offer && $$('#model-menu input').find((input) => input.value === offer.value);
  if (option) option.checked = true;
});

// --- Models ------------------------------------------------------------------------------------------------------------------

let switching = null; // the reply that another model is to answer

function syncTools() {
  mirrorEstimate();
  field.placeholder = isBusy() ? 'Write the next message; it waits for this reply' : 'Message Parley';
  const chosen = models && $('input:checked', models);
  const label = $('[data-chosen-model]');
  if (!chosen || !label) return;
  label.textContent = chosen.dataset.label;
  label.closest('button').setAttribute('aria-label', `Model: ${chosen.dataset.label}`);
}

function chooseModel() {
  models.hidePopover();
  const retry = switching && $(`[data-reply="${switching}"] [data-retry]`);
  switching = null;
  if (retry) retry.click();
  else field.focus();
}

models?.addEventListener('change', syncTools);
models?.addEventListener('click', (event) => {
  if (event.detail > 0 && event.target.matches('input')) chooseModel(); // a pointer: arrow keys go on choosing
});
models?.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter') return;
  event.preventDefault();
  chooseModel();
});
models?.addEventListener('toggle', (event) => {
  if (event.newState === 'open') return $('input:checked', models)?.focus();
  delete models.dataset.opener;
  const { activeElement } = document; // what had it when the menu opened may be gone
  if (activeElement === document.body || models.contains(activeElement)) $('#pick-model').focus();
});

/** The button that opened the menu has come anew: the menu stays where it is. */
function anchorMenu() {
  if (models?.matches(':popover-open') && !switching) models.dataset.opener = 'anew';
}
document.addEventListener('click', ({ target }) => {
  if (target.closest('#model-menu')) return;
  switching = target.closest('[data-switch]')?.dataset.switch ?? null;
});

// Presets: each is a link, and what it changes comes with its answer.
const presets = $('#preset-menu');
presets?.addEventListener('toggle', (event) => {
  if (event.newState === 'open') $('[aria-current]', presets)?.focus();
});
presets?.addEventListener('htmx:afterRequest', () => {
  presets.hidePopover();
  field.focus();
});

/** The tools have come, or will not. */
function endEnding() {
  if (isEnding) sendIfWanted();
  isEnding = false;
}

function syncNewTools() {
  endEnding();
  anchorMenu();
  syncTools();
  if (hadFocus && document.activeElement === document.body && !isOnPhone()) field.focus(); // what had it is gone
  hadFocus = false;
  const chosen = models && $('input:checked', models);
  if (draftText() || (chosen && chosen.value !== $('#composer-tools').dataset.model)) refreshEstimate();
}

let hadFocus = false; // one of the tools, before the others came

function noteFocus({ detail }) {
  if (detail.target.id === 'composer-tools') hadFocus = detail.target.contains(document.activeElement);
}

document.addEventListener('htmx:beforeSwap', noteFocus);
document.addEventListener('htmx:oobBeforeSwap', noteFocus);
document.addEventListener('htmx:afterSettle', ({ target }) => {
  if (target.id === 'composer-tools') syncNewTools();
});
document.addEventListener('htmx:afterRequest', ({ detail }) => {
  if (detail.target.id === 'composer-tools') endEnding();
});
document.addEventListener('htmx:oobAfterSwap', ({ detail }) => {
  if (detail.target.id === 'composer-tools') syncNewTools();
  if (detail.target.id === 'taken-back') takeBack(detail.target);
});
