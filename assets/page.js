// Buttons and sliders that the server writes into messages and drawers: their clicks go back to it. Follows composer.js.
const WORKING = ['retry', 'branch', 'again', 'render', 'longer', 'words', 'undo', 'close', 'resend', 'lighter', 'example'], LISTED = ['open', 'delete', 'read'];
const PRESS_MS = 150; // a box that is ticked has to reach the page's state

async function copy(button) { // the words of a message, what was spoken among them
  const words = [...button.closest('.message-row').querySelectorAll('.part, .said')].map((part) => part.textContent).join('\n');
  try {
    await navigator.clipboard.writeText(words);
  } catch { // a page without HTTPS has no clipboard
    const field = document.body.appendChild(document.createElement('textarea'));
    field.value = words;
    field.select();
    document.execCommand('copy');
    field.remove();
    button.focus();
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

function attached(row) { // the files of a message that is kept, each with the number of its part
  return [...row.querySelectorAll('.under')].map((under) => {
    const kind = under.querySelector('.tag').className.match(/tag-(\w+)/)[1], place = under.querySelector('button[name=tokens]').value;
    const before = [...row.querySelectorAll('img')].filter((picture) => picture.compareDocumentPosition(under) & 4).pop();
    return { kind, name: '', preview: kind === 'image' ? before?.src : null, keep: place.split('.')[1] };
  });
}
function written(row) { // the words of a message, with marks where its files stand among them
  const pieces = [...row.querySelectorAll('.part, .under')], first = pieces.findIndex((piece) => piece.matches('.part'));
  const placed = first >= 0 && pieces.slice(first).some((piece) => piece.matches('.under'));
  let number = 0;
  return pieces.map((piece) => piece.matches('.part') ? piece.textContent : placed ? '[' + (number += 1) + ']' : '').filter(Boolean).join(' ');
}

function tell(button) {
  const { name, value } = button;
  if (name === 'edit') {
    const row = button.closest('.message-row'), words = written(row);
    value ? root.api.change(value, words, attached(row)) : root.api.back(words); // one that nothing answered was not kept
  } else if (name === 'zip') {
    document.querySelector('#rail input[type=file]').click();
  } else if (name === 'press') { // a card of a drawer: the boxes and buttons there that do what it says, one after the other
    value.split(' ').forEach((id, number) => setTimeout(() => {
      const found = document.getElementById(id);
      (found?.querySelector('input[type=checkbox]') || found)?.click();
    }, PRESS_MS * number));
  } else if (name === 'leave') {
    root.api.stop();
  } else if (name === 'attach') {
    find(`[data-attach=${value}]`).click();
  } else if (name === 'save') {
    const link = document.createElement('a');
    link.href = value;
    link.download = decodeURIComponent(value.split('/').pop());
    link.click();
  } else if (name === 'copy') {
    copy(button);
  } else if (name === 'check') {
    root.api.check();
  } else if (WORKING.includes(name)) {
    if (root.api.state() !== 'idle') return;
    if (!['undo', 'close'].includes(name)) root.api.busy();
    trigger('retry', { name, value });
  } else if (LISTED.includes(name)) {
    trigger('edit', { name, value });
  } else trigger('select', { name, value });
}

const ARMED_MS = 8000;
function drops(button) { // whether messages that follow would go
  if (!['retry', 'undo', 'edit', 'branch', 'lighter'].includes(button.name) || !button.value) return false;
  if (button.name === 'lighter' && button.value === '0') return false; // nothing answered its message yet
  const row = button.closest('.message-row'), every = (selector) => [...document.querySelectorAll('#chat ' + selector)];
  if (row) return every('.user-row').some((other) => row.compareDocumentPosition(other) & 4);
  return every('button[name=retry]').some((other) => Number(other.value) > parseInt(button.value)); // a button of the drawer
}
function arm(button) { // deleting takes two clicks
  const label = button.innerHTML;
  button.dataset.armed = 'yes';
  button.textContent = button.name === 'delete' ? 'Really delete' : 'Really? What follows is deleted';
  setTimeout(() => { delete button.dataset.armed; button.innerHTML = label; }, ARMED_MS);
}
root.api.list = () => { // an open list of chats follows the conversation
  if (!document.querySelector('#rail.open') || document.activeElement?.closest('#rail')) return;
  trigger('edit', { name: 'search', value: document.querySelector('#rail input[name=search]')?.value || '' });
};

document.querySelector('#told')?.setAttribute('aria-live', 'polite'); // how far the models are, once a file

page.addEventListener('click', (event) => {
  const button = event.target.closest('button[name][value]');
  if (!button || !button.closest('#chat, #rail, #drawer, #loading')) return;
  if ((button.classList.contains('sure') || drops(button)) && !button.dataset.armed) return arm(button);
  tell(button);
});
page.addEventListener('input', ({ target }) => {
  if (target.name === 'scrub') target.nextElementSibling.textContent = target.value + ' of ' + target.max;
});
page.addEventListener('change', ({ target }) => {
  if (target.name === 'scrub') trigger('select', { name: 'scrub', value: target.dataset.place, amount: target.value });
  if (['search', 'rename'].includes(target.name)) trigger('edit', { name: target.name, value: target.value });
});

// ---- colours: as the system has them, or as chosen
const DARK = { Light: false, Dark: true };
root.api.paint = (choice) => {
  localStorage.setItem('anygpt-colours', choice);
  document.body.classList.toggle('dark', DARK[choice] ?? matchMedia('(prefers-color-scheme: dark)').matches);
};
const chosen = localStorage.getItem('anygpt-colours');
if (chosen in DARK && !location.search.includes('__theme')) root.api.paint(chosen);
