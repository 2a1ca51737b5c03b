package front

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestPages(t *testing.T) {
	kinds := map[string]string{
		"/": "text/html; charset=utf-8", "/docs": "text/html; charset=utf-8", "/style.css": "text/css; charset=utf-8",
		"/shop.js": "text/javascript; charset=utf-8", "/account.js": "text/javascript; charset=utf-8", "/icon.svg": "image/svg+xml", openAPIPath: "application/json",
		"/proto/user.proto": "text/plain; charset=utf-8", "/proto/inventory.proto": "text/plain; charset=utf-8",
		"/proto/order.proto": "text/plain; charset=utf-8", "/proto/mailer.proto": "text/plain; charset=utf-8",
	}
	handler, functions := open(t, Config{ShopName: `<b>"Ann's" & Co`})
	if got := slices.Sorted(maps.Keys(handler.pages)); !slices.Equal(got, slices.Sorted(maps.Keys(kinds))) {
		t.Errorf("pages: got %v, want %v", got, slices.Sorted(maps.Keys(kinds)))
	}
	for path, kind := range kinds {
		t.Run(path, func(t *testing.T) {
			response := ask(handler, "GET", path, "")
			h := response.Header
			if response.StatusCode != 200 || h.Get("Content-Type") != kind || h.Get("X-Call-Id") == "" || h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("got %s, %v, want 200 as %s", response.Status, h, kind)
			}
			if policy := h.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
				t.Errorf("policy: got %s, want nothing but the edge's own", policy)
			}
			etag := h.Get("ETag")
			if again := ask(handler, "GET", path, "", "If-None-Match: "+etag); etag == "" || again.StatusCode != 304 || again.ContentLength > 0 {
				t.Errorf("again with %s: got %s, want 304", etag, again.Status)
			}
			content, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			head := ask(handler, "HEAD", path, "")
			if nothing, err := io.ReadAll(head.Body); err != nil || len(nothing) > 0 || head.Header.Get("Content-Length") != fmt.Sprint(len(content)) {
				t.Errorf("HEAD: got %v, %d bytes, %v, want the header alone", head.Header, len(nothing), err)
			}
			wantProblem(t, ask(handler, "POST", path, ""), 405)
			if strings.Contains(string(content), "<b>") {
				t.Error("the shop's name: got it as HTML, want it escaped")
			}
			if path == openAPIPath || path == "/icon.svg" {
				return // they name specifications, and load nothing
			}
			// What the policy would block must not be there, nor anything from elsewhere.
			for _, bad := range []string{`(?i)(src|href|action)="(https?:)?//`, `(?i)url\(`, `@import`, `(?i)<script(>| [^>]*>[^<])`, `(?i)<style`, `(?i)<[a-z][^>]* style=`, `(?i)<[a-z][^>]* on[a-z]+=`, `innerHTML`, `eval\(`} {
				if found := regexp.MustCompile(bad).Find(content); found != nil {
					t.Errorf("content: got %q in it, want no match of %s", found, bad)
				}
			}
			for _, link := range regexp.MustCompile(`(?:src|href)="(/[^"#]*)"`).FindAllSubmatch(content, -1) {
				if got := ask(handler, "GET", string(link[1]), ""); got.StatusCode != 200 {
					t.Errorf("link %s: got %s, want 200", link[1], got.Status)
				}
			}
		})
	}
	if len(functions.asked) > 0 {
		t.Errorf("calls for pages: got %v, want none", functions.asked)
	}
}

func TestDocsShowEverything(t *testing.T) {
	handler, _ := open(t, Config{})
	content, err := io.ReadAll(ask(handler, "GET", "/docs", "").Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if !bytes.Contains(content, []byte(`<span class="method `+r.method+`">`+r.method+`</span><code>`+r.path+`</code>`)) {
			t.Errorf("got no %s %s, want each route", r.method, r.path)
		}
	}
	for _, text := range []string{"items[].product_id", "history[].at", "If-Match", "Idempotency-Key", "integer, 1 to 100, default 20", "PENDING | COMPLETED | CANCELLED", "string, 8 to 256 characters"} {
		if !bytes.Contains(content, []byte(text)) {
			t.Errorf("got no %q, want it", text)
		}
	}
}

// TestOpenAPI checks the document against the routes and against itself.
func TestOpenAPI(t *testing.T) {
	handler, _ := open(t, Config{Origins: []string{"*"}})
	response := ask(handler, "GET", openAPIPath, "", "Origin: https://editor.example")
	if response.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("Access-Control-Allow-Origin: got %q, want *", response.Header.Get("Access-Control-Allow-Origin"))
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("openapi.json", whole); err != nil {
		t.Fatal(err)
	}
	node := func(pointer string) any {
		at := whole
		for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "#/"), "/") {
			object, _ := at.(map[string]any)
			at = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(token)]
		}
		return at
	}

	t.Run("references", func(t *testing.T) {
		used := make(map[string]bool)
		for _, match := range regexp.MustCompile(`"\$ref": "([^"]*)"`).FindAllSubmatch(text, -1) {
			if used[string(match[1])] = true; node(string(match[1])) == nil {
				t.Errorf("reference %s: got nothing there, want a definition", match[1])
			}
		}
		for kind, components := range node("#/components").(map[string]any) {
			for name := range components.(map[string]any) {
				if pointer := "#/components/" + kind + "/" + name; !used[pointer] && kind != "securitySchemes" {
					t.Errorf("%s: got no reference to it, want one", pointer)
				}
			}
		}
	})

	t.Run("routes", func(t *testing.T) {
		var documented, routed []string
		for path, item := range node("#/paths").(map[string]any) {
			for method := range item.(map[string]any) {
				if method != "parameters" {
					documented = append(documented, strings.ToUpper(method)+" "+path)
				}
			}
		}
		for _, r := range routes {
			routed = append(routed, r.method+" "+r.path)
		}
		slices.Sort(documented)
		slices.Sort(routed)
		if !slices.Equal(documented, routed) {
			t.Errorf("documented: got %v, want %v", documented, routed)
		}
	})

	t.Run("answers", func(t *testing.T) {
		ids := make(map[string]bool)
		for _, r := range routes {
			pointer := "#/paths/" + strings.ReplaceAll(r.path, "/", "~1") + "/" + strings.ToLower(r.method)
			op := node(pointer).(map[string]any)
			if id, _ := op["operationId"].(string); id == "" || ids[id] {
				t.Errorf("%s: got operationId %q, want one of its own", pointer, id)
			} else {
				ids[id] = true
			}
			answers := op["responses"].(map[string]any)
			want := []string{"503", "504"}
			if op["requestBody"] != nil {
				want = append(want, "400", "413", "422")
			}
			if op["security"] != nil {
				want = append(want, "401")
			}
			if strings.Contains(r.path, "{id}") {
				want = append(want, "404")
			}
			for _, status := range want {
				if answers[status] == nil {
					t.Errorf("%s: got no answer %s, want one", pointer, status)
				}
			}
			for status, a := range answers {
				a := a.(map[string]any)
				if ref, ok := a["$ref"].(string); ok {
					a = node(ref).(map[string]any)
				}
				headers, _ := a["headers"].(map[string]any)
				if headers["X-Call-Id"] == nil {
					t.Errorf("%s %s: got no X-Call-Id, want one", pointer, status)
				}
				contents, _ := a["content"].(map[string]any)
				kind := map[bool]string{true: "application/json", false: "application/problem+json"}[status < "400"]
				if status != "204" && status != "304" && (len(contents) != 1 || contents[kind] == nil) {
					t.Errorf("%s %s: got content %v, want %s", pointer, status, contents, kind)
				}
			}
		}
	})

	t.Run("schemas and examples", func(t *testing.T) {
		examples := 0
		var walk func(pointer string, value any)
		walk = func(pointer string, value any) {
			switch v := value.(type) {
			case []any:
				for i, inner := range v {
					walk(fmt.Sprintf("%s/%d", pointer, i), inner)
				}
			case map[string]any:
				if _, ok := v["schema"]; ok {
					schema, err := compiler.Compile("openapi.json" + pointer + "/schema")
					if err != nil {
						t.Errorf("%s: got %v, want a schema", pointer, err)
						return
					}
					if example, ok := v["example"]; ok {
						examples++
						if err := schema.Validate(example); err != nil {
							t.Errorf("example at %s: got %v, want it valid", pointer, err)
						}
					}
				}
				for name, inner := range v {
					walk(pointer+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name), inner)
				}
			}
		}
		walk("#", whole)
		if examples < 30 {
			t.Errorf("examples: got %d, want 30 or more", examples)
		}
	})

	t.Run("bodies are strict", func(t *testing.T) {
		for name, body := range map[string]string{
			"Registration": `{"email":"a@example.com","password":"long enough","role":"admin"}`,
			"Credentials":  `{"username":"a","email":"a@example.com","password":"x"}`,
			"OrderRequest": `{"items":[{"product_id":"` + id + `","quantity":0}]}`,
			"StatusChange": `{"status":"PENDING"}`,
		} {
			schema, err := compiler.Compile("openapi.json#/components/schemas/" + name)
			if err != nil {
				t.Fatal(err)
			}
			var value any
			if err := json.Unmarshal([]byte(body), &value); err != nil {
				t.Fatal(err)
			}
			if schema.Validate(value) == nil {
				t.Errorf("%s of %s: got nil, want an error", name, body)
			}
		}
	})
}

// TestReferenceRefuses breaks the document in ways that its page must notice.
func TestReferenceRefuses(t *testing.T) {
	document, err := assets.ReadFile("assets/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"no JSON":         {"{", "["},
		"a route missing": {`"/api/email"`, `"/api/mail"`},
		"a tag missing":   {`"tags": ["Mail"]`, `"tags": ["Post"]`},
	} {
		if _, err := newReference(bytes.Replace(document, []byte(edit[0]), []byte(edit[1]), 1)); err == nil {
			t.Errorf("%s: got nil, want an error", name)
		}
	}
}

// The shop page leads to an order's way where there is one to be seen, and only
// there.
func TestTracesURL(t *testing.T) {
	for text, want := range map[string]string{"": "", "http://127.0.0.1:4318": `data-traces="http://127.0.0.1:4318"`, "https://traces.example/a/": `data-traces="https://traces.example/a"`} {
		address, err := ParseTracesURL(text)
		if err != nil {
			t.Fatal(err)
		}
		handler, _ := open(t, Config{TracesURL: address})
		content, err := io.ReadAll(ask(handler, "GET", "/", "").Body)
		if err != nil || strings.Contains(string(content), "data-traces") != (want != "") || !strings.Contains(string(content), want) {
			t.Errorf("%s: %v, the page does not say %q", text, err, want)
		}
	}
	for _, text := range []string{"javascript:alert(1)", "127.0.0.1:4318", "/traces", "http://", "http://user:secret@host/", "http://host/?q"} {
		if address, err := ParseTracesURL(text); err == nil {
			t.Errorf("%s: got %s, want an error", text, address)
		}
	}
}
