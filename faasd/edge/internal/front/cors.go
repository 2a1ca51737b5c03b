package front

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// ParseOrigins reads CORS_ORIGINS: origins such as https://shop.example,
// separated by commas, or * for all.
func ParseOrigins(list string) ([]string, error) {
	origins := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if origin != "*" && (err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin) {
			return nil, fmt.Errorf("CORS_ORIGINS: %q is not an origin such as https://shop.example", origin)
		}
	}
	return origins, nil
}

// allowOrigin lets scripts of a configured origin read the answer. Credentials
// are never allowed: a token travels in a header that the script sets itself.
func (f *Handler) allowOrigin(w http.ResponseWriter, r *http.Request) {
	if len(f.config.Origins) == 0 {
		return
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	switch {
	case origin == "":
		return
	case slices.Contains(f.config.Origins, "*"):
		origin = "*"
	case !slices.Contains(f.config.Origins, origin):
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers",
		"ETag, Idempotent-Replayed, Link, Location, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, X-Call-Id, X-Total-Count, X-Total-Count-Exact")
}

// preflight answers a browser's question before a cross-origin request.
func (f *Handler) preflight(w http.ResponseWriter, r *http.Request, found *endpoint) bool {
	h := w.Header()
	if r.Method != http.MethodOptions || h.Get("Access-Control-Allow-Origin") == "" || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", found.allow)
	h.Set("Access-Control-Allow-Headers", strings.Join([]string{
		"Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Traceparent", "Tracestate", "X-Call-Id",
	}, ", "))
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
