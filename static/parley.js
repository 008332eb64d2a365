// What the page does beyond htmx: a module for each thing, in `chat/`. They tell each other by events (`parley:sent`,
// `parley:text`, `parley:done`), and none imports one that imports it: their names in production tell their content.

import './chat/connection.js'; // offline, signed out, the server failed
import './chat/composer.js'; // sending, models; `drafts.js` keeps what is being written
import './chat/thread.js'; // the end of the thread; `stream.js` brings the text of a reply
import './chat/sidebar.js'; // the list, its search, its menu, renaming
import './chat/budget.js'; // the day's money
import './chat/tabs.js'; // other tabs and devices
import './chat/panels.js';
import './chat/toasts.js';
import './chat/copying.js';
import './chat/editing.js'; // writing a message again
import './chat/shortcuts.js';
import './chat/typing.js'; // what is typed or pressed while an answer comes
