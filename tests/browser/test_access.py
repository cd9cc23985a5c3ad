"""Whether everybody can use the page: axe-core in every state, the keyboard, two languages, reduced motion."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.stage import Stage
from tests.browser.test_page import attach, finished, png, say

pytestmark = pytest.mark.browser
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
LEFT = {"AnyGPT demo", "mini", "English", "slt", "kathleen", "chat.zip", "voice"}  # names, and two links that nobody sees
ENGLISH = """() => {
  const own = '.part, .said, .own, textarea, .chat-title, .piece, .ids, .sources li, script, style, svg, .example .words';
  const walker = document.createTreeWalker(document.querySelector('.gradio-container'), NodeFilter.SHOW_TEXT), found = [];
  const gradio = '#drawer [data-testid*=audio], #drawer .audio-container, .toast-wrap';
  while (walker.nextNode()) {
    const node = walker.currentNode, text = node.textContent.trim();
    if (/[A-Za-z]{3}/.test(text) && !/[\u4e00-\u9fff]/.test(text) && !node.parentElement.closest(own + ', ' + gradio)) found.push(text);
  }
  return found;
}"""
RUN = "() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"


def faults(page: Page) -> list[str]:
    page.evaluate(AXE)
    found = page.evaluate(RUN)["violations"]
    return [f"{item['id']}: {[node['target'] for node in item['nodes']][:4]} {item['nodes'][0]['failureSummary'][:200]}" for item in found]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, stage: Stage, theme: str) -> None:
    page.goto(f"{stage.url}?__theme={theme}")
    page.wait_for_selector(".composer[data-state=idle]")
    page.wait_for_timeout(500)
    found = {"empty": faults(page)}
    page.click(".more summary")
    found["gallery"] = faults(page)
    attach(page, "image", "orange.png", png())
    say(page, "draw and play")
    finished(page)
    page.focus("#chat button[name=retry]")
    page.wait_for_timeout(500)
    found["conversation"] = faults(page)
    page.locator("#chat .bot .ribbon button").nth(1).click()
    page.wait_for_selector("#tokens td")
    page.wait_for_timeout(700)
    found["tokens"] = faults(page)
    for tab in ("Settings", "Voice"):
        page.get_by_role("button", name=tab, exact=True).click()
        page.wait_for_timeout(700)
        found[tab] = faults(page)
    page.locator("#drawer").get_by_label("Voices").click()
    page.get_by_role("option", name="kathleen").click()
    page.locator("#drawer .timestamps").wait_for()
    page.wait_for_timeout(700)
    found["a voice"] = faults(page)
    page.get_by_role("button", name="Model", exact=True).click()
    page.get_by_role("button", name="Run the self-test").click()
    page.wait_for_function("document.querySelectorAll('#drawer .grid .good, #drawer .grid .bad').length === 16")
    found["self-test"] = faults(page)
    page.get_by_role("button", name="Chats").click()
    page.wait_for_timeout(700)
    found["chats"] = faults(page)
    page.reload()
    page.wait_for_selector(".composer[data-state=idle]")
    page.set_viewport_size({"width": 360, "height": 740})
    say(page, "explode")
    finished(page)
    page.click(".composer-free")
    page.wait_for_timeout(700)
    found["phone, a card, hands-free"] = faults(page)
    assert not any(found.values()), "\n".join(f"{name} {fault}" for name, all_of in found.items() for fault in all_of)


def test_everything_by_keyboard(page: Page) -> None:
    page.focus(".composer textarea")
    page.keyboard.type("draw")
    page.keyboard.press("Enter")
    finished(page)
    page.focus(".composer textarea")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Shift+Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    assert {"edit", "again", "render", "branch", "tokens", "retry", "undo", "New chat", "Settings", "Chats"} <= reached
    page.focus("#chat button[name=undo]")
    page.keyboard.press("Enter")
    expect(page.locator(".welcome")).to_be_visible()


def test_the_interface_in_chinese(page: Page) -> None:
    say(page, "Draw")
    finished(page)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("中文").check()
    expect(page.locator("#bar")).to_contain_text("新对话")
    expect(page.locator("#chat button[name=retry]")).to_have_text("重试")
    expect(page.locator("#status")).to_contain_text("完成，用时")
    expect(page.locator(".composer textarea")).to_have_attribute("placeholder", "输入文字，或按住按钮说话")
    expect(page.locator("#chat .user .part")).to_have_text("Draw")
    page.locator("#chat .bot .ribbon button").nth(1).click()
    page.wait_for_selector("#tokens td")
    page.get_by_role("button", name="设置", exact=True).click(force=True)
    page.locator("#drawer").get_by_role("button", name="各模态的采样").click()
    expect(page.locator("#drawer").get_by_label("音乐：top-k")).to_be_visible()
    for tab in ("设置", "模型", "对话", "新对话"):
        page.get_by_role("button", name=tab, exact=True).click(force=True)
        page.wait_for_timeout(500)
    assert not set(page.evaluate(ENGLISH)) - LEFT
    attach(page, "image", "letter.txt", b"I am no picture")
    page.click(".composer-send")
    finished(page)
    expect(page.locator("#chat .refusal")).to_contain_text("此文件无法作为图片读取。 它已损坏，或不是 PNG, JPEG, WEBP, GIF or BMP 文件。")
    expect(page.locator("#chat .refusal button")).to_have_text("选择另一个文件")
    page.reload()
    expect(page.locator("#bar")).to_contain_text("新对话")
    page.get_by_role("button", name="设置", exact=True).click()
    page.get_by_label("English").check()
    expect(page.locator("#bar")).to_contain_text("New chat")


def test_nothing_moves_if_unwanted(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    found = page.evaluate(
        """() => [...document.querySelectorAll('*')]
        .filter((one) => getComputedStyle(one).transitionDuration.split(',').some((time) => parseFloat(time) > 0.001))
        .map((one) => one.tagName + '.' + one.className)"""
    )
    assert not found
