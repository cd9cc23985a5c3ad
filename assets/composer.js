// The composer: text, attachments, and a hold-to-talk button with raw 16 kHz capture (no echo cancelling, no noise
// suppression, no gain control: they destroy music and tones). Runs inside gr.HTML: `element`, `trigger`, `upload` are given.
// Events: submit {text, items: [{kind, path, name}]}, stop. The page calls .composer.api.idle() when a reply has ended.
const root = element.querySelector('.composer');
const find = (selector) => root.querySelector(selector);
const text = find('textarea'), tray = find('.composer-tray'), note = find('.composer-note'), chooser = find('.composer-file');
const send = find('.composer-send'), talk = find('.composer-talk'), clock = find('.composer-time');
const WORDS = { image: 'Picture', speech: 'Speech', music: 'Music' };
const OTHERS = { speech: 'music', music: 'speech' }, TURNS = { speech: 'As speech', music: 'As music' };
const HOLD_MS = 350, SPEECH_S = 30, SILENT = 0.002, MARGIN_S = 0.25;
let items = [], kindAsked = 'image', recorder = null, state = 'opening', pressedAt = 0, locked = false;
let output = null, edit = null, waiting = false; // the pressed chip, the message that is edited, whether one waits for the reply to end
let recorded = 'speech', replies = 0; // what the round button records; how many replies have ended
let sent = null, last = null; // the message whose reply is made, and the one before

function setState(next) {
  state = next;
  root.dataset.state = next;
  const labels = { opening: 'Please wait', idle: 'Hold to talk', starting: 'Please wait', recording: 'Stop and send', sending: 'Sending', busy: 'Stop the reply' };
  talk.setAttribute('aria-label', labels[next]);
  talk.title = next === 'idle' ? 'Hold to talk, or tap to start and tap to send' : labels[next];
  refresh();
}

function refresh() {
  const content = text.value.trim() || items.length;
  send.disabled = !['opening', 'idle', 'busy'].includes(state) || waiting || !content || items.some((item) => item.pending);
  tray.hidden = !items.length;
}

function rest() { // the word beside the button while nothing is recorded
  clock.textContent = free ? 'listening' : '';
  refresh();
}

function say(problem) {
  note.classList.remove('cards-of-files');
  note.textContent = problem || '';
  note.hidden = !problem;
}
function refuse(problem, cause, remedy, label, act) { // a card; several files may be refused at once
  if (!note.classList.contains('cards-of-files')) say('');
  note.classList.add('cards-of-files');
  const card = document.createElement('div'), head = document.createElement('strong'), button = document.createElement('button');
  const sentences = [cause, remedy].map((words) => Object.assign(document.createElement('span'), { textContent: words }));
  card.className = 'refusal';
  head.textContent = problem;
  button.type = 'button';
  button.className = 'do';
  button.textContent = label;
  button.onclick = () => {
    card.remove();
    note.hidden = !note.childElementCount;
    act();
  };
  card.append(head, sentences[0], ' ', sentences[1], button);
  note.append(card);
  note.hidden = false;
}

function grow() {
  text.style.height = 'auto';
  text.style.height = Math.min(text.scrollHeight, 160) + 'px';
}

// ---- attachments

function drawTray() {
  tray.replaceChildren(...items.map((item) => {
    const chip = document.createElement('li');
    chip.className = 'chip chip-' + item.kind + (item.pending ? ' pending' : '');
    if (item.preview) {
      const picture = document.createElement('img');
      picture.src = item.preview;
      picture.alt = '';
      chip.append(picture);
    }
    const label = document.createElement('span');
    const called = item.name || WORDS[item.kind]; // what was sent before has no name any more
    label.textContent = WORDS[item.kind] + (item.name ? ': ' + item.name : '');
    const other = item.keep === undefined && OTHERS[item.kind], turn = document.createElement('button');
    if (other) { // a sound is read as speech or as music
      turn.type = 'button';
      turn.className = 'chip-kind';
      turn.textContent = TURNS[other];
      turn.setAttribute('aria-label', TURNS[other] + ': ' + item.name);
      turn.onclick = () => { item.kind = other; drawTray(); tray.querySelectorAll('li')[items.indexOf(item)].querySelector('.chip-kind').focus(); };
    }
    const put = document.createElement('button'), mark = marked(items.indexOf(item));
    put.type = 'button';
    put.className = 'chip-place';
    put.textContent = mark;
    put.title = 'Put this file where the cursor is in the text';
    put.setAttribute('aria-label', mark + ' Place ' + called + ' in the text');
    put.onclick = () => insert(mark);
    const remove = document.createElement('button');
    remove.type = 'button';
    remove.textContent = '\u00d7';
    remove.setAttribute('aria-label', 'Remove ' + called);
    remove.onclick = () => drop(item);
    chip.append(put, label, ...(other ? [turn] : []), remove);
    return chip;
  }));
  refresh();
}

// ---- places of files among the words: "[1]" is where the first one is read; without a place it is read first

const marked = (number) => '[' + (number + 1) + ']';
function insert(mark) { // at the cursor; it stands in one place only
  const cut = (words) => words.replace(mark, '').trim();
  const before = cut(text.value.slice(0, text.selectionStart)), after = cut(text.value.slice(text.selectionEnd));
  const head = (before ? before + ' ' : '') + mark + ' ';
  text.value = head + after;
  grow();
  refresh();
  text.focus();
  text.setSelectionRange(head.length, head.length);
}
function renumber(words, count, of) { // the marks of `count` files, each with its new number or none
  return words.replace(/ ?\[(\d)\]/g, (mark, digit) => {
    if (digit < 1 || digit > count) return mark;
    return of(digit - 1) === null ? '' : mark.replace(/\[\d\]/, marked(of(digit - 1)));
  });
}
const without = (gone) => (number) => number === gone ? null : number - (number > gone);

function drop(item) {
  const gone = items.indexOf(item);
  if (gone < 0) return;
  text.value = renumber(text.value, items.length, without(gone));
  items = items.filter((other) => other !== item);
  if (item.preview) URL.revokeObjectURL(item.preview);
  drawTray();
}

const MB = 1024 * 1024;
function megabytes(bytes) { // never rounded down to what would be allowed
  return (Math.ceil(10 * bytes / MB) / 10).toString();
}
async function attach(file, kind, again = () => attach(file, kind)) { // again: what is done once more if it does not arrive
  if (file.size > LIMIT_MB * MB) {
    const remedy = kind === 'image' ? 'Save it smaller, for instance as JPEG.' : 'Cut it, or save it as FLAC or MP3.';
    const choose = () => find(`[data-attach=${kind}]`).click();
    return refuse(file.name + ' is too large.', `It has ${megabytes(file.size)} MB; the limit is ${LIMIT_MB} MB.`, remedy, 'Choose another file', choose);
  }
  if (items.length >= 8) return say('Up to eight files fit in one message.');
  const preview = kind === 'image' && file.type.startsWith('image/') ? URL.createObjectURL(file) : null;
  const item = { kind, name: file.name || WORDS[kind], preview, pending: true };
  items.push(item);
  drawTray();
  try {
    item.path = (await upload(file)).path;
    item.pending = false;
  } catch (error) {
    drop(item);
    refuse(file.name + ' was not uploaded.', 'The server did not take it, or the network is gone.',
      'Try again. If that does not help, reload this page: your chats are kept.', 'Try again', again);
    const once = () => document.querySelectorAll('.toast-body.error .toast-close').forEach((close) => close.click());
    [0, 100, 500].forEach((later) => setTimeout(once, later)); // Gradio tells the same in its own words
  }
  drawTray();
  return item;
}

root.querySelectorAll('[data-attach]').forEach((button) => {
  button.onclick = () => {
    kindAsked = button.dataset.attach;
    chooser.accept = kindAsked === 'image' ? 'image/png,image/jpeg,image/webp,image/gif,image/bmp' : 'audio/*,video/webm,.m4a,.flac,.opus';
    chooser.value = '';
    chooser.click();
  };
});
chooser.onchange = () => { say(''); for (const file of chooser.files) attach(file, kindAsked); };
root.addEventListener('paste', (event) => {
  for (const file of event.clipboardData?.files || []) if (file.type.startsWith('image/')) { event.preventDefault(); say(''); attach(file, 'image'); }
});
const page = document.querySelector('.gradio-container') || document.body;
page.addEventListener('dragover', (event) => { if (event.dataTransfer?.types.includes('Files')) { event.preventDefault(); root.classList.add('dropping'); } });
page.addEventListener('dragleave', (event) => { if (!event.relatedTarget) root.classList.remove('dropping'); });
page.addEventListener('drop', (event) => {
  root.classList.remove('dropping');
  if (!event.dataTransfer?.files.length || event.target.closest('input, .drawer')) return;
  event.preventDefault();
  say('');
  for (const file of event.dataTransfer.files) attach(file, file.type.startsWith('image/') ? 'image' : 'music');
});

// ---- sending

function submit() {
  const words = text.value.trim();
  if ((!words && !items.length && edit === null) || items.some((item) => item.pending)) return;
  if (['opening', 'busy'].includes(state)) { waiting = true; say(''); clock.textContent = 'next'; refresh(); return; }
  if (state !== 'idle') return;
  const parts = items.map(({ kind, path, name, keep }) => keep === undefined ? { kind, path, name } : { keep });
  sent = { words, items, output, edit };
  items = [];
  text.value = '';
  grow();
  say('');
  drawTray();
  setState('busy');
  trigger('submit', { text: words, items: parts, output, edit, aloud: Boolean(free) && !output });
  choose(null);
  change(null);
}

function ended() { // the reply has ended; a message that was refused comes back, without the file that cannot be used
  const refused = document.querySelector('#status [data-refused]')?.dataset.refused;
  if (!sent) return;
  last?.items.forEach((item) => item.preview && !items.includes(item) && URL.revokeObjectURL(item.preview));
  last = sent;
  sent = null;
  if (refused === undefined) return;
  waiting = false;
  const gone = refused === '' ? -1 : Number(refused);
  const words = gone < 0 ? last.words : renumber(last.words, last.items.length, without(gone)).trim();
  back({ ...last, words, items: last.items.filter((_, number) => number !== gone) });
}
function back(message) { // into the composer, before what is written there by now
  const shifted = renumber(text.value, items.length, (number) => number + message.items.length);
  const words = [message.words, shifted].filter(Boolean).join('\n');
  const files = [...message.items, ...items].slice(0, 8);
  if (message.output) choose(message.output);
  change(message.edit, words);
  items = files;
  text.value = words;
  grow();
  drawTray();
}

function choose(name) { // a chip: what the reply has to be
  output = name;
  root.querySelectorAll('[data-output]').forEach((chip) => chip.setAttribute('aria-pressed', String(chip.dataset.output === name)));
}
root.querySelectorAll('[data-output]').forEach((chip) => {
  chip.onclick = () => choose(output === chip.dataset.output ? null : chip.dataset.output);
});

function change(place, words, files = []) { // a message of the person into the composer with its files, to be sent again
  edit = place;
  root.classList.toggle('editing', place !== null);
  if (place === null) return;
  items = [...files, ...items.filter((item) => item.keep === undefined)].slice(0, 8);
  text.value = words;
  grow();
  drawTray();
  text.focus();
}
function leave() { // the message stays as it is
  items = items.filter((item) => item.keep === undefined);
  text.value = '';
  change(null);
  grow();
  drawTray();
}

text.addEventListener('input', () => { grow(); refresh(); });
text.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
});
send.onclick = submit;

const PATIENCE_S = 15; // after Stop
function stop() { // what was written for afterwards stays in the composer
  waiting = false;
  rest();
  trigger('stop', {});
  const asked = replies;
  setTimeout(() => {
    if (state !== 'busy' || replies !== asked) return;
    setState('idle');
    say('The server does not answer. It may have ended, or the network is gone. Reload this page: your chats are kept.');
  }, 1000 * PATIENCE_S);
}
function top() { // the Chatbot scrolls to its end, the empty page begins at its top
  const scrolled = document.querySelector('.welcome')?.closest('.bubble-wrap');
  if (scrolled) scrolled.scrollTop = 0;
}
root.api = {
  busy: () => setState('busy'),
  idle: () => {
    replies += 1;
    setState('idle');
    ended();
    [0, 200, 600].forEach((later) => setTimeout(top, later));
    rest();
    root.api.list?.();
    if (waiting) { waiting = false; submit(); }
  },
  back: (words) => back(last && plain(last.words) === plain(words) ? last : { words, items: [], output: null, edit: null }),
  stop, change, state: () => state, record: (kind) => { recorded = kind; },
};

// ---- speaking

const WORKLET = `registerProcessor('tap', class extends AudioWorkletProcessor {
  process(inputs) { if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice()); return true; } });`;

function microphoneTrouble(error) {
  if (!navigator.mediaDevices) return 'The microphone needs HTTPS or this computer itself (localhost). Attach a recording instead.';
  if (error.name === 'NotAllowedError') return 'The microphone is blocked. Allow it for this page in the browser\u2019s address bar, then try again.';
  if (error.name === 'NotFoundError') return 'There is no microphone. Connect one, or attach a recording.';
  if (error.name === 'NotReadableError') return 'The microphone is in use by another program. Close that program, then try again.';
  return 'The microphone did not start (' + error.name + '). Attach a recording instead.';
}

async function wire(stream, options, take) {
  const context = new AudioContext(options);
  const module = URL.createObjectURL(new Blob([WORKLET], { type: 'text/javascript' }));
  try {
    await context.audioWorklet.addModule(module);
    const tap = new AudioWorkletNode(context, 'tap');
    tap.port.onmessage = ({ data }) => take(data, context.sampleRate);
    context.createMediaStreamSource(stream).connect(tap);
    return () => { tap.port.onmessage = null; context.close(); };
  } catch (error) {
    context.close();
    throw error;
  } finally {
    URL.revokeObjectURL(module);
  }
}

async function capture(processing, take) { // take(samples, rate) for every few milliseconds; returns how to close
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, ...processing } });
  const end = () => stream.getTracks().forEach((track) => track.stop());
  try { // some browsers record at the microphone's own rate only: the server resamples
    const close = await wire(stream, { sampleRate: 16000 }, take).catch(() => wire(stream, {}, take));
    return () => { close(); end(); };
  } catch (error) {
    end();
    throw error;
  }
}

function level(samples) { // root mean square
  return Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / Math.max(1, samples.length));
}

function join(chunks) {
  const whole = new Float32Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  chunks.reduce((at, chunk) => { whole.set(chunk, at); return at + chunk.length; }, 0);
  return whole;
}

function trimmed(samples, rate) { // without the silence before and after; null if there is nothing else
  const size = Math.round(0.02 * rate), levels = [];
  for (let at = 0; at < samples.length; at += size) levels.push(level(samples.subarray(at, at + size)));
  const loud = Math.max(SILENT, 0.05 * Math.max(...levels)), first = levels.findIndex((one) => one > loud);
  if (first < 0) return null;
  let last = levels.length - 1;
  while (levels[last] <= loud) last -= 1;
  const margin = Math.round(MARGIN_S * rate);
  return samples.subarray(Math.max(0, first * size - margin), (last + 1) * size + margin);
}

async function openMicrophone() {
  const chunks = [];
  let count = 0, rate = 16000;
  const close = await capture({ echoCancellation: false, noiseSuppression: false, autoGainControl: false }, (data, given) => {
    rate = given;
    chunks.push(data);
    count += data.length;
    talk.style.setProperty('--level', Math.min(1, level(data) * 6).toFixed(2));
    clock.textContent = Math.floor(count / rate) + ' s';
    if (count >= SPEECH_S * rate) finish();
  });
  return { close, samples: () => join(chunks).subarray(0, SPEECH_S * rate), rate: () => rate };
}

function wave(samples, rate) { // 16-bit mono WAV
  const count = samples.length, view = new DataView(new ArrayBuffer(44 + 2 * count));
  const word = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  word(0, 'RIFF'); view.setUint32(4, 36 + 2 * count, true); word(8, 'WAVEfmt ');
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, 'data'); view.setUint32(40, 2 * count, true);
  samples.forEach((value, at) => view.setInt16(44 + 2 * at, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new Blob([view], { type: 'audio/wav' });
}

async function begin() { // recording by the button; hands-free listening ends
  say('');
  if (free) toggleFree();
  setState('starting');
  locked = false;
  try {
    recorder = await openMicrophone();
    setState('recording');
  } catch (error) {
    recorder = null;
    setState('idle');
    say(microphoneTrouble(error));
  }
}

async function finish() {
  if (!recorder) return;
  const done = recorder;
  recorder = null;
  done.close();
  clock.textContent = '';
  talk.style.removeProperty('--level');
  const samples = recorded === 'speech' ? trimmed(done.samples(), done.rate()) : done.samples();
  if (!samples?.length || level(samples) < SILENT / 2) {
    setState('idle');
    return say('The recording is silent. The microphone may be muted, or the browser uses another one. Try "Check the microphone" in Settings.');
  }
  await sendRecording(wave(samples, done.rate()), recorded);
}

async function sendRecording(file, kind) {
  say('');
  setState('sending');
  const again = () => state === 'idle' && sendRecording(file, kind);
  const item = await attach(new File([file], 'recording.wav', { type: 'audio/wav' }), kind, again);
  setState('idle');
  if (item?.path) submit();
}

function cancel() {
  if (!recorder) return;
  recorder.close();
  recorder = null;
  clock.textContent = '';
  setState('idle');
}

talk.addEventListener('pointerdown', (event) => {
  if (event.button) return;
  root.api.hush?.();
  if (state === 'busy') return stop();
  if (state === 'recording') { finish(); pressedAt = 0; return; }
  if (state !== 'idle') return;
  pressedAt = performance.now();
  talk.setPointerCapture(event.pointerId);
  begin();
});
talk.addEventListener('pointerup', () => {
  if (!pressedAt) return;
  const held = performance.now() - pressedAt;
  pressedAt = 0;
  if (held < HOLD_MS || state === 'starting') locked = true; // a tap: recording goes on until the next tap
  else if (state === 'recording') finish();
});
talk.addEventListener('pointercancel', () => { // the system took the finger away: nobody decided to send
  if (!pressedAt) return;
  pressedAt = 0;
  if (state === 'recording') cancel();
  else locked = true;
});
talk.addEventListener('click', (event) => { // keyboard: a click without a pointer
  if (event.detail) return;
  if (state === 'busy') stop();
  else if (state === 'recording') finish();
  else if (state === 'idle') begin();
});
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  if (state === 'recording') cancel();
  else if (edit !== null) leave();
  else if (state === 'busy') stop();
  else return;
  event.preventDefault();
});
document.addEventListener('keydown', (event) => { // a slash goes to the message, from anywhere but a field
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.target.closest('input, textarea, select, [contenteditable]')) return;
  event.preventDefault();
  text.focus();
});
setState(window.arrived ? 'idle' : 'opening'); // what is sent before the server knows this visitor waits

// ---- the conversation for screen readers: the Chatbot labels a message with its markup and leaves pictures unnamed

function name(log) {
  log.querySelectorAll('[data-testid=user][aria-label], [data-testid=bot][aria-label]').forEach((message) => {
    message.removeAttribute('aria-label');
  });
  log.querySelectorAll('.message-row img').forEach((picture) => {
    if (picture.alt && !picture.dataset.named) return;
    const row = picture.closest('.message-row'), sent = row.classList.contains('user-row'), every = (selector) => [...row.querySelectorAll(selector)];
    const before = every('.part').filter((part) => part.compareDocumentPosition(picture) & 4).pop();
    const below = every('.under').find((part) => picture.compareDocumentPosition(part) & 4);
    const words = (sent ? below?.querySelector('.own') : before || below?.querySelector('.caption'))?.textContent;
    const alt = words || (sent ? 'The picture you sent' : 'A generated picture');
    if (picture.alt !== alt) picture.alt = alt;
    picture.dataset.named = 'yes';
  });
}
new MutationObserver(() => document.querySelectorAll('#chat').forEach(name))
  .observe(page, { subtree: true, childList: true, attributes: true, attributeFilter: ['aria-label', 'alt'] });
