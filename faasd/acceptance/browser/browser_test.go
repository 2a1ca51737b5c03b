// Package browser uses the shop page as a customer does, in a headless Chromium
// against a local box of its own. Without Chromium the tests
// are skipped, except in CI. A failed test saves a screenshot in the folder of
// CI_OUTPUT_DIR, by default a temporary one.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// patience bounds one step of a page: far more than it takes.
const patience = time.Minute

// chromium is the browser's program, or empty.
func chromium(t *testing.T) string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("chromium is not installed: apt-get install chromium")
	}
	t.Skip("chromium is not installed: apt-get install chromium")
	return ""
}

// page is a tab of a browser of its own: nobody is signed in.
type page struct {
	t   *testing.T
	ctx context.Context
}

func open(t *testing.T, program, address string) *page {
	t.Helper()
	allocator, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(program), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.WindowSize(1200, 900),
		chromedp.WSURLReadTimeout(patience))
	// chromedp logs the events of a newer browser that it does not know.
	ctx, close := chromedp.NewContext(allocator, chromedp.WithErrorf(func(string, ...any) {}))
	p := &page{t, ctx}
	t.Cleanup(func() {
		if t.Failed() {
			p.picture()
		}
		close()
		stop()
	})
	p.do("open "+address, chromedp.Navigate(address))
	return p
}

// do takes steps, and fails the test where they do not succeed in time.
func (p *page) do(what string, steps ...chromedp.Action) {
	p.t.Helper()
	// The first run of a context starts the browser, which ends with it.
	if chromedp.FromContext(p.ctx).Browser == nil {
		if err := chromedp.Run(p.ctx); err != nil {
			p.t.Fatalf("the browser does not start: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Run(ctx, steps...); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

func (p *page) click(selector string) {
	p.t.Helper()
	p.do("click "+selector, chromedp.WaitVisible(selector, chromedp.ByQuery), chromedp.WaitEnabled(selector, chromedp.ByQuery), chromedp.Click(selector, chromedp.ByQuery))
}

func (p *page) fill(selector, text string) {
	p.t.Helper()
	p.do("fill "+selector, chromedp.WaitVisible(selector, chromedp.ByQuery), chromedp.Evaluate(fmt.Sprintf(`document.querySelector(%q).value = ""`, selector), nil), chromedp.SendKeys(selector, text, chromedp.ByQuery))
}

// sees waits until the element's text contains text.
func (p *page) sees(selector, text string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%q in %s", text, selector),
		fmt.Sprintf(`(document.querySelector(%q)?.textContent || "").includes(%q)`, selector, text))
}

// until waits until an expression is true.
func (p *page) until(what, expression string) {
	p.t.Helper()
	p.do(what, chromedp.Poll(expression, nil, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(patience)))
}

// reloads is until for a page that is loaded again meanwhile, which ends what is
// evaluated in it.
func (p *page) reloads(what, expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	var holds bool
	err := client.Until(ctx, what, func() (bool, error) {
		if chromedp.Run(ctx, chromedp.Evaluate(expression, &holds)) != nil {
			holds = false
		}
		return holds, nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *page) picture() {
	dir := os.Getenv("CI_OUTPUT_DIR")
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "kiosk-browser-"); err != nil {
			p.t.Log(err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	var image []byte
	if err := chromedp.Run(ctx, chromedp.FullScreenshot(&image, 90)); err != nil {
		p.t.Logf("no picture: %v", err)
		return
	}
	path := filepath.Join(dir, strings.ReplaceAll(p.t.Name(), "/", "-")+".jpg")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		p.t.Log(err)
		return
	}
	p.t.Logf("what the page showed: %s", path)
}

// register opens an account with the page's own form.
func (p *page) register(name, email, password string) {
	p.t.Helper()
	p.click("#account")
	p.click("#door [data-switch]")
	p.fill("#door [name=name]", name)
	p.fill("#door [name=email]", email)
	p.fill("#door [name=password]", password)
	p.click("#door [type=submit]")
	p.sees("#account", "Sign out")
}

func (p *page) signIn(email, password string) {
	p.t.Helper()
	p.until("the door", `!!document.querySelector("#door")`)
	p.do("open the door", chromedp.Evaluate(`document.querySelector("#door").open || document.querySelector("#account").click()`, nil))
	p.fill("#door [name=username]", email)
	p.fill("#door [name=password]", password)
	p.click("#door [type=submit]")
	p.sees("#account", "Sign out")
}

// shop is a box, and a client that looks into its mailbox.
type shop struct {
	*client.Client
	front  string
	traces string // of the sink
	admin  string // token
}

func start(t *testing.T) shop {
	t.Helper()
	b, err := box.New(box.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.Clean)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := shop{client.New(b.Target, client.FrontDoor), b.Target.Front, b.Target.Telemetry, ""}
	var grant client.Grant
	s.must(t, client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: b.Target.AdminEmail, Password: b.Target.AdminPassword}}, http.StatusOK, &grant)
	s.admin = grant.Token
	return s
}

func (s shop) must(t *testing.T, r client.Request, status int, into any) {
	t.Helper()
	a, err := s.Do(t.Context(), r)
	if err != nil || a.Status != status {
		t.Fatalf("%s %s answers %d %s, %v, not %d", r.Method, r.Path, a.Status, a.Body, err, status)
	}
	if into != nil {
		if err := a.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
}

// link waits for a letter and returns the address that it links to.
func (s shop) link(t *testing.T, to, subject string) string {
	t.Helper()
	var address string
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := client.Until(ctx, "the letter "+subject, func() (bool, error) {
		mails, err := s.Mails(ctx, to)
		for _, m := range mails {
			if m.Subject == subject {
				address, _ = m.Link()
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(address, s.front+"/#") {
		t.Fatalf("the letter %q links to %q, which is not the shop at %s", subject, address, s.front)
	}
	return address
}

func TestShopPage(t *testing.T) {
	program := chromium(t)
	s := start(t)
	t.Run("an account", func(t *testing.T) { account(t, s, program) })
	t.Run("an order", func(t *testing.T) { order(t, s, program) })
}

// account registers, follows the letter, forgets, resets, sees the other session
// end, changes the e-mail, exports and erases.
func account(t *testing.T, s shop, program string) {
	const password, fresh = "correct horse battery", "a wholly new password"
	email, next := client.Unique("ada")+"@example.com", client.Unique("countess")+"@example.com"
	p := open(t, program, s.front)
	p.register("Ada", email, password)
	p.click("#mine")
	p.sees("#person-verified", "not verified")
	p.click("#person [data-shut]")

	p.do("follow the letter", chromedp.Navigate(s.link(t, email, client.Welcome)))
	p.sees("#message", "verified")
	p.until("the token to leave the address", `location.hash === ""`)
	p.click("#mine")
	p.sees("#person-verified", "verified")
	p.until("the address to be verified", `document.querySelector("#person-verified").textContent === "verified"`)

	// Somebody else's browser is where the password is forgotten.
	q := open(t, program, s.front)
	q.click("#account")
	q.click("#forgotten")
	q.fill("#forgot [name=email]", email)
	q.click("#forgot [type=submit]")
	q.sees("#message", "e-mail")
	q.do("follow the letter", chromedp.Navigate(s.link(t, email, client.ResetPassword)))
	q.fill("#reset [name=password]", fresh)
	q.click("#reset [type=submit]")
	q.sees("#message", "changed")
	q.signIn(email, fresh)

	// The first browser's session has ended.
	p.click("#person [data-shut]")
	p.click("#mine")
	p.sees("#account", "Sign in")
	p.signIn(email, fresh)

	q.click("#mine")
	q.until("two sessions", `document.querySelectorAll("#sessions li").length === 2`)
	q.do("open the sessions", chromedp.Evaluate(`document.querySelector("#sessions").closest("details").open = true`, nil))
	q.click("#sessions button")
	q.until("one session", `document.querySelectorAll("#sessions li").length === 1`)

	q.do("open the form", chromedp.Evaluate(`document.querySelector("#change-email").closest("details").open = true`, nil))
	q.fill("#change-email [name=email]", next)
	q.fill("#change-email [name=current_password]", "wrong, wrong")
	q.click("#change-email [type=submit]")
	q.sees("#change-email .problem", "current_password is wrong")
	q.fill("#change-email [name=current_password]", fresh)
	q.click("#change-email [type=submit]")
	q.sees("#person-pending", next)
	q.do("follow the letter", chromedp.Navigate(s.link(t, next, client.VerifyEmail)))
	q.sees("#message", "verified")
	q.until("the new address", `(document.querySelector("#person").open || document.querySelector("#mine").click(), true)`)
	q.sees("#person-email", next)

	var exported string
	q.do("export", chromedp.Evaluate(`(async () => JSON.stringify((await api("GET", "/api/users/me/export")).json))()`, &exported, awaited))
	var document struct {
		Format  string
		Profile client.Account
	}
	if err := json.Unmarshal([]byte(exported), &document); err != nil || document.Format == "" || document.Profile.Email != next {
		t.Errorf("the export is %s, %v", exported, err)
	}
	q.do("open the form", chromedp.Evaluate(`document.querySelector("#erase").closest("details").open = true`, nil))
	q.fill("#erase [name=current_password]", fresh)
	q.click("#erase [type=submit]")
	q.sees("#message", "erased")
	q.sees("#account", "Sign in")
	s.must(t, client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: next, Password: fresh}}, http.StatusUnauthorized, nil)
}

// order fills a basket, orders and cancels.
func order(t *testing.T, s shop, program string) {
	name := client.Unique("Tea")
	var product client.Product
	s.must(t, client.Request{Method: "POST", Path: "/api/inventory", Token: s.admin, Body: client.NewProduct{Name: name, Category: "tea", Stock: 5, Price: 12.5}}, http.StatusCreated, &product)
	p := open(t, program, s.front)
	p.fill("#search [name=q]", name)
	p.sees("#products", name)
	p.click(fmt.Sprintf(`[aria-label="Add %s to the basket"]`, name))
	p.click(fmt.Sprintf(`[aria-label="One %s more"]`, name))
	p.sees("#basket .count", "2")
	p.sees("#basket-total", "25")
	p.click("#order") // which asks to sign in first
	p.click("#door [data-switch]")
	email := client.Unique("bob") + "@example.com"
	p.fill("#door [name=email]", email)
	p.fill("#door [name=password]", "correct horse battery")
	p.click("#door [type=submit]")
	p.sees("#account", "Sign out")
	p.click("#order")
	p.sees("#orders", name)
	p.sees("#orders .state", "confirmed")
	way(t, s, program, p)
	p.click(`[aria-label="Cancel this order"]`)
	p.sees("#orders .state", "cancelled")
	var now client.Product
	// The edge may have a copy for a moment, but not for half a minute.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if client.Until(ctx, "the stock", func() (bool, error) {
		s.must(t, client.Request{Method: "GET", Path: "/api/inventory/" + product.ID}, http.StatusOK, &now)
		return now.Stock == 5, nil
	}) != nil {
		t.Errorf("%d pieces are there after the cancellation, want 5", now.Stock)
	}
}

// way follows the link from the order that p shows to its way through the shop's
// processes, whose page has no script.
func way(t *testing.T, s shop, program string, p *page) {
	var address string
	p.do("find the link", chromedp.Evaluate(`document.querySelector("#orders a")?.href || ""`, &address))
	id, ours := strings.CutPrefix(address, s.traces+"/orders/")
	if !ours || len(id) != 24 {
		t.Fatalf("the order's way is at %q, the sink at %s", address, s.traces)
	}
	q := open(t, program, address)
	// It looks again by itself, until all spans are there and no more come.
	q.reloads("all processes, and the trace to be over", `["edge", "create-order", "inventory-updater", "send-email"].every((name) => document.querySelector(".legend")?.textContent.includes(name)) &&
		!document.body.textContent.includes("looks again")`)
	q.sees("h1", id)
	q.sees(".milestones", "placed after")
	q.sees(".milestones", "its stock decided after")
	q.sees(".milestones", "its letter sent after")
	q.until("a wait that can be seen", `[...document.querySelectorAll(".way .wait")].some((line) => line.getBoundingClientRect().width > 5)`)
	q.until("every span's bar to lie on the axis", `(() => {
		const bars = [...document.querySelectorAll(".way .work")];
		return bars.length > 10 && bars.every((bar) => {
			const b = bar.getBoundingClientRect(), axis = bar.ownerSVGElement.getBoundingClientRect();
			return b.width > 0 && b.left >= axis.left - 1 && b.right <= axis.right + 1;
		});
	})()`)
	q.until("a colour for each process", `new Set([...document.querySelectorAll(".legend .work")].map((bar) => getComputedStyle(bar).fill)).size >= 4`)
	q.until("nothing but the page and its style to be loaded", `performance.getEntriesByType("resource").every((r) => r.name.startsWith(location.origin)) && document.scripts.length === 0`)
	q.click(".way details summary")
	q.until("the step's attributes", `document.querySelector(".way details[open] dl")?.textContent.includes("http.request.method")`)

	var light, dark string
	ground := `getComputedStyle(document.body).backgroundColor`
	q.do("look at it in the light and in the dark",
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}}), chromedp.Evaluate(ground, &light),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}), chromedp.Evaluate(ground, &dark))
	if light == dark {
		t.Errorf("light and dark are both %s", light)
	}
	q.do("go to the list", chromedp.Navigate(s.traces))
	q.sees("table", "POST /api/orders")
	q.fill("[name=id]", id)
	q.click("form button")
	q.reloads("the order that was looked for", fmt.Sprintf(`location.pathname === "/orders/%s" && document.querySelector("h1")?.textContent.includes("%s")`, id, id))
}
