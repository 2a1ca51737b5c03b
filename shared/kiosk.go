// Package kiosk has the types that every part of the shop shares: identifiers, money,
// actors, traces, pages of a list, and errors with a kind. It imports no driver, no
// protocol and no other package of the project.
package kiosk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"
)

// ID names anything the shop stores: 24 lower-case hexadecimal digits, the
// text form of a MongoDB ObjectID.
type ID string

// NewID returns an identifier that sorts by the second it was made in, as an
// ObjectID does; the other eight bytes are random.
func NewID() ID {
	var b [12]byte
	binary.BigEndian.PutUint32(b[:4], uint32(time.Now().Unix()))
	rand.Read(b[4:]) // never fails: crypto/rand ends the process instead
	return ID(hex.EncodeToString(b[:]))
}

// ParseID reads an identifier that a client sent, in letters of either case.
// It fails with KindNotFound for anything else.
func ParseID(text string) (ID, error) {
	id := ID(strings.ToLower(text))
	if !id.Valid() {
		return "", NotFound("there is no such resource")
	}
	return id, nil
}

// UnmarshalText reads an identifier in letters of either case; whether it is
// one, Valid reports.
func (id *ID) UnmarshalText(text []byte) error {
	*id = ID(strings.ToLower(string(text)))
	return nil
}

// Valid reports whether id has an identifier's form.
func (id ID) Valid() bool {
	if len(id) != 24 {
		return false
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Role is what an account may do.
type Role string

const (
	RoleUser    Role = "user"
	RoleAdmin   Role = "admin"
	RoleService Role = "service" // another program of the shop; it may do what an admin may
)

// ServiceID is the identity of the shop's own programs. No user has it.
const ServiceID ID = "000000000000000000000000"

// Actor is who makes a request, proven by a token.
type Actor struct {
	ID      ID
	Role    Role
	Session ID // empty for a service
}

// Service returns the shop's own actor.
func Service() Actor { return Actor{ID: ServiceID, Role: RoleService} }

// Administers reports whether the actor may do an administrator's work.
func (a Actor) Administers() bool { return a.Role == RoleAdmin || a.Role == RoleService }

// Owns reports whether the actor may see what belongs to the user owner.
func (a Actor) Owns(owner ID) bool { return a.ID == owner || a.Administers() }

// Transact runs fn in one database transaction, which is fn's context: what
// fn does through repositories with that context happens whole or not at all.
// fn may run several times, so it must not do anything outside the database.
type Transact func(ctx context.Context, fn func(ctx context.Context) error) error

// Trace is the W3C trace context of a request, as it is stored with
// its effects and sent with its events. The zero Trace is none.
type Trace struct {
	Parent string // traceparent
	State  string // tracestate
}

// maxState is the longest tracestate that is kept: the least that W3C asks to
// keep.
const maxState = 512

// ParseTrace reads the fields of a request or a message: what has not the form
// of trace context, version 00, is the zero Trace, and a state that is too long
// or not printable is left out.
func ParseTrace(parent string, state ...string) Trace {
	if len(parent) != 55 || parent[:3] != "00-" || parent[35] != '-' || parent[52] != '-' || strings.Trim(parent, "0123456789abcdef-") != "" {
		return Trace{}
	}
	t := Trace{parent, strings.Join(state, ",")}
	if len(t.State) > maxState || strings.ContainsFunc(t.State, func(c rune) bool { return c < ' ' || c > '~' }) {
		t.State = ""
	}
	return t
}

// ID returns the trace's identifier; empty for none.
func (t Trace) ID() string {
	if len(t.Parent) < 52 {
		return ""
	}
	return t.Parent[3:35]
}

// Span returns the identifier of the span that it names; empty for none.
func (t Trace) Span() string {
	if len(t.Parent) < 52 {
		return ""
	}
	return t.Parent[36:52]
}

// Sampled reports whether the trace is recorded.
func (t Trace) Sampled() bool {
	return len(t.Parent) == 55 && strings.IndexByte("13579bdf", t.Parent[54]) >= 0
}

type traceKey struct{}

// WithTrace returns a context with the trace of a request, which goes into its events
// and mails.
func WithTrace(ctx context.Context, t Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// TraceOf returns the trace that [WithTrace] stored, or none.
func TraceOf(ctx context.Context) Trace {
	t, _ := ctx.Value(traceKey{}).(Trace)
	return t
}
