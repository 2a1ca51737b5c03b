// Package catalogue answers anonymous reads of the shop's catalogue from
// the edge's own memory, and everything else through the gateway.
package catalogue

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/nearcache"
)

const (
	// maxBytes bounds the answers in memory.
	maxBytes = 16 << 20
	// maxQuery is the longest query, in bytes, whose list is kept.
	maxQuery = 512
	// function is the catalogue's.
	function = "products"
)

// Functions is what the catalogue needs of package gateway.
type Functions interface {
	Call(context.Context, gateway.Request) *gateway.Answer
	Ready(context.Context) error
}

// Copies are the answers in memory. They are valid only while somebody reports
// which products change (nearcache).
type Copies = nearcache.Cache[*gateway.Answer]

// Catalogue calls functions like package gateway.
type Catalogue struct {
	Functions
	copies *Copies
}

// New returns a Catalogue that remembers what functions answer.
func New(functions Functions) *Catalogue {
	return &Catalogue{functions, nearcache.New(maxBytes, size, time.Now)}
}

// Copies returns the answers in memory, for whoever reports which products change.
func (c *Catalogue) Copies() *Copies { return c.copies }

// size returns about what an answer takes, in bytes.
func size(a *gateway.Answer) int {
	n := len(a.Body)
	for name, values := range a.Header {
		n += len(name) + 64
		for _, value := range values {
			n += len(value)
		}
	}
	return n
}

// key returns what the answer to a GET is kept under. Only what needs no
// account is kept at all: see Call.
func key(called, query string) (nearcache.Key, bool) {
	if called == function && len(query) <= maxQuery {
		return nearcache.List(query), true
	}
	if id, ok := strings.CutPrefix(called, function+"/"); ok && query == "" {
		return nearcache.Product(id), true
	}
	return nearcache.Key{}, false
}

// Kept returns the answer to an anonymous GET, if it is in memory: not to be changed.
func (c *Catalogue) Kept(called, query string) (*gateway.Answer, bool) {
	k, ok := key(called, query)
	if !ok {
		return nil, false
	}
	return c.copies.Get(k)
}

// Call calls a function, unless it is an anonymous GET whose answer is in
// memory. The answer is not to be changed.
func (c *Catalogue) Call(ctx context.Context, r gateway.Request) *gateway.Answer {
	if r.Function != function && !strings.HasPrefix(r.Function, function+"/") {
		return c.Functions.Call(ctx, r)
	}
	if r.Method != http.MethodGet {
		// Whoever changes a product through this edge sees it changed at once, and
		// so does everybody else here. A copy may also be made while it changes.
		id := kiosk.ID(strings.ToLower(strings.TrimPrefix(r.Function, function+"/")))
		c.copies.Drop(id)
		defer c.copies.Drop(id)
		return c.Functions.Call(ctx, r)
	}
	k, ok := key(r.Function, r.Query)
	if !ok || r.Header.Get("Authorization") != "" || !c.copies.Trusted(k) {
		return c.Functions.Call(ctx, r)
	}
	answer, err := c.copies.Load(ctx, k, func(ctx context.Context) (*gateway.Answer, bool, error) {
		whole := r
		whole.Header = maps.Clone(r.Header)
		delete(whole.Header, "If-None-Match")
		// The edge may learn of a change before the function does.
		whole.Header["Cache-Control"] = []string{"no-cache"}
		answer := c.Functions.Call(ctx, whole)
		answer.Keep()
		keep := answer.Status == http.StatusOK && answer.Header.Get("Vary") == "" && answer.Header.Get("Set-Cookie") == ""
		if keep {
			answer.Body = bytes.Clone(answer.Body) // no more than its length
		}
		return answer, keep, nil
	})
	switch {
	case err == nil:
		return answer
	case ctx.Err() != nil:
		return gateway.Ended(ctx)
	default: // a bug, which is in the log
		return gateway.NewProblem(http.StatusInternalServerError, "")
	}
}
