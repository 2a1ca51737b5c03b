package acceptance_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// door is an interface of the shop: the front door, the gateway, or gRPC.
type door interface {
	fmt.Stringer
	// call sends a request of the REST contract, translated to the door's protocol.
	call(t testing.TB, r client.Request) reply
}

// reply is an answer in any protocol.
type reply struct {
	status int // of HTTP; 0 for gRPC
	code   string
	header http.Header
	raw    string
	body   any      // decoded JSON, or nil
	fields []string // the fields with errors
	rpc    string   // the method of gRPC
}

// httpDoor is the front door or the gateway.
type httpDoor struct{ *client.Client }

func (d httpDoor) String() string { return d.Door.String() }

func (d httpDoor) call(t testing.TB, r client.Request) reply {
	t.Helper()
	a, err := d.Do(t.Context(), r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Path, err)
	}
	answer := reply{status: a.Status, header: a.Header, raw: string(a.Body)}
	if len(a.Body) > 0 {
		if err := json.Unmarshal(a.Body, &answer.body); err != nil && r.Method != http.MethodHead {
			t.Fatalf("%s %s answers %d with what is no JSON: %s", r.Method, r.Path, a.Status, a.Body)
		}
	}
	if a.Status >= 400 {
		var p client.Problem
		if err := a.Decode(&p); err == nil {
			for _, e := range p.Errors {
				answer.fields = append(answer.fields, e.Field)
			}
		}
	}
	return answer
}

// visit is one run of a chapter's cases at one door.
type visit struct {
	*testing.T
	*shop
	door door
}

// part is a part of a chapter, which runs even if an earlier part failed.
func (v visit) part(name string, cases func(visit)) {
	v.Run(name, func(t *testing.T) { cases(visit{t, v.shop, v.door}) })
}

// asking is a request that is being built.
type asking struct {
	v visit
	r client.Request
}

// do begins a request, such as "GET /api/users/me".
func (v visit) do(line string) *asking {
	method, path, _ := strings.Cut(line, " ")
	return &asking{v: v, r: client.Request{Method: method, Path: path, Header: http.Header{}}}
}

func (a *asking) as(p person) *asking        { a.r.Token = p.grant.Token; return a }
func (a *asking) token(token string) *asking { a.r.Token = token; return a }
func (a *asking) body(body any) *asking      { a.r.Body = body; return a }
func (a *asking) with(name, value string) *asking {
	a.r.Header.Add(name, value)
	return a
}

// answers sends the request, and requires the status, the members of want in the body, and
// what every answer must have. The body may have more members, since the contract may be
// extended.
func (a *asking) answers(status int, want ...any) reply {
	a.v.Helper()
	return a.require(a.v.door.call(a.v, a.r), status, want)
}

// shows is answers, for what another process has changed: the request is repeated for at
// most [fresh].
func (a *asking) shows(status int, want ...any) reply {
	a.v.Helper()
	var got reply
	soon(a.v, func() bool {
		got = a.v.door.call(a.v, a.r)
		return got.has(status) && len(got.differs(want)) == 0
	})
	return a.require(got, status, want)
}

func (a *asking) require(got reply, status int, want []any) reply {
	a.v.Helper()
	what := a.r.Method + " " + a.r.Path
	if got.rpc != "" {
		what = got.rpc
	}
	if !got.has(status) {
		if got.rpc != "" {
			a.v.Fatalf("%s answers %s %s, the contract says %d, which is %s", what, got.code, got.raw, status, codesOf(status))
		}
		a.v.Fatalf("%s answers %d %s, the contract says %d", what, got.status, got.raw, status)
	}
	for _, fault := range common(a.r, got) {
		a.v.Errorf("%s answers %d: %s", what, status, fault)
	}
	for _, fault := range got.differs(want) {
		a.v.Errorf("%s answers %s: %s", what, got.raw, fault)
	}
	return got
}

// has reports whether the answer has the status, or for gRPC a code that stands for it.
func (r reply) has(status int) bool {
	if r.rpc != "" {
		return slices.Contains(codesOf(status), r.code)
	}
	return r.status == status
}

// differs returns where the body does not match one of want.
func (r reply) differs(want []any) (faults []string) {
	for _, w := range want {
		faults = append(faults, differs("", w, r.body, r.rpc != "")...)
	}
	return faults
}

// refuses is answers, for an error about the fields.
func (a *asking) refuses(status int, fields ...string) reply {
	a.v.Helper()
	got := a.answers(status)
	for _, field := range fields {
		if !slices.Contains(got.fields, field) {
			a.v.Errorf("%s %s is refused with errors in %q, not in %s: %s", a.r.Method, a.r.Path, got.fields, field, got.raw)
		}
	}
	return got
}

// common returns what is wrong with an answer, for any request.
func common(r client.Request, got reply) (faults []string) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	check(got.header.Get("X-Call-Id") != "", "there is no X-Call-Id")
	if got.rpc != "" {
		return faults
	}
	kind, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
	switch {
	case r.Method == http.MethodHead:
	case got.status >= 400:
		check(kind == "application/problem+json", "a refusal of type %q", kind)
		check(len(differs("", object{"type": someText, "title": someText, "status": got.status}, got.body, false)) == 0, "no problem as RFC 9457 has it: %s", got.raw)
	case got.status == http.StatusNoContent || got.status == http.StatusNotModified:
		check(got.raw == "", "a body where none may be: %s", got.raw)
	default:
		check(kind == "application/json", "an answer of type %q", kind)
	}
	switch got.status {
	case http.StatusUnauthorized:
		check(strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer"), "there is no WWW-Authenticate")
	case http.StatusMethodNotAllowed:
		check(got.header.Get("Allow") != "", "there is no Allow")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		check(got.header.Get("Retry-After") != "", "there is no Retry-After")
	}
	return faults
}

// get returns a member of the answer's object.
func (r reply) get(t testing.TB, name string) any {
	t.Helper()
	o, ok := r.body.(map[string]any)
	if !ok || o[name] == nil {
		t.Fatalf("the answer has no %s: %s", name, r.raw)
	}
	return o[name]
}

func (r reply) text(t testing.TB, name string) string {
	t.Helper()
	text, ok := r.get(t, name).(string)
	if !ok {
		t.Fatalf("%s is no text: %s", name, r.raw)
	}
	return text
}

// What answers are compared with.
type (
	object map[string]any
	list   []any
	// matcher returns what is wrong with a value, or "".
	matcher func(got any) string
)

func textLike(pattern, what string) matcher {
	expression := regexp.MustCompile(pattern)
	return func(got any) string {
		if text, ok := got.(string); ok && expression.MatchString(text) {
			return ""
		}
		return fmt.Sprintf("is %v, not %s", got, what)
	}
}

var (
	anID     = textLike(`^[0-9a-f]{24}$`, "an identifier")
	someText = textLike(`.`, "a text")
	aTime    = matcher(func(got any) string {
		text, _ := got.(string)
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			return fmt.Sprintf("is %v, not a time as RFC 3339 has it", got)
		}
		return ""
	})
	aNumber = matcher(func(got any) string {
		if n, ok := got.(float64); ok && n > 0 {
			return ""
		}
		return fmt.Sprintf("is %v, not a positive number", got)
	})
)

// differs returns where got does not match want. got may have more members; in an RPC's
// answer it may lack members that the message does not have.
func differs(at string, want, got any, rpc bool) (faults []string) {
	fault := func(format string, args ...any) []string {
		return []string{strings.TrimPrefix(at+" ", " ") + fmt.Sprintf(format, args...)}
	}
	switch w := want.(type) {
	case object:
		o, ok := got.(map[string]any)
		if !ok {
			return fault("is %v, not an object", got)
		}
		for _, name := range slices.Sorted(maps.Keys(w)) {
			value, ok := o[name]
			if !ok && rpc {
				continue
			}
			if !ok {
				faults = append(faults, fault("has no %s", name)...)
				continue
			}
			faults = append(faults, differs(at+"."+name, w[name], value, rpc)...)
		}
		return faults
	case list:
		l, ok := got.([]any)
		if !ok || len(l) != len(w) {
			return fault("is %v, not %d elements", got, len(w))
		}
		for i := range w {
			faults = append(faults, differs(fmt.Sprintf("%s[%d]", at, i), w[i], l[i], rpc)...)
		}
		return faults
	case matcher:
		if wrong := w(got); wrong != "" {
			return fault("%s", wrong)
		}
		return nil
	case int:
		want = float64(w)
	}
	if n, ok := got.(float64); ok {
		if w, ok := want.(float64); ok && math.Abs(n-w) < 1e-9 {
			return nil
		}
	} else if want == got {
		return nil
	}
	return fault("is %v, not %v", got, want)
}
