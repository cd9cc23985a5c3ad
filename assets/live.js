// Sound while it is made, and hands-free talking. Follows composer.js and page.js.

// ---- pieces of sound, played one after the other as they arrive
let speaker = null, playing = [], nextAt = 0;
root.api.played = 0; // pieces so far
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function wake() { // iPhones let a page sound only if it began to in a touch of the person
  speaker ||= new AudioContext();
  if (speaker.state !== 'running') speaker.resume();
}
['pointerup', 'click', 'keydown'].forEach((kind) => document.addEventListener(kind, wake, true));

function play(list) { // [{id, rate, pcm, said, start}]: 16-bit samples and words in base64; those that were heard before are left out
  for (const { id, rate, pcm, said, start } of list) {
    if (root.api.heard?.has(id)) continue;
    (root.api.heard ||= new Set()).add(id);
    wake();
    const samples = Float32Array.from(new Int16Array(bytesOf(pcm).buffer), (value) => value / 32768);
    const buffer = speaker.createBuffer(1, samples.length, rate), source = speaker.createBufferSource();
    buffer.copyToChannel(samples, 0);
    source.buffer = buffer;
    source.connect(speaker.destination);
    nextAt = Math.max(nextAt, speaker.currentTime + 0.08);
    source.start(nextAt);
    if (!start || !lines.length) lines.push({ words: plain(new TextDecoder().decode(bytesOf(said || ''))), from: nextAt });
    nextAt += buffer.duration;
    lines.at(-1).until = nextAt;
    follow();
    playing.push(source);
    source.onended = () => { playing = playing.filter((other) => other !== source); };
    root.api.played += 1;
  }
}
function hush() {
  for (const source of playing) source.stop();
  playing = [];
  lines = [];
  nextAt = 0;
}
root.api.hush = hush;

// ---- the word that is being said. Its place is a guess: time in proportion to letters. It is painted over the transcript and
// changes nothing in the page, so a screen reader does not hear of it, and nothing moves.
let lines = [], clockwork = null; // what is played in pieces: words, and from when until when

const plain = (words) => words.replace(/\s+/g, ' ').trim();
function mark(said, share) { // said: a transcript, or nothing
  if (!window.Highlight) return;
  const text = said?.firstChild, word = text && [...text.data.matchAll(/\S+/g)].findLast(({ index }) => index <= share * text.length);
  if (!word) return CSS.highlights.delete('spoken');
  const range = new Range();
  range.setStart(text, word.index);
  range.setEnd(text, word.index + word[0].length);
  CSS.highlights.set('spoken', new Highlight(range));
}
function follow() { // sound in pieces
  clockwork ||= setInterval(() => {
    const now = speaker.currentTime, line = lines.findLast(({ from, until }) => from <= now && now < until);
    const said = line?.words && [...document.querySelectorAll('#chat .said')].findLast((one) => plain(one.textContent) === line.words);
    mark(said, line && (now - line.from) / (line.until - line.from));
    if (!playing.length) { clearInterval(clockwork); clockwork = null; lines = []; mark(); }
  }, 80);
}
const watched = new WeakSet();
function watch(player) { // a player of the conversation: its progress bar says how far it is
  const said = [...document.querySelectorAll('#chat .under')].find((one) => player.compareDocumentPosition(one) & 4)?.querySelector('.said');
  const bar = [...player.querySelectorAll('*')].find((one) => one.shadowRoot)?.shadowRoot.querySelector('[part~=progress]');
  if (!bar || watched.has(bar)) return;
  watched.add(bar);
  new MutationObserver(() => {
    const share = parseFloat(bar.style.width) / 100;
    mark(share > 0 && share < 1 ? said : null, share);
  }).observe(bar, { attributes: true, attributeFilter: ['style'] });
}
page.addEventListener('click', ({ target }) => {
  const player = target.closest('#chat .minimal-audio-player');
  if (!player) return;
  hush();
  watch(player);
}, true);
const pieces = document.querySelector('#pieces');
if (pieces) {
  new MutationObserver(() => {
    const text = pieces.querySelector('script[type="application/json"], .pieces-data')?.textContent;
    if (text) play(JSON.parse(text));
  }).observe(pieces, { childList: true, subtree: true, characterData: true });
}
page.addEventListener('play', hush, true); // a player of the conversation was started

// ---- hands-free: speech begins above three times the room's level, ends after a pause, and interrupts a reply
const PAUSE_S = 0.9, ONSET_S = 0.15, INTERRUPT_S = 0.3, LEAST_LEVEL = 0.008;
let free = null;
const handsFree = find('.composer-free');

function frame(samples, rate) {
  const seconds = samples.length / rate, heard = level(samples), loud = heard > Math.max(LEAST_LEVEL, 3 * free.floor);
  if (!loud) free.floor = 0.98 * free.floor + 0.02 * heard;
  talk.style.setProperty('--level', Math.min(1, heard * 6).toFixed(2));
  free.loud = loud ? free.loud + seconds : 0;
  free.quiet = loud ? 0 : free.quiet + seconds;
  free.kept.push(samples);
  free.seconds += seconds;
  if (!free.talking) {
    while (free.kept.length && free.seconds > 0.5) free.seconds -= free.kept.shift().length / rate; // what was just before the onset
    const made = state !== 'idle' || playing.length;
    if (free.loud < (made ? INTERRUPT_S : ONSET_S)) return;
    if (made) { hush(); if (state === 'busy') stop(); }
    free.talking = true;
    say('');
  } else if (free.quiet > PAUSE_S || free.seconds > SPEECH_S - 0.1) {
    if (state !== 'idle' && free.seconds < SPEECH_S - 0.1) return; // the interrupted reply has not ended yet
    const kept = join(free.kept);
    Object.assign(free, { talking: false, kept: [], seconds: 0, loud: 0 });
    if (state === 'idle') sendRecording(wave(trimmed(kept, rate) || kept, rate), 'speech');
  }
}
async function toggleFree() {
  if (free) {
    free.close?.();
    free = null;
    talk.style.removeProperty('--level');
  } else {
    const mine = free = { floor: 0.01, loud: 0, quiet: 0, kept: [], seconds: 0, talking: false };
    try {
      mine.close = await capture({ echoCancellation: true, noiseSuppression: true, autoGainControl: true }, (data, rate) => free === mine && frame(data, rate));
      if (free !== mine) return mine.close(); // it was ended while it began
    } catch (error) {
      if (free !== mine) return;
      free = null;
      say(microphoneTrouble(error));
    }
  }
  handsFree.setAttribute('aria-pressed', String(Boolean(free)));
  rest();
}
handsFree.onclick = toggleFree;

// ---- does the microphone work? What it hears in three seconds, in words
const CHECK_S = 3;

function verdict(samples) {
  const peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0), loud = level(samples);
  if (peak < SILENT) return 'The microphone is silent. It may be muted, or the browser uses another one: look into its settings for this page.';
  if (peak > 0.99) return 'The microphone is too loud: its loudest sounds are cut off. Turn its level down, or move away from it.';
  if (loud < 0.005) return 'The microphone works, but it hears little. Turn its level up, or come closer.';
  return 'The microphone works.';
}
root.api.check = async () => {
  const told = document.querySelector('.mic-told'), bar = document.querySelector('.mic-level');
  const chunks = [];
  told.textContent = 'Say something ...';
  try {
    const close = await capture({ echoCancellation: false, noiseSuppression: false, autoGainControl: false }, (data) => {
      chunks.push(data);
      bar.value = Math.min(1, level(data) * 6);
    });
    await new Promise((done) => setTimeout(done, 1000 * CHECK_S));
    close();
    told.textContent = verdict(join(chunks));
  } catch (error) {
    told.textContent = microphoneTrouble(error);
  }
  bar.value = 0;
};
