// Buttons and sliders that the server writes into messages and drawers: their clicks go back to it. Follows composer.js.
const WORKING = ['retry', 'branch', 'again', 'render', 'longer', 'undo', 'resend', 'lighter', 'example'], LISTED = ['open', 'delete'];

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

function tell(button) {
  const { name, value } = button;
  if (name === 'edit') {
    const words = [...button.closest('.message-row').querySelectorAll('.part')].map((part) => part.textContent).join(' ');
    root.api.change(value, words);
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
    if (name !== 'undo') root.api.busy();
    trigger('retry', { name, value });
  } else if (LISTED.includes(name)) {
    trigger('edit', { name, value });
  } else trigger('select', { name, value });
}

page.addEventListener('click', (event) => {
  const button = event.target.closest('button[name][value]');
  if (!button || !button.closest('#chat, #rail, #drawer')) return;
  if (button.classList.contains('sure') && !button.dataset.armed) { // deleting takes two clicks
    button.dataset.armed = 'yes';
    button.textContent = 'Really delete';
    return;
  }
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
