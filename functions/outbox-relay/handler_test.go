package function

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/rest/resttest"
)

// waiting is a number of things that wait; below zero it cannot be read.
type waiting int

func (w waiting) Pending(context.Context) (int, error) {
	if w < 0 {
		return 0, kiosk.Unavailable(errors.New("no database"))
	}
	return int(w), nil
}

func TestPending(t *testing.T) {
	f := rest.NewFunction(nil, nil)
	f.Route("GET /{$}", pending(waiting(2), waiting(3)))
	f.Route("GET /broken", pending(waiting(2), waiting(-1)))
	resttest.Run(t, f, []resttest.Case{
		{Name: "what waits", Method: "GET", Path: "/", Status: http.StatusOK, Want: `{"entries":2,"orders":3,"pending":5}`},
		{Name: "without a database", Method: "GET", Path: "/broken", Status: http.StatusServiceUnavailable, Want: "temporarily unavailable"},
	})
}

// TestSweep counts the sweeps within an interval: the next begins at once only while
// there is more.
func TestSweep(t *testing.T) {
	for _, test := range []struct {
		name  string
		found []int // by each sweep; then 0
		err   error
		want  int
	}{
		{"nothing is due", nil, nil, 1},
		{"a part of a batch", []int{batch - 1}, nil, 1},
		{"whole batches", []int{batch, batch, 1}, nil, 3},
		{"a failure", []int{batch, batch}, errors.New("no database"), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				got := 0
				sweep(ctx, time.Hour, "test", func(context.Context, int) (n int, err error) {
					if got < len(test.found) {
						n = test.found[got]
					}
					got++
					return n, test.err
				})
				if got != test.want {
					t.Errorf("sweeps: got %d, want %d", got, test.want)
				}
			})
		})
	}
}
