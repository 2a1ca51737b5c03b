package kiosk

import (
	"errors"
	"fmt"
	"time"
)

// Kind classifies an error, so that each protocol maps it to its own codes in
// one place. [IsKind] asks for it.
type Kind string

const (
	KindMalformed       Kind = "malformed"           // cannot be read, such as broken JSON
	KindInvalid         Kind = "invalid"             // well-formed, but not allowed
	KindUnauthenticated Kind = "unauthenticated"     // no valid token, or a wrong password
	KindForbidden       Kind = "forbidden"           // the actor may not do it
	KindNotFound        Kind = "not found"           // does not exist, or not for this actor
	KindConflict        Kind = "conflict"            // not possible in the present state
	KindStale           Kind = "precondition failed" // changed since the caller read it
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

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of err: [KindInternal] where nothing in its chain has one.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// IsKind reports whether err is an error of the kind; false for nil.
func IsKind(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// NotFound, Conflict, Forbidden, Unauthenticated, Stale and Malformed return an
// error of their kind with a message for the client.
func NotFound(message string) error  { return &Error{Kind: KindNotFound, Message: message} }
func Conflict(message string) error  { return &Error{Kind: KindConflict, Message: message} }
func Forbidden(message string) error { return &Error{Kind: KindForbidden, Message: message} }
func Unauthenticated(message string) error {
	return &Error{Kind: KindUnauthenticated, Message: message}
}
func Stale(message string) error     { return &Error{Kind: KindStale, Message: message} }
func Malformed(message string) error { return &Error{Kind: KindMalformed, Message: message} }

// Invalid returns the error for an input of which one field is not allowed.
func Invalid(field, message string) error {
	return &Error{Kind: KindInvalid, Message: "the input is not valid", Fields: []FieldError{{field, message}}}
}

// Unavailable returns the error for a dependency that does not answer. The cause
// goes to the log; the client is asked to try again.
func Unavailable(cause error) error {
	return &Error{Kind: KindUnavailable, Message: "the service is temporarily unavailable: try again", RetryAfter: 2 * time.Second, Err: cause}
}

// Violations collects everything that is wrong with an input, so that all of it
// can be corrected at once.
type Violations []FieldError

// Require adds message for field unless ok.
func (v *Violations) Require(ok bool, field, message string) {
	if !ok {
		*v = append(*v, FieldError{field, message})
	}
}

// Add adds the fields of an error of kind [KindInvalid].
func (v *Violations) Add(err error) {
	var e *Error
	if errors.As(err, &e) {
		*v = append(*v, e.Fields...)
	}
}

// Err returns nil where nothing was added, else an error of kind [KindInvalid].
func (v Violations) Err() error {
	if len(v) == 0 {
		return nil
	}
	return &Error{Kind: KindInvalid, Message: "the input is not valid", Fields: v}
}
