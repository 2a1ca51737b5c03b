package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Decode reads the request's JSON into v, strictly: one value, no unknown or
// repeated members, names in their exact case, valid UTF-8. Anything else is
// of kind KindMalformed, with the field where there is one.
func Decode(r *http.Request, v any) error {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return kiosk.Malformed("the request body is incomplete")
	}
	// null, too, would be taken for a body that says nothing.
	if !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) {
		return kiosk.Malformed("the request body must be a JSON object")
	}
	err = jsonv2.Unmarshal(text, v, jsonv2.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	var semantic *jsonv2.SemanticError
	if errors.As(err, &semantic) {
		field := fieldName(semantic.JSONPointer)
		message := "has the wrong type"
		if errors.Is(err, jsonv2.ErrUnknownName) {
			message = "is not a known field"
		}
		return &kiosk.Error{Kind: kiosk.KindMalformed, Message: "the request body has an unknown field or a wrong type", Fields: []kiosk.FieldError{{Field: field, Message: message}}}
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		return kiosk.Malformed(fmt.Sprintf("the request body is not valid JSON at byte %d", syntactic.ByteOffset))
	}
	return kiosk.Malformed("the request body must be one JSON value")
}

// fieldName turns a JSON pointer into the form of the shop's field errors:
// items[0].quantity.
func fieldName(p jsontext.Pointer) string {
	var b strings.Builder
	for token := range p.Tokens() {
		if _, err := strconv.ParseUint(token, 10, 32); err == nil {
			fmt.Fprintf(&b, "[%s]", token)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(token)
	}
	return b.String()
}

// Authenticator finds out who holds a token.
type Authenticator interface {
	Actor(ctx context.Context, token string) (kiosk.Actor, error)
}

// Actor returns who asks, by the request's bearer token; KindUnauthenticated where it has none.
func Actor(r *http.Request, a Authenticator) (kiosk.Actor, error) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return kiosk.Actor{}, kiosk.Unauthenticated("a token is required: send Authorization: Bearer TOKEN")
	}
	return a.Actor(r.Context(), strings.TrimSpace(token))
}

// ID returns the identifier in the request's path; KindNotFound for anything else.
func ID(r *http.Request) (kiosk.ID, error) { return kiosk.ParseID(r.PathValue("id")) }

// IdempotencyKey returns the request's key, or empty: 1 to 255 printable ASCII
// characters.
func IdempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	printable := strings.IndexFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) < 0
	if len(values) > 1 || len(key) < 1 || len(key) > 255 || !printable {
		return "", kiosk.Malformed("Idempotency-Key must be one value of 1 to 255 printable ASCII characters")
	}
	return key, nil
}

// ReplayedHeader marks an answer that was given before.
const ReplayedHeader = "Idempotent-Replayed"

// Query reads the request's query. A parameter that is given twice could mean
// either; an empty one means nothing and is left out.
func Query(r *http.Request) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, kiosk.Malformed("the query string is malformed")
	}
	for name, all := range values {
		if len(all) > 1 {
			return nil, malformedQuery(name, "must not be given more than once")
		}
		if all[0] == "" {
			delete(values, name)
		}
	}
	return values, nil
}

func malformedQuery(name, message string) error {
	return &kiosk.Error{Kind: kiosk.KindMalformed, Message: "a query parameter is not valid", Fields: []kiosk.FieldError{{Field: name, Message: message}}}
}

// Page reads page, limit and after from a query.
func Page(query url.Values) (kiosk.Page, error) {
	page := kiosk.Page{Number: 1, Limit: kiosk.DefaultLimit, After: query.Get("after")}
	if page.After != "" {
		page.Number = 0
	}
	for name, target := range map[string]*int{"page": &page.Number, "limit": &page.Limit} {
		if !query.Has(name) {
			continue
		}
		n, err := strconv.Atoi(query.Get(name))
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return page, malformedQuery(name, "must be a whole number")
		}
		*target = n // the nearest int, where it is out of range
	}
	return page, nil
}

// ExactHeader is false where X-Total-Count is no more than how far a list is
// counted.
const ExactHeader = "X-Total-Count-Exact"

// List answers a page of the list at path of the front door: how many items
// the list has, and RFC 8288 links to the pages around this one. items are what
// the listing's items look like.
func List[T any](r *http.Request, path string, page kiosk.Page, listing kiosk.Listing[T], items any) (Response, error) {
	total, exact := listing.Total, listing.Total <= kiosk.MaxDepth
	if !exact {
		total = kiosk.MaxDepth
	}
	last := max((total+page.Limit-1)/page.Limit, 1)
	var links []string
	link := func(rel, name, value string) {
		query := r.URL.Query()
		query.Del("page")
		query.Del("after")
		query.Set(name, value)
		query.Set("limit", strconv.Itoa(page.Limit))
		links = append(links, fmt.Sprintf("<%s?%s>; rel=%q", path, query.Encode(), rel))
	}
	link("first", "page", "1")
	if page.Number > 1 {
		link("prev", "page", strconv.Itoa(min(page.Number-1, last)))
	}
	if listing.Next != "" {
		link("next", "after", listing.Next)
	}
	header := http.Header{"X-Total-Count": {strconv.Itoa(total)}}
	if exact {
		link("last", "page", strconv.Itoa(last))
	} else {
		header.Set(ExactHeader, "false")
	}
	header.Set("Link", strings.Join(links, ", "))
	return Response{Status: http.StatusOK, Body: items, Header: header}, nil
}

// Matches reports whether an If-Match or If-None-Match header names the entity
// tag; weak ignores the prefix W/ (RFC 9110, section 8.8.3.2).
func Matches(header, etag string, weak bool) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimSpace(candidate)
		if weak {
			candidate = strings.TrimPrefix(candidate, "W/")
		}
		if candidate == "*" || candidate == etag {
			return true
		}
	}
	return false
}
