// Package problem writes and reads HTTP error answers: RFC 9457 problem details,
// the one form that the functions, their template and the edge have for them.
package problem

import (
	"encoding/json"
	"net/http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// ContentType is the media type of a problem.
const ContentType = "application/problem+json"

// StatusClientClosedRequest is nginx's status for a call whose caller has closed the
// connection. Nobody reads its answer; it marks such calls in the log.
const StatusClientClosedRequest = 499

// NoEndpoint is the detail of a 404 for a path that no route has.
const NoEndpoint = "there is no endpoint at this path"

// Problem is the body of an error answer.
type Problem struct {
	Type   string             `json:"type"` // always about:blank: the title is the status's
	Title  string             `json:"title"`
	Status int                `json:"status"`
	Detail string             `json:"detail,omitempty"` // for people: what was wrong and what to do
	Errors []kiosk.FieldError `json:"errors,omitempty"` // what to correct
}

// JSON returns the body of an error answer with a status.
func JSON(status int, detail string, errors ...kiosk.FieldError) []byte {
	body, err := json.Marshal(Problem{Type: "about:blank", Title: title(status), Status: status, Detail: detail, Errors: errors})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return body
}

// Parse returns the problem of an error answer's body; one with the status's title
// alone where the body holds none.
func Parse(status int, body []byte) Problem {
	var p Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Title == "" {
		return Problem{Type: "about:blank", Title: title(status), Status: status}
	}
	return p
}

func title(status int) string {
	if status == StatusClientClosedRequest {
		return "Client Closed Request"
	}
	return http.StatusText(status)
}
