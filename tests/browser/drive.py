"""JupyterLab driven in Chromium, by the Python of an environment: ADDRESS CHROMIUM ACTION PICTURE."""

import json
import re
import sys
import time
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect, sync_playwright

WORKING_MS = 240_000  # a whole notebook, on a slow machine
ANSWERING_MS = 60_000  # anything that the interface does by itself
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
# by the version of JupyterLab; no notebook of ours writes to standard error
ERROR = f"{NOTEBOOK} :is([data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr'])"


def run_all(page: Page, picture: str) -> dict[str, float]:
    """Run all cells from the menu, wait for the end, save; the width of the figure if there is one, its own and as shown."""
    choose(page, "Run", "Run All Cells")
    error = page.locator(ERROR)
    expect(number_of(code_cells(page).last).or_(error).first).to_be_attached(timeout=WORKING_MS)
    assert not error.count(), error.first.inner_text()
    wait_until_idle(page, ANSWERING_MS)
    figure = page.locator(f"{NOTEBOOK} .jp-OutputArea-output img").first
    if not figure.count():
        page.screenshot(path=picture)
        save(page)
        return {}
    figure.scroll_into_view_if_needed()
    expect(figure).to_be_visible()
    page.wait_for_function("image => image.complete", arg=figure.element_handle())
    page.screenshot(path=picture)
    save(page)
    pixels, shown = "image => image.naturalWidth", "image => image.getBoundingClientRect().width"
    return {"pixels": figure.evaluate(pixels), "shown": figure.evaluate(shown)}


def fail(page: Page, picture: str) -> dict[str, float]:
    """Run all cells, of which one fails; how many lines its error has."""
    choose(page, "Run", "Run All Cells")
    error = page.locator(ERROR)
    expect(error).to_be_visible(timeout=WORKING_MS)
    wait_until_idle(page, ANSWERING_MS)
    error.scroll_into_view_if_needed()
    page.screenshot(path=picture)
    save(page)
    return {"lines": len(error.inner_text().strip().splitlines())}


def interrupt(page: Page, picture: str) -> dict[str, float]:
    """Run the first cell, press the stop button once its bar stands at half, run the second; how long the stop took."""
    first, second = code_cells(page).first, code_cells(page).nth(1)
    first.locator(".jp-InputArea-editor").click()
    choose(page, "Run", "Run Selected Cell")
    expect(first.locator(".jp-OutputArea")).to_contain_text("50%", timeout=WORKING_MS)

    began = time.monotonic()
    page.locator(f"{NOTEBOOK} [data-command='notebook:interrupt-kernel']").click()
    expect(first.locator(".jp-OutputArea")).to_contain_text("KeyboardInterrupt")
    wait_until_idle(page, ANSWERING_MS)
    seconds = time.monotonic() - began

    second.locator(".jp-InputArea-editor").click()
    choose(page, "Run", "Run Selected Cell")
    expect(number_of(second)).to_be_attached(timeout=WORKING_MS)
    page.screenshot(path=picture)
    save(page)
    return {"seconds": seconds}


def code_cells(page: Page) -> Locator:
    """The code cells of the notebook that is open."""
    return page.locator(f"{NOTEBOOK} .jp-CodeCell")


def number_of(cell: Locator) -> Locator:
    """The number that a cell gets when it has run; until then there is a star, or nothing."""
    return cell.locator(".jp-InputArea-prompt").filter(has_text=re.compile(r"^\[\d+\]:$"))


def choose(page: Page, menu: str, entry: str) -> None:
    """Choose an entry of the menu bar."""
    page.locator(".lm-MenuBar-item").get_by_text(menu, exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(entry, exact=True).click()


def wait_until_idle(page: Page, timeout: float) -> None:
    """Wait until the kernel is there and has nothing to do."""
    # the notebook's own circle says so before there is a kernel too, and then to run a cell is answered by a question
    expect(page.locator("#jp-main-statusbar").get_by_text(") | Idle")).to_be_visible(timeout=timeout)


def save(page: Page) -> None:
    """Save the notebook, and wait until the file is written."""
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "/api/contents/" in answer.url) as put:
        choose(page, "File", "Save Notebook")
    assert put.value.ok, put.value.status


ACTIONS: dict[str, Callable[[Page, str], dict[str, float]]] = {"run_all": run_all, "fail": fail, "interrupt": interrupt}


def main(address: str, chromium: str, action: str, picture: str) -> None:
    """Print as JSON what was seen; where it fails, the picture shows how far it came."""
    expect.set_options(timeout=ANSWERING_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(ANSWERING_MS)
        try:
            page.goto(address)
            wait_until_idle(page, WORKING_MS)
            print(json.dumps(ACTIONS[action](page, picture)))
        except Exception:
            page.screenshot(path=picture)
            raise
        finally:
            browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
