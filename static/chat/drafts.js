// What is being written, kept on this device until the server has committed it.
//
// A text field slows down with its lines: Chromium takes 22 s to paste 5,000 of them and 1 s for each key among a million.
// A long paste goes in at once (20 ms for 5,000 lines), and one that would make every key slow is held beside the field.

import { $, announce } from './page.js';

const LONG = { lines: 200, characters: 20_000 }; // a paste that the field takes faster from us than from the browser
const TOO_LONG = { lines: 20_000, characters: 200_000 }; // a field in which a key takes more than about 25 ms

export const field = $('#draft');

const own = field && `parley:draft:${field.form.dataset.draft}`;
let key = own;
const place = $('#held');
let held = []; // pasted texts, in order
let saving;

/** All of it: what is in the field, then what is held beside it. */
export const draftText = () => [field.value, ...held].filter((part) => part.trim()).join('\n\n');

export function setDraft(text) {
  field.value = text;
  held = [];
  showHeld();
  save();
  saveHeld();
  grow();
}

/** Let go of what was sent; what has been written behind it meanwhile stays. */
export function letGo(sent) {
  if (draftText() === sent.all) return setDraft('');
  if (field.value.startsWith(sent.text)) {
    field.setRangeText('', 0, sent.text.length, 'preserve');
    held = held.slice(sent.held);
    showHeld();
    saveHeld();
    grow();
  }
  save();
}

/** What `letGo` is given, as it is now. */
export const asSent = () => ({ all: draftText(), text: field.value, held: held.length });

/** A new conversation has begun: what is written from now on belongs to it. */
export function moveTo(conversation) {
  const rest = [key, `${key}:held`];
  key = key.replace(/new$/, conversation);
  save();
  saveHeld();
  rest.forEach((name) => store(name, ''));
}

export function save() {
  clearTimeout(saving);
  store(key, field.value);
}

function saveHeld() {
  store(`${key}:held`, held.length ? JSON.stringify(held) : '');
}

function store(name, text) {
  try {
    if (text) localStorage.setItem(name, text);
    else localStorage.removeItem(name);
  } catch {
    // A full or forbidden store: the text stays on the page.
  }
}

function restore() {
  const kept = localStorage.getItem(key) ?? '';
  if (!field.value) field.value = kept;
  // Somebody was faster than this script.
  else if (field.value !== field.defaultValue && !field.value.startsWith(kept)) field.value = `${kept}\n\n${field.value}`;
  held = JSON.parse(localStorage.getItem(`${key}:held`) ?? '[]');
  showHeld();
  grow();
}

function grow() {
  if (CSS.supports('field-sizing', 'content')) return;
  field.style.height = 'auto';
  field.style.height = `${field.scrollHeight}px`;
}

function linesIn(text) {
  let count = 1;
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) count += 1;
  return count;
}

const isOver = (limit, ...texts) =>
  texts.reduce((sum, text) => sum + text.length, 0) > limit.characters ||
  texts.reduce((sum, text) => sum + linesIn(text), 0) > limit.lines;

function takePaste(event) {
  const text = (event.data ?? event.dataTransfer?.getData('text/plain') ?? '').replace(/\r\n?/g, '\n');
  if (!isOver(LONG, text)) return;
  event.preventDefault();
  if (isOver(TOO_LONG, field.value, text)) hold(text);
  else insert(text);
}

function insert(text) {
  const isAtEnd = field.selectionEnd === field.value.length;
  field.setRangeText(text, field.selectionStart, field.selectionEnd, 'end');
  field.dispatchEvent(new Event('input', { bubbles: true }));
  if (isAtEnd) field.scrollTop = field.scrollHeight;
}

function hold(text) {
  held.push(text);
  showHeld();
  saveHeld();
  tell();
  announce(`${sizeOf(text)} are held beside your message and go with it.`);
}

function sizeOf(text) {
  const lines = linesIn(text.trimEnd());
  return lines > 1 ? `${lines.toLocaleString('en')} lines` : `${text.length.toLocaleString('en')} characters`;
}

const beginningOf = (text) => {
  const words = text.slice(0, 200).trim().replace(/\s+/g, ' ');
  return words.length > 40 ? `${words.slice(0, 40)}…` : words || 'Pasted text';
};

function tell() {
  document.dispatchEvent(new CustomEvent('parley:draft'));
}

function showHeld() {
  place.hidden = held.length === 0;
  place.replaceChildren(...held.map((text, index) => {
    const piece = $('#held-piece').content.cloneNode(true);
    $('[data-begins]', piece).textContent = beginningOf(text);
    $('[data-size]', piece).textContent = sizeOf(text);
    $('button', piece).addEventListener('click', () => drop(index));
    return piece;
  }));
}

function drop(index) {
  held.splice(index, 1);
  showHeld();
  saveHeld();
  tell();
  announce('Removed.');
  field.focus();
}

if (field) {
  restore();
  field.addEventListener('beforeinput', takePaste);
  field.addEventListener('input', () => {
    clearTimeout(saving);
    saving = setTimeout(save, 300);
    grow();
  });
  addEventListener('pagehide', save);
  addEventListener('pageshow', () => {
    if (key === own) return;
    key = own; // gone back to where that conversation began
    setDraft('');
  });
  document.addEventListener('visibilitychange', save);
}
