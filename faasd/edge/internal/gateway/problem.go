package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/kiosk-shop/kiosk/shared/problem"
)

// NewProblem returns the edge's own answer to a request that failed.
func NewProblem(status int, detail string) *Answer {
	return &Answer{Status: status, Header: http.Header{"Content-Type": {problem.ContentType}}, Body: problem.JSON(status, detail)}
}

// Unavailable returns the answer to a request that may succeed when it is sent again
// after a while.
func Unavailable(detail string, retryAfter time.Duration) *Answer {
	answer := NewProblem(http.StatusServiceUnavailable, detail)
	answer.Header.Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	return answer
}
