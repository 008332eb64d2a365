// A reply on its way: one EventSource for the page's unfinished reply, while the tab is visible.
//
// The server sends a snapshot first, then text for the open block, then each block once, rendered, when it closes, then the
// final article. A snapshot replaces everything, so connecting again is harmless. HTML comes sanitised from the server; text
// is only ever added as text.

import { focusOn } from './page.js';

const BACK_OFF = [400, 1000, 2000, 4000, 8000, 15000]; // milliseconds before the next try

let current = null;

/** Follow the page's unfinished reply, if there is one and the tab is visible. Safe to call at any time. */
export function followReply() {
  const article = document.hidden ? null : document.querySelector('#thread [data-stream]');
  if (current?.article === article && !current?.isClosed) return;
  current?.close();
  current = article ? new Following(article) : null;
}

/** Try again now: the network is back, or the person asked. */
export function reconnect() {
  current?.close();
  current = null;
  followReply();
}

function fragment(html) {
  const template = document.createElement('template');
  template.innerHTML = html;
  return template.content;
}

function tell(name, detail) {
  document.dispatchEvent(new CustomEvent(name, { detail }));
}

class Following {
  constructor(article) {
    this.article = article;
    this.prose = article.querySelector('.prose');
    this.open = article.querySelector('.open');
    this.doing = article.querySelector('[data-doing]');
    this.words = article.querySelector('[data-words]');
    this.caret = this.open.querySelector('.caret');
    this.text = this.open.firstChild;
    if (this.text?.nodeType !== Node.TEXT_NODE) {
      this.text = document.createTextNode('');
      this.open.prepend(this.text);
    }
    this.at = 0;
    this.failures = 0;
    this.isClosed = false;
    this.connect();
  }

  connect() {
    const source = new EventSource(this.article.dataset.stream);
    this.source = source;
    const on = (name, act) =>
      source.addEventListener(name, (event) => {
        if (this.source === source && event.data) act(JSON.parse(event.data));
      });
    on('snapshot', (data) => this.takeSnapshot(data));
    on('delta', (data) => this.takeDelta(data));
    on('block', (data) => this.takeBlock(data));
    on('done', (data) => this.end(data.html));
    source.onerror = () => {
      if (this.source === source) this.lose();
    };
  }

  close() {
    this.isClosed = true;
    this.disconnect();
    clearTimeout(this.timer);
    clearTimeout(this.counting);
  }

  disconnect() {
    this.source?.close();
    this.source = null;
  }

  takeSnapshot({ html, open, at, thinking, status }) {
    if (this.failures > 0) tell('parley:connected');
    this.failures = 0;
    while (this.prose.firstChild !== this.open) this.prose.firstChild.remove();
    this.prose.insertBefore(fragment(html), this.open);
    this.text.data = open;
    this.at = at;
    this.say(status || (thinking ? 'thinking' : at ? 'writing' : null));
    this.changed();
  }

  takeDelta({ at, text }) {
    if (at > this.at) return this.lose(); // a gap: the snapshot of a new connection closes it
    const fresh = text.slice(this.at - at);
    if (!fresh) return;
    if (!this.at) this.say('writing');
    this.text.appendData(fresh);
    this.at = at + text.length;
    this.changed();
  }

  takeBlock({ html, open, at }) {
    this.prose.insertBefore(fragment(html), this.open);
    this.text.data = open;
    this.at = at;
    this.changed();
  }

  end(html) {
    this.close();
    const article = fragment(html).firstElementChild;
    const hasFocus = this.article.contains(document.activeElement);
    this.article.replaceWith(article);
    htmx.process(article);
    if (hasFocus) focusOn(article);
    tell('parley:done', { article });
  }

  changed() {
    tell('parley:text');
    this.counting ??= setTimeout(() => {
      this.counting = undefined;
      const count = this.prose.textContent.trim().split(/\s+/).filter(Boolean).length;
      if (count) this.words.textContent = `· ${count.toLocaleString('en')} ${count === 1 ? 'word' : 'words'}`;
    }, 500);
  }

  say(doing) {
    if (doing) this.doing.textContent = doing;
  }

  /** The connection is gone, or was refused. Ask the server how the reply stands, and try again. */
  async lose() {
    this.disconnect();
    const delay = BACK_OFF[Math.min(this.failures, BACK_OFF.length - 1)];
    this.failures += 1;
    if (this.failures > 1) {
      tell('parley:reconnecting', { words: this.words.textContent });
      await this.ask();
    }
    if (!this.isClosed) this.timer = setTimeout(() => this.connect(), delay);
  }

  async ask() {
    const address = this.article.dataset.stream.replace(/stream\/$/, '');
    try {
      const response = await fetch(address, { headers: { 'HX-Request': 'true' } });
      if (this.isClosed) return;
      if (response.redirected || response.status === 401) {
        this.close();
        tell('parley:signed-out');
      } else if (response.status === 404) {
        this.close();
        tell('parley:gone');
      } else if (response.ok) {
        const html = await response.text();
        if (!this.isClosed && !fragment(html).querySelector('[data-stream]')) {
          tell('parley:connected');
          this.end(html);
        }
      }
    } catch {
      // No network: the next try will tell.
    }
  }
}

document.addEventListener('visibilitychange', followReply);
addEventListener('pagehide', () => current?.close());
addEventListener('pageshow', followReply);
