package gateway

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Problem is an error answer: RFC 9457, with the members the contract adds.
type Problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Errors []FieldError `json:"errors,omitempty"`
}

// FieldError says what is wrong with one field of a request.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

const problemType = "application/problem+json"

// NewProblem is an Answer that the edge gives itself.
func NewProblem(status int, detail string) *Answer {
	title := http.StatusText(status)
	if status == StatusClientClosedRequest {
		title = "Client Closed Request"
	}
	body, err := json.Marshal(Problem{Type: "about:blank", Title: title, Status: status, Detail: detail})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return &Answer{Status: status, Header: http.Header{"Content-Type": {problemType}}, Body: body}
}

// Unavailable is the answer to what is wrong behind the edge and may be right
// again in a moment.
func Unavailable(detail string, retryAfter time.Duration) *Answer {
	answer := NewProblem(http.StatusServiceUnavailable, detail)
	answer.Header.Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	return answer
}
