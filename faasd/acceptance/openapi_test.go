package acceptance_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// openAPI is the document that the front door serves. It is compared with all answers in
// this package's tests: an undocumented answer is a fault, and at the end also a documented
// answer that never occurred.
type openAPI struct {
	operations       []*operation
	nowhere, another *answer // to an unknown path, or an unknown method

	mu     sync.Mutex
	faults map[string]bool
}

type operation struct {
	name    string // "GET /api/users/{id}"
	method  string
	path    *regexp.Regexp
	body    *jsonschema.Schema // of its requests, or nil
	answers map[int]*answer
}

type answer struct {
	headers  map[string]header             // by canonical name
	contents map[string]*jsonschema.Schema // by media type; empty if there is no body
	produced bool                          // under openAPI.mu
}

type header struct {
	schema   *jsonschema.Schema
	required bool
}

// carriers are headers that need no documentation.
var carriers = []string{
	"Cache-Control", "Connection", "Content-Length", "Content-Security-Policy", "Content-Type", "Cross-Origin-Opener-Policy",
	"Date", "Referrer-Policy", "Vary", "X-Content-Type-Options", "X-Frame-Options",
}

// readOpenAPI fetches the document of a front door.
func readOpenAPI(front string) (_ *openAPI, err error) {
	res, err := http.Get(front + "/api/openapi.json")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	whole, err := jsonschema.UnmarshalJSON(res.Body)
	if err != nil {
		return nil, err
	}
	closeObjects(whole)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("openapi.json", whole); err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil { // a document of another form
			err = fmt.Errorf("openapi.json: %v", p)
		}
	}()
	root := place{whole, "", whole, compiler}
	d := &openAPI{faults: map[string]bool{}, nowhere: root.in("components", "responses", "NotFound").answer()}
	d.another = &answer{headers: map[string]header{"Allow": {required: true}}, contents: d.nowhere.contents}
	d.another.headers["X-Call-Id"] = d.nowhere.headers["X-Call-Id"]
	id := strings.Trim(root.in("components", "parameters", "Id", "schema", "pattern").value.(string), "^$")
	for path, item := range root.in("paths").members() {
		for method, about := range item.members() {
			if method == "parameters" {
				continue
			}
			o := &operation{method: strings.ToUpper(method), answers: map[int]*answer{}}
			o.name = o.method + " " + path
			o.path = regexp.MustCompile("^" + strings.ReplaceAll(path, "{id}", id) + "$")
			if _, ok := about.members()["requestBody"]; ok {
				o.body = about.in("requestBody", "content", "application/json", "schema").schema()
			}
			for status, response := range about.in("responses").members() {
				code, err := strconv.Atoi(status)
				if err != nil {
					return nil, err
				}
				o.answers[code] = response.answer()
			}
			d.operations = append(d.operations, o)
		}
	}
	if len(d.operations) == 0 {
		return nil, fmt.Errorf("openapi.json has no operations")
	}
	return d, nil
}

// closeObjects makes every schema reject members that it does not list: clients must accept
// them, but here they are undocumented.
func closeObjects(value any) {
	switch v := value.(type) {
	case []any:
		for _, inner := range v {
			closeObjects(inner)
		}
	case map[string]any:
		for _, inner := range v {
			closeObjects(inner)
		}
		if v["type"] == "object" && v["properties"] != nil {
			v["additionalProperties"] = false
		}
	}
}

// place is a value in the document.
type place struct {
	value    any
	pointer  string
	whole    any
	compiler *jsonschema.Compiler
}

// in descends by names, and follows references.
func (p place) in(names ...string) place {
	for _, name := range names {
		p.value = p.value.(map[string]any)[name]
		p.pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
		if object, ok := p.value.(map[string]any); ok {
			if ref, ok := object["$ref"].(string); ok {
				p.value, p.pointer = p.whole, ""
				p = p.in(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			}
		}
	}
	return p
}

func (p place) members() map[string]place {
	all := map[string]place{}
	object, _ := p.value.(map[string]any)
	for name := range object {
		all[name] = p.in(name)
	}
	return all
}

func (p place) schema() *jsonschema.Schema {
	return p.compiler.MustCompile("openapi.json#" + p.pointer)
}

func (p place) answer() *answer {
	a := &answer{headers: map[string]header{}, contents: map[string]*jsonschema.Schema{}}
	for name, h := range p.in("headers").members() {
		a.headers[http.CanonicalHeaderKey(name)] = header{h.in("schema").schema(), h.members()["required"].value == true}
	}
	for kind, content := range p.in("content").members() {
		a.contents[kind] = content.in("schema").schema()
	}
	return a
}

// watch compares a client's answers at the front door with the document.
func (d *openAPI) watch(c *client.Client) {
	front, err := url.Parse(c.Target.Front)
	if err != nil {
		panic(err) // a client always has a valid target
	}
	c.HTTP.Transport = &watcher{d, front.Host, c.HTTP.Transport}
}

type watcher struct {
	document *openAPI
	front    string
	next     http.RoundTripper
}

func (w *watcher) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := w.next.RoundTrip(r)
	if err != nil || r.URL.Host != w.front || !strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/api/openapi.json" {
		return res, err
	}
	body, err := io.ReadAll(res.Body)
	if res.Body.Close(); err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	w.document.judge(r, res, body)
	return res, nil
}

// find returns the operation of a request, or the answer to requests that are none.
func (d *openAPI) find(method, path string) (o *operation, other *answer) {
	other = d.nowhere
	for _, candidate := range d.operations {
		if !candidate.path.MatchString(path) {
			continue
		}
		other = d.another
		if candidate.method == method || candidate.method == http.MethodGet && method == http.MethodHead {
			return candidate, nil
		}
	}
	return nil, other
}

// judge records where an answer differs from the document.
func (d *openAPI) judge(r *http.Request, res *http.Response, body []byte) {
	name := r.Method + " of what is not documented"
	o, a := d.find(r.Method, r.URL.EscapedPath())
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	switch {
	case o != nil:
		name, a = o.name, o.answers[res.StatusCode]
	case a == d.nowhere && res.StatusCode != http.StatusNotFound, a == d.another && res.StatusCode != http.StatusMethodNotAllowed:
		a = nil
	}
	if a == nil {
		fault("is an answer that is not documented: %.300s", body)
		a = &answer{produced: true}
	} else {
		faults = append(a.faults(res.Header, r.Method != http.MethodHead, body), faults...)
	}
	if o != nil && o.body != nil && res.StatusCode < 300 && r.GetBody != nil {
		if sent, err := r.GetBody(); err == nil {
			if err := validate(o.body, sent); err != nil {
				fault("takes a body that is not documented: %v", err)
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a.produced = true
	for _, f := range faults {
		d.faults[fmt.Sprintf("%s, %d: %s", name, res.StatusCode, f)] = true
	}
}

func (a *answer) faults(got http.Header, hasBody bool, body []byte) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for name, values := range got {
		h, ok := a.headers[name]
		if !ok && !slices.Contains(carriers, name) {
			fault("the header %s is not documented", name)
		}
		if !ok || h.schema == nil {
			continue
		}
		value := any(values[0])
		if n, err := strconv.Atoi(values[0]); err == nil && h.schema.Validate(value) != nil {
			value = n // a number as text
		}
		if err := h.schema.Validate(value); err != nil {
			fault("the header %s: %v", name, err)
		}
	}
	for name, h := range a.headers {
		if h.required && got.Get(name) == "" {
			fault("the header %s is missing", name)
		}
	}
	kind, _, _ := strings.Cut(got.Get("Content-Type"), ";")
	schema := a.contents[kind]
	switch {
	case len(a.contents) == 0 && (kind != "" || len(body) > 0):
		fault("a body of type %q where there is none: %.300s", kind, body)
	case len(a.contents) > 0 && schema == nil:
		fault("the content type %q is not documented", kind)
	case schema != nil && hasBody:
		if err := validate(schema, bytes.NewReader(body)); err != nil {
			fault("%v", err)
		}
	}
	return faults
}

func validate(schema *jsonschema.Schema, r io.Reader) error {
	value, err := jsonschema.UnmarshalJSON(r)
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		return fmt.Errorf("%s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return nil
}

// wrong returns the answers that are not documented.
func (d *openAPI) wrong() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for f := range d.faults {
		all = append(all, f)
	}
	slices.Sort(all)
	return all
}

// missing returns the documented answers that never occurred.
func (d *openAPI) missing() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.operations {
		for status, a := range o.answers {
			if !a.produced {
				all = append(all, fmt.Sprintf("%s never answers %d", o.name, status))
			}
		}
	}
	slices.Sort(all)
	return all
}

// documents reports whether a request may have this answer.
func (d *openAPI) documents(r client.Request, status int) bool {
	path, _, _ := strings.Cut(r.Path, "?")
	o, _ := d.find(r.Method, path)
	return o != nil && o.answers[status] != nil
}

// TestOpenAPIWatch checks that judge detects faults.
func TestOpenAPIWatch(t *testing.T) {
	fresh := func() *openAPI {
		d, err := readOpenAPI(target.Front)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	const problem, id = `{"type":"about:blank","title":"Not Found","status":404}`, "0123456789abcdef01234567"
	for name, c := range map[string]struct {
		request string
		status  int
		header  http.Header // X-Call-Id is there
		body    string
		faulty  bool
	}{
		"as documented":        {"GET /api/inventory/" + id, 404, http.Header{"Content-Type": {"application/problem+json"}}, problem, false},
		"no address":           {"GET /api/nothing", 404, http.Header{"Content-Type": {"application/problem+json"}}, problem, false},
		"no method":            {"PUT /api/inventory", 405, http.Header{"Content-Type": {"application/problem+json"}, "Allow": {"GET"}}, problem, false},
		"no method, no Allow":  {"PUT /api/inventory", 405, http.Header{"Content-Type": {"application/problem+json"}}, problem, true},
		"an unlisted address":  {"GET /api/nothing", 200, http.Header{"Content-Type": {"application/json"}}, `{}`, true},
		"an unlisted status":   {"GET /api/inventory/" + id, 418, http.Header{"Content-Type": {"application/problem+json"}}, problem, true},
		"another content type": {"GET /api/inventory/" + id, 404, http.Header{"Content-Type": {"text/html"}}, problem, true},
		"a member too many":    {"GET /api/inventory/" + id, 404, http.Header{"Content-Type": {"application/problem+json"}}, problem[:len(problem)-1] + `,"stack":"main.go"}`, true},
		"a member too few":     {"GET /api/inventory/" + id, 404, http.Header{"Content-Type": {"application/problem+json"}}, `{}`, true},
		"a header too many":    {"GET /api/inventory/" + id, 404, http.Header{"Content-Type": {"application/problem+json"}, "Etag": {`"1"`}}, problem, true},
		"a header too few":     {"GET /api/inventory/" + id, 503, http.Header{"Content-Type": {"application/problem+json"}}, problem, true},
		"a header of letters":  {"GET /api/inventory/" + id, 503, http.Header{"Content-Type": {"application/problem+json"}, "Retry-After": {"soon"}}, problem, true},
		"a body where none is": {"POST /api/users/logout", 204, http.Header{"Content-Type": {"application/json"}}, `{}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := fresh()
			method, path, _ := strings.Cut(c.request, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, target.Front+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.header.Set("X-Call-Id", "1")
			before := len(d.missing())
			d.judge(req, &http.Response{StatusCode: c.status, Header: c.header}, []byte(c.body))
			if wrong := d.wrong(); c.faulty != (len(wrong) > 0) {
				t.Errorf("the faults are %q", wrong)
			}
			documented := d.documents(client.Request{Method: method, Path: path}, c.status)
			if got := before - len(d.missing()); (got == 1) != documented {
				t.Errorf("%d more answers are produced", got)
			}
		})
	}
}

// everything returns a request for each operation. Each queries the database, and none
// finds anything.
func everything(v visit, ada, admin person) (all []*asking) {
	const nobody = "ffffffffffffffffffffffff"
	token := nobody + "." + strings.Repeat("A", 43)
	out, again := ada, ada
	v.login(v, &out)
	v.login(v, &again)
	vase := object{"name": "Vase", "category": "vases", "stock": 1, "price": 1}
	all = []*asking{
		v.do("POST /api/users/register").body(newcomer()),
		v.do("POST /api/users/authenticate").body(object{"email": ada.email, "password": "a wrong guess"}),
		v.do("POST /api/users/refresh").body(object{"refresh_token": again.grant.RefreshToken}),
		v.do("POST /api/users/logout").as(out),
		v.do("POST /api/users/forgot").body(object{"email": "nobody@example.com"}),
		v.do("POST /api/users/reset").body(object{"token": token, "password": "a wholly new one"}),
		v.do("POST /api/users/verify").body(object{"token": token}),
		v.do("POST /api/users/me/verification").as(ada),
		v.do("GET /api/users/me/sessions").as(ada),
		v.do("DELETE /api/users/me/sessions/" + nobody).as(ada),
		v.do("GET /api/users/me/export").as(ada),
		v.do("POST /api/users/me/erase").as(ada).body(object{"current_password": "a wrong guess"}),
		v.do("GET /api/users/me").as(ada),
		v.do("PATCH /api/users/me").as(ada).body(object{"name": "Ada"}),
		v.do("GET /api/users/" + nobody).as(admin),
		v.do("PATCH /api/users/" + nobody).as(admin).body(object{"name": "Ada"}),
		v.do("GET /api/inventory?category=nothing"),
		v.do("POST /api/inventory").as(admin).body(vase),
		v.do("GET /api/inventory/" + nobody),
		v.do("PUT /api/inventory/" + nobody).as(admin).body(vase),
		v.do("DELETE /api/inventory/" + nobody).as(admin),
		v.do("POST /api/orders").as(ada).body(lines(client.Item{ProductID: nobody, Quantity: 1})),
		v.do("GET /api/orders").as(ada),
		v.do("GET /api/orders/" + nobody).as(ada),
		v.do("PUT /api/orders/" + nobody + "/status").as(ada).body(object{"status": "CANCELLED"}),
		// With a key, since a mail without one does not use the database.
		v.do("POST /api/email").as(admin).with("Idempotency-Key", client.Unique("key")).body(letter("nobody@example.com", "Hi", "<p>Hi</p>")),
	}
	if len(all) != len(document.operations) {
		v.Fatalf("%d operations are documented, %d are tested", len(document.operations), len(all))
	}
	return all
}

// allAnswer sends all requests concurrently, and requires the status for each. One that a busy
// machine answers 504, since all together took too long, is sent again, alone.
func allAnswer(v visit, all []*asking, status int) {
	v.Helper()
	for i, r := range v.atOnce(len(all), func(i int) *asking { return all[i] }) {
		if r.status == http.StatusGatewayTimeout && status != r.status {
			r = v.door.call(v, all[i].r)
		}
		if r.status != status {
			v.Errorf("%s %s was answered %d %s, want %d", all[i].r.Method, all[i].r.Path, r.status, r.raw, status)
		}
	}
}

// Every request that counts against a limit is answered 429 beyond it.
func TestTooMany(t *testing.T) {
	b := ownBox(t, "RATE_LIMIT_LOGIN=2/1h", "RATE_LIMIT_REGISTER=2/1h", "RATE_LIMIT_WRITES=2/1h", "RATE_LIMIT_LINKS=2/1h", "RATE_LIMIT_LINK_LETTERS=2/1h")
	start(t, b)
	s := newShop(b.Target)
	v := visit{t, s, httpDoor{s.Client}}
	counted := 0
	for _, a := range everything(v, s.customer(t, "ada"), s.admin(t)) {
		if !document.documents(a.r, http.StatusTooManyRequests) {
			continue
		}
		counted++
		var got reply
		for range 3 { // others are rejected for another reason
			if got = v.door.call(t, a.r); got.status == http.StatusTooManyRequests {
				break
			}
		}
		if got.status != http.StatusTooManyRequests {
			t.Errorf("%s %s was answered %d the third time", a.r.Method, a.r.Path, got.status)
		}
	}
	if counted == 0 {
		t.Error("no request counts against a limit")
	}
}
