"""What the page shows, to whom, and how it is used by hand and by eye."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import SAMPLES, Site, patch_status
from tests.support.live_run import wait_until

pytestmark = pytest.mark.cluster


def sign_in(browser: Browser, site: Site, account: str = "reader", *, dark: bool = False) -> Page:
    context = browser.new_context(
        ignore_https_errors=True, color_scheme="dark" if dark else "light", viewport={"width": 1240, "height": 800}
    )
    page = context.new_page()
    page.goto(site.url)
    page.keyboard.type(site.token("team-a", account))  # the field has the focus
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    return page


def test_a_viewer_sees_their_namespace_and_nothing_of_others(site: Site) -> None:
    status, text, _ = site.get("/", site.token("team-a", "reader"))
    assert status == 200
    assert "support-bot" in text
    assert "secret-plan" not in text
    assert "team-b" not in text


def test_a_run_of_another_namespace_is_as_if_it_did_not_exist(site: Site) -> None:
    token = site.token("team-a", "reader")
    assert site.get("/runs/team-a/support-bot", token)[0] == 200
    other, none = site.get("/runs/team-b/secret-plan", token), site.get("/runs/team-b/no-such-run", token)
    assert other[:2] == none[:2]
    assert other[0] == 404


def test_whoever_may_list_nothing_sees_nothing(site: Site) -> None:
    status, text, _ = site.get("/", site.token("team-a", "stranger"))
    assert status == 200
    assert "There are no runs here that you may see." in text
    assert "support-bot" not in text


@pytest.mark.parametrize("audience", ["", "another"])
def test_tokens_that_were_not_made_for_the_page_are_refused(site: Site, audience: str) -> None:
    status, text, _ = site.get("/", site.token("team-a", "reader", audience))
    assert status == 401
    assert "support-bot" not in text


def test_without_a_token_there_is_a_form_and_no_run(site: Site) -> None:
    for path in ("/", "/runs/team-a/support-bot"):
        status, text, headers = site.get(path)
        assert status == 401
        assert "Sign in" in text
        assert "support-bot" not in text
        assert headers["X-Frame-Options"] == "DENY"
        assert "'unsafe" not in headers["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_a_right_that_is_withdrawn_is_gone_within_seconds(site: Site) -> None:
    site.cluster.kubectl("create", "serviceaccount", "leaver", "--namespace=team-a")
    site.cluster.kubectl("create", "rolebinding", "leaver", "--namespace=team-a", "--role=reader", "--serviceaccount=team-a:leaver")
    token = site.token("team-a", "leaver")
    wait_until(lambda: "support-bot" in site.get("/", token)[1], "the right is in force")
    site.cluster.kubectl("delete", "rolebinding", "leaver", "--namespace=team-a")
    wait_until(lambda: "support-bot" not in site.get("/", token)[1], "the run is not shown any more")


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(browser: Browser, site: Site) -> None:
    page = sign_in(browser, site)
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == ("__Host-finetune", True, True, "Strict")
    assert page.evaluate("document.cookie") == ""
    assert cookie["value"] not in page.url
    assert cookie["value"] not in site.operator.read_log()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.context.cookies() == []


def test_a_refused_token_is_said_and_can_be_mended(browser: Browser, site: Site) -> None:
    page = browser.new_context(ignore_https_errors=True).new_page()
    page.goto(site.url)
    page.get_by_label("Token").fill("nonsense")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not accept this token")


def test_a_form_from_another_site_is_refused(site: Site) -> None:
    assert site.get("/sign-in", body=b"token=x", **{"Sec-Fetch-Site": "cross-site"})[0] == 403


def test_a_run_is_reached_by_keyboard_and_brings_itself_up_to_date(browser: Browser, site: Site) -> None:
    page = sign_in(browser, site)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "support-bot":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="support-bot")).to_be_visible()
    expect(page.get_by_role("img", name="Training loss")).to_be_visible()
    patch_status(site.cluster, "team-a", "support-bot", {"metrics": {"loss": 0.4321}})
    expect(page.get_by_text("0.4321")).to_be_visible(timeout=60_000)
    patch_status(site.cluster, "team-a", "support-bot", {"metrics": {"loss": 0.91}})
    assert faults == []


def test_curves_and_samples_of_a_run_are_shown_as_they_come(browser: Browser, site: Site) -> None:
    page = sign_in(browser, site)
    page.get_by_role("link", name="support-bot").click()
    for title in ("Training loss", "Learning rate", "Gradient norm", "Throughput", "GPU memory held (GiB)"):
        expect(page.get_by_role("img", name=title)).to_be_visible()
    sample = page.get_by_role("article", name="Sample 1")
    expect(sample).to_contain_text("Which one is right?")
    expect(sample).to_contain_text("not yet")
    asked = {
        "prompt": "Which one is right?",
        "before": "There are many reasons",
        "after": "The charge of 3 March. <b>The other</b> is refunded.",
    }
    patch_status(site.cluster, "team-a", "support-bot", {"metrics": {"samples": [asked]}})
    expect(sample).to_contain_text("The charge of 3 March. <b>The other</b> is refunded.", timeout=60_000)
    expect(page.get_by_role("article", name="Sample 2")).to_have_count(0)
    patch_status(site.cluster, "team-a", "support-bot", {"metrics": {"samples": SAMPLES}})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures(browser: Browser, site: Site, pictures: Path, theme: str) -> None:
    page = sign_in(browser, site, dark=theme == "dark")
    page.screenshot(path=pictures / f"page-runs-{theme}.png", full_page=True)
    page.get_by_role("link", name="support-bot").click()
    expect(page.get_by_role("heading", name="support-bot")).to_be_visible()
    page.screenshot(path=pictures / f"page-run-{theme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), (
        "it scrolls sideways on a telephone"
    )
