"""What tests do with pages in a browser."""

from selenium.webdriver.common.by import By


def show(browser, page, width=1280, scheme="light"):
    """Opens a page."""
    view = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    browser.get(page.as_uri())


def all_of(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)
