package kiosk

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what went wrong in a way that every protocol can map to its own
// codes, once.
type Kind string

const (
	KindMalformed       Kind = "malformed"           // not understood at all
	KindInvalid         Kind = "invalid"             // understood, but not allowed
	KindUnauthenticated Kind = "unauthenticated"     // nobody knows who asks
	KindForbidden       Kind = "forbidden"           // known, but not entitled
	KindNotFound        Kind = "not found"           // not there, or not for this actor's eyes
	KindConflict        Kind = "conflict"            // not in this state
	KindStale           Kind = "precondition failed" // changed since the caller looked
	KindTooMany         Kind = "too many requests"   // try again after RetryAfter
	KindUnavailable     Kind = "unavailable"         // a dependency is down; try again after RetryAfter
	KindInternal        Kind = "internal"            // a bug of ours
)

// Error is an error with a kind and a message for the person who caused it.
type Error struct {
	Kind       Kind
	Message    string        // shown to clients: no internals
	Fields     []FieldError  // what to correct, where the input was at fault
	RetryAfter time.Duration // for KindTooMany and KindUnavailable
	Limit      *Limit        // for KindTooMany: the limit that was reached
	Err        error         // the cause, for the log only
}

// FieldError says what is wrong with one field of the input.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Limit is the state of a rate limit.
type Limit struct {
	Requests  int           // allowed within Window
	Window    time.Duration // how long a used-up limit takes to be whole again
	Remaining int           // requests left now
	Reset     time.Duration // until the limit is whole again
}

func (e *Error) Error() string {
	text := e.Message
	if text == "" {
		text = string(e.Kind)
	}
	for _, f := range e.Fields {
		text += fmt.Sprintf("; %s %s", f.Field, f.Message)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of err: KindInternal where nothing in its chain has one.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// Is tells whether err is of the kind.
func (k Kind) Is(err error) bool { return err != nil && KindOf(err) == k }

// NotFound, Conflict, Forbidden, Unauthenticated, Stale and Malformed make an
// error of their kind with a message for the client.
func NotFound(message string) error  { return &Error{Kind: KindNotFound, Message: message} }
func Conflict(message string) error  { return &Error{Kind: KindConflict, Message: message} }
func Forbidden(message string) error { return &Error{Kind: KindForbidden, Message: message} }
func Unauthenticated(message string) error {
	return &Error{Kind: KindUnauthenticated, Message: message}
}
func Stale(message string) error     { return &Error{Kind: KindStale, Message: message} }
func Malformed(message string) error { return &Error{Kind: KindMalformed, Message: message} }

// Invalid is an input that is understood but not allowed in one field.
func Invalid(field, message string) error {
	return &Error{Kind: KindInvalid, Message: "the input is not valid", Fields: []FieldError{{field, message}}}
}

// Unavailable says that a dependency does not answer; the cause goes to the
// log, the client is asked to come back.
func Unavailable(cause error) error {
	return &Error{Kind: KindUnavailable, Message: "the service is not available for the moment", RetryAfter: 2 * time.Second, Err: cause}
}

// Violations collects everything that is wrong with an input, so that a person
// can correct all of it at once.
type Violations []FieldError

// Require notes message for field unless ok.
func (v *Violations) Require(ok bool, field, message string) {
	if !ok {
		*v = append(*v, FieldError{field, message})
	}
}

// Add notes the fields of an error of kind KindInvalid.
func (v *Violations) Add(err error) {
	var e *Error
	if errors.As(err, &e) {
		*v = append(*v, e.Fields...)
	}
}

// Err is nil where nothing was noted.
func (v Violations) Err() error {
	if len(v) == 0 {
		return nil
	}
	return &Error{Kind: KindInvalid, Message: "the input is not valid", Fields: v}
}
