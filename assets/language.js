// The interface in Chinese: fixed sentences are looked up (numbers stand as #, other words as *), what people and models wrote is left alone.
// ZH is given by the server. Follows live.js.
const OWN = '.part, .words, .said, .own, textarea, .chat-title, .piece, .ids', SAID = ['placeholder', 'title', 'aria-label'];
const english = new WeakMap();
let chinese = (localStorage.getItem('anygpt-language') || navigator.language).startsWith('zh');

const sign = /[.*+?^${}()|[\]\\]/g, loose = Object.entries(ZH).filter(([key]) => key.includes('*'))
  .map(([key, words]) => [new RegExp('^' + key.split('*').map((piece) => piece.replace(sign, '\\$&')).join('(.+?)') + '$', 's'), words]);

function said(text) {
  const numbers = [], key = text.trim().replace(/\d+(\.\d+)?/g, (number) => { numbers.push(number); return '#'; });
  let found = ZH[key] || ZH[text.trim()];
  for (const [form, words] of found ? [] : loose) {
    const parts = key.match(form)?.slice(1);
    if (parts) { found = words.replace(/\*/g, () => said(parts[0]) ? said(parts.shift()) : parts.shift()); break; }
  }
  return found && text.replace(text.trim(), () => found.replace(/#/g, () => numbers.shift()));
}
function render(node) {
  if (node.nodeType === 3) {
    if (!node.textContent.trim() || (node.parentElement?.closest(OWN))) return;
    if (!chinese) { if (english.has(node)) { node.textContent = english.get(node); english.delete(node); } return; }
    const found = said(node.textContent);
    if (found && found !== node.textContent) { english.set(node, node.textContent); node.textContent = found; }
  } else if (node.nodeType === 1) {
    for (const name of SAID) {
      const text = node.getAttribute(name), kept = node.dataset['en' + name.replace(/\W/g, '')];
      if (chinese && text && said(text)) { node.dataset['en' + name.replace(/\W/g, '')] = text; node.setAttribute(name, said(text)); }
      else if (!chinese && kept) node.setAttribute(name, kept);
    }
    node.childNodes.forEach(render);
  }
}
root.api.speak = (language) => {
  chinese = language === '中文';
  localStorage.setItem('anygpt-language', chinese ? 'zh' : 'en');
  document.documentElement.lang = chinese ? 'zh' : 'en';
  render(page);
};
document.documentElement.lang = chinese ? 'zh' : 'en';
new MutationObserver((changes) => {
  if (!chinese) return;
  for (const { target, addedNodes, type } of changes) type === 'childList' ? addedNodes.forEach(render) : render(target);
}).observe(page, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: SAID });
render(page);
