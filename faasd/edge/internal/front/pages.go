package front

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/proto"
)

//go:embed assets
var assets embed.FS

const openAPIPath = "/api/openapi.json"

// page is something that the edge serves by itself.
type page struct {
	kind    string // media type
	etag    string
	content []byte
}

// loadPages makes all pages, once: they differ by the shop's name, and by where
// an order's way is shown.
func loadPages(shopName, tracesURL string) (map[string]page, error) {
	const html, css, script = "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"
	pages := make(map[string]page)
	add := func(path, kind string, content []byte) {
		sum := sha256.Sum256(content)
		pages[path] = page{kind, `"` + hex.EncodeToString(sum[:8]) + `"`, content}
	}
	for path, file := range map[string]struct{ name, kind string }{
		openAPIPath:   {"openapi.json", "application/json"},
		"/style.css":  {"style.css", css},
		"/shop.js":    {"shop.js", script},
		"/account.js": {"account.js", script},
		"/icon.svg":   {"icon.svg", "image/svg+xml"},
	} {
		content, err := assets.ReadFile("assets/" + file.name)
		if err != nil {
			return nil, err
		}
		add(path, file.kind, content)
	}
	protos, err := proto.Files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, file := range protos {
		content, err := proto.Files.ReadFile(file.Name())
		if err != nil {
			return nil, err
		}
		add("/proto/"+file.Name(), "text/plain; charset=utf-8", content)
	}
	described, err := newReference(pages[openAPIPath].content)
	if err != nil {
		return nil, err
	}
	templates, err := template.New("").Funcs(template.FuncMap{"prose": prose, "inline": inline}).ParseFS(assets, "assets/*.html")
	if err != nil {
		return nil, err
	}
	for path, file := range map[string]string{"/": "shop.html", "/docs": "docs.html"} {
		var content bytes.Buffer
		err := templates.ExecuteTemplate(&content, file, struct {
			ShopName, TracesURL string
			Reference           *reference
		}{shopName, tracesURL, described})
		if err != nil {
			return nil, err
		}
		add(path, html, content.Bytes())
	}
	return pages, nil
}

// pagePolicy lets a page load what the edge serves, and nothing else.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

func (f *Handler) servePage(w http.ResponseWriter, r *http.Request) {
	p := f.pages[r.URL.EscapedPath()]
	h := w.Header()
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("ETag", p.etag)
	h.Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == p.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	f.send(w, r, &gateway.Answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {p.kind}}, Body: p.content})
}

// ParseTracesURL reads TRACES_URL: nothing, or the address of a site such as
// http://127.0.0.1:4318, which shows an order's way under /orders/ID.
func ParseTracesURL(text string) (string, error) {
	u, err := url.Parse(text)
	if text != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil) {
		return "", fmt.Errorf("%q is not an address such as http://127.0.0.1:4318", text)
	}
	return strings.TrimSuffix(text, "/"), nil
}
